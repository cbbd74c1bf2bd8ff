"""A rack: three nodes with two uplinks each and their address on lo, two ToRs, a spine; pods, and what breaks.

          spine (AS 65000, etcd on its lo)
         /     \\
     tor1       tor2        AS 65001, 65002: each with a cable to every node
      | \\ \\   / / |
    node1 node2 node3       AS 64601.., lo 10.255.0.N/32, eth1 to tor1, eth2 to tor2

The first ToR and the spine are BIRDs, the second ToR is FRR. The nodes' peers are the ToRs alone, each by a
BGPPeer with `sourceAddress: None`; the mesh is off unless a test puts it on. A node's host has a default route by both,
with its links' own addresses: nobody can answer the one on lo before BGP has told it, and that begins with etcd.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from agent.lab import fabric, lab_processes, lifecycle
from agent.lab.lab_plan import SUBNETS, LabNode, LabPlan, Mode, gateway, plan
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod
from agent.netlink.namespaces import entered
from tests.scenes.lab.lab_nodes import converged, resource
from tests.scenes.lab.labs import named, wait_until_quiet
from tests.scenes.rack.switches import HOLD_SECONDS, BirdSwitch, FrrSwitch, Switch, Uplink, ip

NODES = 3
TORS: tuple[type[Switch], ...] = (BirdSwitch, FrrSwitch)
SPINE_AS, TOR_AS, NODE_AS = 65000, 65000, 64600
SPINE = str(gateway(SUBNETS[0]))
"""The spine's address, and etcd's."""
RACK_SECONDS = 40.0
DISCARD_PORT = 9
SETTINGS = {"TORTIE_NODE_METHOD": "cidr=10.255.0.0/24", "TORTIE_BGP_HOLD_SECONDS": str(HOLD_SECONDS)}


@dataclass(frozen=True, slots=True)
class Rack:
    """A rack that is up."""

    lab: Lab
    tors: tuple[Switch, ...]
    spine: Switch
    settings: Mapping[str, str]
    """Of the agents."""

    @property
    def nodes(self) -> tuple[LabNode, ...]:
        """The machines."""
        return self.lab.plan.nodes

    def own(self, node: LabNode) -> str:
        """A node's address."""
        return own_address(self.nodes.index(node) + 1)

    def routes(self, node: LabNode) -> dict[str, str]:
        """Destination -> the rest of the line of `ip route`, of what BGP brought to a node."""
        lines = ip(node.namespace, "-o route show proto bird").replace("\\", "").splitlines()
        found = (line.split() for line in lines if not line.startswith("blackhole"))
        return {words[0]: " ".join(words[1:]) for words in found}

    def uses(self, node: LabNode, device: str) -> bool:
        """Whether any route that BGP brought goes by an interface."""
        return any(f"dev {device} " in f"{line} " for line in self.routes(node).values())

    def established(self, node: LabNode) -> frozenset[str]:
        """The ToRs with which a node has a session, by their addresses on its links."""
        status = lab_processes.agent_status(node) or {"peers": []}
        return frozenset(one["address"] for one in status["peers"] if one["state"] == "Established")

    def start_bfd(self, node: LabNode) -> None:
        """Start a node's BFD process; it ends with the rack."""
        node.run.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "bgp.bfd", "--socket", str(node.run / "bfd.sock")]
        with (node.directory / "bfd.log").open("ab") as log:
            detached = ["setsid", "--fork", *lab_processes.inside(node.namespace, words)]
            subprocess.run(detached, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)

    def start_agent(self, node: LabNode) -> None:
        """Start a node's agent again; until it is in session with every ToR and its peers have said all."""
        lab_processes.start_agents([node], self.settings)
        self.wait_for_sessions()
        lab_processes.wait_for("what its peers say", lambda: converged(node), RACK_SECONDS)

    def wait_for_sessions(self) -> None:
        """Until every node is in session with every ToR."""
        lab_processes.wait_for(
            "the sessions with the ToRs",
            lambda: all(len(self.established(node)) >= len(self.tors) for node in self.nodes),
            RACK_SECONDS,
            lambda: "; " + str({node.name: sorted(self.established(node)) for node in self.nodes}),
        )

    def wait_for_both_uplinks(self) -> None:
        """Until what BGP brought goes by every uplink, on every node, and every session is up."""
        self.wait_for_sessions()
        uplinks = [f"eth{number}" for number in range(1, len(self.tors) + 1)]

        def there() -> bool:
            lines = [line for node in self.nodes for line in self.routes(node).values()]
            return bool(lines) and all(uplink in line for uplink in uplinks for line in lines)

        lab_processes.wait_for(
            "both uplinks",
            there,
            RACK_SECONDS,
            lambda: "; " + "\n".join(f"{node.name}: {self.routes(node)}" for node in self.nodes),
        )

    def wait_without(self, node: LabNode, device: str) -> None:
        """Until nothing that BGP brought to a node goes by an interface."""
        lab_processes.wait_for(
            f"routes without {device}",
            lambda: not self.uses(node, device),
            RACK_SECONDS,
            lambda: f"; {self.routes(node)}",
        )

    def wait_for_routes(self) -> None:
        """Until every node has a route to the address of every other and to a block of each."""
        lab_processes.wait_for(
            "the routes of the rack",
            lambda: all(self._is_routed(node) for node in self.nodes),
            RACK_SECONDS,
            lambda: "; " + "\n".join(f"{node.name}: {self.routes(node)}" for node in self.nodes),
        )

    def _is_routed(self, node: LabNode) -> bool:
        there = self.routes(node).keys()
        blocks = [line for line in ip(node.namespace, "route").splitlines() if _leads_to_a_block(line)]
        others = [self.own(one) for one in self.nodes if one is not node]
        return there >= set(others) and len(blocks) >= len(others)

    def source_towards(self, node: LabNode, host: str) -> str:
        """Which of its addresses a program on a node's host sends from."""
        with entered(fabric.NAMESPACES / node.namespace), socket.socket(type=socket.SOCK_DGRAM) as one:
            one.connect((host, DISCARD_PORT))
            return str(one.getsockname()[0])

    def reaches(self, namespace: str, host: str, source: str = "") -> bool:
        """Whether a host answers one ping, from an address of the namespace's choice."""
        words = lab_processes.inside(
            namespace, ["ping", "-c1", "-W2", *(["-I", source] if source else []), host]
        )
        return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _leads_to_a_block(line: str) -> bool:
    return line.startswith("192.168.") and "/26 " in line


