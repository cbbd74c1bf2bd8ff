"""What a pool must not conflict with before it is written, and how it is emptied before it is deleted.

Promises: a pool that overlaps another, or whose fixed fields change, is refused with one sentence, field first.
Does not know: files, other kinds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from agent.datastore.resources import ip_pool
from agent.datastore.resources.resource_types import IPPool, decode, encode
from agent.datastore.resources.validation import validate_pool
from ipam.allocation.release import release_pool
from ipam.etcd.store import Put, Store, Unchanged, optimistic
from ipam.keys import block_of_key, block_prefix
from ipam.model import Pool, PoolRecord

MOST_ATTEMPTS = 5


async def pool_error(
    store: Store, new: IPPool, stored: IPPool | None, others: Iterable[IPPool]
) -> str | None:
    """Why the pool may not be written. Raises StoreError."""
    if stored is not None:
        return _fixed_field_error(new, stored)
    pool = ip_pool.pool(new)
    if (error := ip_pool.overlap_error(pool, _readable(others))) is not None:
        return error
    return await _block_error(store, new)


def _readable(others: Iterable[IPPool]) -> Iterable[Pool]:
    """The valid pools among stored ones: an invalid one is used by nobody, and overlaps nothing."""
    return (ip_pool.pool(other) for other in others if not validate_pool(other.spec))


def _fixed_field_error(new: IPPool, stored: IPPool) -> str | None:
    if validate_pool(stored.spec):
        return None
    before, pool = ip_pool.pool(stored), ip_pool.pool(new)
    for field, old, wanted in (
        ("spec.cidr", before.cidr, pool.cidr),
        ("spec.blockSize", before.block_length, pool.block_length),
    ):
        if old != wanted:
            return f"{field}: {old} cannot be changed to {wanted}; make a new pool and delete this one"
    return None


async def _block_error(store: Store, new: IPPool) -> str | None:
    """Blocks of an earlier pool with another length would share addresses with this pool's blocks."""
    pool = ip_pool.pool(new)
    listing = await store.list(block_prefix(pool.cidr.version))
    for block in map(block_of_key, listing.values):
        if block is not None and block.overlaps(pool.cidr) and block.prefixlen != pool.block_length:
            return (
                f"spec.blockSize: {pool.block_length} differs from the existing block {block} in {pool.cidr}"
            )
    return None


async def drain_pool(store: Store, key: str) -> None:
    """Disable a pool, so that every allocation under way fails at its guard, then free its empty blocks.

    Addresses still in use stay allocated, in blocks that nobody owns. Raises Conflict, StoreError.
    """

    async def attempt() -> bool | None:
        current = await store.get(key)
        if current is None:
            return True
        try:
            stored = decode(IPPool, current.value, current.revision)
        except msgspec.MsgspecError:
            return True  # nobody allocates from what nobody can read
        assert isinstance(stored, IPPool)
        if validate_pool(stored.spec):
            return True
        if stored.spec.disabled:
            record = PoolRecord(ip_pool.pool(stored), key, current.revision)
            await release_pool(store, record, asyncio.sleep)
            return True
        disabled = msgspec.structs.replace(stored, spec=msgspec.structs.replace(stored.spec, disabled=True))
        await store.commit((Unchanged(key, current.revision),), (Put(key, encode(disabled)),))
        return None

    await optimistic(attempt, MOST_ATTEMPTS, f"{key}: somebody else keeps changing it; try again")
