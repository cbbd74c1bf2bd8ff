"""Gives addresses back: by handle, one by one, all of a node, all of a pool; each change one guarded transaction.

Promises: block and handles change together, so a handle never outlives its addresses; what was allocated anew
meanwhile is not touched (sequence and handle guards); a cooldown of the cluster's rules is observed. Handles that count
more than they hold, as Calico may leave them, are read right. Does not know: why, hints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from ipam import block as blocks
from ipam.allocation.environment import Environment
from ipam.allocation.ipam_config import read_config
from ipam.allocation.pool_selection import is_deselected
from ipam.allocation.sticky import draft_retention
from ipam.allocation.transaction import Transaction, VersionedBlock, read_block, readable_blocks
from ipam.codec import decode_handle
from ipam.etcd.store import Committed, Delete, Pause, Store, Unchanged, Versioned, optimistic, revision_of
from ipam.failures import Conflict, Malformed, Refused, Unreadable
from ipam.keys import (
    IPAM_CONFIG,
    affinity_key,
    affinity_of_key,
    affinity_prefix,
    block_key,
    block_keys_around,
    block_of_key,
    block_prefix,
    fence_key,
    handle_key,
    handle_of_key,
    host_key,
    tunnel_handles,
)
from ipam.model import (
    Address,
    Assignment,
    Attributes,
    Block,
    HandleId,
    IpamConfig,
    NodeName,
    PoolRecord,
    Prefix,
)

MOST_ATTEMPTS = 100
RETRY_SECONDS = 0.01
ALLOCATIONS_AT_ONCE = 50
"""Allocations released in one transaction: each may need a handle, and all fit with room for block and claim."""

NO_NAMES: Mapping[HandleId, Versioned | None] = {}


@dataclass(frozen=True, slots=True)
class GuardedAddress:
    """An address to give back, and what must still be true of it."""

    address: Address
    handle: HandleId | None = None
    """The handle it must be held by; None: any."""
    sequence: int | None = None
    """The block's sequence when it was assigned; None: any."""


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """What came of a release by address."""

    released: tuple[Address, ...]
    unallocated: tuple[Address, ...]
    """Those that nobody held."""


@dataclass(frozen=True, slots=True)
class HandleBlocks:
    """The blocks that a handle's record names, as they are now."""

    handle: HandleId
    blocks: tuple[VersionedBlock, ...]

    @property
    def counts(self) -> dict[Prefix, int]:
        """How many addresses the handle really holds in each block."""
        counts = {one.block.cidr: len(blocks.allocations_of(one.block, self.handle)) for one in self.blocks}
        return {cidr: count for cidr, count in counts.items() if count}

    def assignments(self, pools: Sequence[PoolRecord]) -> tuple[Assignment, ...]:
        """All that the handle holds, each with the name of its pool; an empty one if the pool is gone."""
        found = []
        for one in self.blocks:
            for ordinal, _ in blocks.allocations_of(one.block, self.handle):
                address = blocks.address_of(one.block, ordinal)
                pool = next((record.pool.name for record in pools if address in record.pool), "")
                found.append(Assignment(address, one.block.cidr, pool, self.handle))
        return tuple(found)


async def read_handle_blocks(store: Store, handle: HandleId, stored: Versioned | None) -> HandleBlocks:
    """The blocks of a handle; none if it is not stored.

    Raises StoreError, and Unreadable when the handle or one of its blocks cannot be read: nobody knows what it holds.
    """
    if stored is None:
        return HandleBlocks(handle, ())
    counts = decode_handle(stored).count_by_block
    read = await store.get_many([block_key(cidr) for cidr, _ in counts])
    return HandleBlocks(handle, tuple(map(read_block, read.values())))


async def unrecorded(store: Store, wanted: Mapping[HandleId, Collection[Address]]) -> frozenset[HandleId]:
    """The handles that do not hold all of these addresses; a record that cannot be read holds nothing."""
    handles = await store.get_many([handle_key(handle) for handle in wanted])
    cidrs: dict[Prefix, None] = {}
    for stored in handles.values():
        with suppress(Malformed):
            cidrs |= dict.fromkeys(cidr for cidr, _ in decode_handle(stored).count_by_block)
    read = readable_blocks(await store.get_many([*map(block_key, cidrs)]))
    held: dict[HandleId | None, set[Address]] = {}
    for versioned in read.values():
        for ordinal, attributes in blocks.allocated(versioned.block):
            address = blocks.address_of(versioned.block, ordinal)
            held.setdefault(blocks.bare_handle(attributes.handle), set()).add(address)
    return frozenset(
        handle for handle, addresses in wanted.items() if not held.get(handle, set()) >= {*addresses}
    )


