"""A Store that answers as if all writes had happened, and writes nothing: dry runs go through it.

Promises: a read shows the store behind it with the dry run's writes on top, and so does a guard.
Does not know: what is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from ipam.etcd.store import (
    CommitOutcome,
    Committed,
    Guard,
    GuardFailed,
    KeyCount,
    Listing,
    Operation,
    Put,
    Store,
    Unchanged,
    Versioned,
    WatchEvent,
    check_size,
    revision_of,
)
from ipam.failures import StoreRefused

FIRST_REVISION = 1 << 62
"""Revisions of a dry run's writes begin here: no store ever comes so far."""


class DryRunStore:
    """One dry run over a store; what it wrote is gone with the object."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: dict[str, Versioned | None] = {}
        self._revision = FIRST_REVISION

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        return self._written[key] if key in self._written else await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """See Store."""
        return self._over(await self._store.get_many(keys), frozenset(keys))

    async def list(self, prefix: str) -> Listing:
        """See Store."""
        found = await self._store.list(prefix)
        mine = frozenset(key for key in self._written if key.startswith(prefix))
        revision = max(found.revision, self._revision) if self._written else found.revision
        return Listing(dict(sorted(self._over(found.values, mine).items())), revision)

    async def count(self, prefix: str) -> KeyCount:
        """See Store."""
        found = await self.list(prefix)
        return KeyCount(len(found.values), found.revision)

    def _over(self, values: Mapping[str, Versioned], keys: frozenset[str]) -> dict[str, Versioned]:
        merged = dict(values)
        for key in keys & self._written.keys():
            merged.pop(key, None)
            if (value := self._written[key]) is not None:
                merged[key] = value
        return merged

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        """See Store; nothing is written."""
        check_size(guards, operations)
        if len({operation.key for operation in operations}) < len(operations):
            raise StoreRefused("a transaction names a key once, not twice: duplicate key")
        keys = [guard.key for guard in guards if isinstance(guard, Unchanged)]
        present = await self.get_many(keys)
        if not all([await self._holds(guard, present) for guard in guards]):
            return GuardFailed({key: present.get(key) for key in keys})
        self._revision += 1
        for one in operations:
            written = Versioned(one.key, one.value, self._revision) if isinstance(one, Put) else None
            self._written[one.key] = written
        return Committed(self._revision)

    async def _holds(self, guard: Guard, present: Mapping[str, Versioned]) -> bool:
        if isinstance(guard, Unchanged):
            return revision_of(present.get(guard.key)) == guard.revision
        below = (await self.list(guard.prefix)).values.values()
        return all(value.revision <= guard.revision for value in below)

    def watch(self, prefix: str, start: int) -> AsyncIterator[WatchEvent]:
        """See Store; the dry run's own writes are not among the events."""
        return self._store.watch(prefix, start)

    def watch_keys(self, keys: Sequence[str], start: int) -> AsyncIterator[WatchEvent]:
        """See Store; the dry run's own writes are not among the events."""
        return self._store.watch_keys(keys, start)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store; the dry run's keys never expire."""
        return ttl_seconds

    async def keep_alive(self, lease: int) -> bool:
        """See Store."""
        return bool(lease)

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""

    async def close(self) -> None:
        """The store behind it belongs to somebody else."""
