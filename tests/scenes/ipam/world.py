"""A small cluster around one store: pools, a clock to set, an allocator per process, and an audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from random import Random

from ipam.allocation.allocator import Allocator
from ipam.allocation.transaction import PiggybackedWrites
from ipam.check.audit import audit, decode_snapshot
from ipam.codec import decode_block
from ipam.etcd.store import Committed, Delete, Put, Store, Unchanged
from ipam.keys import IPAM, IPAM_CONFIG, block_key, resource_key
from ipam.model import Address, AddressRequest, Block, HandleId, NodeName, Pool, PoolRecord, Prefix

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class FakeClock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self._now = START

    def wall(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


async def no_pause(seconds: float) -> None:
    """Only lets others run."""
    await asyncio.sleep(0)


class World:
    """Everything allocation needs."""

    def __init__(self, store: Store, random: Callable[[], float] | None = None) -> None:
        self.store = store
        self.random = random or Random(0).random
        self.clock = FakeClock()
        self.pools: list[PoolRecord] = []
        self.labels: dict[NodeName, dict[str, str]] = {}
        """The labels of nodes, as far as they are known."""
        self.claims: list[Prefix] = []
        """All nodes' blocks, as a watch would have them."""

    def allocator(self) -> Allocator:
        """One process of its own, with no memory."""
        return Allocator(
            self.store,
            self.clock.wall,
            lambda: self.pools,
            no_pause,
            self.random,
            claims=lambda: self.claims,
            node_labels=self.labels.get,
        )

    async def pool(self, name: str, cidr: str, block_length: int = 30, **settings: object) -> PoolRecord:
        """Write a pool, or write it anew."""
        pool = Pool(name, ip_network(cidr), block_length, **settings)  # type: ignore[arg-type]
        outcome = await self.store.commit((), (Put(resource_key("ippools", name), b"{}"),))
        assert isinstance(outcome, Committed)
        record = PoolRecord(pool, resource_key("ippools", name), outcome.revision)
        self.pools = [*(known for known in self.pools if known.pool.name != name), record]
        return record

    async def write(self, key: str, value: bytes) -> None:
        await self.store.commit((), (Put(key, value),))

    async def rules(self, text: str) -> None:
        """The cluster's IPAMConfig."""
        await self.write(IPAM_CONFIG, text.encode())

    async def block(self, cidr: str) -> Block | None:
        stored = await self.store.get(block_key(ip_network(cidr)))
        return decode_block(stored) if stored is not None else None

    async def faults(self) -> list[str]:
        """What an audit finds."""
        listing = await self.store.list(IPAM)
        return [f"{finding.kind}: {finding.text}" for finding in audit(decode_snapshot(listing.values))]

    async def held(self) -> dict[Address, str]:
        """Every allocated address and its handle; an address in two blocks would be a fault of `audit`."""
        snapshot = decode_snapshot((await self.store.list(IPAM)).values)
        return {
            block.cidr.network_address + ordinal: str(block.attributes[index].handle)
            for block in snapshot.blocks.values()
            for ordinal, index in enumerate(block.allocations)
            if index is not None and block.attributes[index].released_at is None
        }


def ask(handle: str, node: str = "n1", ipv4: int = 1, **settings: object) -> AddressRequest:
    """A request with what most tests leave out."""
    fields = {"secondary": (("node", node),), **settings}
    return AddressRequest(HandleId(handle), NodeName(node), ipv4=ipv4, **fields)  # type: ignore[arg-type]


def addresses_of(items: Sequence[object]) -> list[str]:
    """Addresses as people write them."""
    return [str(getattr(item, "address", item)) for item in items]


def endpoint(name: str) -> PiggybackedWrites:
    """A workload endpoint that rides along, and how to take it back."""
    key = resource_key("workloadendpoints", name, "default")
    return PiggybackedWrites((Unchanged(key, 0),), (Put(key, b"{}"),), (Delete(key),))