@dataclass(frozen=True, slots=True)
class KnownBlocks:
    """Blocks and the cluster's rules, as read now or as remembered."""

    blocks: Mapping[Prefix, VersionedBlock]
    config: IpamConfig = field(default_factory=IpamConfig)
    config_revision: int | None = None
    """Where the rules are remembered: the revision that must still stand."""


def known_blocks(read: Mapping[str, Versioned]) -> KnownBlocks:
    """What a read of blocks and rules showed."""
    return KnownBlocks(readable_blocks(read), _config_in(read))


def _config_in(read: Mapping[str, Versioned]) -> IpamConfig:
    """The cluster's rules out of a read; unreadable ones are the defaults."""
    try:
        return read_config(read.get(IPAM_CONFIG))
    except Malformed:
        return IpamConfig()


def _cooldown_stamp(config: IpamConfig, now: datetime) -> str | None:
    return blocks.timestamp(now) if config.cooldown_seconds else None


# -- by handle --------------------------------------------------------------------------------------------------------


def draft_handle_release(
    transaction: Transaction,
    handle: HandleId,
    stored: Versioned | None,
    known: KnownBlocks,
    environment: Environment,
    names: Mapping[HandleId, Versioned | None] = NO_NAMES,
) -> tuple[Address, ...]:
    """Draft the release of all a handle holds; what is to be retained goes to its name (`names`: their stored handles).

    Raises Conflict, Malformed.
    """
    now = environment.now()
    if stored is None:
        transaction.guard_handle(handle, 0)
        return ()
    transaction.write_handle(handle, stored.revision, {})
    if known.config_revision is not None:
        transaction.guard(IPAM_CONFIG, known.config_revision)
    freed: list[Address] = []
    counts_of_names: dict[HandleId, dict[Prefix, int]] = {}
    for cidr, _ in decode_handle(stored).count_by_block:
        read = known.blocks.get(cidr)
        if read is None:
            continue
        present = transaction.blocks.get(cidr, read)
        before = blocks.end_cooldown(present.block, now, known.config.cooldown_seconds)
        transferred = draft_retention(transaction, before, handle, names, counts_of_names, now)
        after, addresses = blocks.release_handle(transferred, handle, _cooldown_stamp(known.config, now))
        freed += addresses
        if addresses or transferred is not before:
            _write_released(transaction, present, after, environment)
        else:
            transaction.guard(block_key(cidr), read.revision)
    for name, counts in counts_of_names.items():
        transaction.write_handle(name, 0, counts)
    return tuple(freed)


def _write_released(
    transaction: Transaction, before: VersionedBlock, after: Block, environment: Environment
) -> None:
    """Write a block after a release; an empty one whose pool no longer selects its owner is given up with it."""
    owner = after.owner
    if (
        owner is not None
        and blocks.is_empty(after)
        and is_deselected(after, environment.pools(), environment.node_labels)
    ):
        transaction.delete_affinity(owner, after.cidr)
        after = blocks.without_owner(after)
    transaction.write_block(before, after)


# -- by address -------------------------------------------------------------------------------------------------------


def guarded_address(block: Block, ordinal: int, attributes: Attributes) -> GuardedAddress:
    """One allocation of a block, with the sequence that tells it from every other of the same address."""
    sequence = dict(block.sequence_of).get(ordinal)
    return GuardedAddress(blocks.address_of(block, ordinal), blocks.bare_handle(attributes.handle), sequence)


def guarded_addresses(block: Block, handle: HandleId) -> tuple[GuardedAddress, ...]:
    """All that a handle holds in a block."""
    return tuple(guarded_address(block, *held) for held in blocks.allocations_of(block, handle))


