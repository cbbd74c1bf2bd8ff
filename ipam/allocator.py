"""The shell around allocation: reads what it must, decides by the cores, writes one guarded transaction.

Promises: block, claim, handle and the caller's companion change together or not at all, and only if the pool is still
as it was; so nothing can leak between two writes. Asking again with the same handle gives the same addresses. A warm
allocation is one round trip: what was last written is remembered, as a hint that every write compares.
Does not know: CNI, kernel, who else writes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Protocol

from ipam import block as blocks
from ipam.codec import (
    decode_affinity,
    decode_block,
    decode_config,
    decode_handle,
    encode_affinity,
    encode_block,
    encode_handle,
)
from ipam.errors import BlockLimit, Conflict, NoPool, PoolExhausted, Refused
from ipam.keys import IPAM_CONFIG, affinity_key, affinity_prefix, block_key, handle_key
from ipam.model import (
    DEFAULT_BLOCKS_PER_NODE,
    Address,
    AddressRequest,
    AffinityState,
    Assignment,
    Attributes,
    Block,
    Handle,
    HandleId,
    IpamConfig,
    NodeName,
    PoolRecord,
    Prefix,
)
from ipam.search import Eligible, blocks_in_order, eligible
from ipam.store import Committed, Delete, Lost, Operation, Put, Store, Unchanged, Versioned

MOST_ATTEMPTS = 100
"""Lost races before Conflict; Calico's number."""
FIRST_WAIT_SECONDS = 0.002
LONGEST_WAIT_SECONDS = 0.2
BLOCKS_AT_ONCE = 64
"""Block keys looked at in one read while a free one is sought."""


class Clock(Protocol):
    """What the allocator needs of time."""

    def wall(self) -> datetime:
        """The present moment in UTC."""
        ...


@dataclass(frozen=True, slots=True)
class Companion:
    """What rides along in the same transaction, such as the workload endpoint."""

    guards: tuple[Unchanged, ...] = ()
    operations: tuple[Operation, ...] = ()


NOTHING = Companion()


@dataclass(frozen=True, slots=True)
class Kept:
    """A block as last seen, with its revision; 0: it does not exist yet."""

    block: Block
    revision: int


@dataclass(slots=True)
class _Hints:
    """What one node last saw of its own blocks; stale is harmless."""

    kept: dict[Prefix, Kept] = field(default_factory=dict)
    config: IpamConfig = field(default_factory=IpamConfig)
    loaded: bool = False


