"""Gives a named workload back what is kept for it, as far as that fits what it asks for now.

Promises: only reads the store and only writes the draft; what does not fit stays kept until its time is over.
Does not know: commits, retries, why a name is a name.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipam import block as blocks
from ipam.allocation.pool_selection import eligible_pools
from ipam.allocation.release import read_handle_blocks
from ipam.allocation.sticky import is_retained
from ipam.allocation.transaction import Transaction
from ipam.etcd.store import Store
from ipam.keys import handle_key
from ipam.model import Address, AddressRequest, Assignment, Attributes, PoolRecord


async def reassign_retained(
    store: Store,
    draft: Transaction,
    pools: Sequence[PoolRecord],
    request: AddressRequest,
    held: Sequence[Assignment],
) -> list[Assignment]:
    """Draft the return of what is kept for `request.kept_as`. Raises StoreError, Malformed, Conflict."""
    name = request.retained_for
    missing = {4: request.ipv4, 6: request.ipv6}
    for item in held:
        missing[item.address.version] -= 1
    if name is None or name in draft.handles or max(missing.values()) <= 0:
        return []
    stored = await store.get(handle_key(name))
    if stored is None:
        return []
    attributes = Attributes(request.handle, tuple(sorted(request.secondary)))
    found = await read_handle_blocks(store, stored)
    counts, given = found.counts, list[Assignment]()
    for kept in found.blocks:
        present = draft.blocks.get(kept.block.cidr, kept)
        ordinals = []
        # What is drafted on may be older than what was read just now; then its guard refuses the draft.
        counts[kept.block.cidr] = len(blocks.allocations_of(present.block, name))
        for ordinal, holder in blocks.allocations_of(present.block, name):
            address = blocks.address_of(present.block, ordinal)
            record = _pool(pools, request, address)
            if record is None or missing[address.version] <= 0 or not is_retained(holder):
                continue
            missing[address.version] -= 1
            ordinals.append(ordinal)
            draft.guard(record.key, record.revision)
            given.append(Assignment(address, kept.block.cidr, record.pool.name, request.handle))
        if ordinals:
            draft.write_block(present, blocks.transfer(present.block, ordinals, attributes))
            counts[kept.block.cidr] -= len(ordinals)
    if given:
        draft.write_handle(name, stored.revision, counts)
    return given


def _pool(pools: Sequence[PoolRecord], request: AddressRequest, address: Address) -> PoolRecord | None:
    """The pool of a kept address, if the request may have it from there."""
    records = pools if address in request.exact else eligible_pools(pools, request, address.version).records
    if request.exact and address not in request.exact:
        return None
    return next((record for record in records if address in record.pool), None)
