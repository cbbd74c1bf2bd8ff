"""Group commit: jobs that wait for the datastore at the same moment share a transaction; the one place for its rules.

How it works. Callers append a job and await its answer. One worker per queue takes up to GROUP_MOST waiting jobs, adds
them to one transaction, each on a trial copy, so that a job that fails leaves no trace in it, and commits. While that
round trip is under way the next group gathers: under load the number of transactions grows with time, not with jobs,
and the transactions of one queue never make each other lose. A lost transaction is planned anew out of what its guards
showed; a job that does not fit, or is refused beside others, is tried alone in the next transaction.

How a cancelled caller is served, whatever the moment:
- its job still waits: the worker skips it, for its answer is done;
- its transaction is under way: once it is written, or may be, the job is taken back (`_take_back`);
- its answer was given in the same moment: the job is queued once more, first, to be taken back.
Promises: an answer is given once; a cancelled worker cancels all that wait.
Does not know: what a job is for.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ipam.allocation.environment import Environment
from ipam.allocation.transaction import NO_WRITES, PiggybackedWrites, Transaction, broken_guards
from ipam.etcd.store import CommitOutcome, Committed, GuardFailed, Versioned
from ipam.failures import Conflict, IpamError, StoreError
from ipam.keys import handle_key
from ipam.model import HandleId

MOST_ATTEMPTS = 100
"""Lost transactions before Conflict; Calico's number."""
FIRST_WAIT_SECONDS = 0.002
LONGEST_WAIT_SECONDS = 0.2
GROUP_MOST = 32
"""Jobs in one transaction."""
MOST_WAITING = 10_000
"""Jobs that wait in one queue; more are refused at once."""

Answer = TypeVar("Answer")


@dataclass(slots=True, kw_only=True, eq=False)
class CommitJob(Generic[Answer]):
    """What one caller asks for one handle, and how far it got."""

    handle: HandleId
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    result: Answer = field(init=False)
    """What the caller gets once the transaction under way is committed."""
    attached: PiggybackedWrites = NO_WRITES
    stored: Versioned | None = None
    """The handle's record as last seen."""
    transaction: Transaction | None = None
    """The transaction that wrote this job, or may have."""
    attempts: int = 0

    def succeed(self) -> None:
        """Give the caller its result, unless it has gone."""
        if not self.answer.done():
            self.answer.set_result(self.result)

    def fail(self, error: Exception) -> None:
        """Give the caller an error, unless it has gone."""
        if not self.answer.done():
            self.answer.set_exception(error)


Job = TypeVar("Job", bound=CommitJob)  # type: ignore[type-arg]


