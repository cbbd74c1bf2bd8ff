"""Gives addresses back: by handle, one by one, all of a node, all of a pool; each change one guarded transaction.

Promises: block and handles change together, so a handle never outlives its addresses; what was allocated anew
meanwhile is not touched (sequence and handle guards); a cooldown of the cluster's rules is kept. Handles that count
more than they hold, as Calico may leave them, are read right. Does not know: why, hints.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from ipam import block as blocks
from ipam.allocation.sticky import draft_retention
from ipam.allocation.transaction import Transaction, VersionedBlock, read_block
from ipam.codec import decode_config, decode_handle
from ipam.etcd.store import Committed, Store, Versioned
from ipam.failures import Conflict, Malformed, Refused
from ipam.keys import (
    IPAM_CONFIG,
    affinity_key,
    affinity_of_key,
    affinity_prefix,
    block_key,
    block_of_key,
    block_prefix,
    handle_key,
)
from ipam.model import (
    BLOCK_LENGTHS,
    Address,
    Attributes,
    Block,
    Handle,
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

Pause = Callable[[float], Awaitable[None]]
NO_NAMES: Mapping[HandleId, Versioned | None] = {}
NETWORKS: Mapping[int, type[IPv4Network] | type[IPv6Network]] = {4: IPv4Network, 6: IPv6Network}


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
    """A handle's blocks as they are now."""

    blocks: tuple[VersionedBlock, ...] = ()
    handle: HandleId | None = None

    @property
    def counts(self) -> dict[Prefix, int]:
        """How many addresses the handle really holds in each block."""
        if self.handle is None:
            return {}
        found = {kept.block.cidr: len(blocks.allocations_of(kept.block, self.handle)) for kept in self.blocks}
        return {cidr: count for cidr, count in found.items() if count}


def config_of(read: Mapping[str, Versioned]) -> IpamConfig:
    """The cluster's rules out of a read; unreadable ones are the defaults."""
    try:
        return decode_config(IPAM_CONFIG, read[IPAM_CONFIG].value) if IPAM_CONFIG in read else IpamConfig()
    except Malformed:
        return IpamConfig()


def _stamp(config: IpamConfig, now: datetime) -> str | None:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ") if config.cooldown_seconds else None


async def read_handle_blocks(store: Store, stored: Versioned) -> HandleBlocks:
    """The readable blocks of a handle. Raises StoreError, Malformed when the handle itself cannot be read."""
    handle = decode_handle(stored.key, stored.value)
    read = await store.get_many([block_key(cidr) for cidr, _ in handle.count_by_block])
    return HandleBlocks(tuple(_readable(handle, read)), handle.id)


def _readable(handle: Handle, read: Mapping[str, Versioned]) -> Iterator[VersionedBlock]:
    for cidr, _ in handle.count_by_block:
        stored = read.get(block_key(cidr))
        if stored is not None:
            with suppress(Malformed):  # a damaged block must not keep the others; `check` names it
                yield read_block(stored)


@dataclass(frozen=True, slots=True)
class KnownBlocks:
    """Blocks and the cluster's rules, as read now or as remembered."""

    blocks: Mapping[Prefix, VersionedBlock]
    config: IpamConfig
    config_revision: int | None = None
    """Where the rules are remembered: the revision that must still stand."""


def known_blocks(read: Mapping[str, Versioned]) -> KnownBlocks:
    """What a read found; a damaged block is left out and must not keep the others: `check` names it."""
    kept = {}
    for key, stored in read.items():
        if key != IPAM_CONFIG:
            with suppress(Malformed):
                found = read_block(stored)
                kept[found.block.cidr] = found
    return KnownBlocks(kept, config_of(read))


def draft_handle_release(
    draft: Transaction,
    handle: HandleId,
    stored: Versioned | None,
    seen: KnownBlocks,
    now: datetime,
    names: Mapping[HandleId, Versioned | None] = NO_NAMES,
) -> tuple[Address, ...]:
    """Draft the release of all a handle holds; what is to be kept goes to its name (`names`: their stored handles).

    Raises Conflict, Malformed.
    """
    if stored is None:
        draft.guard(handle_key(handle), 0)
        draft.handles.add(handle)
        return ()
    config = seen.config
    draft.write_handle(handle, stored.revision, {})
    if seen.config_revision is not None:
        draft.guard(IPAM_CONFIG, seen.config_revision)
    freed: list[Address] = []
    keeping: dict[HandleId, dict[Prefix, int]] = {}
    for cidr, _ in decode_handle(stored.key, stored.value).count_by_block:
        kept = seen.blocks.get(cidr)
        if kept is None:
            continue
        present = draft.blocks.get(kept.block.cidr, kept)
        thawed = blocks.end_cooldown(present.block, now, config.cooldown_seconds)
        handed = draft_retention(draft, thawed, handle, names, keeping, now)
        changed, addresses = blocks.release_handle(handed, handle, _stamp(config, now))
        freed += addresses
        if addresses or handed is not thawed:
            draft.write_block(present, changed)
        else:
            draft.guard(block_key(changed.cidr), kept.revision)
    for name, counts in keeping.items():
        draft.write_handle(name, 0, counts)
    return tuple(freed)