async def release_addresses(environment: Environment, wanted: Sequence[GuardedAddress]) -> ReleaseResult:
    """Give back addresses, block by block. Raises Conflict when a guard does not hold, StoreError, Malformed."""
    released: list[Address] = []
    unallocated: list[Address] = []
    by_block: dict[Prefix | None, list[GuardedAddress]] = {}
    for item in dict.fromkeys(wanted):
        by_block.setdefault(await block_of_address(environment.store, item.address), []).append(item)
    for cidr, items in by_block.items():
        if cidr is None:
            unallocated += [item.address for item in items]
            continue
        for start in range(0, len(items), ALLOCATIONS_AT_ONCE):
            done = await _release_in(environment, cidr, items[start : start + ALLOCATIONS_AT_ONCE])
            released += done.released
            unallocated += done.unallocated
    return ReleaseResult(tuple(released), tuple(unallocated))


async def block_of_address(store: Store, address: Address) -> Prefix | None:
    """The stored block that holds an address, whatever pool it came from."""
    found = await store.get_many(block_keys_around(address))
    return max(
        (cidr for key in found if (cidr := block_of_key(key))), key=lambda cidr: cidr.prefixlen, default=None
    )


async def _release_in(
    environment: Environment, cidr: Prefix, items: Sequence[GuardedAddress]
) -> ReleaseResult:
    store = environment.store

    async def attempt() -> ReleaseResult | None:
        read = await store.get_many([block_key(cidr), IPAM_CONFIG])
        stored = read.get(block_key(cidr))
        if stored is None:
            return ReleaseResult((), tuple(item.address for item in items))
        before = read_block(stored)
        gone: list[int] = []
        free: list[Address] = []
        for item in items:
            ordinal = blocks.ordinal_of(before.block, item.address)
            holder = blocks.holder(before.block, ordinal)
            if holder is None:
                free.append(item.address)
            else:
                _check_guards(item, guarded_address(before.block, ordinal, holder))
                gone.append(ordinal)
        if gone:
            transaction = await _draft_address_release(environment, before, gone, _config_in(read))
            if not isinstance(await store.commit(*transaction.guards_and_operations), Committed):
                return None
        return ReleaseResult(tuple(blocks.address_of(before.block, ordinal) for ordinal in gone), tuple(free))

    overtaken = f"block {cidr}: {MOST_ATTEMPTS} releases in a row were overtaken by other writers"
    return await optimistic(attempt, MOST_ATTEMPTS, overtaken, environment.pause, RETRY_SECONDS)


def _check_guards(wanted: GuardedAddress, present: GuardedAddress) -> None:
    if wanted.handle not in (None, present.handle):
        raise Conflict(f"address {wanted.address} is held by {present.handle}, not by {wanted.handle}")
    if wanted.sequence not in (None, present.sequence):
        raise Conflict(
            f"address {wanted.address} was assigned anew (sequence {present.sequence}, not {wanted.sequence})"
        )


async def _draft_address_release(
    environment: Environment, before: VersionedBlock, ordinals: Sequence[int], config: IpamConfig
) -> Transaction:
    """The release of some allocations of a block with their shares of the handles. Raises StoreError."""
    store, now, transaction = environment.store, environment.now(), Transaction()
    holders = (blocks.holder(before.block, ordinal) for ordinal in ordinals)
    handles = (blocks.bare_handle(holder.handle) for holder in holders if holder is not None)
    gone = Counter(handle for handle in handles if handle)
    read = await store.get_many([handle_key(handle) for handle in gone])
    for handle, count in gone.items():
        stored = read.get(handle_key(handle))
        if stored is None:
            continue
        try:
            counts = dict(decode_handle(stored).count_by_block)
        except Malformed:
            continue  # the address is freed all the same; `tortie ipam check` names the handle
        counts[before.block.cidr] = len(blocks.allocations_of(before.block, handle)) - count
        transaction.write_handle(handle, stored.revision, counts)
    present = blocks.end_cooldown(before.block, now, config.cooldown_seconds)
    after = blocks.release(present, ordinals, _cooldown_stamp(config, now))
    _write_released(transaction, before, after, environment)
    return transaction


# -- by node and by pool ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeRelease:
    """What a node gave back."""

    addresses: tuple[Address, ...] = ()
    blocks: tuple[Prefix, ...] = ()
    """Blocks that it claimed."""
    handles: int = 0
    """Handles of its tunnels that were left over, and held nothing."""
    unreadable: tuple[str, ...] = ()
    """Why something stays: values that cannot be read, a sentence each."""


