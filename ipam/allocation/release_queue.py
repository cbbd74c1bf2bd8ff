"""Releases of handles: those that wait at the same moment share a transaction.

Promises: a handle, its blocks and the attached writes change together or not at all; a release whose attached guard
does not hold fails alone. Hints are used only where the transaction compares them.
Does not know: CNI, who else writes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ipam.allocation.commit_queue import CommitJob, CommitQueue
from ipam.allocation.environment import Environment
from ipam.allocation.release import KnownBlocks, draft_handle_release, known_blocks
from ipam.allocation.sticky import names_of
from ipam.allocation.transaction import PiggybackedWrites, Transaction
from ipam.codec import decode_handle
from ipam.etcd.store import CommitOutcome, Committed, Versioned
from ipam.failures import Malformed
from ipam.keys import IPAM_CONFIG, block_key, handle_key
from ipam.model import Address, HandleId, Prefix


@dataclass(slots=True, kw_only=True, eq=False)
class ReleaseJob(CommitJob[tuple[Address, ...]]):
    """One caller's release of all that a handle holds."""


class ReleaseQueue(CommitQueue[ReleaseJob]):
    """All releases by handle of one process."""

    def __init__(
        self,
        environment: Environment,
        remembered: Callable[[Collection[Prefix]], KnownBlocks | None],
        committed: Callable[[Transaction, int], None],
    ) -> None:
        """`remembered` may save a read of blocks; `committed` takes each transaction with its revision."""
        super().__init__(environment, "releases")
        self._remembered = remembered
        self._committed = committed
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
        handles = await self._store.get_many([handle_key(job.handle) for job in group])
        cidrs: dict[Prefix, None] = {}
        for job in group:
            job.stored = handles.get(handle_key(job.handle))
            if job.stored is not None:
                with suppress(Malformed):  # planning fails it, alone
                    handle = decode_handle(job.stored.key, job.stored.value)
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
        now = self._environment.now()
        job.result = draft_handle_release(transaction, job.handle, job.stored, self._known, now, self._names)
        transaction.attach(job.attached)
        if job.stored is None and not job.attached.operations:
            job.succeed()
            return False
        return True

    def _learn(self, transaction: Transaction, outcome: CommitOutcome | None) -> None:
        if isinstance(outcome, Committed):
            self._committed(transaction, outcome.revision)
