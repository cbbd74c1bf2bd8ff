"""The datastore as this project sees it: keys, revisions, guarded transactions, watches, leases.

Promises (every implementation, proved by tests/contract/test_store.py):
- `list` shows all keys as they were at one revision; `watch(prefix, revision + 1)` continues it without a gap, and a
  `count` as well.
- a transaction happens whole or not at all; its answer says which.
- errors are the ones of `ipam.failures`, never a library's own.
Writers that may be overtaken read, build and commit again by `optimistic`, as often as they allow and no more.
Does not know: etcd, Calico's keys, JSON.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ipam.failures import Conflict

MOST_OPERATIONS = 128
"""etcd's default --max-txn-ops: compares and operations of one transaction are each bounded by it."""
MOST_WRITTEN_BYTES = 1_500_000
"""What one transaction writes in all; etcd's default --max-request-bytes is 1.5 MiB with keys and guards."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A stored value with its key and the revision of its last write."""

    key: str
    value: bytes
    revision: int
    """etcd's mod_revision: what a guard compares with."""
    lease: int = 0


def revision_of(stored: Versioned | None) -> int:
    """The revision that a guard names for what was read; 0 for a missing key."""
    return stored.revision if stored is not None else 0


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys below a prefix, as they were at `revision`."""

    values: Mapping[str, Versioned]
    revision: int


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many keys stand below a prefix, as they were at `revision`."""

    count: int
    revision: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Guard: the key's last write has this revision; 0 means the key does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class NoneNewer:
    """Guard: no key below the prefix was written after this revision. A deletion breaks it not."""

    prefix: str
    revision: int


Guard = Unchanged | NoneNewer


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value; `lease` 0 means it stays for ever."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; a missing key is no error."""

    key: str


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction happened; every key it wrote now has this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class GuardFailed:
    """A guard failed and nothing was written; `present` holds the guarded keys as they are now (absent key: None).

    Of a guarded prefix it holds nothing.
    """

    present: Mapping[str, Versioned | None] = field(default_factory=dict)


CommitOutcome = Committed | GuardFailed


def check_size(guards: Sequence[Guard], operations: Sequence[Operation]) -> None:
    """Raises ValueError for a transaction that is larger than etcd takes."""
    if len(guards) > MOST_OPERATIONS or len(operations) > MOST_OPERATIONS:
        raise ValueError(f"a transaction takes at most {MOST_OPERATIONS} guards and as many operations")


@dataclass(frozen=True, slots=True)
class Changed:
    """A key below the watched prefix was written or, with `value` None, deleted."""

    key: str
    value: Versioned | None
    revision: int


@dataclass(frozen=True, slots=True)
class WatchProgress:
    """Nothing else happened up to `revision`: proof that the watch lives."""

    revision: int


WatchEvent = Changed | WatchProgress


class Store(Protocol):
    """A revisioned key-value store. Deadlines are its own; past them a call raises StoreUnavailable."""

    async def get(self, key: str) -> Versioned | None:
        """The key's present value, or None."""
        ...

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """The present values of several keys, read at one revision in one round trip; missing keys are left out."""
        ...

    async def list(self, prefix: str) -> Listing:
        """All keys that start with `prefix`, read at one revision, however many pages that takes."""
        ...

    async def count(self, prefix: str) -> KeyCount:
        """How many keys start with `prefix`; however many that are, no value is read and one number is the answer."""
        ...

    def watch(self, prefix: str, start: int) -> AsyncIterator[WatchEvent]:
        """Every change below `prefix` from revision `start` on, in order, across reconnects.

        Ends only by Compacted (list again), StoreRefused, or StoreUnavailable when no endpoint answered for the
        implementation's own patience. Closing the iterator ends the watch.
        """
        ...

    def watch_keys(self, keys: Sequence[str], start: int) -> AsyncIterator[WatchEvent]:
        """Every change of these keys alone from revision `start` on; the events of one key are in order.

        Never resumed: it ends as `watch` does, and without an error or by StoreUnavailable as soon as its stream does.
        """
        ...

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        """Do all operations if all guards hold. At most MOST_OPERATIONS of either."""
        ...

    async def grant_lease(self, ttl_seconds: int) -> int:
        """A new lease; its keys vanish when nobody keeps it alive for `ttl_seconds`."""
        ...

    async def keep_alive(self, lease: int) -> bool:
        """Renew a lease once; False when it has expired."""
        ...

    async def revoke_lease(self, lease: int) -> None:
        """End a lease and delete its keys; an unknown lease is no error."""
        ...

    async def close(self) -> None:
        """Give up all connections; running watches end."""
        ...


Result = TypeVar("Result")
Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds."""


async def _at_once(seconds: float) -> None:
    """No pause."""


async def optimistic(
    attempt: Callable[[], Awaitable[Result | None]],
    most: int,
    overtaken: str,
    pause: Pause = _at_once,
    pause_seconds: float = 0.0,
) -> Result:
    """Repeat `attempt` until it answers; None means that its commit lost, and everything must be read anew.

    Raises Conflict with the sentence `overtaken` after `most` lost commits, and what `attempt` raises.
    """
    for _ in range(most):
        result = await attempt()
        if result is not None:
            return result
        await pause(pause_seconds)
    raise Conflict(overtaken)
