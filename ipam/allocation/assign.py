"""Finds addresses for one request and adds their assignment to a transaction, in Calico's order of preference.

What is retained for the workload's name first, then the addresses asked for by number, then own blocks, a free block,
an abandoned one of another node, and at last single addresses borrowed from others.
Promises: only reads the store and only adds to the transaction; a refusal says which pools and blocks were looked at
and why each failed. Does not know: commits, retries, callers, why a name is a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ipam import block as blocks
from ipam.allocation.block_cache import (
    BlockCache,
    abandoned_blocks,
    free_block,
    list_pool_blocks,
    overlapping_blocks,
)
from ipam.allocation.environment import Environment
from ipam.allocation.pool_selection import (
    aligned_block,
    eligible_pools,
    named_pools,
    pools_not_selecting,
)
from ipam.allocation.release import read_handle_blocks
from ipam.allocation.sticky import is_retained
from ipam.allocation.transaction import Transaction, VersionedBlock, is_too_large
from ipam.etcd.store import Versioned
from ipam.failures import AddressInUse, BlockLimit, NoPool, PoolExhausted, Refused
from ipam.keys import block_key, block_keys_around, handle_key
from ipam.model import (
    DEFAULT_BLOCKS_PER_NODE,
    Address,
    AddressRequest,
    Assignment,
    Attributes,
    Block,
    HandleId,
    PoolRecord,
    Prefix,
)

GIVEN_UP_AT_ONCE = 4
"""Blocks given up in one transaction."""
LONGEST_REPORT = 40
"""Blocks and pools named in a refusal."""


@dataclass(frozen=True, slots=True)
class _FullBlock:
    """An own block without a free address: a node of many pods has many, and few assignments are refused."""

    record: PoolRecord
    block: Block

    def __str__(self) -> str:
        waiting = sum(is_retained(attributes) for _, attributes in blocks.allocated(self.block))
        why = f" ({waiting} retained for named workloads)" if waiting else ""
        return f"block {self.block.cidr} of {self.record.pool.name}: no free address{why}"


class AddressSearch:
    """The search for one request's addresses."""

    def __init__(
        self, environment: Environment, request: AddressRequest, cache: BlockCache, transaction: Transaction
    ) -> None:
        self._environment = environment
        self._store = environment.store
        self._now = environment.now()
        self._pools = environment.pools()
        self._request = request
        self._node = request.node
        self._cache = cache
        self._transaction = transaction
        self._attributes = Attributes(request.handle, tuple(sorted(request.secondary)))
        self._looked_at: list[object] = []
        """What was looked at in vain, as texts or what makes one when it is asked for."""

    async def run(self, held: Sequence[Assignment]) -> tuple[Assignment, ...]:
        """Assign what is missing beyond `held`. Raises Refused and its kinds, Conflict, Malformed, StoreError."""
        request = self._request
        if self._cache.unknown_rules and any(missing > 0 for missing in self._missing(held).values()):
            raise Refused(
                f"nothing is assigned by rules that nobody can read: {self._cache.unknown_rules[0]}"
            )
        given = await self.reassign_retained(held)
        has = {item.address for item in (*held, *given)}
        given += [await self._exactly(address) for address in request.exact if address not in has]
        for version, missing in self._missing((*held, *given)).items():
            if missing > 0:
                given += await self._some(version, missing)
        if given:
            self._give_up_blocks()
        return tuple(given)

    def _missing(self, given: Iterable[Assignment]) -> dict[int, int]:
        """How many addresses of each family the request still lacks; negative: it has more."""
        missing = {4: self._request.ipv4, 6: self._request.ipv6}
        for item in given:
            missing[item.address.version] -= 1
        return missing

    def _give_up_blocks(self) -> None:
        """Give up empty blocks of pools that no longer select the node, along with what is written anyway."""
        pools = pools_not_selecting(self._pools, self._request)
        if not pools:
            return
        empty = [
            versioned
            for cidr, versioned in self._cache.own.items()
            if cidr not in self._transaction.blocks
            and any(cidr.network_address in record.pool.cidr for record in pools)
            and blocks.is_empty(versioned.block)
        ]
        for versioned in empty[:GIVEN_UP_AT_ONCE]:
            self._transaction.write_block(versioned, blocks.without_owner(versioned.block))
            self._transaction.delete_affinity(self._node, versioned.block.cidr)

    # -- what is retained for the name --------------------------------------------------------------------------------

    async def reassign_retained(self, held: Sequence[Assignment]) -> list[Assignment]:
        """Take over what is retained for `request.retained_for`, as far as it fits; the rest stays retained.

        Raises StoreError, Malformed, Conflict.
        """
        name, missing = self._request.retained_for, self._missing(held)
        if name is None or name in self._transaction.handles or max(missing.values()) <= 0:
            return []
        stored = await self._store.get(handle_key(name))
        if stored is None:
            return []
        found = await read_handle_blocks(self._store, name, stored)
        counts, given = found.counts, list[Assignment]()
        for versioned in found.blocks:
            cidr, present = versioned.block.cidr, self._as_planned(versioned)
            ordinals = []
            # What is planned may rest on an older block than was read just now; then its guard fails the commit.
            counts[cidr] = len(blocks.allocations_of(present.block, name))
            for ordinal, holder in blocks.allocations_of(present.block, name):
                address = blocks.address_of(present.block, ordinal)
                record = self._pool_of_retained(address)
                if record is None or missing[address.version] <= 0 or not is_retained(holder):
                    continue
                if self._other_user(address) is not None:
                    continue
                missing[address.version] -= 1
                ordinals.append(ordinal)
                self._transaction.guard(record.key, record.revision)
                given.append(self._assignment(address, cidr, record))
            if ordinals:
                after = blocks.transfer(present.block, ordinals, self._attributes)
                self._transaction.write_block(present, after)
                counts[cidr] -= len(ordinals)
        if given:
            self._transaction.write_handle(name, stored.revision, counts)
        return given

    def _pool_of_retained(self, address: Address) -> PoolRecord | None:
        """The pool of a retained address, if the request may have it from there."""
        request, records = self._request, self._pools
        if address not in request.exact:
            if request.exact:
                return None
            records = eligible_pools(self._pools, request, address.version).records
        return next((record for record in records if address in record.pool), None)

    # -- any address --------------------------------------------------------------------------------------------------

    async def _some(self, version: int, count: int) -> list[Assignment]:
        for each in (4, 6):  # a slip in the names of either family is told, whichever is asked for
            named_pools(self._pools, self._request, each)
        found = eligible_pools(self._pools, self._request, version)
        if not found.records:
            reasons = "; ".join(found.refused) or f"none for IPv{version} is configured"
            raise NoPool(f"no pool for {self._request.use.value} addresses on node {self._node}: {reasons}")
        self._looked_at = list(found.refused)
        given = self._from_own(found.records, count)
        owned = sum(1 for _ in self._own(found.records))
        most = self._cache.config.blocks_per_node or DEFAULT_BLOCKS_PER_NODE
        while len(given) < count:
            if owned >= most:
                raise BlockLimit(
                    f"node {self._node} has {owned} blocks and may have {most}; {self._way_out(most)}: "
                    f"{self._report()}"
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
        for record, versioned in self._own(records):
            if len(given) == count:
                break
            taken = self._take(record, versioned, count - len(given))
            given += taken
            if not taken:
                self._looked_at.append(_FullBlock(record, versioned.block))
        return given

    def _own(self, records: Sequence[PoolRecord]) -> Iterator[tuple[PoolRecord, VersionedBlock]]:
        """The node's blocks in these pools, those of this transaction included, as it leaves them.

        In the order of their keys, as Calico lists its claims, whichever pool each is of.
        """
        known = {**self._cache.own, **self._transaction.blocks}
        for cidr, versioned in sorted(known.items(), key=lambda item: block_key(item[0])):
            record = next((one for one in records if cidr.network_address in one.pool), None)
            if record is not None and versioned.block.owner == self._node:
                yield record, versioned

    def _way_out(self, most: int) -> str:
        """What helps a node that has all the blocks it may have."""
        strict = "" if self._cache.config.strict_affinity else " --strictaffinity true"
        return (
            f"let nodes have more (tortie ipam configure{strict} --max-blocks-per-host {2 * most}), "
            "or make a pool of larger blocks (blockSize)"
        )

    async def _one_more_block(
        self, records: Sequence[PoolRecord]
    ) -> tuple[PoolRecord, VersionedBlock] | None:
        """A block to claim: a free one, or one that another node left empty."""
        if not self._cache.config.auto_allocate_blocks:
            self._looked_at.append("new blocks are not claimed (autoAllocateBlocks is off)")
            return None
        planned = frozenset((*self._transaction.blocks, *self._cache.own))
        for record in records:
            found = await free_block(self._store, self._cache, record, planned)
            if isinstance(found, VersionedBlock):
                return record, found
            if found is not None:
                return record, self._fresh(found)
        for record in records:  # as in Calico, only when no pool has a free one
            for versioned in abandoned_blocks(
                await list_pool_blocks(self._environment, self._cache, record), self._now
            ):
                cidr, owner = versioned.block.cidr, versioned.block.owner
                if cidr in planned or self._cache.wholly_reserved(cidr):
                    continue
                if owner is not None:
                    self._transaction.delete_affinity(owner, cidr)
                self._transaction.write_affinity(self._node, cidr)
                return record, self._fresh(cidr, versioned.revision)
            self._looked_at.append(f"{record.pool.name} ({record.pool.cidr}): every block is taken")
        return None

    async def _borrowed(self, records: Sequence[PoolRecord], count: int) -> list[Assignment]:
        """Single addresses out of the blocks of others, which stay theirs."""
        if self._cache.config.strict_affinity:
            self._looked_at.append("nothing is borrowed (strictAffinity is on)")
            return []
        if (
            not self._cache.config.auto_allocate_blocks
        ):  # Calico refuses these rules, and assigns nothing by them
            self._looked_at.append("nothing is borrowed (autoAllocateBlocks is off without strictAffinity)")
            return []
        given: list[Assignment] = []
        for record in records:
            known = {**self._cache.lenders, **self._transaction.blocks}
            near = [
                versioned
                for cidr, versioned in known.items()
                if cidr.network_address in record.pool.cidr and cidr not in self._cache.passed_over
            ]
            given += self._lent(record, near, count - len(given))
            if len(given) < count:
                given += self._lent(
                    record, await list_pool_blocks(self._environment, self._cache, record), count - len(given)
                )
        return given

    def _lent(self, record: PoolRecord, lenders: Sequence[VersionedBlock], count: int) -> list[Assignment]:
        given: list[Assignment] = []
        for versioned in lenders:
            if len(given) == count:
                break
            present = self._as_planned(versioned)
            if present.block.owner != self._node and present.block.owner_kind == "host":
                given += self._take(record, present, count - len(given))
        return given

    # -- this address -------------------------------------------------------------------------------------------------

    async def _exactly(self, address: Address) -> Assignment:
        record = next((record for record in self._pools if address in record.pool), None)
        if record is None:
            raise NoPool(f"address {address} is in no configured pool")
        if record.unreadable:
            raise NoPool(f"address {address} is in pool {record.pool.name}, {record.unreadable}")
        if not self._request.reinstated:
            self._check_pool(address, record)
        if (user := self._other_user(address)) is not None:
            raise AddressInUse(f"address {address} is that of a living pod here ({user})")
        versioned = await self._block_of(address, record)
        cidr = versioned.block.cidr
        block = self._after_cooldown(versioned)
        strict = self._cache.config.strict_affinity and not self._request.reinstated
        if block.owner != self._node and strict:
            owner = f"node {block.owner}" if block.owner is not None else "nobody"
            raise Refused(f"address {address} is in block {cidr} of {owner}, and strictAffinity is on")
        ordinal = blocks.ordinal_of(block, address)
        if ordinal in block.unallocated:
            self._write(record, versioned, blocks.assign_ordinal(block, ordinal, self._attributes))
        else:
            await self._take_over(record, versioned, block, ordinal)
        return self._assignment(address, cidr, record)

    async def _block_of(self, address: Address, record: PoolRecord) -> VersionedBlock:
        """The block of an address: the pool's own, or one of another size that stands there already.

        Raises Refused where a new one would overlap others, AddressInUse, StoreError.
        """
        cidr = aligned_block(record.pool, address)
        known = self._transaction.blocks.get(cidr) or self._cache.own.get(cidr)
        keys = [key for key in block_keys_around(address) if known is None or key != block_key(cidr)]
        around = await self._store.get_many(keys)
        found = [self._readable(stored) for _, stored in sorted(around.items())]
        replaced = self._request.replaces
        for versioned in found:  # of blocks that overlap each other any may have given it
            holder = blocks.holder(versioned.block, blocks.ordinal_of(versioned.block, address))
            is_other = versioned.block.cidr != cidr
            if is_other and holder is not None and blocks.bare_handle(holder.handle) not in replaced:
                raise AddressInUse(f"address {address} is allocated to {holder.handle or 'nobody known'}")
        if known is not None:
            return known
        of_pool = next((one for one in found if one.block.cidr == cidr), next(iter(found), None))
        if of_pool is not None:
            return self._as_planned(of_pool)
        if others := await overlapping_blocks(self._store, cidr):
            other = next(iter(others))
            raise Refused(
                f"address {address}: a new block {cidr} would overlap {other}, a block of another size"
            )
        return self._fresh(cidr)

    def _readable(self, stored: Versioned) -> VersionedBlock:
        """A stored block. Raises Refused for one that cannot be read."""
        versioned = self._cache.learn_block(stored)
        if versioned is None:
            raise Refused(str(self._cache.damaged[stored.key]))
        return versioned

    def _check_pool(self, address: Address, record: PoolRecord) -> None:
        """Raises NoPool for an address that its pool does not give now."""
        if record.pool.disabled:
            raise NoPool(f"address {address} is in pool {record.pool.name}, which is disabled")
        if record.withdrawn:
            raise NoPool(f"address {address} is in pool {record.pool.name}, which {record.withdrawn}")
        if self._request.use not in record.pool.allowed_uses:
            raise NoPool(f"pool {record.pool.name} is not for {self._request.use.value} addresses")

    async def _take_over(
        self, record: PoolRecord, versioned: VersionedBlock, block: Block, ordinal: int
    ) -> None:
        """An address that is not free: what cools down, or whose holder is gone, goes to a pod that has it already.

        Raises AddressInUse, StoreError, Malformed.
        """
        request, address = self._request, blocks.address_of(block, ordinal)
        holder = blocks.holder(block, ordinal)
        handle = blocks.bare_handle(holder.handle) if holder is not None else None
        if holder is None and not request.reinstated:
            raise AddressInUse(f"address {address} cools down after its release")
        if holder is not None and (handle is None or handle not in request.replaces):
            raise AddressInUse(f"address {address} is allocated to {holder.handle or 'nobody known'}")
        self._write(record, versioned, blocks.transfer(block, [ordinal], self._attributes))
        stored = await self._store.get(handle_key(handle)) if handle is not None else None
        if handle is not None and stored is not None:
            held = await read_handle_blocks(self._store, handle, stored)
            planned = (self._as_planned(one).block for one in held.blocks)
            counts = {one.cidr: len(blocks.allocations_of(one, handle)) for one in planned}
            self._transaction.write_handle(handle, stored.revision, counts)

    def _other_user(self, address: Address) -> HandleId | None:
        """Whose living pod on this machine has an address already; None: nobody's, or this very request's."""
        user = self._environment.in_use().get(address)
        return user if user != self._request.handle else None

    # -- one block ----------------------------------------------------------------------------------------------------

    def _take(self, record: PoolRecord, versioned: VersionedBlock, most: int) -> list[Assignment]:
        """As many of a block's addresses as are free and asked for."""
        block = self._after_cooldown(versioned)
        if not block.unallocated:
            return []
        reserved, in_use = self._cache.reserved_in(block.cidr), self._environment.in_use()
        count, used = 0, set[int]()
        for ordinal in block.unallocated:
            if count == most:
                break
            if in_use and blocks.address_of(block, ordinal) in in_use:
                used.add(ordinal)  # the datastore has forgotten it
            elif ordinal not in reserved:
                count += 1
        if not count:
            return []
        after, addresses = blocks.assign(block, count, self._attributes, reserved | used)
        if is_too_large(after):
            self._looked_at.append(
                f"block {block.cidr} of {record.pool.name}: holds {sum(1 for _ in blocks.allocated(block))} "
                "addresses, and etcd takes no larger value; smaller blocks (blockSize) hold more in all"
            )
            return []
        self._write(record, versioned, after)
        return [self._assignment(address, block.cidr, record) for address in addresses]

    def _write(self, record: PoolRecord, before: VersionedBlock, after: Block) -> None:
        """Add a block's change, guarded by its pool, and its claim unless that is confirmed already."""
        self._transaction.guard(record.key, record.revision)
        self._transaction.write_block(before, after)
        confirmed = (
            before.revision != 0
            and after.cidr not in self._cache.unconfirmed
            and before.block.owner == self._node
        )
        if after.owner == self._node and after.owner_kind == "host" and not confirmed:
            self._transaction.write_affinity(self._node, after.cidr)

    def _as_planned(self, versioned: VersionedBlock) -> VersionedBlock:
        """A block as this transaction leaves it so far."""
        return self._transaction.blocks.get(versioned.block.cidr, versioned)

    def _after_cooldown(self, versioned: VersionedBlock) -> Block:
        return blocks.end_cooldown(versioned.block, self._now, self._cache.config.cooldown_seconds)

    def _fresh(self, cidr: Prefix, revision: int = 0) -> VersionedBlock:
        """A new empty block of this node, in place of what stands there at `revision`."""
        sequence = int(self._now.timestamp() * 1e9)
        new = blocks.new_block(cidr, self._node, blocks.timestamp(self._now), sequence)
        return VersionedBlock(new, revision)

    def _assignment(self, address: Address, cidr: Prefix, record: PoolRecord) -> Assignment:
        return Assignment(address, cidr, record.pool.name, self._request.handle)

    def _report(self) -> str:
        """What was looked at in vain, for a refusal."""
        passed = (f"{one} overlaps block {other}" for one, other in self._cache.passed_over.items())
        shown = [*map(str, self._looked_at), *passed, *map(str, self._cache.damaged.values())]
        more = [f"and {len(shown) - LONGEST_REPORT} more"] if len(shown) > LONGEST_REPORT else []
        return "; ".join((*shown[:LONGEST_REPORT], *more))
