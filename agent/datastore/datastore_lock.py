"""The datastore's lock (`calicoctl datastore migrate lock`), and the one door for writes: a Store that obeys it.

ClusterInformation `default` says it. Every transaction with a write compares that key too: so what etcd has taken was
written before the lock, however late this process hears of it; and no writer asks by itself.
Promises: only `datastoreReady: false` locks, and what cannot be read and never could is taken for a lock, because
whoever wrote it may mean one. A document that is changed here keeps every other field. Of `LockableStore` those of
`ipam.etcd.store`; a transaction that the lock forbids raises DatastoreLocked and wrote nothing; the guard is never seen
by whoever writes: another change of the same key only costs one more round trip. It does no I/O of its own.
Does not know: who writes what, watches.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from msgspec import Struct, field

from agent.datastore.resources.resource_types import API_VERSION, Metadata
from agent.datastore.resources.schema import canonical_values
from ipam.etcd.store import (
    CommitOutcome,
    Committed,
    Guard,
    GuardFailed,
    KeyCount,
    Listing,
    Operation,
    Store,
    Unchanged,
    Versioned,
    WatchEvent,
    revision_of,
)
from ipam.failures import Conflict, DatastoreLocked, Unreadable
from ipam.keys import resource_key, resource_prefix
from ipam.stored_json import read_stored, stored_object

PLURAL = "clusterinformations"
CLUSTER_INFORMATIONS = resource_prefix(PLURAL)
LOCK_KEY = resource_key(PLURAL, "default")
UNLOCK_COMMAND = "tortie datastore migrate unlock"
_FIELD = "datastoreReady"


@dataclass(frozen=True, slots=True)
class DatastoreLock:
    """What is known of the lock, and of which write of its key."""

    revision: int = 0
    """Of the key; 0: there is none."""
    reason: str | None = None
    """Why nothing may be written, in a sentence; None: it is not locked."""


LOCKED = (
    f"the datastore is locked ({LOCK_KEY} says {_FIELD}: false): nothing is written until it is unlocked; "
    f"when the migration is over: calicoctl datastore migrate unlock, or {UNLOCK_COMMAND}"
)


class ClusterInformationSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Only `datastoreReady` is followed; without it, a pointer in Calico, nobody has locked anything."""

    POINTERS: ClassVar[frozenset[str]] = frozenset({_FIELD})

    cluster_guid: str | None = field(default=None, name="clusterGUID")
    cluster_type: str | None = None
    calico_version: str | None = None
    datastore_ready: bool | None = None
    variant: str | None = None


class ClusterInformation(Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    """See ClusterInformationSpec. People do not write it, but for the lock."""

    api_version: str = API_VERSION
    metadata: Metadata
    spec: ClusterInformationSpec = ClusterInformationSpec()


def read_lock(stored: Versioned) -> DatastoreLock:
    """The lock that a stored ClusterInformation says. Raises Unreadable."""
    return read_stored(stored, _read)


def _read(stored: Versioned) -> DatastoreLock:
    found = msgspec.convert(canonical_values(stored_object(stored), ClusterInformation), ClusterInformation)
    if stored.key != LOCK_KEY:
        raise ValueError("is not the key of a ClusterInformation: the only one is named default")
    if found.metadata.name != "default":
        raise ValueError(f"metadata.name: {found.metadata.name!r} is not the name of this key")
    return DatastoreLock(stored.revision, LOCKED if found.spec.datastore_ready is False else None)


def unknown_lock(key: str, revision: int, why: str) -> DatastoreLock:
    """What is taken for a lock, for it cannot be read and never could."""
    return DatastoreLock(
        revision,
        f"the datastore may be locked, for {key} cannot be read ({why}): write it anew, or delete it",
    )


def with_ready(stored: Versioned | None, now: str, *, ready: bool) -> bytes:
    """The document that locks or unlocks, in place of the stored one. Raises Unreadable.

    A new one is as Calico's clients make it (libcalico-go's EnsureInitialized); `now` is in RFC 3339.
    """
    if stored is None:
        document: dict[str, Any] = {
            "kind": "ClusterInformation",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "default", "uid": str(uuid.uuid4()), "creationTimestamp": now},
            "spec": {"clusterGUID": uuid.uuid4().hex},
        }
    else:
        document = read_stored(stored, stored_object)
    spec = document.get("spec")
    document["spec"] = {**(spec if isinstance(spec, dict) else {}), _FIELD: ready}
    return json.dumps(document, separators=(",", ":")).encode()


MOST_ATTEMPTS = 10
"""At one transaction, while somebody keeps writing the lock's key."""


class LockableStore:
    """One store behind the door."""

    def __init__(self, store: Store, watched: Callable[[], DatastoreLock] | None = None) -> None:
        """`watched` answers the lock as the watch has it; without one it is learned from the transactions."""
        self._store = store
        self._watched = watched
        self._learned = DatastoreLock()

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        """See Store. Raises DatastoreLocked, and Conflict while somebody keeps writing the lock's key."""
        if not operations:
            return await self._store.commit(guards, operations)
        lock = self._watched() if self._watched is not None else self._learned
        for _ in range(MOST_ATTEMPTS):
            if lock.reason is not None:
                raise DatastoreLocked(lock.reason)
            outcome = await self._store.commit((*guards, Unchanged(LOCK_KEY, lock.revision)), operations)
            if isinstance(outcome, Committed):
                return outcome
            present = dict(outcome.present)
            stored = present.pop(LOCK_KEY, None)
            if revision_of(stored) == lock.revision:
                return GuardFailed(present)
            lock = _lock_now(stored, lock)
            if lock.reason is None:  # a lock is looked at anew each time: nobody says when it goes
                self._learned = lock
        raise Conflict(f"somebody else keeps writing {LOCK_KEY}; try again")

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Versioned]:
        """See Store."""
        return await self._store.get_many(keys)

    async def list(self, prefix: str) -> Listing:
        """See Store."""
        return await self._store.list(prefix)

    def watch(self, prefix: str, start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        return self._store.watch(prefix, start)

    def watch_keys(self, keys: Sequence[str], start: int) -> AsyncIterator[WatchEvent]:
        """See Store."""
        return self._store.watch_keys(keys, start)

    async def count(self, prefix: str) -> KeyCount:
        """See Store."""
        return await self._store.count(prefix)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store."""
        return await self._store.grant_lease(ttl_seconds)

    async def keep_alive(self, lease: int) -> bool:
        """See Store."""
        return await self._store.keep_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""
        await self._store.revoke_lease(lease)

    async def close(self) -> None:
        """See Store."""
        await self._store.close()


def _lock_now(stored: Versioned | None, before: DatastoreLock) -> DatastoreLock:
    """The lock by the value that is there now; of one that cannot be read what it was before, if that was ever read."""
    if stored is None:
        return DatastoreLock()
    try:
        return read_lock(stored)
    except Unreadable as error:
        if before.revision:
            return DatastoreLock(stored.revision, before.reason)
        return unknown_lock(error.key, stored.revision, error.why)