async def release_addresses(
    store: Store, wanted: Sequence[GuardedAddress], now: datetime, pause: Pause
) -> ReleaseResult:
    """Give back addresses, block by block. Raises Conflict when a guard does not hold, StoreError, Malformed."""
    released: list[Address] = []
    unallocated: list[Address] = []
    by_block: dict[Prefix | None, list[GuardedAddress]] = {}
    for item in dict.fromkeys(wanted):
        by_block.setdefault(await _block_of(store, item.address), []).append(item)
    for cidr, items in by_block.items():
        if cidr is None:
            unallocated += [item.address for item in items]
            continue
        for start in range(0, len(items), ALLOCATIONS_AT_ONCE):
            done = await _release_in(store, cidr, items[start : start + ALLOCATIONS_AT_ONCE], now, pause)
            released += done.released
            unallocated += done.unallocated
    return ReleaseResult(tuple(released), tuple(unallocated))


async def _block_of(store: Store, address: Address) -> Prefix | None:
    """The stored block that holds an address, whatever pool it came from."""
    network = NETWORKS[address.version]
    keys = [
        block_key(network((int(address) >> bits << bits, address.max_prefixlen - bits)))
        for bits in (address.max_prefixlen - length for length in BLOCK_LENGTHS[address.version])
    ]
    found = await store.get_many(keys)
    return max(
        (cidr for key in found if (cidr := block_of_key(key))), key=lambda cidr: cidr.prefixlen, default=None
    )


async def _release_in(
    store: Store, cidr: Prefix, items: Sequence[GuardedAddress], now: datetime, pause: Pause
) -> ReleaseResult:
    for _ in range(MOST_ATTEMPTS):
        read = await store.get_many([block_key(cidr), IPAM_CONFIG])
        stored = read.get(block_key(cidr))
        if stored is None:
            return ReleaseResult((), tuple(item.address for item in items))
        kept = read_block(stored)
        ordinals = [blocks.ordinal_of(kept.block, item.address) for item in items]
        held = {ordinal: blocks.holder(kept.block, ordinal) for ordinal in ordinals}
        for item, ordinal in zip(items, ordinals, strict=True):
            _check(kept.block, item, held[ordinal])
        going = [ordinal for ordinal in ordinals if held[ordinal] is not None]
        free = tuple(
            item.address for item, ordinal in zip(items, ordinals, strict=True) if held[ordinal] is None
        )
        if not going:
            return ReleaseResult((), free)
        draft = await draft_address_release(store, kept, going, config_of(read), now)
        if isinstance(await store.commit(*draft.guards_and_operations), Committed):
            return ReleaseResult(tuple(blocks.address_of(kept.block, ordinal) for ordinal in going), free)
        await pause(RETRY_SECONDS)
    raise Conflict(f"block {cidr}: {MOST_ATTEMPTS} releases in a row were overtaken by other writers")


def _check(block: Block, item: GuardedAddress, holder: Attributes | None) -> None:
    if holder is None:
        return
    if item.handle is not None and blocks.bare_handle(holder.handle) != item.handle:
        raise Conflict(f"address {item.address} is held by {holder.handle}, not by {item.handle}")
    sequence = dict(block.sequence_of).get(blocks.ordinal_of(block, item.address))
    if item.sequence is not None and sequence != item.sequence:
        raise Conflict(f"address {item.address} was assigned anew (sequence {sequence}, not {item.sequence})")


