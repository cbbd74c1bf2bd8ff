"""The shell around address management: assigns and releases, each change one guarded transaction.

Requests that wait at the same moment share a transaction (see `commit_queue`): assignments with those of the same node,
releases of handles with all others. A node's assignments share its hints too.
Promises: block, claim, handle and the caller's piggybacked writes change together or not at all, and only if the pool
and the cluster's rules are still as they were; so nothing can leak between two writes. A warm assignment is one round
trip, for what was last written is remembered, and every write compares it; nothing is refused on old hints. Asking
again with the same handle gives the same addresses. What was written for a caller that has gone is given back.
Does not know: CNI, kernel, who else writes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from ipam import block as blocks
from ipam.allocation.assign import AddressSearch
from ipam.allocation.block_cache import BlockCache, load_block_cache
from ipam.allocation.commit_queue import CommitJob, CommitQueue
from ipam.allocation.environment import Environment
from ipam.allocation.fence import Fence
from ipam.allocation.release import (
    GuardedAddress,
    KnownBlocks,
    NodeRelease,
    ReleaseResult,
    block_of_address,
    draft_handle_release,
    guarded_addresses,
    known_blocks,
    read_handle_blocks,
    release_addresses,
    release_node,
    unrecorded,
)
from ipam.allocation.sticky import names_of
from ipam.allocation.transaction import (
    NO_WRITES,
    Piggyback,
    PiggybackedWrites,
    Transaction,
    broken_guards,
    read_block,
)
from ipam.codec import decode_handle
from ipam.etcd.store import CommitOutcome, Committed, Pause, Put, Store, Versioned
from ipam.failures import IpamError, Malformed, Refused, StoreError
from ipam.keys import IPAM_CONFIG, RESERVATIONS, block_key, handle_key
from ipam.model import Address, AddressRequest, Assignment, Attributes, HandleId, NodeName, PoolRecord, Prefix

FRESH_SECONDS = 60
"""Hints older than this are read anew: what is reserved no more is given from then on."""

ReleaseJob = CommitJob[tuple[Address, ...]]
"""One caller's release of all that a handle holds."""


@dataclass(slots=True, kw_only=True, eq=False)
class AssignJob(CommitJob[tuple[Assignment, ...]]):
    """One caller's request for addresses."""

    request: AddressRequest
    piggyback: Piggyback | None
    fresh: tuple[Assignment, ...] = ()
    """What of the result the transaction under way assigns; the handle held the rest before."""
    verified: bool = False
    """Whether a refusal would rest on what was read for this job."""

    def written(self, transaction: Transaction) -> frozenset[GuardedAddress]:
        """What a transaction assigned to this request, distinguished from every other allocation of these addresses."""
        fresh = {item.address for item in self.fresh}
        return frozenset(
            item
            for versioned in transaction.blocks.values()
            for item in guarded_addresses(versioned.block, self.handle)
            if item.address in fresh
        )


