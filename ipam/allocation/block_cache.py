"""What one node last saw of the blocks it may use: its own, those it borrowed from, and the cluster's rules.

Promises: stale is harmless, because every write compares; one damaged block hides no other and is named in `damaged`.
What two blocks of different sizes share is given from neither, and that is in `passed_over`.
Rules that cannot be read are what they were; if they were never read, and of reservations always, they are in
`unknown_rules`: nobody knows what may be assigned.
Does not know: requests, transactions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from ipam import block as blocks
from ipam.allocation.environment import Environment
from ipam.allocation.ipam_config import read_config
from ipam.allocation.pool_selection import blocks_in_order
from ipam.allocation.transaction import Transaction, VersionedBlock, read_block
from ipam.codec import decode_affinity, decode_reservation
from ipam.etcd.store import Listing, Put, Store, Versioned, revision_of
from ipam.failures import Unreadable
from ipam.keys import (
    IPAM_CONFIG,
    RESERVATIONS,
    affinity_prefix,
    block_key,
    block_of_key,
    block_prefix,
    inner_block_prefixes,
    overlapping_block_keys,
)
from ipam.model import BLOCK_LENGTHS, AffinityState, IpamConfig, NodeName, PoolRecord, Prefix

BLOCKS_AT_ONCE = 64
"""Block keys looked at in one read while a free one is sought."""
MOST_BLOCKS_LOOKED_AT = 1 << 18
"""Blocks of a pool that are tried before it counts as full: a /8 of /26."""
RECLAIM_AGE = timedelta(seconds=60)
"""An empty block of another node is taken only when its claim is older: a fresh one is about to be used."""
MOST_LENDERS = 256
"""Foreign blocks remembered for the next borrowing."""
MOST_PASSED_OVER = 4096
"""Blocks that overlap others, looked at in one search and remembered: each costs two reads."""


@dataclass(slots=True)
class BlockCache:
    """The hints of one node."""

    node: NodeName
    own: dict[Prefix, VersionedBlock] = field(default_factory=dict)
    unconfirmed: set[Prefix] = field(default_factory=set)
    """Own blocks whose claim somebody left unfinished."""
    lenders: dict[Prefix, VersionedBlock] = field(default_factory=dict)
    """Blocks of others that had free addresses."""
    config: IpamConfig = field(default_factory=IpamConfig)
    config_revision: int = 0
    config_known: bool = False
    """Whether the rules, or that there are none, were ever read."""
    reservations: dict[str, tuple[Prefix, ...]] = field(default_factory=dict)
    """Key of an IPReservation -> what it reserves."""
    reservations_revision: int = 0
    """When they were listed: none may have been written since."""
    overlapping: tuple[Prefix, ...] = ()
    """Blocks of another size that share addresses with own ones."""
    passed_over: dict[Prefix, Prefix] = field(default_factory=dict)
    """A block that addresses were wanted from -> one of another size that shares addresses with it."""
    damaged: dict[str, Unreadable] = field(default_factory=dict)
    """Key -> why it cannot be used."""
    loaded_at: datetime | None = None
    """None: nothing may be refused, and no release planned, on these hints."""

    def learn_block(self, stored: Versioned) -> VersionedBlock | None:
        """Remember a block as it is now; None when it is damaged."""
        cidr = block_of_key(stored.key)
        try:
            versioned = read_block(stored)
        except Unreadable as error:
            self.damaged[stored.key] = error
            if cidr is not None:
                self.forget(cidr)
            return None
        self.damaged.pop(stored.key, None)
        self.remember(versioned)
        return versioned

    def learn_config(self, stored: Versioned | None) -> None:
        """Remember the cluster's rules; unreadable ones leave the rules as they were."""
        self.config_revision = revision_of(stored)
        try:
            self.config = read_config(stored)
            self.config_known = True
            self.damaged.pop(IPAM_CONFIG, None)
        except Unreadable as error:
            self.damaged[IPAM_CONFIG] = error

    def learn_reservations(self, listing: Listing) -> None:
        """Remember all reservations; one that cannot be read is in `unknown_rules`, whatever it was."""
        self.reservations, self.reservations_revision = {}, listing.revision
        for key, stored in listing.values.items():
            try:
                self.reservations[key] = decode_reservation(stored)
                self.damaged.pop(key, None)
            except Unreadable as error:
                self.damaged[key] = error

    @property
    def unknown_rules(self) -> tuple[Unreadable, ...]:
        """Why nobody knows what may be assigned: rules that were never read, and reservations that cannot be read now.

        The rules of before keep two pods from one address, as any would. What a reservation said before does not say
        what it keeps from being assigned now.
        """
        return tuple(
            error
            for key, error in self.damaged.items()
            if (key == IPAM_CONFIG and not self.config_known) or key.startswith(RESERVATIONS)
        )

    @property
    def reserved(self) -> tuple[Prefix, ...]:
        """All prefixes that are not assigned unless asked for by number."""
        return (*(prefix for some in self.reservations.values() for prefix in some), *self.overlapping)

    def pass_over(self, cidr: Prefix, other: Prefix) -> None:
        """Note that a block is not used, or not wholly, because it shares addresses with another."""
        if len(self.passed_over) < MOST_PASSED_OVER:
            self.passed_over[cidr] = other

    def learn_claims(self, claims: Collection[Prefix]) -> None:
        """Remember which of all nodes' claims share addresses with own blocks of another size."""
        found: dict[Prefix, None] = {}
        for cidr in self.own:
            for length in _shorter(cidr):
                if (around := cidr.supernet(new_prefix=length)) in claims:
                    self.pass_over(cidr, around)
                    found[around] = None
        lengths = {
            version: {one.prefixlen for one in self.own if one.version == version} for version in (4, 6)
        }
        for claim in claims:  # those of the same size, nearly all, cost a comparison
            for length in lengths[claim.version]:
                if claim.prefixlen > length and (cidr := claim.supernet(new_prefix=length)) in self.own:
                    self.pass_over(cidr, claim)
                    found[claim] = None
        self.overlapping = tuple(found)

    def learn(self, present: Mapping[str, Versioned | None]) -> None:
        """Remember what a lost transaction showed of its guarded keys."""
        for key, stored in present.items():
            cidr = block_of_key(key)
            if cidr is not None and stored is None:
                self.forget(cidr)
            elif cidr is not None and stored is not None:
                self.learn_block(stored)
            elif key == IPAM_CONFIG:
                self.learn_config(stored)

    def remember(self, versioned: VersionedBlock) -> None:
        """Remember a block as the node's own, or as one to borrow from."""
        block = versioned.block
        self.forget(block.cidr)
        if block.owner == self.node and block.owner_kind == "host":
            self.own[block.cidr] = versioned
        elif block.unallocated and len(self.lenders) < MOST_LENDERS:
            self.lenders[block.cidr] = versioned

    def forget(self, cidr: Prefix) -> None:
        """Drop a block that is gone, or of which nothing is known any more."""
        self.own.pop(cidr, None)
        self.lenders.pop(cidr, None)

    def record_commit(self, transaction: Transaction, revision: int) -> None:
        """Remember what a transaction of this node wrote."""
        for cidr in transaction.blocks:
            self.record_block(transaction, cidr, revision)
            self.unconfirmed.discard(cidr)

    def record_block(self, transaction: Transaction, cidr: Prefix, revision: int) -> None:
        """Remember one block as a committed transaction left it."""
        if isinstance(transaction.writes[block_key(cidr)], Put):
            self.remember(VersionedBlock(transaction.blocks[cidr].block, revision))
        else:
            self.forget(cidr)

    def reserved_in(self, cidr: Prefix) -> frozenset[int]:
        """The ordinals of a block that are reserved from automatic assignment."""
        return blocks.reserved_in(cidr, self.reserved) if self.reserved else blocks.NONE_RESERVED

    def wholly_reserved(self, cidr: Prefix) -> bool:
        """Whether nothing of a block may be assigned."""
        return bool(self.reserved) and len(self.reserved_in(cidr)) == cidr.num_addresses


