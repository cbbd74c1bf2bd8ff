"""Gives back what handles hold; releases that wait at the same moment share a transaction.

Promises: a handle, its blocks and its caller's piggyback change together or not at all; a release whose guard does not
hold, or whose handle cannot be read, fails alone. A caller that goes away is not waited for: its release may happen.
Does not know: CNI, hints, who else writes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from ipam.allocation.commit_queue import (
    FIRST_WAIT_SECONDS,
    GROUP_MOST,
    LONGEST_WAIT_SECONDS,
    MOST_ATTEMPTS,
    MOST_WAITING,
    ReleaseJob,
    shortened,
)
from ipam.allocation.release import KnownBlocks, Pause, draft_handle_release, known_blocks
from ipam.allocation.sticky import names_of
from ipam.allocation.transaction import PiggybackedWrites, Transaction, broken_guards
from ipam.codec import decode_handle
from ipam.etcd.store import Committed, GuardFailed, Store, Versioned
from ipam.failures import Conflict, IpamError, Malformed
from ipam.keys import IPAM_CONFIG, block_key, handle_key
from ipam.model import Address, HandleId, Prefix


class ReleaseQueue:
    """The queue of releases and its one worker: two transactions on one block would only make each other lose."""

    def __init__(
        self,
        store: Store,
        now: Callable[[], datetime],
        pause: Pause,
        wrote: Callable[[Transaction, int], None],
        remembered: Callable[[Collection[Prefix]], KnownBlocks | None],
        random: Callable[[], float],
    ) -> None:
        """`wrote` is told what each transaction left, and its revision; `remembered` may save a read."""
        self._store = store
        self._now = now
        self._pause = pause
        self._wrote = wrote
        self._remembered = remembered
        self._random = random
        self._queue: deque[ReleaseJob] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def release(self, handle: HandleId, piggyback: PiggybackedWrites) -> tuple[Address, ...]:
        """See Allocator.release_handle."""
        if len(self._queue) >= MOST_WAITING:
            raise Conflict(f"{len(self._queue)} releases wait already; try again later")
        job = ReleaseJob(handle, piggyback, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await job.answer

    async def _work(self) -> None:
        try:
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MOST))]
                try:
                    await self._settle(group)
                except Exception as error:
                    for job in group:
                        job.fail(error)
                except asyncio.CancelledError:
                    for job in (*group, *self._queue):
                        job.answer.cancel()
                    self._queue.clear()
                    raise
        finally:
            self._worker = None

    async def _settle(self, group: list[ReleaseJob]) -> None:
        wait = FIRST_WAIT_SECONDS
        while group := [job for job in group if not job.answer.done()]:
            draft, ready = await self._draft(group)
            if not ready:
                continue
            outcome = await self._store.commit(*draft.guards_and_operations)
            if isinstance(outcome, Committed):
                self._wrote(draft, outcome.revision)
                for job in ready:
                    if not job.answer.done():
                        job.answer.set_result(job.freed)
                wait = FIRST_WAIT_SECONDS
                continue
            for job in ready:
                _judge(job, outcome)
            await self._pause(shortened(wait, self._random))
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    async def _draft(self, group: Sequence[ReleaseJob]) -> tuple[Transaction, list[ReleaseJob]]:
        """As many of the group as one transaction takes; what is left out is settled, or waits. Raises StoreError."""
        handles = await self._store.get_many([handle_key(job.handle) for job in group])
        cidrs = _blocks_of(handles.values())
        seen = None if any(job.attempts for job in group) else self._remembered(cidrs)
        if seen is None:
            seen = known_blocks(await self._store.get_many([*map(block_key, cidrs), IPAM_CONFIG]))
        names = await self._names(group, seen)
        draft, ready = Transaction(), list[ReleaseJob]()
        for job in group:
            trial = draft.copy()
            stored = handles.get(handle_key(job.handle))
            if job.handle in draft.handles:
                continue
            try:
                job.freed = draft_handle_release(trial, job.handle, stored, seen, self._now(), names)
                trial.attach(job.attached)
                if not trial.fits and not ready:
                    raise Conflict(f"handle {job.handle}: holds more than one transaction takes")
            except IpamError as error:
                if not ready:
                    job.fail(error)  # else it may do alone in the next transaction
                continue
            if stored is None and not job.attached.operations:
                job.answer.set_result(())
            elif trial.fits:
                draft = trial
                ready.append(job)
        return draft, ready

    async def _names(
        self, group: Iterable[ReleaseJob], seen: KnownBlocks
    ) -> Mapping[HandleId, Versioned | None]:
        """The stored handles of the names for which something is to be kept; nothing is read where nothing is."""
        known = {cidr: kept.block for cidr, kept in seen.blocks.items()}
        wanted = {name for job in group for name in names_of(known, job.handle)}
        read = await self._store.get_many([handle_key(name) for name in sorted(wanted)]) if wanted else {}
        return {name: read.get(handle_key(name)) for name in wanted}


def _blocks_of(handles: Iterable[Versioned]) -> list[Prefix]:
    """All blocks that these handles name; a handle that cannot be read fails later, alone."""
    found: dict[Prefix, None] = {}
    for stored in handles:
        with suppress(Malformed):
            found |= dict.fromkeys(cidr for cidr, _ in decode_handle(stored.key, stored.value).count_by_block)
    return list(found)


def _judge(job: ReleaseJob, lost: GuardFailed) -> None:
    """What a lost transaction means for one of its releases."""
    job.attempts += 1
    broken = broken_guards(job.attached.guards, lost)
    if broken:
        job.fail(Conflict(f"handle {job.handle}: {broken[0]} was changed meanwhile; look again"))
    elif job.attempts >= MOST_ATTEMPTS:
        job.fail(
            Conflict(
                f"handle {job.handle}: {MOST_ATTEMPTS} releases in a row were overtaken by other writers"
            )
        )
