"""The shell around allocation: reads what it must, decides by the cores, writes one guarded transaction.

Promises: block, claim, handle and the caller's piggyback change together or not at all, and only if the pool and the
cluster's rules are still as they were; so nothing can leak between two writes. Asking again with the same handle gives
the same addresses. A warm allocation is one round trip: what was last written is remembered, as a hint that every
write compares. Requests of one node that wait at the same moment share a transaction. A cancelled caller leaves
nothing behind. Does not know: CNI, kernel, who else writes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from ipam import block as blocks
from ipam.allocation.assign import AddressSearch
from ipam.allocation.block_cache import BlockCache, load_block_cache
from ipam.allocation.commit_queue import (
    FIRST_WAIT_SECONDS,
    GROUP_MOST,
    LONGEST_WAIT_SECONDS,
    MOST_ATTEMPTS,
    MOST_WAITING,
    AssignJob,
    shortened,
)
from ipam.allocation.release import (
    GuardedAddress,
    HandleBlocks,
    KnownBlocks,
    ReleaseResult,
    guarded_addresses,
    read_handle_blocks,
    release_addresses,
    release_node,
    release_pool,
)
from ipam.allocation.release_queue import ReleaseQueue
from ipam.allocation.transaction import (
    NO_WRITES,
    PiggybackedWrites,
    Transaction,
    VersionedBlock,
    broken_guards,
)
from ipam.etcd.store import Committed, GuardFailed, Put, Store
from ipam.failures import Conflict, IpamError, Refused, StoreError
from ipam.keys import IPAM_CONFIG, block_key, handle_key
from ipam.model import Address, AddressRequest, Assignment, HandleId, NodeName, PoolRecord, Prefix

FRESH_SECONDS = 60
"""Hints older than this are read anew: an address reserved meanwhile is honoured from then on."""


class WallClock(Protocol):
    """What the allocator needs of time."""

    def wall(self) -> datetime:
        """The present moment in UTC."""
        ...


class Allocator:
    """Assigns and releases addresses."""

    def __init__(
        self,
        store: Store,
        clock: WallClock,
        pools: Callable[[], Sequence[PoolRecord]],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        """`pools` is the watched copy; a stale one is noticed by the guard on the pool's revision.

        `pause` waits for seconds between two attempts; `random` answers from 0 to 1.
        """
        self._store = store
        self._clock = clock
        self._pools = pools
        self._pause = pause
        self._random = random
        self._caches: dict[NodeName, BlockCache] = {}
        self._waiting: dict[NodeName, deque[AssignJob]] = {}
        self._workers: dict[NodeName, asyncio.Task[None]] = {}
        self._freeing = ReleaseQueue(store, clock.wall, pause, self._remember, self._remembered, random)

    async def assign(
        self,
        request: AddressRequest,
        piggyback: Callable[[tuple[Assignment, ...]], PiggybackedWrites] | None = None,
    ) -> tuple[Assignment, ...]:
        """Give a handle its addresses, all or none.

        Raises NoPool, PoolExhausted, BlockLimit, AddressInUse, Conflict (also when a guard of the piggyback does not
        hold), StoreError.
        """
        queue = self._waiting.setdefault(request.node, deque())
        if len(queue) >= MOST_WAITING:
            raise Conflict(f"{len(queue)} requests of node {request.node} wait already; try again later")
        job = AssignJob(request, piggyback, asyncio.get_running_loop().create_future())
        queue.append(job)
        self._wake(request.node, queue)
        try:
            return await job.answer
        except asyncio.CancelledError:
            if job.transaction is not None:  # it was answered in the same moment
                queue.appendleft(job)
                self._wake(request.node, queue)
            raise

    def _wake(self, node: NodeName, queue: deque[AssignJob]) -> None:
        if node not in self._workers:
            self._workers[node] = asyncio.create_task(self._work(node, queue))

    # -- one node's worker --------------------------------------------------------------------------------------------

    async def _work(self, node: NodeName, queue: deque[AssignJob]) -> None:
        """Serve the queue until it is empty; two transactions of one node would only make each other lose."""
        try:
            while queue:
                group = [queue.popleft() for _ in range(min(len(queue), GROUP_MOST))]
                try:
                    await self._settle(node, group)
                except Exception as error:
                    for job in group:
                        job.fail(error)
                except asyncio.CancelledError:
                    for job in (*group, *queue):
                        job.answer.cancel()
                    queue.clear()
                    raise
        finally:
            del self._workers[node]

    async def _settle(self, node: NodeName, group: list[AssignJob]) -> None:
        wait = FIRST_WAIT_SECONDS
        for job in group:
            if job.transaction is not None:
                await self._take_back(job)
        while group := [job for job in group if not job.answer.done()]:
            cache = await self._cache(node)
            draft, ready = Transaction(), list[AssignJob]()
            for job in group:
                if await self._draft(job, draft, cache):
                    ready.append(job)
            if not ready:
                continue
            if await self._commit(draft, ready, cache):
                wait = FIRST_WAIT_SECONDS
            else:
                await self._pause(shortened(wait, self._random))
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _draft(self, job: AssignJob, draft: Transaction, cache: BlockCache) -> bool:
        """Put a job into the draft; False when it is settled already or has to wait for the next transaction."""
        if job.answer.done() or job.request.handle in draft.handles:
            return False
        trial = draft.copy()
        try:
            if not await self._place(job, trial, cache):
                return False
            if not trial.fits:
                if draft.writes:
                    return False  # alone in the next transaction it may fit
                raise Conflict(
                    f"handle {job.request.handle}: asks for more than one transaction takes; ask for less"
                )
        except Exception as error:  # the piggyback is the caller's code: only its own request may suffer
            if draft.writes and isinstance(error, IpamError) and not isinstance(error, StoreError):
                return False  # alone in the next transaction it may do
            if isinstance(error, Refused) and not job.verified:
                await self._verify(job, cache)
            else:
                job.fail(error)
            return False
        draft.guards, draft.writes, draft.blocks, draft.handles = (
            trial.guards,
            trial.writes,
            trial.blocks,
            trial.handles,
        )
        return True

    async def _verify(self, job: AssignJob, cache: BlockCache) -> None:
        """Nothing is refused on old hints: the handle may hold what is asked, the node may have more than we saw."""
        cache.loaded_at = None
        job.verified = True
        try:
            job.stored = await self._store.get(handle_key(job.request.handle))
        except StoreError as error:
            job.fail(error)

    async def _place(self, job: AssignJob, draft: Transaction, cache: BlockCache) -> bool:
        request = job.request
        held = HandleBlocks() if job.stored is None else await read_handle_blocks(self._store, job.stored)
        before = self._assignments(held, request.handle)
        now, pools = self._clock.wall(), self._pools()
        placing = AddressSearch(self._store, now, pools, request, cache, draft, self._random)
        given = await placing.run(before)
        job.ready, job.fresh = (*before, *given), given
        job.attached = job.piggyback(job.ready) if job.piggyback is not None else NO_WRITES
        if not given and await self._whole(job):
            if not job.answer.done():
                job.answer.set_result(job.ready)
            return False
        revision = job.stored.revision if job.stored is not None else 0
        if given:
            counts = held.counts
            for item in given:
                counts[item.block] = counts.get(item.block, 0) + 1
            draft.write_handle(request.handle, revision, counts)
        else:
            draft.guard(handle_key(request.handle), revision)
            draft.handles.add(request.handle)
        if given:
            draft.guard(IPAM_CONFIG, cache.config_revision)
        draft.attach(job.attached)
        return True

    async def _whole(self, job: AssignJob) -> bool:
        """Whether the piggyback came with the handle: an earlier transaction whose reply was lost wrote both."""
        keys = [operation.key for operation in job.attached.operations if isinstance(operation, Put)]
        if not job.attached.operations or job.stored is None:
            return True
        read = await self._store.get_many(keys)
        return len(keys) == len(job.attached.operations) and all(
            key in read and read[key].revision == job.stored.revision for key in keys
        )

    async def _commit(self, draft: Transaction, ready: list[AssignJob], cache: BlockCache) -> bool:
        try:
            outcome = await self._store.commit(*draft.guards_and_operations)
        except IpamError as error:
            cache.loaded_at = None
            for job in ready:
                job.transaction = draft
                job.fail(error)
                if job.answer.cancelled():
                    await self._take_back(job)
            return False
        if isinstance(outcome, Committed):
            cache.record_commit(draft, outcome.revision)
            for job in ready:
                job.transaction = draft
                if not job.answer.done():
                    job.answer.set_result(job.ready)
                elif job.answer.cancelled():
                    await self._take_back(job)
            return True
        cache.learn(outcome.present)
        broken = set(broken_guards(draft.guards_and_operations[0], outcome))
        for job in ready:
            self._judge(job, broken, outcome)
        return False

    def _judge(self, job: AssignJob, broken: set[str], lost: GuardFailed) -> None:
        """What a lost transaction means for one of its requests."""
        key = handle_key(job.request.handle)
        job.stored = lost.present.get(key)
        job.attempts += 1
        stale = [guard.key for guard in job.attached.guards if guard.key in broken]
        if stale and key not in broken:
            job.fail(Conflict(f"handle {job.request.handle}: {stale[0]} was changed meanwhile; look again"))
        elif job.attempts >= MOST_ATTEMPTS:
            job.fail(
                Conflict(
                    f"handle {job.request.handle}: {MOST_ATTEMPTS} transactions in a row were overtaken by other "
                    f"writers, at last at {', '.join(sorted(broken))}"
                )
            )

    async def _take_back(self, job: AssignJob) -> None:
        """The caller went away while its transaction was under way: undo it, for nobody else knows of it.

        Only what that very transaction wrote is taken back, told by the sequence of each allocation: the handle may
        have held addresses before, and a transaction without an answer may not have happened.
        """
        handle, draft, job.transaction = job.request.handle, job.transaction, None
        if draft is None or not job.fresh:
            return
        with suppress(IpamError):
            stored = await self._store.get(handle_key(handle))
            held = await read_handle_blocks(self._store, stored) if stored is not None else HandleBlocks()
            present = {item for kept in held.blocks for item in guarded_addresses(kept.block, handle)}
            ours = job.written(draft)
            if ours == present:
                await self.release_handle(
                    handle, PiggybackedWrites((), job.attached.revert if present else ())
                )
            else:
                await self.release_addresses(ours & present)

    async def _cache(self, node: NodeName) -> BlockCache:
        now = self._clock.wall()
        known = self._caches.get(node)
        if (
            known is None
            or known.loaded_at is None
            or now - known.loaded_at > timedelta(seconds=FRESH_SECONDS)
        ):
            known = self._caches[node] = await load_block_cache(self._store, node, now)
        return known

    # -- asking -------------------------------------------------------------------------------------------------------

    async def assigned(self, handle: HandleId) -> tuple[Assignment, ...]:
        """What a handle holds now; nothing for an unknown one. Raises StoreError, Malformed."""
        stored = await self._store.get(handle_key(handle))
        return (
            self._assignments(await read_handle_blocks(self._store, stored), handle)
            if stored is not None
            else ()
        )

    def _assignments(self, held: HandleBlocks, handle: HandleId) -> tuple[Assignment, ...]:
        found = []
        for kept in held.blocks:
            for ordinal, _ in blocks.allocations_of(kept.block, handle):
                address = blocks.address_of(kept.block, ordinal)
                found.append(Assignment(address, kept.block.cidr, self._pool_name(address), handle))
        return tuple(found)

    def _pool_name(self, address: Address) -> str:
        return next((record.pool.name for record in self._pools() if address in record.pool), "")

    # -- releasing ----------------------------------------------------------------------------------------------------

    async def release_handle(
        self, handle: HandleId, piggyback: PiggybackedWrites = NO_WRITES
    ) -> tuple[Address, ...]:
        """Give back everything a handle holds, together with the piggyback. An unknown handle holds nothing.

        Raises Conflict (also when a guard of the piggyback does not hold), StoreError, Malformed.
        """
        return await self._freeing.release(handle, piggyback)

    async def release_addresses(self, wanted: Iterable[GuardedAddress]) -> ReleaseResult:
        """Give back addresses one by one, each only if its handle and sequence are the ones named.

        Raises Conflict when a guard does not hold (nothing of that block is released then), StoreError.
        """
        return await release_addresses(self._store, tuple(wanted), self._clock.wall(), self._pause)

    async def release_node(self, node: NodeName) -> tuple[Address, ...]:
        """Give back all a node holds, wherever, and its claims. Raises Conflict, StoreError."""
        self._caches.pop(node, None)
        return await release_node(self._store, node, self._clock.wall(), self._pause)

    async def release_pool(self, record: PoolRecord) -> int:
        """Take the blocks of a disabled pool from their owners; allocated addresses stay. Answers how many blocks.

        Raises Refused while the pool is enabled, Conflict, StoreError.
        """
        return await release_pool(self._store, record, self._pause)

    def _remembered(self, cidrs: Collection[Prefix]) -> KnownBlocks | None:
        """These blocks as one node's hints have them, if they have all; the release compares."""
        for cache in self._caches.values():
            if cache.loaded_at is not None and cidrs and all(cidr in cache.own for cidr in cidrs):
                blocks_seen = {cidr: cache.own[cidr] for cidr in cidrs}
                return KnownBlocks(blocks_seen, cache.config, cache.config_revision)
        return None

    def _remember(self, draft: Transaction, revision: int) -> None:
        for kept in draft.blocks.values():
            owner = kept.block.owner
            cache = self._caches.get(owner) if owner is not None else None
            known = cache.own.get(kept.block.cidr) if cache is not None else None
            if cache is None or known is None or known.revision >= revision:
                continue
            if isinstance(draft.writes[block_key(kept.block.cidr)], Put):
                cache.remember(VersionedBlock(kept.block, revision))
            else:
                cache.forget(kept.block.cidr)