class AssignQueue(CommitQueue[AssignJob]):
    """All assignments for one node."""

    def __init__(
        self, environment: Environment, node: NodeName, releases: ReleaseQueue, fence: Fence
    ) -> None:
        super().__init__(environment, f"requests of node {node}")
        self._releases = releases
        self._fence = fence
        self.cache = BlockCache(node)

    async def _prepare(self, group: Sequence[AssignJob]) -> None:
        await self._fence.set()
        now, loaded_at = self._environment.now(), self.cache.loaded_at
        # A clock that was set back makes nothing fresh.
        fresh = timedelta(seconds=FRESH_SECONDS)
        if loaded_at is None or not timedelta(0) <= now - loaded_at <= fresh:
            self.cache = await load_block_cache(self._store, self.cache, now, self._environment.claims())

    async def _plan(self, job: AssignJob, transaction: Transaction) -> bool:
        held = await read_handle_blocks(self._store, job.handle, job.stored)
        before = held.assignments(self._environment.pools())
        search = AddressSearch(self._environment, job.request, self.cache, transaction)
        job.fresh = await search.run(before)
        job.result = (*before, *job.fresh)
        job.attached = job.piggyback(job.result) if job.piggyback is not None else NO_WRITES
        revision = job.stored.revision if job.stored is not None else 0
        if job.fresh:
            counts = held.counts
            for item in job.fresh:
                counts[item.block] = counts.get(item.block, 0) + 1
            transaction.write_handle(job.handle, revision, counts)
            transaction.guard(IPAM_CONFIG, self.cache.config_revision)
            transaction.guard_prefix(RESERVATIONS, self.cache.reservations_revision)
        elif await self._is_whole(job):
            job.succeed()
            return False
        else:
            transaction.guard_handle(job.handle, revision)
        self._fence.guard(self.cache.node, transaction)
        transaction.attach(job.attached)
        return True

    async def _is_whole(self, job: AssignJob) -> bool:
        """Whether the attached writes came with the handle: a transaction whose reply was lost wrote both."""
        keys = [operation.key for operation in job.attached.operations if isinstance(operation, Put)]
        if not job.attached.operations or job.stored is None:
            return True
        read = await self._store.get_many(keys)
        return len(keys) == len(job.attached.operations) and all(
            key in read and read[key].revision == job.stored.revision for key in keys
        )

    async def _refuse(self, job: AssignJob, error: Exception) -> None:
        """The handle may hold what is asked for, the node may have more than we saw: refused is what was read anew."""
        if not isinstance(error, Refused) or job.verified:
            job.fail(error)
            return
        self.cache.loaded_at = None
        job.verified = True
        try:
            job.stored = await self._store.get(handle_key(job.handle))
        except StoreError as failure:
            job.fail(failure)

    def _learn(self, transaction: Transaction, outcome: CommitOutcome | None) -> None:
        self._fence.learn(outcome)
        if outcome is None:
            self.cache.loaded_at = None
        elif isinstance(outcome, Committed):
            self.cache.record_commit(transaction, outcome.revision)
        else:
            self.cache.learn(outcome.present)
            if RESERVATIONS in broken_guards(transaction.guards_and_operations[0], outcome):
                self.cache.loaded_at = None  # one was written since

    async def _take_back(self, job: AssignJob) -> None:
        """Give back what a transaction assigned to a caller that has gone, for nobody else knows of it.

        Only what that very transaction wrote is given back, recognized by the sequence of each allocation: the handle
        may have held addresses before, and a transaction without an answer may not have happened.
        """
        transaction, job.transaction = job.transaction, None
        if transaction is None or not job.fresh:
            return
        with suppress(IpamError):
            await self._fence.set()  # what is not there now never will be
            stored = await self._store.get(handle_key(job.handle))
            held = await read_handle_blocks(self._store, job.handle, stored)
            present = {item for found in held.blocks for item in guarded_addresses(found.block, job.handle)}
            ours = job.written(transaction)
            if ours == present:
                revert = PiggybackedWrites((), job.attached.revert if present else ())
                await self._releases.release(job.handle, revert)
            else:
                await release_addresses(self._environment, tuple(ours & present))


class ReleaseQueue(CommitQueue[ReleaseJob]):
    """All releases by handle of one process. One whose attached guard does not hold fails alone."""

    def __init__(
        self, environment: Environment, assignments: Mapping[NodeName, AssignQueue], fence: Fence
    ) -> None:
        """The hints of `assignments` may save a read of blocks, for the transaction compares them."""
        super().__init__(environment, "releases")
        self._fence = fence
        self._assignments = assignments
        self._known = KnownBlocks({})
        """The blocks of the group that is planned."""
        self._names: Mapping[HandleId, Versioned | None] = {}
        """The stored handles of the names for which that group's addresses are to be retained."""

    async def release(self, handle: HandleId, attached: PiggybackedWrites) -> tuple[Address, ...]:
        """See Allocator.release_handle."""
        job = ReleaseJob(handle=handle, attached=attached)
        await self.run(job)
        return job.answer.result()

    async def _prepare(self, group: Sequence[ReleaseJob]) -> None:
        await self._fence.set()  # before the handles are read: what is not there now never will be
        handles = await self._store.get_many([handle_key(job.handle) for job in group])
        cidrs: dict[Prefix, None] = {}
        for job in group:
            job.stored = handles.get(handle_key(job.handle))
            if job.stored is not None:
                with suppress(Malformed):  # planning fails it, alone
                    handle = decode_handle(job.stored)
                    cidrs |= dict.fromkeys(cidr for cidr, _ in handle.count_by_block)
        known = None if any(job.attempts for job in group) else self._remembered(cidrs)
        if known is None:
            known = known_blocks(await self._store.get_many([*map(block_key, cidrs), IPAM_CONFIG]))
        self._known = known
        blocks = [versioned.block for versioned in known.blocks.values()]
        names = sorted({name for job in group for name in names_of(blocks, job.handle)})
        read = await self._store.get_many([handle_key(name) for name in names]) if names else {}
        self._names = {name: read.get(handle_key(name)) for name in names}

    async def _plan(self, job: ReleaseJob, transaction: Transaction) -> bool:
        job.result = draft_handle_release(
            transaction, job.handle, job.stored, self._known, self._environment, self._names
        )
        transaction.attach(job.attached)
        if job.stored is None and not job.attached.operations:
            job.succeed()
            return False
        return True

    def _learn(self, transaction: Transaction, outcome: CommitOutcome | None) -> None:
        """Take what a release left of each block into its owner's hints, unless these are newer."""
        if not isinstance(outcome, Committed):
            return
        for cidr in transaction.blocks:
            for queue in self._assignments.values():
                known = queue.cache.own.get(cidr)
                if known is not None and known.revision < outcome.revision:
                    queue.cache.record_block(transaction, cidr, outcome.revision)

    def _remembered(self, cidrs: Collection[Prefix]) -> KnownBlocks | None:
        """These blocks as one node's hints have them, if they have all."""
        for queue in self._assignments.values():
            cache = queue.cache
            if cache.loaded_at is not None and cidrs and all(cidr in cache.own for cidr in cidrs):
                return KnownBlocks(
                    {cidr: cache.own[cidr] for cidr in cidrs}, cache.config, cache.config_revision
                )
        return None


