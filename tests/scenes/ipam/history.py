"""A random history of a small cluster under faults: who does what, how calls interleave, which answers get lost.

A seed is one history. After every single write the audit must find nothing, and nobody's address may have gone to
somebody else; a failing seed replays.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from ipam.allocation.release import GuardedAddress
from ipam.allocation.sticky import Retention
from ipam.allocation.transaction import NO_WRITES, PiggybackedWrites
from ipam.check.audit import audit, decode_snapshot
from ipam.etcd.store import Delete, Store, Versioned
from ipam.failures import IpamError
from ipam.keys import IPAM, resource_key
from ipam.model import Address, HandleId, NodeName
from tests.fakes.store import Check, Fault
from tests.scenes.ipam.world import World, ask, endpoint

STEPS = 60
PROCESSES = ("n1", "n2", "n3", "n1")
"""The node of each process; two of them share a node, as an agent and a command line do."""


class FaultyStore(Store, Protocol):
    """A store whose commits fail by chance, and that shows everything stored after each commit that wrote."""

    chance: dict[Fault, float]
    committed: Check


class History:
    """One cluster and what its users have."""

    def __init__(self, seed: int, store: FaultyStore) -> None:
        self.dice = random.Random(seed)
        self.store = store
        self.store.committed = self.check
        self.world = World(self.store, random.Random(seed).random)
        self.processes = [self.world.allocator() for _ in PROCESSES]
        self.assigned: dict[Address, str] = {}
        """Addresses that a caller got and has not begun to release."""
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One call at a time for a handle, as for one container."""
        self.writes = 0
        self.states: list[dict[str, Versioned]] = []
        """What was stored after each write."""

    def check(self, stored: Mapping[str, Versioned]) -> None:
        """What is stored after a write is sound, and nobody's address went to somebody else."""
        self.writes += 1
        self.states.append(dict(stored))
        snapshot = decode_snapshot({key: value for key, value in stored.items() if key.startswith(IPAM)})
        assert [f"{finding.kind}: {finding.text}" for finding in audit(snapshot)] == []
        holders = {
            block.cidr.network_address + ordinal: block.attributes[index].handle
            for block in snapshot.blocks.values()
            for ordinal, index in enumerate(block.allocations)
            if index is not None
        }
        for address, handle in self.assigned.items():
            assert holders.get(address) == handle
        for handle in snapshot.handles:
            assert handle[0] in "tk@" or resource_key("workloadendpoints", handle, "default") in stored

    async def run(self) -> None:
        for name, cidr, length in (
            ("a", "10.0.0.0/29", 31),
            ("b", "10.0.1.0/29", 30),
            ("v6", "fd00::/124", 126),
        ):
            await self.world.pool(name, cidr, length)
        strict = self.dice.choice(["true", "false"])
        cooldown = self.dice.choice([0, 20])
        await self.world.rules(
            f'{{"strict_affinity":{strict},"auto_allocate_blocks":true,"ipCooldownSeconds":{cooldown}}}'
        )
        self.store.chance = {Fault.LOST_REPLY: 0.05, Fault.UNAVAILABLE: 0.05}
        running: set[asyncio.Task[None]] = set()
        for _ in range(STEPS):
            number = self.dice.randrange(len(PROCESSES))
            handle = f"{self.dice.choice('wwtk')}{self.dice.randrange(6)}-{number}"
            running.add(asyncio.create_task(self.step(number, handle)))
            for _ in range(self.dice.randrange(6)):
                await asyncio.sleep(0)
        await asyncio.gather(*running)
        await self.all_released()

    async def step(self, number: int, handle: str) -> None:
        what = self.dice.choices(["assign", "release", "one", "pool", "time"], [10, 6, 3, 1, 1])[0]
        async with self.locks[handle]:
            match what:
                case "assign":
                    await self.assign(number, handle)
                case "release":
                    await self.release(number, handle)
                case "one" if handle.startswith("t"):
                    await self.release_one(number, handle)
                case "pool":
                    with suppress(IpamError):
                        await self.world.pool("b", "10.0.1.0/29", 30, disabled=self.dice.random() < 0.5)
                case "time":
                    self.world.clock.advance(self.dice.choice([5, 65]))
                case _:
                    pass

    async def assign(self, number: int, handle: str) -> None:
        node, retention = PROCESSES[number], Retention(HandleId(f"@{int(handle[1]) % 3}"), 60)
        named = {"secondary": (("node", node), *retention.words()), "retained_for": retention.handle}
        request = ask(
            handle,
            node,
            self.dice.choice([1, 1, 2, 3]),
            ipv6=self.dice.choice([0, 0, 1]),
            **(named if handle.startswith("k") else {}),
        )
        piggyback = (lambda _: endpoint(handle)) if handle.startswith("w") else None
        task = asyncio.create_task(self.processes[number].assign(request, piggyback))
        if self.dice.random() < 0.2:
            for _ in range(self.dice.randrange(10)):
                await asyncio.sleep(0)
            task.cancel()
        with suppress(IpamError, asyncio.CancelledError):
            for item in await task:
                self.assigned[item.address] = handle

    async def release(self, number: int, handle: str) -> None:
        self.assigned = {address: held for address, held in self.assigned.items() if held != handle}
        key = resource_key("workloadendpoints", handle, "default")
        piggyback = PiggybackedWrites((), (Delete(key),)) if handle.startswith("w") else NO_WRITES
        with suppress(IpamError):
            await self.processes[number].release_handle(HandleId(handle), piggyback)

    async def release_one(self, number: int, handle: str) -> None:
        mine = [address for address, held in self.assigned.items() if held == handle]
        if mine:
            del self.assigned[mine[0]]
            with suppress(IpamError):
                await self.processes[number].release_addresses([GuardedAddress(mine[0], HandleId(handle))])

    async def all_released(self) -> None:
        """Whoever is asked to give back what it may have leaves nothing behind."""
        self.store.chance = {}
        for handle in list(self.locks):
            await self.release(int(handle[-1]), handle)
        for node in sorted(set(PROCESSES)):
            await self.processes[0].release_node(NodeName(node))
        self.world.clock.advance(3600)
        assert await self.world.held() == {}
        assert await self.world.faults() == []
