"""A store in memory with etcd's rules: one revision per transaction, a history to watch, compaction, leases.

Promises: the contract of `ipam.etcd.store`, and faults that a test names before they happen.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import Enum

from ipam.etcd.store import (
    Changed,
    CommitOutcome,
    Committed,
    Guard,
    GuardFailed,
    KeyCount,
    Listing,
    Operation,
    Put,
    Unchanged,
    Versioned,
    WatchEvent,
    WatchProgress,
    check_size,
    revision_of,
)
from ipam.failures import Compacted, StoreRefused, StoreUnavailable, WentBack


class Fault(Enum):
    """What goes wrong with the next commits."""

    UNAVAILABLE = "no answer, and nothing was written"
    LOST_REPLY = "no answer, but it was written"
    LATE = "no answer; it is carried out when `deliver_late` is called, if its guards hold then"


Check = Callable[[Mapping[str, Versioned]], None]
"""Looks at everything stored after a commit that wrote."""


class FakeStore:
    """One etcd member without a network."""

    def __init__(self, shuffle: random.Random | None = None) -> None:
        """`shuffle` decides how long each call takes, so that a seed is one interleaving of its callers."""
        self._shuffle = shuffle
        self._values: dict[str, Versioned] = {}
        self._history: list[Changed] = []
        self._revision = 1
        self._compacted = 0
        self._leases: set[int] = set()
        self._event = asyncio.Event()
        self._closed = False
        self._faults: list[Fault] = []
        self._late: list[tuple[Sequence[Guard], Sequence[Operation]]] = []
        self._restores = 0
        self.away = False
        """While set, every call fails as if no endpoint answered."""
        self.watches_break = False
        """While set, watches end as if patience had run out."""
        self.commits = 0
        self.calls = 0
        self.committed: Check = lambda _: None
        """Called with everything stored after each commit that wrote."""
        self.chance: dict[Fault, float] = {}
        """How often a commit fails by itself, when calls are shuffled."""

    # -- faults -------------------------------------------------------------------------------------------------------

    def fail_next(self, *faults: Fault) -> None:
        """The next commits fail, one after the other."""
        self._faults += faults

    def compact(self, revision: int) -> None:
        """Forget the history up to and with a revision."""
        self._compacted = revision
        self._notify()

    def expire(self, lease: int) -> None:
        """A lease nobody kept alive."""
        self._leases.discard(lease)
        gone = [key for key, value in self._values.items() if value.lease == lease]
        if gone:
            self._revision += 1
        for key in gone:
            self._delete(key)
        self._notify()

    def break_watches(self) -> None:
        """End all running watches with StoreUnavailable."""
        self.watches_break = True
        self._notify()

    def deliver_late(self) -> list[CommitOutcome]:
        """Carry out what came late."""
        late, self._late = self._late, []
        return [self._do(*each) for each in late]

    def backup(self) -> tuple[dict[str, Versioned], int]:
        """All values and the revision, as `etcdctl snapshot save` has them."""
        return dict(self._values), self._revision

    def restore(self, backup: tuple[dict[str, Versioned], int]) -> None:
        """Put a backup in place: revisions go back, and every watch that was further on ends."""
        values, self._revision = backup
        self._values = dict(values)
        self._history.clear()
        self._restores += 1
        self._notify()

    def copy(self) -> dict[str, bytes]:
        """Everything stored, for assertions."""
        return {key: value.value for key, value in self._values.items()}

    async def _answer(self) -> None:
        self.calls += 1
        if self._shuffle is not None:
            for _ in range(self._shuffle.randrange(4)):
                await asyncio.sleep(0)
        if self.away or self._closed:
            raise StoreUnavailable("no answer within 5 s")

    def _fault(self) -> Fault | None:
        if self._faults:
            return self._faults.pop(0)
        if self._shuffle is not None:
            return next(
                (fault for fault, chance in self.chance.items() if self._shuffle.random() < chance), None
            )
        return None

    def _notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    # -- the store ----------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        await self._answer()
        return self._values.get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """See Store."""
        await self._answer()
        return {key: self._values[key] for key in keys if key in self._values}

    async def list(self, prefix: str) -> Listing:
        """See Store."""
        await self._answer()
        found = {key: value for key, value in sorted(self._values.items()) if key.startswith(prefix)}
        return Listing(found, self._revision)

    async def count(self, prefix: str) -> KeyCount:
        """See Store."""
        await self._answer()
        return KeyCount(sum(key.startswith(prefix) for key in self._values), self._revision)

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        """See Store."""
        check_size(guards, operations)
        await self._answer()
        fault = self._fault()
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable("no answer within 5 s")
        if fault is Fault.LATE:
            self._late.append((guards, operations))
            raise StoreUnavailable("no answer within 5 s")
        outcome = self._do(guards, operations)
        if self._shuffle is not None:
            await asyncio.sleep(0)
        if fault is Fault.LOST_REPLY:
            raise StoreUnavailable("no answer within 5 s")
        return outcome

    def _do(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        keys = [operation.key for operation in operations]
        if len(set(keys)) < len(keys):
            raise StoreRefused("etcd says: duplicate key given in txn request")
        if not all(map(self._holds, guards)):
            keys = (guard.key for guard in guards if isinstance(guard, Unchanged))
            return GuardFailed({key: self._values.get(key) for key in keys})
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                raise StoreRefused("etcd says: requested lease not found")
        self.commits += 1
        if any(isinstance(operation, Put) or operation.key in self._values for operation in operations):
            self._revision += 1
        for operation in operations:
            if isinstance(operation, Put):
                value = Versioned(operation.key, operation.value, self._revision, operation.lease)
                self._values[operation.key] = value
                self._history.append(Changed(operation.key, value, self._revision))
            else:
                self._delete(operation.key)
        self._notify()
        self.committed(self._values)
        return Committed(self._revision)

    def _holds(self, guard: Guard) -> bool:
        if isinstance(guard, Unchanged):
            return revision_of(self._values.get(guard.key)) == guard.revision
        below = (value for key, value in self._values.items() if key.startswith(guard.prefix))
        return all(value.revision <= guard.revision for value in below)

    def _delete(self, key: str) -> None:
        if self._values.pop(key, None) is not None:
            self._history.append(Changed(key, None, self._revision))

    def watch(self, prefix: str, start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        return self._watch(prefix, lambda key: key.startswith(prefix), start)

    def watch_keys(self, keys: Sequence[str], start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        wanted = frozenset(keys)
        return self._watch(f"{len(keys)} keys", wanted.__contains__, start)

    async def _watch(
        self, what: str, is_wanted: Callable[[str], bool], start: int
    ) -> AsyncIterator[WatchEvent]:
        if start <= self._compacted:
            raise Compacted(f"revision {start} of {what} is gone (kept from {self._compacted})")
        if start > self._revision + 1:
            raise WentBack(f"etcd went back from revision {start - 1} to {self._revision}")
        restores = self._restores
        position = next((index for index, event in enumerate(self._history) if event.revision >= start), None)
        at = len(self._history) if position is None else position
        yield WatchProgress(self._revision)
        while True:
            if restores != self._restores:
                raise WentBack(f"etcd went back to {self._revision}")
            if self.watches_break or self.away or self._closed:
                raise StoreUnavailable(f"the watch of {what} was ended")
            while at < len(self._history):
                event = self._history[at]
                at += 1
                if is_wanted(event.key):
                    yield event
            written = self._event
            if at == len(self._history) and not (self.watches_break or self.away or self._closed):
                await written.wait()

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store."""
        await self._answer()
        lease = 1000 + len(self._leases) + self._revision
        self._leases.add(lease)
        return lease

    async def keep_alive(self, lease: int) -> bool:
        """See Store."""
        await self._answer()
        return lease in self._leases

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""
        await self._answer()
        self.expire(lease)

    async def close(self) -> None:
        """See Store."""
        self._closed = True
        self._notify()