async def draft_address_release(
    store: Store, kept: VersionedBlock, ordinals: Sequence[int], config: IpamConfig, now: datetime
) -> Transaction:
    """The release of some allocations of a block with their shares of the handles. Raises StoreError."""
    draft = Transaction()
    going: dict[HandleId, int] = {}
    for ordinal in ordinals:
        holder = blocks.holder(kept.block, ordinal)
        handle = blocks.bare_handle(holder.handle) if holder is not None else None
        if handle:
            going[handle] = going.get(handle, 0) + 1
    read = await store.get_many([handle_key(handle) for handle in going])
    for handle in going:
        stored = read.get(handle_key(handle))
        left = len(blocks.allocations_of(kept.block, handle)) - going[handle]
        if stored is None:
            continue
        try:
            counts = dict(decode_handle(stored.key, stored.value).count_by_block)
        except Malformed:
            continue  # the address is freed all the same; `check` names the handle
        draft.write_handle(handle, stored.revision, {**counts, kept.block.cidr: left})
    thawed = blocks.end_cooldown(kept.block, now, config.cooldown_seconds)
    draft.write_block(kept, blocks.release(thawed, ordinals, _stamp(config, now)))
    return draft


async def release_node(store: Store, node: NodeName, now: datetime, pause: Pause) -> tuple[Address, ...]:
    """Free what a node's pods and tunnels hold in any block, then give up its claims. Raises Conflict, StoreError."""
    freed: list[Address] = []
    for version in (4, 6):
        for stored in (await store.list(block_prefix(version))).values.values():
            try:
                block = read_block(stored).block
            except Malformed:
                continue  # `check` names it; it must not keep the rest
            own = block.owner == node
            items = [
                _guarded(block, ordinal, attributes)
                for ordinal, attributes in blocks.allocated(block)
                if _node_of(attributes) == node or (own and _node_of(attributes) is None)
            ]
            freed += (await release_addresses(store, items, now, pause)).released
            if own:
                await _give_up(store, block.cidr, node, pause)
        for key in (await store.list(affinity_prefix(node, version))).values:
            found = affinity_of_key(key)
            if found is not None:
                await _give_up(store, found[1], node, pause)
    return tuple(freed)


def _node_of(attributes: Attributes) -> str | None:
    return dict(attributes.secondary).get("node")


def guarded_addresses(block: Block, handle: HandleId) -> tuple[GuardedAddress, ...]:
    """What a handle holds in a block, each with the sequence that tells this allocation from every other."""
    return tuple(
        _guarded(block, ordinal, attributes) for ordinal, attributes in blocks.allocations_of(block, handle)
    )


def _guarded(block: Block, ordinal: int, attributes: Attributes) -> GuardedAddress:
    sequence = dict(block.sequence_of).get(ordinal)
    return GuardedAddress(blocks.address_of(block, ordinal), blocks.bare_handle(attributes.handle), sequence)


async def _give_up(
    store: Store, cidr: Prefix, node: NodeName, pause: Pause, *, only_empty: bool = False
) -> bool:
    """End a node's claim on a block; an empty block goes with it. False: it is not empty and should have been."""
    for _ in range(MOST_ATTEMPTS):
        read = await store.get_many([block_key(cidr), affinity_key(node, cidr)])
        draft = Transaction()
        stored, claim = read.get(block_key(cidr)), read.get(affinity_key(node, cidr))
        draft.guard(affinity_key(node, cidr), claim.revision if claim is not None else 0)
        draft.delete_affinity(node, cidr)
        if stored is None:
            draft.guard(block_key(cidr), 0)
        else:
            kept = read_block(stored)
            if kept.block.owner == node and kept.block.owner_kind == "host":
                if only_empty and not blocks.is_empty(kept.block):
                    return False
                draft.write_block(kept, blocks.without_owner(kept.block))
        if isinstance(await store.commit(*draft.guards_and_operations), Committed):
            return True
        await pause(RETRY_SECONDS)
    raise Conflict(f"block {cidr}: {MOST_ATTEMPTS} attempts to give it up were overtaken by other writers")


async def release_empty(store: Store, cidr: Prefix, node: NodeName, pause: Pause) -> bool:
    """Give up a claim on a block that is empty; False when it is not. Raises Conflict, StoreError."""
    return await _give_up(store, cidr, node, pause, only_empty=True)


async def release_pool(store: Store, record: PoolRecord, pause: Pause) -> int:
    """Take a disabled pool's blocks from their owners. Raises Refused while it is enabled, Conflict, StoreError."""
    if not record.pool.disabled:
        raise Refused(
            f"pool {record.pool.name} is enabled; disable it first, so that nothing new is allocated"
        )
    count = 0
    for key, stored in (await store.list(block_prefix(record.pool.cidr.version))).values.items():
        cidr = block_of_key(key)
        if cidr is None or cidr.network_address not in record.pool.cidr:
            continue
        try:
            owner = read_block(stored).block.owner
        except Malformed:
            continue
        if owner is not None:
            count += await _give_up(store, cidr, owner, pause)
    return count