async def load_block_cache(
    store: Store, before: BlockCache, now: datetime, claims: Collection[Prefix] = ()
) -> BlockCache:
    """Read a node's own blocks and the rules anew; of `before` stays what cannot be read now. Raises StoreError.

    `claims`: all nodes' blocks, as they are watched.
    """
    node = before.node
    found = BlockCache(
        node,
        config=before.config,
        config_known=before.config_known,
        loaded_at=now,
    )
    claimed: list[Prefix] = []
    for version in (4, 6):
        for key, stored in (await store.list(affinity_prefix(node, version))).values.items():
            try:
                affinity = decode_affinity(stored)
            except Unreadable as error:
                found.damaged[key] = error
                continue
            if affinity.state is not AffinityState.PENDING_DELETION:
                claimed.append(affinity.block)
            if affinity.state is AffinityState.PENDING:
                found.unconfirmed.add(affinity.block)
    read = await store.get_many([*map(block_key, claimed), IPAM_CONFIG])
    found.learn({**read, IPAM_CONFIG: read.get(IPAM_CONFIG)})
    found.lenders.clear()
    found.learn_reservations(await store.list(RESERVATIONS))
    found.learn_claims(claims)
    return found


async def overlapping_blocks(store: Store, cidr: Prefix) -> dict[Prefix, Versioned]:
    """The stored blocks of another size that share addresses with a block, readable or not. Raises StoreError."""
    read = dict(await store.get_many(overlapping_block_keys(cidr)))
    if cidr.prefixlen < max(BLOCK_LENGTHS[cidr.version]):
        for prefix in inner_block_prefixes(cidr):
            read |= (await store.list(prefix)).values
    found = ((block_of_key(key), stored) for key, stored in read.items())
    return {
        other: stored
        for other, stored in found
        if other is not None and other != cidr and other.version == cidr.version and other.overlaps(cidr)
    }


