"""Assignments of one node: requests that wait at the same moment share a transaction and the node's hints.

Promises: a warm assignment is one round trip, for what was last written is remembered, and every write compares it;
nothing is refused on old hints. What was written for a caller that has gone is given back.
Does not know: CNI, who else writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from ipam.allocation.assign import AddressSearch
from ipam.allocation.block_cache import BlockCache, load_block_cache
from ipam.allocation.commit_queue import CommitJob, CommitQueue
from ipam.allocation.environment import Environment
from ipam.allocation.release import (
    GuardedAddress,
    guarded_addresses,
    read_handle_blocks,
    release_addresses,
)
from ipam.allocation.release_queue import ReleaseQueue
from ipam.allocation.transaction import NO_WRITES, Piggyback, PiggybackedWrites, Transaction
from ipam.etcd.store import CommitOutcome, Committed, Put
from ipam.failures import IpamError, Refused, StoreError
from ipam.keys import IPAM_CONFIG, handle_key
from ipam.model import AddressRequest, Assignment, NodeName

FRESH_SECONDS = 60
"""Hints older than this are read anew: an address reserved meanwhile is honoured from then on."""


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

    def __init__(self, environment: Environment, node: NodeName, releases: ReleaseQueue) -> None:
        super().__init__(environment, f"requests of node {node}")
        self._releases = releases
        self.cache = BlockCache(node)

    async def _prepare(self, group: Sequence[AssignJob]) -> None:
        now, loaded_at = self._environment.now(), self.cache.loaded_at
        if loaded_at is None or now - loaded_at > timedelta(seconds=FRESH_SECONDS):
            self.cache = await load_block_cache(self._store, self.cache.node, now)

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
        elif await self._is_whole(job):
            job.succeed()
            return False
        else:
            transaction.guard_handle(job.handle, revision)
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
        if outcome is None:
            self.cache.loaded_at = None
        elif isinstance(outcome, Committed):
            self.cache.record_commit(transaction, outcome.revision)
        else:
            self.cache.learn(outcome.present)

    async def _take_back(self, job: AssignJob) -> None:
        """Give back what a transaction assigned to a caller that has gone, for nobody else knows of it.

        Only what that very transaction wrote is given back, recognized by the sequence of each allocation: the handle
        may have held addresses before, and a transaction without an answer may not have happened.
        """
        transaction, job.transaction = job.transaction, None
        if transaction is None or not job.fresh:
            return
        with suppress(IpamError):
            stored = await self._store.get(handle_key(job.handle))
            held = await read_handle_blocks(self._store, job.handle, stored)
            present = {item for found in held.blocks for item in guarded_addresses(found.block, job.handle)}
            ours = job.written(transaction)
            if ours == present:
                revert = PiggybackedWrites((), job.attached.revert if present else ())
                await self._releases.release(job.handle, revert)
            else:
                await release_addresses(self._environment, tuple(ours & present))
