"""Nodes in one process for tests: each a `BgpController` on a loopback address, all with the same resources."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import SystemClock
from agent.configuration.config import BgpSettings
from agent.dataplane.inputs.facts import Facts
from agent.datastore.resources.resource_types import KINDS
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of
from agent.netlink.objects import RouteKey
from agent.peering.bgp_controller import BgpController
from agent.peering.disabled_peers import DisabledPeers
from agent.peering.drain import DrainFile
from agent.peering.passwords import PasswordFiles
from bgp.policy.prefix_filter import ACCEPT_ALL
from ipam.etcd.store import Versioned
from ipam.model import NodeName, Pool

PORT = 17902
SUBNET = f"127.{20 + os.getpid() % 200}.{os.getpid() // 200 % 250}"
"""Loopback addresses that no other process's tests use."""
WAIT_SECONDS = 15
POOL = Pool("p", IPv4Network("10.0.0.0/8"), 26)
POOL6 = Pool("six", IPv6Network("fd01::/16"), 122)


def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """A resource as it is stored."""
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


class BgpNode:
    """One node: number N has the address SUBNET.N and the block 10.0.N.0/26."""

    def __init__(self, number: int, directory: Path, **settings: Any) -> None:
        self.name = NodeName(f"n{number}")
        self.address = f"{SUBNET}.{number}"
        self.block = IPv4Network(f"10.0.{number}.0/26")
        self.address6 = f"fd00::{number}"
        self.block6 = IPv6Network(f"fd01:0:0:{number}::/122")
        self.filters = ACCEPT_ALL, ACCEPT_ALL
        """What it believes of the mesh, and of peers that a BGPPeer names."""
        self.changed = asyncio.Event()
        self.state = StateCache(self.name)
        self._directory, self._drained = directory, directory / f"state-{number}"
        self._drained.mkdir(exist_ok=True)
        self.bgp = self.new_controller(**settings)

    def new_controller(self, **settings: Any) -> BgpController:
        """One with other settings, to take the place of a controller that has not begun or is closed."""
        return BgpController(
            BgpSettings(hold_seconds=9, **settings),
            PasswordFiles(self._directory),
            DrainFile(self._drained),
            DisabledPeers(self._drained),
            SystemClock(),
            self.changed.set,
        )

    def reconcile(self) -> None:
        """One pass, as after the reconciler's."""
        owners = {self.block: self.name, self.block6: self.name}
        from_mesh, from_peers = self.filters
        facts = Facts(
            self.name,
            pools=(POOL, POOL6),
            block_owners=owners,
            from_mesh=from_mesh,
            from_peers=from_peers,
        )
        self.bgp.reconcile(self.state, facts, set(map(RouteKey, owners)))

    def peer(self, other: BgpNode) -> dict[str, Any]:
        """The status of a peer; empty when it is none."""
        found = [one for one in self.bgp.looking_glass.peers() if str(one["address"]) == other.address]
        return found[0] if found else {}

    def next_hops(self) -> dict[str, str]:
        """Prefix -> next hop of what was learned."""
        return {str(prefix): str(next_hop) for prefix, next_hop in self.bgp.learned.items()}

    def sessions(self) -> dict[str, object]:
        """Address -> since when the session is established."""
        return {
            str(one["address"]): one["since"]
            for one in self.bgp.looking_glass.peers()
            if one["state"].value == "Established"
        }


class BgpNodes:
    """All nodes of a test."""

    def __init__(self, count: int, directory: Path) -> None:
        self.nodes = [BgpNode(number, directory) for number in range(1, count + 1)]
        self.put(document("BGPConfiguration", "default", listenPort=PORT))
        for one in self.nodes:
            self.put(document("Node", one.name, bgp={"ipv4Address": f"{one.address}/24"}))

    def put(self, resource: dict[str, Any], *, deleted: bool = False) -> None:
        """Everybody hears of a resource, or of its end."""
        key = key_of(msgspec.convert(resource, KINDS[resource["kind"]]))
        for one in self.nodes:
            value = None if deleted else Versioned(key, msgspec.json.encode(resource), 1)
            one.state.apply(key, value)
            one.reconcile()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until something holds, looking whenever a speaker reports a change."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                waits = [asyncio.create_task(one.changed.wait()) for one in self.nodes]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for one, wait in zip(self.nodes, waits, strict=True):
                    wait.cancel()
                    one.changed.clear()
                    one.reconcile()


@asynccontextmanager
async def bgp_nodes(count: int, directory: Path) -> AsyncIterator[BgpNodes]:
    """That many nodes, closed at the end."""
    made = BgpNodes(count, directory)
    try:
        yield made
    finally:
        for one in made.nodes:
            await one.bgp.close()
