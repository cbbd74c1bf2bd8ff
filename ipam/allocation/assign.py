"""Finds addresses for one request and drafts their assignment, in Calico's order of preference.

Own blocks first, then a free block, then an abandoned one of another node, then single addresses borrowed from others;
before all of them what is kept for the workload's name.
Promises: only reads the store and only writes the draft; a refusal says which pools and blocks were looked at and why
each failed. Does not know: commits, retries, callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from ipam import block as blocks
from ipam.allocation.block_cache import BlockCache, abandoned_blocks, free_block, list_pool_blocks
from ipam.allocation.pool_selection import aligned_block, eligible_pools, pools_not_selecting
from ipam.allocation.reassign import reassign_retained
from ipam.allocation.sticky import is_retained
from ipam.allocation.transaction import Transaction, VersionedBlock
from ipam.etcd.store import Store
from ipam.failures import AddressInUse, BlockLimit, NoPool, PoolExhausted, Refused
from ipam.keys import block_key
from ipam.model import (
    DEFAULT_BLOCKS_PER_NODE,
    Address,
    AddressRequest,
    Assignment,
    Attributes,
    Block,
    NodeName,
    PoolRecord,
    Prefix,
)

LEFT_AT_ONCE = 4
"""Blocks given up in one transaction."""
LONGEST_REPORT = 40
"""Blocks and pools named in a refusal."""


class AddressSearch:
    """The search for one request."""

    def __init__(
        self,
        store: Store,
        now: datetime,
        pools: Sequence[PoolRecord],
        request: AddressRequest,
        cache: BlockCache,
        draft: Transaction,
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._now = now
        self._pools = pools
        self._request = request
        self._node: NodeName = request.node
        self._cache = cache
        self._draft = draft
        self._random = random
        self._attributes = Attributes(request.handle, tuple(sorted(request.secondary)))
        self._looked_at: list[str] = []

    async def run(self, held: Sequence[Assignment]) -> tuple[Assignment, ...]:
        """Draft what is missing beyond `held`. Raises Refused and its kinds, StoreError."""
        given = await reassign_retained(self._store, self._draft, self._pools, self._request, held)
        has = {item.address for item in (*held, *given)}
        given += [await self._exactly(address) for address in self._request.exact if address not in has]
        for version, count in ((4, self._request.ipv4), (6, self._request.ipv6)):
            missing = count - sum(item.address.version == version for item in (*held, *given))
            if missing > 0:
                given += await self._some(version, missing)
        if given:
            self._leave()
        return tuple(given)

    def _leave(self) -> None:
        """Give up empty blocks of pools that no longer select the node, along with what is written anyway."""
        pools = pools_not_selecting(self._pools, self._request)
        if not pools:
            return
        empty = [
            kept
            for cidr, kept in self._cache.own.items()
            if cidr not in self._draft.blocks
            and any(cidr.network_address in record.pool.cidr for record in pools)
            and blocks.is_empty(kept.block)
        ]
        for kept in empty[:LEFT_AT_ONCE]:
            self._draft.write_block(kept, blocks.without_owner(kept.block))
            self._draft.delete_affinity(self._node, kept.block.cidr)

    # -- any address --------------------------------------------------------------------------------------------------

    async def _some(self, version: int, count: int) -> list[Assignment]:
        found = eligible_pools(self._pools, self._request, version)
        if not found.records:
            reasons = "; ".join(found.refused) or f"none for IPv{version} is configured"
            raise NoPool(f"no pool for {self._request.use.value} addresses on node {self._node}: {reasons}")
        self._looked_at = list(found.refused)
        given = self._from_own(found.records, count)
        owned = self._owned(found.records)
        most = self._cache.config.blocks_per_node or DEFAULT_BLOCKS_PER_NODE
        while len(given) < count:
            if owned >= most:
                raise BlockLimit(
                    f"node {self._node} has {owned} blocks and may have {most}: {self._report()}"
                )
            claimed = await self._one_more_block(found.records)
            if claimed is None:
                break
            owned += 1
            given += self._take(*claimed, count - len(given))
        if len(given) < count:
            given += await self._borrowed(found.records, count - len(given))
        if len(given) < count:
            raise PoolExhausted(
                f"{len(given)} of {count} IPv{version} addresses found for node {self._node}: {self._report()}"
            )
        return given

    def _from_own(self, records: Sequence[PoolRecord], count: int) -> list[Assignment]:
        given: list[Assignment] = []
        for record, kept in self._own(records):
            if len(given) == count:
                break
            taken = self._take(record, kept, count - len(given))
            given += taken
            if not taken:
                waiting = sum(is_retained(attributes) for _, attributes in blocks.allocated(kept.block))
                why = (
                    f"no free address ({waiting} kept for named workloads)" if waiting else "no free address"
                )
                self._looked_at.append(f"block {kept.block.cidr} of {record.pool.name}: {why}")
        return given

    def _own(self, records: Sequence[PoolRecord]) -> Iterator[tuple[PoolRecord, VersionedBlock]]:
        """The node's blocks in these pools, those of this draft included, as the draft leaves them."""
        known = {**self._cache.own, **self._draft.blocks}
        for record in records:
            for cidr, kept in sorted(known.items(), key=lambda item: (item[0].version, item[0])):
                if kept.block.owner == self._node and cidr.network_address in record.pool.cidr:
                    yield record, kept

    def _owned(self, records: Sequence[PoolRecord]) -> int:
        return sum(1 for _ in self._own(records))

    def _take(self, record: PoolRecord, kept: VersionedBlock, most: int) -> list[Assignment]:
        """As many of a block's addresses as are free and wanted."""
        block = blocks.end_cooldown(kept.block, self._now, self._cache.config.cooldown_seconds)
        reserved = self._cache.reserved_in(block.cidr)
        count = min(most, sum(ordinal not in reserved for ordinal in block.unallocated))
        if not count:
            return []
        changed, addresses = blocks.assign(block, count, self._attributes, reserved)
        self._write(record, kept, changed)
        return [self._assignment(address, block.cidr, record) for address in addresses]

    def _write(self, record: PoolRecord, kept: VersionedBlock, changed: Block) -> None:
        self._draft.guard(record.key, record.revision)
        self._draft.write_block(kept, changed)
        mine = changed.owner == self._node and changed.owner_kind == "host"
        if mine and (
            kept.revision == 0 or changed.cidr in self._cache.unconfirmed or kept.block.owner != self._node
        ):
            self._draft.write_affinity(self._node, changed.cidr)

    async def _one_more_block(
        self, records: Sequence[PoolRecord]
    ) -> tuple[PoolRecord, VersionedBlock] | None:
        """A block to claim: a free one, or one that another node left empty."""
        if not self._cache.config.auto_allocate_blocks:
            self._looked_at.append("new blocks are not claimed (autoAllocateBlocks is off)")
            return None
        drafted = frozenset((*self._draft.blocks, *self._cache.own))
        for record in records:
            found = await free_block(self._store, self._cache, record, drafted)
            if isinstance(found, VersionedBlock):
                return record, found
            if found is not None:
                return record, VersionedBlock(self._fresh(found), 0)
            for kept in abandoned_blocks(await self._survey(record), self._now):
                cidr = kept.block.cidr
                if cidr in drafted or self._cache.wholly_reserved(cidr):
                    continue
                if kept.block.owner is not None:
                    self._draft.delete_affinity(kept.block.owner, cidr)
                self._draft.write_affinity(self._node, cidr)
                return record, VersionedBlock(self._fresh(cidr), kept.revision)
            self._looked_at.append(f"{record.pool.name} ({record.pool.cidr}): every block is taken")
        return None

    async def _survey(self, record: PoolRecord) -> list[VersionedBlock]:
        return await list_pool_blocks(self._store, self._cache, record, self._now, self._random)

    def _fresh(self, cidr: Prefix) -> Block:
        sequence = int(self._now.timestamp() * 1e9)
        return blocks.new_block(cidr, self._node, self._now.strftime("%Y-%m-%dT%H:%M:%SZ"), sequence)

    async def _borrowed(self, records: Sequence[PoolRecord], count: int) -> list[Assignment]:
        """Single addresses out of the blocks of others, which stay theirs."""
        if self._cache.config.strict_affinity:
            self._looked_at.append("nothing is borrowed (strictAffinity is on)")
            return []
        given: list[Assignment] = []
        for record in records:
            known = {**self._cache.lenders, **self._draft.blocks}
            near = [kept for cidr, kept in known.items() if cidr.network_address in record.pool.cidr]
            given += self._lent(record, near, count - len(given))
            if len(given) < count:
                given += self._lent(record, await self._survey(record), count - len(given))
        return given

    def _lent(self, record: PoolRecord, lenders: Sequence[VersionedBlock], count: int) -> list[Assignment]:
        given: list[Assignment] = []
        for kept in lenders:
            if len(given) == count:
                break
            present = self._draft.blocks.get(kept.block.cidr, kept)
            if present.block.owner != self._node and present.block.owner_kind == "host":
                given += self._take(record, present, count - len(given))
        return given

    # -- this address -------------------------------------------------------------------------------------------------

    async def _exactly(self, address: Address) -> Assignment:
        record = next((record for record in self._pools if address in record.pool), None)
        if record is None:
            raise NoPool(f"address {address} is in no configured pool")
        if record.pool.disabled:
            raise NoPool(f"address {address} is in pool {record.pool.name}, which is disabled")
        if self._request.use not in record.pool.allowed_uses:
            raise NoPool(f"pool {record.pool.name} is not for {self._request.use.value} addresses")
        cidr = aligned_block(record.pool, address)
        kept = self._draft.blocks.get(cidr) or self._cache.own.get(cidr)
        if kept is None:
            stored = await self._store.get(block_key(cidr))
            kept = (
                self._cache.learn_block(stored)
                if stored is not None
                else VersionedBlock(self._fresh(cidr), 0)
            )
            if kept is None:
                raise Refused(self._cache.damaged[block_key(cidr)])
        block = blocks.end_cooldown(kept.block, self._now, self._cache.config.cooldown_seconds)
        if block.owner != self._node and self._cache.config.strict_affinity:
            raise Refused(f"address {address} is in block {cidr} of {_name(block)}, and strictAffinity is on")
        ordinal = blocks.ordinal_of(block, address)
        if ordinal not in block.unallocated:
            holder = blocks.holder(block, ordinal)
            who = (
                f"is allocated to {holder.handle or 'nobody known'}"
                if holder
                else "cools down after its release"
            )
            raise AddressInUse(f"address {address} {who}")
        self._write(record, kept, blocks.assign_ordinal(block, ordinal, self._attributes))
        return self._assignment(address, cidr, record)

    def _assignment(self, address: Address, cidr: Prefix, record: PoolRecord) -> Assignment:
        return Assignment(address, cidr, record.pool.name, self._request.handle)

    def _report(self) -> str:
        damaged = list(self._cache.damaged.values())
        shown = [*self._looked_at, *damaged]
        more = [f"and {len(shown) - LONGEST_REPORT} more"] if len(shown) > LONGEST_REPORT else []
        return "; ".join((*shown[:LONGEST_REPORT], *more))


def _name(block: Block) -> str:
    return f"node {block.owner}" if block.owner is not None else "nobody"
