"""The shell around address management: assigns and releases, each change one guarded transaction.

Promises: block, claim, handle and the caller's piggybacked writes change together or not at all, and only if the pool
and the cluster's rules are still as they were; so nothing can leak between two writes. Asking again with the same
handle gives the same addresses. A cancelled caller leaves nothing behind (see `commit_queue`).
Does not know: CNI, kernel, who else writes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from ipam.allocation.assign_queue import AssignJob, AssignQueue
from ipam.allocation.environment import Environment
from ipam.allocation.release import (
    GuardedAddress,
    KnownBlocks,
    ReleaseResult,
    read_handle_blocks,
    release_addresses,
    release_node,
)
from ipam.allocation.release_queue import ReleaseQueue
from ipam.allocation.transaction import NO_WRITES, Piggyback, PiggybackedWrites, Transaction
from ipam.etcd.optimistic import Pause
from ipam.etcd.store import Store
from ipam.keys import handle_key
from ipam.model import Address, AddressRequest, Assignment, HandleId, NodeName, PoolRecord, Prefix


class WallClock(Protocol):
    """The time, as the allocator needs it."""

    def wall(self) -> datetime:
        """The present moment in UTC."""
        ...


class Allocator:
    """Assigns and releases addresses of any node."""

    def __init__(
        self,
        store: Store,
        clock: WallClock,
        pools: Callable[[], Sequence[PoolRecord]],
        pause: Pause = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        """`pools` is the watched copy; a stale one is noticed by the guard on the pool's revision.

        `pause` waits for seconds between two attempts; `random` answers from 0 to 1.
        """
        self._environment = Environment(store, clock.wall, pools, pause, random)
        self._queues: dict[NodeName, AssignQueue] = {}
        self._releases = ReleaseQueue(self._environment, self._remembered_blocks, self._remember_release)

    async def assign(
        self, request: AddressRequest, piggyback: Piggyback | None = None
    ) -> tuple[Assignment, ...]:
        """Give a handle its addresses, all or none.

        Raises NoPool, PoolExhausted, BlockLimit, AddressInUse, Conflict (also when a guard of the piggybacked writes
        does not hold), StoreError.
        """
        node = request.node
        queue = self._queues.get(node) or AssignQueue(self._environment, node, self._releases)
        self._queues[node] = queue
        job = AssignJob(handle=request.handle, request=request, piggyback=piggyback)
        await queue.run(job)
        return job.answer.result()

    async def assigned(self, handle: HandleId) -> tuple[Assignment, ...]:
        """What a handle holds now; nothing for an unknown one. Raises StoreError, Malformed."""
        store = self._environment.store
        held = await read_handle_blocks(store, handle, await store.get(handle_key(handle)))
        return held.assignments(self._environment.pools())

    async def release_handle(
        self, handle: HandleId, attached: PiggybackedWrites = NO_WRITES
    ) -> tuple[Address, ...]:
        """Give back everything a handle holds, together with the attached writes. An unknown handle holds nothing.

        Raises Conflict (also when an attached guard does not hold), StoreError, Malformed.
        """
        return await self._releases.release(handle, attached)

    async def release_addresses(self, wanted: Iterable[GuardedAddress]) -> ReleaseResult:
        """Give back addresses one by one, each only if its handle and sequence are the ones named.

        Raises Conflict when a guard does not hold (nothing of that block is released then), StoreError.
        """
        return await release_addresses(self._environment, tuple(wanted))

    async def release_node(self, node: NodeName) -> tuple[Address, ...]:
        """Give back all a node holds, wherever, and its claims. Raises Conflict, StoreError."""
        if node in self._queues:
            self._queues[node].cache.loaded_at = None
        return await release_node(self._environment, node)

    def _remembered_blocks(self, cidrs: Collection[Prefix]) -> KnownBlocks | None:
        """These blocks as one node's hints have them, if they have all; the release compares."""
        for queue in self._queues.values():
            cache = queue.cache
            if cache.loaded_at is not None and cidrs and all(cidr in cache.own for cidr in cidrs):
                return KnownBlocks(
                    {cidr: cache.own[cidr] for cidr in cidrs}, cache.config, cache.config_revision
                )
        return None

    def _remember_release(self, transaction: Transaction, revision: int) -> None:
        """Take what a release left of each block into its owner's hints, unless these are newer."""
        for cidr, versioned in transaction.blocks.items():
            owner = versioned.block.owner
            queue = self._queues.get(owner) if owner is not None else None
            known = queue.cache.own.get(cidr) if queue is not None else None
            if queue is not None and known is not None and known.revision < revision:
                queue.cache.record_block(transaction, cidr, revision)