class Allocator:
    """Assigns and releases addresses."""

    def __init__(self, store: Store, clock: Clock, pools: Callable[[], Sequence[PoolRecord]]) -> None:
        """`pools` is the watched copy; a stale one is noticed by the guard on the pool's revision."""
        self._store = store
        self._clock = clock
        self._pools = pools
        self._hints: dict[NodeName, _Hints] = {}
        self._turn: dict[NodeName, asyncio.Lock] = {}
        """One transaction of a node at a time: two would only make each other lose."""

    async def assign(
        self,
        request: AddressRequest,
        companion: Callable[[tuple[Assignment, ...]], Companion] | None = None,
    ) -> tuple[Assignment, ...]:
        """Give a handle its addresses, all or none.

        Raises NoPool, PoolExhausted, BlockLimit, Conflict, StoreError.
        """
        if request.ipv6 or request.address is not None:
            raise Refused("IPv6 and chosen addresses are not assigned yet")
        async with self._turn.setdefault(request.node, asyncio.Lock()):
            wait = FIRST_WAIT_SECONDS
            for _ in range(MOST_ATTEMPTS):
                found = eligible(self._pools(), request, 4)
                if not found.records:
                    reasons = "; ".join(found.refused) or "none is configured"
                    raise NoPool(f"no pool for {request.use.value} addresses on node {request.node}: {reasons}")
                outcome = await self._attempt(request, found, companion)
                if outcome is not None:
                    return outcome
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
        raise Conflict(
            f"handle {request.handle}: {MOST_ATTEMPTS} transactions in a row were overtaken by other writers"
        )

    async def _attempt(
        self,
        request: AddressRequest,
        found: Eligible,
        companion: Callable[[tuple[Assignment, ...]], Companion] | None,
    ) -> tuple[Assignment, ...] | None:
        """One transaction; None when it lost and should be tried again."""
        hints = await self._own_blocks(request.node)
        record, kept = await self._block_for(request, found, hints)
        attributes = Attributes(request.handle, tuple(sorted(request.secondary)))
        changed, addresses = blocks.assign(kept.block, request.ipv4, attributes)
        given = tuple(Assignment(address, changed.cidr, record.pool.name, request.handle) for address in addresses)
        extra = companion(given) if companion is not None else NOTHING
        guards = [Unchanged(record.key, record.revision), Unchanged(handle_key(request.handle), 0)]
        guards.append(Unchanged(block_key(changed.cidr), kept.revision))
        handle = Handle(request.handle, ((changed.cidr, len(given)),))
        writes: list[Operation] = [
            Put(block_key(changed.cidr), encode_block(changed)),
            Put(handle_key(request.handle), encode_handle(handle)),
        ]
        if kept.revision == 0:
            writes.append(Put(affinity_key(request.node, changed.cidr), encode_affinity(AffinityState.CONFIRMED)))
        outcome = await self._store.commit((*guards, *extra.guards), (*writes, *extra.operations))
        if isinstance(outcome, Committed):
            hints.kept[changed.cidr] = Kept(changed, outcome.revision)
            return given
        self._learn(hints, changed.cidr, outcome, request.node)
        if outcome.present.get(handle_key(request.handle)) is not None:
            # Ours from before: a reply that was lost, or a repeated request.
            return await self.assigned(request.handle) or None
        return None

    def _learn(self, hints: _Hints, cidr: Prefix, lost: Lost, node: NodeName) -> None:
        present = lost.present.get(block_key(cidr))
        hints.kept.pop(cidr, None)
        if present is not None:
            block = decode_block(present.key, present.value)
            if block.owner == node:
                hints.kept[cidr] = Kept(block, present.revision)

    async def _own_blocks(self, node: NodeName) -> _Hints:
        """The node's own blocks: read once, then kept from write to write."""
        hints = self._hints.setdefault(node, _Hints())
        if hints.loaded:
            return hints
        claims = await self._store.list(affinity_prefix(node, 4))
        owned = [decode_affinity(key, value.value) for key, value in claims.values.items()]
        keys = [block_key(claim.block) for claim in owned if claim.state is not AffinityState.PENDING_DELETION]
        read = await self._store.get_many([*keys, IPAM_CONFIG])
        hints.kept = {
            kept.block.cidr: kept
            for kept in (Kept(decode_block(key, read[key].value), read[key].revision) for key in keys if key in read)
            if kept.block.owner == node
        }
        if IPAM_CONFIG in read:
            hints.config = decode_config(IPAM_CONFIG, read[IPAM_CONFIG].value)
        hints.loaded = True
        return hints

    async def _block_for(self, request: AddressRequest, found: Eligible, hints: _Hints) -> tuple[PoolRecord, Kept]:
        """An own block with room, or a new one. Raises PoolExhausted or BlockLimit with what was looked at."""
        looked_at = list(found.refused)
        owned = 0
        for record in found.records:
            own = [kept for cidr, kept in sorted(hints.kept.items()) if cidr.overlaps(record.pool.cidr)]
            owned += len(own)
            for kept in own:
                if len(kept.block.unallocated) >= request.ipv4:
                    return record, kept
                looked_at.append(f"block {kept.block.cidr} of {record.pool.name}: {len(kept.block.unallocated)} free")
        most = hints.config.blocks_per_node or DEFAULT_BLOCKS_PER_NODE
        if owned >= most:
            raise BlockLimit(f"node {request.node} has {owned} blocks and may have {most}: {'; '.join(looked_at)}")
        if not hints.config.auto_allocate_blocks:
            raise PoolExhausted(f"new blocks are not claimed (autoAllocateBlocks is off): {'; '.join(looked_at)}")
        for record in found.records:
            cidr = await self._free_block(record, request.node)
            if cidr is not None:
                stamp = self._clock.wall()
                claimed = stamp.strftime("%Y-%m-%dT%H:%M:%SZ")
                sequence = int(stamp.timestamp() * 1e9)
                return record, Kept(blocks.new_block(cidr, request.node, claimed, sequence), 0)
            looked_at.append(f"{record.pool.name} ({record.pool.cidr}): every block is taken")
        hints.loaded = False  # an own block may have been emptied by another process meanwhile
        raise PoolExhausted(f"no free address for node {request.node}: {'; '.join(looked_at)}")

    async def _free_block(self, record: PoolRecord, node: NodeName) -> Prefix | None:
        candidates = blocks_in_order(record, node)
        while some := list(islice(candidates, BLOCKS_AT_ONCE)):
            taken = await self._store.get_many([block_key(cidr) for cidr in some])
            for cidr in some:
                if block_key(cidr) not in taken:
                    return cidr
        return None

    async def assigned(self, handle: HandleId) -> tuple[Assignment, ...]:
        """What a handle holds now; nothing for an unknown one. Raises StoreError."""
        stored = await self._store.get(handle_key(handle))
        if stored is None:
            return ()
        _, held = await self._held(stored)
        found = []
        for kept in held:
            for ordinal, _ in blocks.held(kept.block, handle):
                address = blocks.address_of(kept.block, ordinal)
                found.append(Assignment(address, kept.block.cidr, self._pool_name(address), handle))
        return tuple(found)

    def _pool_name(self, address: Address) -> str:
        return next((record.pool.name for record in self._pools() if address in record.pool), "")

    async def _held(self, stored: Versioned) -> tuple[Handle, tuple[Kept, ...]]:
        handle = decode_handle(stored.key, stored.value)
        keys = [block_key(cidr) for cidr, _ in handle.count_by_block]
        read = await self._store.get_many(keys)
        found = (read[key] for key in keys if key in read)
        return handle, tuple(Kept(decode_block(value.key, value.value), value.revision) for value in found)

    async def release_handle(self, handle: HandleId, companion: Companion = NOTHING) -> tuple[Address, ...]:
        """Give back everything a handle holds, together with the companion. An unknown handle holds nothing.

        Raises Conflict (also when a guard of the companion does not hold), StoreError.
        """
        wait = FIRST_WAIT_SECONDS
        for _ in range(MOST_ATTEMPTS):
            stored = await self._store.get(handle_key(handle))
            held = (await self._held(stored))[1] if stored is not None else ()
            guards = [Unchanged(handle_key(handle), stored.revision if stored is not None else 0)]
            writes: list[Operation] = [Delete(handle_key(handle))] if stored is not None else []
            freed: list[Address] = []
            changes: list[Block] = []
            for kept in held:
                changed, addresses = blocks.release_handle(kept.block, handle)
                freed += addresses
                guards.append(Unchanged(block_key(changed.cidr), kept.revision))
                changes.append(changed)
                writes.append(_written(changed))
            if not writes and not companion.operations:
                return ()
            outcome = await self._store.commit((*guards, *companion.guards), (*writes, *companion.operations))
            if isinstance(outcome, Committed):
                self._remember(changes, outcome.revision)
                return tuple(freed)
            _refuse_lost_companion(handle, companion, outcome)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)
        raise Conflict(f"handle {handle}: {MOST_ATTEMPTS} releases in a row were overtaken by other writers")

    def _remember(self, changes: Iterable[Block], revision: int) -> None:
        for changed in changes:
            hints = self._hints.get(changed.owner) if changed.owner is not None else None
            if hints is not None and changed.cidr in hints.kept and hints.kept[changed.cidr].revision < revision:
                hints.kept[changed.cidr] = Kept(changed, revision)


def _written(changed: Block) -> Operation:
    """A block that nobody owns vanishes with its last address."""
    if changed.owner is None and blocks.is_empty(changed):
        return Delete(block_key(changed.cidr))
    return Put(block_key(changed.cidr), encode_block(changed))


def _refuse_lost_companion(handle: HandleId, companion: Companion, lost: Lost) -> None:
    for guard in companion.guards:
        present = lost.present.get(guard.key)
        if (present.revision if present is not None else 0) != guard.revision:
            raise Conflict(f"handle {handle}: {guard.key} was changed meanwhile; look again")
