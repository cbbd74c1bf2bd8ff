"""Writes resources: a person's document is compared with what is stored, and written by one guarded transaction.

Promises: nothing is written unless everything about the resource holds (immutable fields, no overlap with another
pool); the write happens only if nobody changed the resource meanwhile. A document that names the resourceVersion it was
read with is refused when that has passed, unless it changes nothing. Errors are one sentence with position and field.
Does not know: files and their syntax, what agents do with a resource.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import msgspec

from agent.clock import Clock
from agent.datastore import storage_layout
from agent.datastore.pool_writer import drain_pool, pool_error
from agent.datastore.resources.documents import (
    InvalidDocument,
    ParsedResource,
    SourcePosition,
    parse_document,
)
from agent.datastore.resources.resource_types import READ_ONLY, IPAMConfiguration, IPPool, Resource, kind_of
from agent.datastore.resources.schema import Document, changes
from agent.datastore.storage_layout import Damaged, StoredResource, key_by_name, key_of
from ipam.etcd.dry_run_store import FIRST_REVISION
from ipam.etcd.store import CommitOutcome, Committed, Delete, Put, Store, Unchanged, Versioned, optimistic
from ipam.failures import Conflict

MOST_ATTEMPTS = 10
"""How often another writer may come first; as calicoctl."""
NOT_CHANGES = ("uid", "creationTimestamp", "resourceVersion", "namespace")
"""Fields of metadata that a write itself sets: no change."""


class NotFound(Exception):
    """The resource does not exist; the sentence names it."""


class Exists(Exception):
    """The resource exists already; the sentence names it."""


class WriteMode(Enum):
    """What must be stored before: nothing, something, or either."""

    CREATE = "create"
    REPLACE = "replace"
    APPLY = "apply"


class Effect(Enum):
    """What a write did."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class WriteResult:
    """One resource after one write."""

    kind: str
    name: str
    effect: Effect
    resource: Resource | None = None
    """As it is stored now; None: it is gone."""
    changed: tuple[str, ...] = ()
    """`spec.natOutgoing: false -> true`, field by field."""


Build = Callable[[StoredResource | None], ParsedResource]
"""The resource to write in place of the stored one. May raise NotFound, Exists, InvalidDocument."""


