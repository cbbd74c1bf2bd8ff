"""Writes resources: a person's document is compared with what is stored, and written by one guarded transaction.

Promises: nothing is written unless everything about the resource holds (immutable fields, no overlap with another
pool); the write happens only if nobody changed the resource meanwhile. A document that names the resourceVersion it was
read with is refused when that has passed, unless it changes nothing. What Calico would refuse to write is refused, but
for what is stored so already. A pool is disabled and its empty blocks are freed before it is deleted, and not while
pods have addresses of it, unless by force; a node goes with all that is its own. Errors are one sentence with position
and field.
Does not know: files and their syntax, what agents do with a resource.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from msgspec.structs import replace

from agent.clock import Clock
from agent.datastore import storage_layout
from agent.datastore.resources import ip_pool
from agent.datastore.resources.calico_rules import refused_by_calico
from agent.datastore.resources.documents import (
    InvalidDocument,
    ParsedResource,
    SourcePosition,
    parse_document,
)
from agent.datastore.resources.resource_types import (
    READ_ONLY,
    BGPConfiguration,
    IPAMConfiguration,
    IPPool,
    Node,
    Resource,
    WorkloadEndpoint,
    encode,
    kind_of,
    with_revision,
)
from agent.datastore.resources.schema import Document, changes
from agent.datastore.resources.validation import validate_bgp, validate_pool
from agent.datastore.storage_layout import StoredResource, key_by_name, key_of
from agent.datastore.writing.node_removal import remove_what_is_of
from agent.datastore.writing.pool_conflicts import network_conflicts, range_conflicts, users_error
from ipam.allocation.ipam_config import read_config
from ipam.allocation.release import release_pool
from ipam.codec import decode_block
from ipam.etcd.dry_run_store import FIRST_REVISION
from ipam.etcd.store import CommitOutcome, Committed, Delete, Put, Store, Unchanged, Versioned, optimistic
from ipam.failures import Conflict, Unreadable
from ipam.keys import IPAM_CONFIG, block_of_key, block_prefix, escaped, is_fence
from ipam.model import Block, IpamConfig, NodeName, Pool, PoolRecord, Use

MOST_ATTEMPTS = 10
"""How often another writer may come first; as calicoctl."""
INSIST = "choose another range, or insist with --force"
MOST_DRAIN_ATTEMPTS = 5
"""As many, while a pool is disabled and emptied before it is deleted."""
DELETE_FIRST = (
    "delete them first, or insist with --force: they keep their addresses, and lose the pool's mode"
)
THEY_KEEP = "they keep their addresses, without the pool's mode and masquerading"
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
    warnings: tuple[str, ...] = ()
    """What spoke against it, and was overruled; what was taken otherwise than it was written; what it will cost."""
    notes: tuple[str, ...] = ()
    """What went with it, or stays, a sentence each."""


Build = Callable[[StoredResource | None], ParsedResource]
"""The resource to write in place of the stored one. May raise NotFound, Exists, InvalidDocument."""


class ResourceWriter:
    """Guarded writes of whole resources."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def write(self, found: ParsedResource, mode: WriteMode, *, force: bool = False) -> WriteResult:
        """Write what a person wrote. Raises InvalidDocument, Exists, NotFound, Conflict, StoreError.

        By `force` a pool is made although a node's network or a range of services has the same addresses.
        """

        def build(stored: StoredResource | None) -> ParsedResource:
            if mode is WriteMode.CREATE and stored is not None:
                raise Exists(found.error("already exists; change it with: tortie apply, or: tortie replace"))
            if mode is WriteMode.REPLACE and stored is None:
                raise NotFound(found.error("does not exist; make it with: tortie create, or: tortie apply"))
            return found

        kind, name = kind_of(found.resource), found.resource.metadata.name
        return await self._write(kind, name, build, found.position.locate(""), force=force)

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
            edited = parse_document(edit(before), position)
            if key_of(edited.resource) != stored.value.key or kind_of(edited.resource) != kind:
                raise InvalidDocument([edited.error("kind and metadata.name: cannot be changed")])
            return edited

        return await self._write(kind, name, build, source)

    async def _write(
        self, kind: str, name: str, build: Build, where: str, *, force: bool = False
    ) -> WriteResult:
        if (reason := READ_ONLY.get(kind)) is not None:
            raise InvalidDocument([f"{where}: {kind} {name}: cannot be written: {reason}"])
        key = key_by_name(kind, name)
        overtaken = f"{where}: somebody else keeps changing {kind} at {key}; try again"
        return await optimistic(
            lambda: self._attempt(kind, key, build, force=force), MOST_ATTEMPTS, overtaken
        )

    async def _attempt(self, kind: str, key: str, build: Build, *, force: bool) -> WriteResult | None:
        current = await self._store.get(key)
        stored = _stored(kind, current)
        found = build(stored)
        resource = self._completed(found.resource, stored)
        before = _compared(stored.resource) if stored is not None else {}
        changed = tuple(changes(before, _compared(resource)))
        if stored is not None and not changed:
            return WriteResult(kind, resource.metadata.name, Effect.UNCHANGED, stored.resource)
        if current is not None:
            _refuse_old(found.resource.metadata.resource_version, current, found.error)
        _refuse_as_calico(found, stored)
        warnings = list(found.notes)
        if isinstance(found.resource, IPPool):
            warnings += await self._check_pool(found, found.resource, stored, force=force)
        if isinstance(found.resource, BGPConfiguration):
            warnings += range_conflicts(found.resource, await self._valid_pools())
        guard = Unchanged(key, current.revision if current is not None else 0)
        put = Put(key, storage_layout.stored_bytes(resource, current, found.document))
        revision = _written_at(put, await self._store.commit((guard,), (put,)))
        if revision is None:
            return None
        effect = Effect.CREATED if current is None else Effect.CONFIGURED
        # A dry run has no revision.
        written = with_revision(resource, revision if revision < FIRST_REVISION else None)
        said = tuple(map(found.error, warnings))
        return WriteResult(kind, resource.metadata.name, effect, written, changed, said)

    async def _check_pool(
        self, found: ParsedResource, new: IPPool, stored: StoredResource | None, *, force: bool
    ) -> list[str]:
        """What speaks against a pool. Raises InvalidDocument if it cannot be, or was not insisted on; StoreError."""
        pool = ip_pool.pool(new)
        warnings = list(ip_pool.warnings(new.spec))
        if stored is not None:
            error = _fixed_field_error(pool, stored.resource)
        else:
            error = ip_pool.overlap_error(pool, await self._valid_pools()) or await self._block_error(pool)
            conflicts = await self._network_conflicts(pool)
            if conflicts and error is None and not force:
                raise InvalidDocument([found.error(f"{one}; {INSIST}") for one in conflicts])
            warnings += conflicts
        if error is not None:
            raise InvalidDocument([found.error(error)])
        rules = IpamConfig()
        with suppress(Unreadable):  # `ipam check` names it
            rules = read_config(await self._store.get(IPAM_CONFIG))
        return [*warnings, *ip_pool.block_size_warnings(pool, rules)]

    async def _valid_pools(self) -> list[Pool]:
        """An invalid pool is used by nobody, and overlaps nothing."""
        pools, _ = await self.list_kind("IPPool")
        return [ip_pool.pool(one) for one in pools if isinstance(one, IPPool) and not validate_pool(one.spec)]

    async def _network_conflicts(self, pool: Pool) -> list[str]:
        nodes, _ = await self.list_kind("Node")
        configurations, _ = await self.list_kind("BGPConfiguration")
        return list(
            network_conflicts(
                pool,
                (one for one in nodes if isinstance(one, Node)),
                (
                    one
                    for one in configurations
                    if isinstance(one, BGPConfiguration) and not validate_bgp(one)
                ),
            )
        )

    async def _block_error(self, pool: Pool) -> str | None:
        """Blocks of an earlier pool with another length would share addresses with this pool's blocks."""
        cidr, length = pool.cidr, pool.block_length
        listing = await self._store.list(block_prefix(cidr.version))
        for block in map(block_of_key, listing.values):
            if block is not None and block.overlaps(cidr) and block.prefixlen != length:
                return f"spec.blockSize: {length} differs from the existing block {block} in {cidr}"
        return None

    def _completed(self, resource: Resource, stored: StoredResource | None) -> Resource:
        """With the metadata to write: Calico's clients want a uid and a creation time; stored ones stay."""
        if isinstance(resource, IPAMConfiguration):
            return resource  # stored without uid and time
        written = resource.metadata
        before = stored.resource.metadata if stored is not None else written
        metadata = replace(
            written,
            resource_version=None,
            namespace=None,  # no kind that a person writes has one
            uid=before.uid or str(uuid.uuid4()),
            creation_timestamp=before.creation_timestamp or self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        return replace(resource, metadata=metadata)

    async def delete(self, resource: Resource, *, force: bool = False) -> WriteResult:
        """Remove; a pool is disabled and its blocks are released before.

        Raises InvalidDocument, NotFound, Conflict, StoreError.
        """
        metadata = resource.metadata
        return await self.delete_named(
            kind_of(resource), metadata.name, metadata.resource_version, force=force
        )

    async def delete_named(
        self, kind: str, name: str, revision: str | None = None, *, force: bool = False
    ) -> WriteResult:
        """Remove by name, so that what cannot be read can be removed. `revision` is compared when it is given.

        By `force` a pool goes although pods have addresses of it.
        """
        if (reason := READ_ONLY.get(kind)) is not None:
            raise InvalidDocument([f"{kind} {name} cannot be deleted: {reason}"])
        key = key_by_name(kind, name)
        current = await self._store.get(key)
        if current is not None:
            _refuse_old(revision, current, lambda sentence: f"{kind} {name}: {sentence}")
        users = await self._users(current) if kind == "IPPool" else None
        if users is not None and not force:
            raise InvalidDocument([f"{kind} {name}: {users}: {DELETE_FIRST}"])
        notes: tuple[str, ...] = ()
        is_first = True
        if kind == "IPPool":
            await self._drain_pool(key)
        elif kind == "Node":
            removal = await remove_what_is_of(self._store, NodeName(name), self._clock)
            # A node may have gone before its things did.
            notes, is_first = removal.sentences, removal.is_empty

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
            warnings = (f"{kind} {name}: {users}: {THEY_KEEP}",) if users is not None else ()
            return WriteResult(kind, name, Effect.DELETED, warnings=warnings, notes=notes)

        return await optimistic(
            attempt, MOST_ATTEMPTS, f"{kind} {name}: somebody else keeps changing it; try again"
        )

    async def _users(self, current: Versioned | None) -> str | None:
        """Who has addresses of a pool. Raises StoreError."""
        if current is None:
            return None
        try:
            cidr = storage_layout.pool_record(current).pool.cidr
        except Unreadable:
            return None  # nobody can say which addresses it has
        endpoints, unreadable = await self.list_kind("WorkloadEndpoint")
        blocks: list[Block] = []
        for key, value in (await self._store.list(block_prefix(cidr.version))).values.items():
            place = block_of_key(key)
            if place is None or not place.overlaps(cidr):
                continue
            try:
                blocks.append(decode_block(value))
            except Unreadable as error:
                unreadable.append(error)
        pods = (one for one in endpoints if isinstance(one, WorkloadEndpoint))
        return users_error(cidr, pods, blocks, [error.key.rpartition("/")[2] for error in unreadable])

    async def _drain_pool(self, key: str) -> None:
        """Disable a pool, so that every allocation under way fails at its guard, then free its empty blocks.

        Addresses still in use stay allocated, in blocks that nobody owns. Raises Conflict, StoreError.
        """

        async def attempt() -> bool | None:
            current = await self._store.get(key)
            if current is None:
                return True
            try:
                stored = storage_layout.read_valid(IPPool, current)
            except Unreadable:
                return True  # nobody allocates from what nobody can read
            pool = ip_pool.pool(stored)
            if pool.disabled:
                await release_pool(self._store, PoolRecord(pool, key, current.revision), asyncio.sleep)
                return True
            disabled = replace(stored, spec=replace(stored.spec, disabled=True))
            await self._store.commit((Unchanged(key, current.revision),), (Put(key, encode(disabled)),))
            return None

        overtaken = f"{key}: somebody else keeps changing it; try again"
        await optimistic(attempt, MOST_DRAIN_ATTEMPTS, overtaken)

    async def list_kind(self, kind: str) -> tuple[list[Resource], list[Unreadable]]:
        """All resources of a kind, by key, and each that cannot be read. Raises StoreError."""
        listing = await self._store.list(storage_layout.KIND_PREFIXES[kind])
        found: list[Resource] = []
        unreadable: list[Unreadable] = []
        for _, value in sorted(listing.values.items()):
            if is_fence(value.key):
                continue
            try:
                found.append(storage_layout.read(kind, value).resource)
            except Unreadable as error:
                unreadable.append(error)
        return found, unreadable

    async def get(self, kind: str, name: str) -> Resource:
        """The resource of this name. Raises NotFound, Unreadable, StoreError."""
        found, unreadable = await self.list_kind(kind)
        for resource in found:
            if resource.metadata.name == name:
                return resource
        for error in unreadable:
            if error.key == key_by_name(kind, name) or error.key.endswith(f"/{escaped(name)}"):
                raise error
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
    except Unreadable:
        return None


def _fixed_field_error(pool: Pool, stored: Resource) -> str | None:
    if not isinstance(stored, IPPool) or validate_pool(stored.spec):
        return None
    before = ip_pool.pool(stored)
    for field, old, wanted in (
        ("spec.cidr", before.cidr, pool.cidr),
        ("spec.blockSize", before.block_length, pool.block_length),
    ):
        if old != wanted:
            return f"{field}: {old} cannot be changed to {wanted}; make a new pool and delete this one"
    if Use.LOAD_BALANCER in before.allowed_uses and pool.allowed_uses != before.allowed_uses:
        return "spec.allowedUses: LoadBalancer cannot be changed to another use; make a new pool and delete this one"
    return None


def _refuse_as_calico(found: ParsedResource, stored: StoredResource | None) -> None:
    """Raises InvalidDocument for what Calico would refuse, and is not stored so already."""
    known = refused_by_calico(stored.resource) if stored is not None else []
    if sentences := [sentence for sentence in found.refusals if sentence not in known]:
        raise InvalidDocument(list(map(found.error, sentences)))


def _refuse_old(asked: str | None, current: Versioned, located: Callable[[str], str]) -> None:
    """Raises Conflict when the document was made from an earlier state than the one that is stored."""
    if asked is not None and asked != str(current.revision):
        sentence = (
            f"metadata.resourceVersion: has changed since it was read ({asked}, now {current.revision}); "
            "get it again and repeat the change, or leave resourceVersion out"
        )
        raise Conflict(located(sentence))


def _compared(resource: Resource) -> Document:
    document = storage_layout.to_document(resource)
    metadata = {name: value for name, value in document["metadata"].items() if name not in NOT_CHANGES}
    return {**document, "metadata": metadata}