class CommitQueue(ABC, Generic[Job]):
    """The jobs that wait and the worker that commits them; a subclass says how a job becomes writes."""

    def __init__(self, environment: Environment, what: str) -> None:
        """`what` waits here, for a refusal."""
        self._environment = environment
        self._store = environment.store
        self._what = what
        self._waiting: deque[Job] = deque()
        self.worker: asyncio.Task[None] | None = None
        """None while nothing waits."""

    async def run(self, job: Job) -> None:
        """Have a job committed; its answer is given then. Raises Conflict, StoreError, and what planning raises."""
        if len(self._waiting) >= MOST_WAITING:
            raise Conflict(f"{len(self._waiting)} {self._what} wait already; try again later")
        self._waiting.append(job)
        self._wake()
        try:
            await job.answer
        except asyncio.CancelledError:
            if job.transaction is not None:  # it was answered in the same moment
                self._waiting.appendleft(job)
                self._wake()
            raise

    # -- what a subclass adds -----------------------------------------------------------------------------------------

    @abstractmethod
    async def _prepare(self, group: Sequence[Job]) -> None:
        """Read what planning these jobs needs. Raises StoreError."""

    @abstractmethod
    async def _plan(self, job: Job, transaction: Transaction) -> bool:
        """Add a job's guards and writes; False when it is answered already, without a write."""

    @abstractmethod
    def _learn(self, transaction: Transaction, outcome: CommitOutcome | None) -> None:
        """Take in what became of a transaction; None: it may have happened or not."""

    async def _refuse(self, job: Job, error: Exception) -> None:
        """Answer a job that planning refused; one that is not answered here is planned again."""
        job.fail(error)

    async def _take_back(self, job: Job) -> None:
        """Undo what a transaction gave to a caller that has gone."""

    # -- the worker ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self.worker is None:
            self.worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_MOST))]
                try:
                    await self._settle(group)
                except Exception as error:
                    for job in group:
                        job.fail(error)
                except asyncio.CancelledError:
                    for job in (*group, *self._waiting):
                        job.answer.cancel()
                    self._waiting.clear()
                    raise
        finally:
            self.worker = None

    async def _settle(self, group: Sequence[Job]) -> None:
        """Plan and commit until every job of a group is answered."""
        wait = FIRST_WAIT_SECONDS
        for job in group:
            if job.transaction is not None:
                await self._take_back(job)
        while group := [job for job in group if not job.answer.done()]:
            await self._prepare(group)
            transaction, ready = await self._planned(group)
            if not ready:
                continue
            if await self._commit(transaction, ready):
                wait = FIRST_WAIT_SECONDS
            else:  # shortened at random by up to half: who lost a race together must not meet again
                await self._environment.pause(wait * (0.5 + 0.5 * self._environment.random()))
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _planned(self, group: Sequence[Job]) -> tuple[Transaction, list[Job]]:
        """As many jobs of a group as one transaction takes; the others are answered, or wait for the next one."""
        transaction, ready = Transaction(), list[Job]()
        for job in group:
            if job.answer.done() or job.handle in transaction.handles:
                continue
            trial = transaction.copy()
            try:
                if not await self._plan(job, trial):
                    continue
                if not trial.fits:
                    raise Conflict(f"handle {job.handle}: needs more than one transaction takes")
            except Exception as error:
                # Attached writes are made by the caller's code: only its own job may suffer.
                if not ready or isinstance(error, StoreError) or not isinstance(error, IpamError):
                    await self._refuse(job, error)
                continue  # unless it is answered, it may do alone in the next transaction
            transaction = trial
            ready.append(job)
        return transaction, ready

    async def _commit(self, transaction: Transaction, ready: Sequence[Job]) -> bool:
        try:
            outcome = await self._store.commit(*transaction.guards_and_operations)
        except IpamError as error:
            self._learn(transaction, None)
            for job in ready:
                job.transaction = transaction
                job.fail(error)
                if job.answer.cancelled():
                    await self._take_back(job)
            return False
        self._learn(transaction, outcome)
        for job in ready:
            if isinstance(outcome, GuardFailed):
                _count_loss(job, transaction, outcome)
                continue
            job.transaction = transaction
            job.succeed()
            if job.answer.cancelled():
                await self._take_back(job)
        return isinstance(outcome, Committed)


def _count_loss(job: CommitJob[Answer], transaction: Transaction, outcome: GuardFailed) -> None:
    """Count a lost transaction against one of its jobs, and fail the job that cannot win any more.

    An attached guard that fails together with the handle's own may be the job's own doing, whose reply was lost: then
    planning looks at the handle again.
    """
    key = handle_key(job.handle)
    job.stored = outcome.present.get(key)
    job.attempts += 1
    broken = broken_guards(transaction.guards_and_operations[0], outcome)
    stale = [guard.key for guard in job.attached.guards if guard.key in broken]
    if stale and key not in broken:
        job.fail(Conflict(f"handle {job.handle}: {stale[0]} was changed meanwhile; look again"))
    elif job.attempts >= MOST_ATTEMPTS:
        job.fail(
            Conflict(
                f"handle {job.handle}: {MOST_ATTEMPTS} transactions in a row were overtaken by other writers, "
                f"at last at {', '.join(sorted(broken))}"
            )
        )