def own_address(number: int) -> str:
    """The address of the node of a number."""
    return f"10.255.0.{number}"


def _cable(first: str, one: str, second: str, other: str, base: str) -> tuple[IPv4Address, IPv4Address]:
    """A cable between two namespaces; the addresses of a /31, the first for the first."""
    ip(first, f"link add {one} type veth peer name {other} netns {second}")
    lower = IPv4Address(base)
    for space, name, address in ((first, one, lower), (second, other, lower + 1)):
        ip(space, f"address add {address}/31 dev {name}")
        ip(space, f"link set {name} up")
    return lower, lower + 1


def _build(made: LabPlan, way_to: str) -> tuple[tuple[Switch, ...], Switch]:
    fabric.make_namespace(made.fabric)
    spine = BirdSwitch("spine", made.fabric, SPINE_AS, "10.254.0.100", SPINE, made.directory / "spine")
    ip(made.fabric, f"address add {SPINE}/32 dev lo")
    spine.forward(wanted=True)
    tors = list[Switch]()
    for index, node in enumerate(made.nodes, 1):
        fabric.make_namespace(node.namespace)
        ip(node.namespace, f"address add {own_address(index)}/32 dev lo")
    for number, kind in enumerate(TORS, 1):
        name, namespace = f"tor{number}", f"{made.prefix}tor{number}"
        fabric.make_namespace(namespace)
        tor = kind(name, namespace, TOR_AS + number, f"10.254.0.{number}", SPINE, made.directory / name)
        tor.forward(wanted=True)
        low, high = _cable(made.fabric, name, namespace, "spine", f"10.100.{number}.0")
        spine.uplinks.append(Uplink(name, low, high, tor.asn, is_node=False))
        tor.uplinks.append(Uplink("spine", high, low, SPINE_AS, is_node=False))
        for index, node in enumerate(made.nodes, 1):
            low, high = _cable(namespace, node.name, node.namespace, f"eth{number}", f"10.{index}.{number}.0")
            tor.uplinks.append(Uplink(node.name, low, high, NODE_AS + index, is_node=True))
        tors.append(tor)
    for index, node in enumerate(made.nodes, 1):
        hops = " ".join(
            f"nexthop via 10.{index}.{number}.0 dev eth{number}" for number in range(1, len(TORS) + 1)
        )
        ip(node.namespace, f"route add {way_to} {hops}")
    return tuple(tors), spine


def _resources(made: LabPlan, *, mesh: bool, more: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=mesh)]
    for index, node in enumerate(made.nodes, 1):
        found.append(resource("Node", node.name, bgp={"asNumber": NODE_AS + index}))
        found += [
            resource(
                "BGPPeer",
                f"{node.name}-tor{number}",
                node=node.name,
                peerIP=f"10.{index}.{number}.0",
                asNumber=TOR_AS + number,
                sourceAddress="None",
                **more,
            )
            for number in range(1, len(TORS) + 1)
        ]
    return found


@contextmanager
def rack(
    word: str,
    mode: Mode,
    *,
    mesh: bool = False,
    graceful: bool = True,
    bfd: bool = False,
    settings: Mapping[str, str] | None = None,
    peers: Mapping[str, Any] | None = None,
    way_to: str = "default",
    more: tuple[dict[str, Any], ...] = (),
) -> Iterator[Rack]:
    """A rack with a pod on each node; `settings` of the agents (`TORTIE_…`), `peers` for the spec of each BGPPeer.

    `way_to`: what the hosts' own route by both uplinks leads to, etcd at least; `more` resources.
    """
    name = named(word)
    made = plan(name, NODES, mode)
    found: Rack | None = None
    try:
        lifecycle.down(name)
        lab_processes.write_json(
            made.directory / "lab.json", {"nodes": NODES, "mode": mode.value, "dual_stack": False}
        )
        tors, spine = _build(made, way_to)
        found = Rack(Lab(made, mode), tors, spine, {**SETTINGS, **(settings or {})})
        for switch in (spine, *tors):
            switch.start(graceful=graceful, bfd=bfd)
        lab_processes.start_etcd(made)
        items = [*more, *_resources(made, mesh=mesh, more=peers or {})]
        items += lifecycle.pool_document(None, mode)["items"]
        lifecycle.apply(made, {"apiVersion": "projectcalico.org/v3", "kind": "List", "items": items})
        for node in made.nodes if bfd else ():
            found.start_bfd(node)
        lab_processes.start_agents(made.nodes, found.settings)
        found.wait_for_sessions()
        for number, node in enumerate(made.nodes, 1):
            add_pod(made, f"p{number}", node)
        found.wait_for_routes()
        wait_until_quiet(found.lab)
        yield found
    finally:
        for switch in (*found.tors, found.spine) if found is not None else ():
            switch.end()
        lifecycle.down(name)
