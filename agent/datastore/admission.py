"""Writes resources: what a person asks for is compared with what is stored, and written by one guarded transaction.

Promises: nothing is written unless everything about the resource holds (immutable fields, no overlap with another
pool); the write happens only if nobody changed the resource meanwhile. Errors are one sentence with place and field.
Does not know: files and their syntax, what agents do with a resource.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

import msgspec

from agent.clock import Clock
from agent.datastore import pools
from agent.datastore.documents import Found, InvalidDocument
from agent.datastore.resources import (
    KINDS,
    NAMESPACED,
    PLURALS,
    IPPool,
    Metadata,
    Resource,
    decode,
    encode,
    kind_of,
)
from ipam.errors import Conflict
from ipam.keys import block_of_key, block_prefix, resource_key, resource_prefix
from ipam.model import PoolRecord, Prefix
from ipam.releasing import release_pool
from ipam.store import Committed, Delete, Put, Store, Unchanged, Versioned

MOST_ATTEMPTS = 5


class NotFound(Exception):
    """The resource does not exist; the sentence names it."""


class Admission:
    """Guarded writes of whole resources."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def apply(self, found: Found) -> str:
        """Create or update: `created`, `updated` or `unchanged`. Raises InvalidDocument, Conflict, StoreError."""
        for _ in range(MOST_ATTEMPTS):
            key = key_of(found.resource)
            current = await self._store.get(key)
            stored = (
                decode(type(found.resource), current.value, current.revision) if current is not None else None
            )
            if isinstance(found.resource, IPPool):
                assert stored is None or isinstance(stored, IPPool)
                await self._admit_pool(found, found.resource, stored)
            written = encode(self._completed(found.resource, stored))
            if current is not None and written == current.value:
                return "unchanged"
            guard = Unchanged(key, current.revision if current is not None else 0)
            if isinstance(await self._store.commit((guard,), (Put(key, written),)), Committed):
                return "created" if current is None else "updated"
        raise Conflict(f"{found.where}: somebody else keeps changing it; try again")

    async def delete(self, resource: Resource) -> None:
        """Remove; a pool is disabled and its blocks are given up before. Raises NotFound, Conflict, StoreError."""
        key = key_of(resource)
        if isinstance(resource, IPPool):
            await self._drain(key)
        for _ in range(MOST_ATTEMPTS):
            current = await self._store.get(key)
            if current is None:
                raise NotFound(f"{kind_of(resource)} {resource.metadata.name} does not exist")
            if isinstance(
                await self._store.commit((Unchanged(key, current.revision),), (Delete(key),)), Committed
            ):
                return
        raise Conflict(
            f"{kind_of(resource)} {resource.metadata.name}: somebody else keeps changing it; try again"
        )

    async def _drain(self, key: str) -> None:
        """Disable a pool, so that every allocation under way fails at its guard, then free its empty blocks.

        Addresses still in use stay allocated, in blocks that nobody owns.
        """
        for _ in range(MOST_ATTEMPTS):
            current = await self._store.get(key)
            if current is None:
                return
            stored = decode(IPPool, current.value, current.revision)
            assert isinstance(stored, IPPool)
            if stored.spec.disabled:
                record = PoolRecord(pools.pool(stored), key, current.revision)
                await release_pool(self._store, record, asyncio.sleep)
                return
            disabled = msgspec.structs.replace(
                stored, spec=msgspec.structs.replace(stored.spec, disabled=True)
            )
            await self._store.commit((Unchanged(key, current.revision),), (Put(key, encode(disabled)),))
        raise Conflict(f"{key}: somebody else keeps changing it; try again")

    async def read(self, kind: str, name: str | None = None) -> list[Resource]:
        """All resources of a kind, or the one of this name. Raises NotFound, StoreError."""
        found = await self._stored(kind)
        chosen = [resource for resource in found.values() if name is None or resource.metadata.name == name]
        if name is not None and not chosen:
            raise NotFound(f"{kind} {name} does not exist")
        return chosen

    async def _stored(self, kind: str) -> Mapping[str, Resource]:
        listing = await self._store.list(resource_prefix(PLURALS[kind]))
        return {key: _decoded(kind, value) for key, value in sorted(listing.values.items())}

    async def _admit_pool(self, found: Found, new: IPPool, stored: IPPool | None) -> None:
        pool = pools.pool(new)
        if stored is not None:
            before = pools.pool(stored)
            for field, old, wanted in (
                ("spec.cidr", before.cidr, pool.cidr),
                ("spec.blockSize", before.block_length, pool.block_length),
            ):
                if old != wanted:
                    sentence = (
                        f"{field}: {old} cannot be changed to {wanted}; make a new pool and delete this one"
                    )
                    raise InvalidDocument([f"{found.where}: IPPool {pool.name}: {sentence}"])
            return
        others = [
            pools.pool(other)
            for other in (await self._stored("IPPool")).values()
            if isinstance(other, IPPool)
        ]
        if (other := pools.overlap(pool, others)) is not None:
            sentence = f"spec.cidr: {pool.cidr} overlaps pool {other.name} ({other.cidr})"
            raise InvalidDocument([f"{found.where}: IPPool {pool.name}: {sentence}"])
        await self._refuse_other_blocks(found, new)

    async def _refuse_other_blocks(self, found: Found, new: IPPool) -> None:
        """Blocks of an earlier pool with another length would share addresses with this pool's blocks."""
        pool = pools.pool(new)
        for block in await self._blocks(pool.cidr.version):
            if (
                block.version == pool.cidr.version
                and block.overlaps(pool.cidr)
                and block.prefixlen != pool.block_length
            ):
                sentence = f"spec.blockSize: {pool.block_length} differs from the existing block {block} in {pool.cidr}"
                raise InvalidDocument([f"{found.where}: IPPool {pool.name}: {sentence}"])

    async def _blocks(self, version: int) -> list[Prefix]:
        listing = await self._store.list(block_prefix(version))
        return [block for block in map(block_of_key, listing.values) if block is not None]

    def _completed(self, resource: Resource, stored: Resource | None) -> Resource:
        """Calico's clients want a uid and a creation time on everything; a stored one keeps its own."""
        before = stored.metadata if stored is not None else resource.metadata
        metadata: Metadata = msgspec.structs.replace(
            resource.metadata,
            resource_version=None,
            namespace=(resource.metadata.namespace or "default") if kind_of(resource) in NAMESPACED else None,
            uid=before.uid or str(uuid.uuid4()),
            creation_timestamp=before.creation_timestamp or self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        return msgspec.structs.replace(resource, metadata=metadata)


def key_of(resource: Resource) -> str:
    """Where a resource is stored."""
    kind = kind_of(resource)
    namespace = (resource.metadata.namespace or "default") if kind in NAMESPACED else None
    return resource_key(PLURALS[kind], resource.metadata.name, namespace)


def _decoded(kind: str, value: Versioned) -> Resource:
    return decode(KINDS[kind], value.value, value.revision)