class ResourceWriter:
    """Guarded writes of whole resources."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def write(self, found: ParsedResource, mode: WriteMode) -> WriteResult:
        """Write what a person wrote. Raises InvalidDocument, Exists, NotFound, Conflict, StoreError."""

        def build(stored: StoredResource | None) -> ParsedResource:
            if mode is WriteMode.CREATE and stored is not None:
                raise Exists(found.error("already exists; change it with: tortie apply, or: tortie replace"))
            if mode is WriteMode.REPLACE and stored is None:
                raise NotFound(found.error("does not exist; make it with: tortie create, or: tortie apply"))
            return found

        if (reason := READ_ONLY.get(kind_of(found.resource))) is not None:
            raise InvalidDocument([found.error(f"cannot be written: {reason}")])
        return await self._write(
            kind_of(found.resource), key_of(found.resource), build, found.position.locate("")
        )

    async def edit(
        self, kind: str, name: str, edit: Callable[[Document], Document], source: str
    ) -> WriteResult:
        """Write what `edit` makes of what is stored.

        Raises InvalidDocument, NotFound, Conflict, StoreError, and what `edit` raises.
        """

        def build(stored: StoredResource | None) -> ParsedResource:
            if stored is None:
                raise NotFound(f"{kind} {name} does not exist")
            position = SourcePosition(source)
            before = storage_layout.to_document(stored.resource)
            # What is edited is what is stored now; only a revision that the edit itself names is compared.
            before["metadata"].pop("resourceVersion", None)
            edited = ParsedResource(parse_document(edit(before), position), position)
            if key_of(edited.resource) != stored.value.key or kind_of(edited.resource) != kind:
                raise InvalidDocument([edited.error("kind and metadata.name: cannot be changed")])
            return edited

        if (reason := READ_ONLY.get(kind)) is not None:
            raise InvalidDocument([f"{source}: {kind} {name}: cannot be written: {reason}"])
        return await self._write(kind, key_by_name(kind, name), build, source)

    async def _write(self, kind: str, key: str, build: Build, where: str) -> WriteResult:
        overtaken = f"{where}: somebody else keeps changing {kind} at {key}; try again"
        return await optimistic(lambda: self._attempt(kind, key, build), MOST_ATTEMPTS, overtaken)

    async def _attempt(self, kind: str, key: str, build: Build) -> WriteResult | None:
        current = await self._store.get(key)
        stored = _stored(kind, current)
        found = build(stored)
        resource = self._completed(found.resource, stored)
        changed = tuple(_changes(stored, resource))
        if stored is not None and not changed:
            return WriteResult(kind, resource.metadata.name, Effect.UNCHANGED, stored.resource)
        if current is not None:
            _refuse_old(found.resource.metadata.resource_version, current, found.error)
        await self._check(found, stored)
        guard = Unchanged(key, current.revision if current is not None else 0)
        put = Put(key, storage_layout.stored_bytes(resource, current))
        revision = _written_at(put, await self._store.commit((guard,), (put,)))
        if revision is None:
            return None
        effect = Effect.CREATED if current is None else Effect.CONFIGURED
        return WriteResult(kind, resource.metadata.name, effect, _revised(resource, revision), changed)

    async def _check(self, found: ParsedResource, stored: StoredResource | None) -> None:
        """Raises InvalidDocument when what is stored elsewhere does not allow the resource."""
        if not isinstance(found.resource, IPPool):
            return
        before = stored.resource if stored is not None else None
        assert before is None or isinstance(before, IPPool)
        pools, _ = await self.list_kind("IPPool")
        others = [other for other in pools if isinstance(other, IPPool)]
        error = await pool_error(self._store, found.resource, before, others)
        if error is not None:
            raise InvalidDocument([found.error(error)])

    def _completed(self, resource: Resource, stored: StoredResource | None) -> Resource:
        if isinstance(resource, IPAMConfiguration):
            return resource  # stored without uid and time
        created_at = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        before = stored.resource.metadata if stored is not None else None
        metadata = storage_layout.metadata_for(resource, before, str(uuid.uuid4()), created_at)
        return msgspec.structs.replace(resource, metadata=metadata)

    async def delete(self, resource: Resource) -> WriteResult:
        """Remove; a pool is disabled and its blocks are released before.

        Raises InvalidDocument, NotFound, Conflict, StoreError.
        """
        kind, metadata = kind_of(resource), resource.metadata
        return await self.delete_named(kind, metadata.name, metadata.namespace, metadata.resource_version)

    async def delete_named(
        self, kind: str, name: str, namespace: str | None = None, revision: str | None = None
    ) -> WriteResult:
        """Remove by name, so that what cannot be read can be removed. `revision` is compared when it is given."""
        if (reason := READ_ONLY.get(kind)) is not None:
            raise InvalidDocument([f"{kind} {name} cannot be deleted: {reason}"])
        key = key_by_name(kind, name, namespace)
        current = await self._store.get(key)
        if current is not None:
            _refuse_old(revision, current, lambda sentence: f"{kind} {name}: {sentence}")
        if kind == "IPPool":
            await drain_pool(self._store, key)
        is_first = True

        async def attempt() -> WriteResult | None:
            nonlocal is_first
            current = await self._store.get(key)
            if current is None and is_first:
                raise NotFound(f"{kind} {name} does not exist")
            is_first = False
            # Gone at a later attempt: by our own write, whose answer was lost, or by another's.
            if current is not None:
                outcome = await self._store.commit((Unchanged(key, current.revision),), (Delete(key),))
                if not isinstance(outcome, Committed):
                    return None
            return WriteResult(kind, name, Effect.DELETED)

        return await optimistic(
            attempt, MOST_ATTEMPTS, f"{kind} {name}: somebody else keeps changing it; try again"
        )

    async def list_kind(self, kind: str) -> tuple[list[Resource], list[str]]:
        """All resources of a kind, by key, and a sentence for each that cannot be read. Raises StoreError."""
        listing = await self._store.list(storage_layout.kind_prefix(kind))
        found: list[Resource] = []
        damaged: list[str] = []
        for _, value in sorted(listing.values.items()):
            try:
                resource = storage_layout.read(kind, value)
            except Damaged as error:
                damaged.append(str(error))
                continue
            if resource is not None:
                found.append(resource.resource)
        return found, damaged

    async def get(self, kind: str, name: str) -> Resource:
        """The resource of this name. Raises NotFound, Damaged, StoreError."""
        found, damaged = await self.list_kind(kind)
        for resource in found:
            if resource.metadata.name == name:
                return resource
        if damaged:
            raise Damaged("\n".join(damaged))
        raise NotFound(f"{kind} {name} does not exist")


def _written_at(put: Put, outcome: CommitOutcome) -> int | None:
    """The revision of our value; None: not written. A transaction that the store sent twice looks lost, though ours."""
    if isinstance(outcome, Committed):
        return outcome.revision
    present = outcome.present.get(put.key)
    return present.revision if present is not None and present.value == put.value else None


def _stored(kind: str, current: Versioned | None) -> StoredResource | None:
    """The stored resource; None also for a value that cannot be read: it may be overwritten, and so repaired."""
    try:
        return storage_layout.read(kind, current) if current is not None else None
    except Damaged:
        return None


def _refuse_old(asked: str | None, current: Versioned, located: Callable[[str], str]) -> None:
    """Raises Conflict when the document was made from an earlier state than the one that is stored."""
    if asked is not None and asked != str(current.revision):
        sentence = (
            f"metadata.resourceVersion: has changed since it was read ({asked}, now {current.revision}); "
            "get it again and repeat the change, or leave resourceVersion out"
        )
        raise Conflict(located(sentence))


def _changes(stored: StoredResource | None, resource: Resource) -> list[str]:
    return list(changes(_compared(stored.resource) if stored is not None else {}, _compared(resource)))


def _compared(resource: Resource) -> Document:
    document = storage_layout.to_document(resource)
    metadata = {name: value for name, value in document["metadata"].items() if name not in NOT_CHANGES}
    return {**document, "metadata": metadata}


def _revised(resource: Resource, revision: int) -> Resource:
    """With the revision of its write; a dry run has none."""
    version = str(revision) if revision < FIRST_REVISION else None
    metadata = msgspec.structs.replace(resource.metadata, resource_version=version)
    return msgspec.structs.replace(resource, metadata=metadata)