async def release_node(environment: Environment, node: NodeName) -> NodeRelease:
    """Free what a node's pods and tunnels hold in any block, then give up its claims. Raises Conflict, StoreError.

    Whatever of it is done already is passed over, so it may be asked again after an interruption.
    """
    store = environment.store
    freed: list[Address] = []
    given_up: dict[Prefix, None] = {}
    unreadable: list[str] = []
    for version in (4, 6):
        listed = (await store.list(block_prefix(version))).values
        for versioned in readable_blocks(listed).values():
            block = versioned.block
            freed += (await release_addresses(environment, _used_by(node, block))).released
            if block.owner == node and block.owner_kind == "host":
                await _give_up(store, block.cidr, node, environment.pause)
                given_up[block.cidr] = None
        claims = map(affinity_of_key, (await store.list(affinity_prefix(node, version))).values)
        for _, cidr in filter(None, claims):
            try:
                await _give_up(store, cidr, node, environment.pause)
                given_up[cidr] = None
            except Unreadable as error:  # the claim stays with its block, and nothing else for that
                unreadable.append(str(error))
    handles = 0
    for key, stored in (await store.get_many([*map(handle_key, tunnel_handles(node))])).items():
        try:
            more, was_empty = await _release_tunnel(environment, key, stored)
        except Unreadable as error:
            unreadable.append(str(error))
            continue
        freed += more
        handles += was_empty
    marks = await store.get_many([fence_key(node), host_key(node)])
    if marks:
        await store.commit((), [Delete(key) for key in marks])
    return NodeRelease(tuple(freed), tuple(given_up), handles, tuple(unreadable))


def _used_by(node: NodeName, block: Block) -> list[GuardedAddress]:
    """What a node uses of a block: what names it, and of its own block what names nobody."""
    own = block.owner == node and block.owner_kind == "host"
    users = ((held, dict(held[1].secondary).get("node")) for held in blocks.allocated(block))
    return [guarded_address(block, *held) for held, user in users if user == node or (own and user is None)]


async def _release_tunnel(
    environment: Environment, key: str, stored: Versioned
) -> tuple[tuple[Address, ...], bool]:
    """Free what a tunnel's handle still holds, in whose block ever; and whether it held nothing and went alone.

    Raises Conflict, StoreError, Unreadable.
    """
    store, handle = environment.store, handle_of_key(key)
    if handle is None:
        return (), False
    held = await read_handle_blocks(store, handle, stored)
    items = [item for one in held.blocks for item in guarded_addresses(one.block, handle)]
    if items:
        return (await release_addresses(environment, items)).released, False
    outcome = await store.commit((Unchanged(key, stored.revision),), (Delete(key),))
    return (), isinstance(outcome, Committed)


async def release_pool(store: Store, record: PoolRecord, pause: Pause) -> int:
    """Take a disabled pool's blocks from their owners; allocated addresses stay. Answers how many blocks.

    Raises Refused while the pool is enabled, Conflict, StoreError.
    """
    if not record.pool.disabled:
        raise Refused(
            f"pool {record.pool.name} is enabled; disable it first, so that nothing new is allocated"
        )
    count = 0
    listing = await store.list(block_prefix(record.pool.cidr.version))
    for cidr, versioned in readable_blocks(listing.values).items():
        owner = versioned.block.owner
        if owner is not None and cidr.network_address in record.pool.cidr:
            await _give_up(store, cidr, owner, pause)
            count += 1
    return count


async def _give_up(store: Store, cidr: Prefix, node: NodeName, pause: Pause) -> None:
    """End a node's claim on a block; an empty block goes with it. Raises Conflict, StoreError, Malformed."""

    async def attempt() -> Committed | None:
        read = await store.get_many([block_key(cidr), affinity_key(node, cidr)])
        stored = read.get(block_key(cidr))
        transaction = Transaction()
        transaction.guard(affinity_key(node, cidr), revision_of(read.get(affinity_key(node, cidr))))
        transaction.delete_affinity(node, cidr)
        if stored is None:
            transaction.guard(block_key(cidr), 0)
        else:
            before = read_block(stored)
            if before.block.owner == node and before.block.owner_kind == "host":
                transaction.write_block(before, blocks.without_owner(before.block))
        outcome = await store.commit(*transaction.guards_and_operations)
        return outcome if isinstance(outcome, Committed) else None

    overtaken = f"block {cidr}: {MOST_ATTEMPTS} attempts to give it up were overtaken by other writers"
    await optimistic(attempt, MOST_ATTEMPTS, overtaken, pause, RETRY_SECONDS)