async def free_block(
    store: Store, cache: BlockCache, record: PoolRecord, taken: Collection[Prefix]
) -> Prefix | VersionedBlock | None:
    """The first block of a pool that does not exist, or that is ours without a claim. Raises StoreError.

    One that would share addresses with a block of another size is passed over.
    """
    candidates = islice(blocks_in_order(record, cache.node), MOST_BLOCKS_LOOKED_AT)
    while some := list(islice(candidates, BLOCKS_AT_ONCE)):
        wanted = [cidr for cidr in some if cidr not in taken and not cache.wholly_reserved(cidr)]
        present = await store.get_many([block_key(cidr) for cidr in wanted])
        for cidr in wanted:
            stored = present.get(block_key(cidr))
            if stored is None:
                others = await overlapping_blocks(store, cidr)
                if not others:
                    return cidr
                cache.pass_over(cidr, next(iter(others)))
                if len(cache.passed_over) == MOST_PASSED_OVER:
                    return None
                continue
            versioned = cache.learn_block(stored)
            if versioned is not None and cidr in cache.own and versioned.block.unallocated:
                cache.unconfirmed.add(cidr)
                return versioned
    return None


async def list_pool_blocks(
    environment: Environment, cache: BlockCache, record: PoolRecord
) -> list[VersionedBlock]:
    """Every readable block of a pool that is not the node's own, in a random order. Raises StoreError.

    Nodes that look at the same moment look in different orders, so that they do not all want the same block.
    """
    listing = await environment.store.list(block_prefix(record.pool.cidr.version))
    now, cooldown = environment.now(), cache.config.cooldown_seconds
    found = []
    for key, stored in listing.values.items():
        cidr = block_of_key(key)
        if cidr is None or not _within(cidr, record.pool.cidr):
            continue
        versioned = cache.learn_block(stored)
        if versioned is not None and cidr not in cache.own:
            block = blocks.end_cooldown(versioned.block, now, cooldown)
            found.append(VersionedBlock(block, versioned.revision))
    overlapping = _overlapping(block_of_key(key) for key in listing.values)
    for versioned in found:
        if (other := overlapping.get(versioned.block.cidr)) is not None:
            cache.pass_over(versioned.block.cidr, other)
    sound = (versioned for versioned in found if versioned.block.cidr not in overlapping)
    return sorted(sound, key=lambda _: environment.random())


def _shorter(cidr: Prefix) -> range:
    """The lengths of blocks that may lie around one."""
    return range(BLOCK_LENGTHS[cidr.version].start, cidr.prefixlen)


def _overlapping(cidrs: Iterable[Prefix | None]) -> dict[Prefix, Prefix]:
    """Each block that shares addresses with another -> one of those; of one IP version."""
    found: dict[Prefix, Prefix] = {}
    widest: Prefix | None = None
    known = (cidr for cidr in cidrs if cidr is not None)
    for cidr in sorted(known, key=lambda cidr: (int(cidr.network_address), cidr.prefixlen)):
        if widest is not None and int(cidr.network_address) <= int(widest.broadcast_address):
            found[cidr] = widest
            found.setdefault(widest, cidr)
        else:
            widest = cidr
    return found


def abandoned_blocks(listed: Iterable[VersionedBlock], now: datetime) -> Iterator[VersionedBlock]:
    """Empty blocks whose owner has had them for long enough to have used them."""
    for versioned in listed:
        block, since = versioned.block, versioned.block.claimed_at
        old = since is None or blocks.is_past(since, now - RECLAIM_AGE)
        if old and blocks.is_empty(block) and block.owner_kind == "host":
            yield versioned


def _within(inner: Prefix, outer: Prefix) -> bool:
    return (
        inner.version == outer.version
        and inner.network_address in outer
        and inner.prefixlen >= outer.prefixlen
    )