class Allocator:
    """Assigns and releases addresses of any node."""

    def __init__(
        self,
        store: Store,
        now: Callable[[], datetime],
        pools: Callable[[], Sequence[PoolRecord]],
        pause: Pause = asyncio.sleep,
        random: Callable[[], float] = random.random,
        *,
        in_use: Callable[[], Mapping[Address, HandleId]] = dict,
        claims: Callable[[], Collection[Prefix]] = tuple,
        node_labels: Callable[[NodeName], Mapping[str, str] | None] = lambda _: None,
        node: NodeName | None = None,
    ) -> None:
        """`now` answers the moment in UTC; `pools` is the watched copy, a stale one fails a guard.

        `pause` waits for seconds between two attempts; `random` answers from 0 to 1. `in_use` are the addresses of
        living pods here, which are given to nobody else; `node` is the one whose assignments this process alone makes.
        `claims` are all nodes' blocks; `node_labels` answers those of a node whose claims may be given up here.
        """
        self._environment = Environment(
            store, now, pools, pause, random, in_use=in_use, claims=claims, node_labels=node_labels
        )
        self._fence = Fence(store, node)
        self._queues: dict[NodeName, AssignQueue] = {}
        self._releases = ReleaseQueue(self._environment, self._queues, self._fence)

    def forget(self) -> None:
        """The datastore is older than it was, or another one: no hint holds, not even as a guard."""
        self._fence.doubt()
        for queue in self._queues.values():
            queue.cache = BlockCache(queue.cache.node)

    async def assign(
        self, request: AddressRequest, piggyback: Piggyback | None = None
    ) -> tuple[Assignment, ...]:
        """Give a handle its addresses, all or none.

        Raises NoPool, PoolExhausted, BlockLimit, AddressInUse, Conflict (also when a guard of the piggybacked writes
        does not hold), StoreError.
        """
        node = request.node
        queue = self._queues.get(node) or AssignQueue(self._environment, node, self._releases, self._fence)
        self._queues[node] = queue
        job = AssignJob(handle=request.handle, request=request, piggyback=piggyback)
        await queue.run(job)
        return job.answer.result()

    @property
    def passed_over(self) -> Mapping[Prefix, Prefix]:
        """Blocks of which nothing, or not all, was assigned -> the block of another size that each overlaps."""
        return {
            cidr: other for queue in self._queues.values() for cidr, other in queue.cache.passed_over.items()
        }

    async def assigned(self, handle: HandleId) -> tuple[Assignment, ...]:
        """What a handle holds now; nothing for an unknown one. Raises StoreError, Malformed."""
        store = self._environment.store
        held = await read_handle_blocks(store, handle, await store.get(handle_key(handle)))
        return held.assignments(self._environment.pools())

    async def allocations(self, handle: HandleId) -> tuple[Attributes, ...]:
        """The attributes of all that a handle holds now. Raises StoreError, Malformed."""
        store = self._environment.store
        held = await read_handle_blocks(store, handle, await store.get(handle_key(handle)))
        found = (item for one in held.blocks for item in blocks.allocations_of(one.block, handle))
        return tuple(attributes for _, attributes in found)

    async def holder(self, address: Address) -> Attributes | None:
        """Who holds an address now, whatever pool it is of; None: nobody. Raises StoreError, Malformed."""
        store = self._environment.store
        cidr = await block_of_address(store, address)
        stored = await store.get(block_key(cidr)) if cidr is not None else None
        if stored is None:
            return None
        block = read_block(stored).block
        return blocks.holder(block, blocks.ordinal_of(block, address))

    async def unrecorded(self, wanted: Mapping[HandleId, Collection[Address]]) -> frozenset[HandleId]:
        """The handles that do not hold all of these addresses now, in a few reads for all. Raises StoreError."""
        return await unrecorded(self._environment.store, wanted)

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

    async def release_node(self, node: NodeName) -> NodeRelease:
        """Give back all a node holds, wherever, and its claims. Raises Conflict, StoreError."""
        if node in self._queues:
            self._queues[node].cache.loaded_at = None
        return await release_node(self._environment, node)
