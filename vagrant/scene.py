"""What the smoke test's steps share: nodes, pods, their pings, the modes of the pool.

Promises: every question is asked of the machines anew; the scene remembers only which pods it made.
Does not know: in which order the steps go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import TypeVar

from agent.lab.lab_plan import TOPOLOGY, Mode, plan, with_mode
from agent.lab.lifecycle import SEED_POOL
from vagrant.answers import NotAnAnswer, Pings, Route, device, devices, own_blocks, pings, routes
from vagrant.machines import Machines, Unmet, wait_until

LAB = plan("vagrant", TOPOLOGY.virtual_machines, Mode.CROSS_SUBNET)
NODES = {node.name: node for node in LAB.nodes}
ROUTER = "router"
SETTLE_SECONDS = 180.0
PINGS_PER_SECOND = 5
Answer = TypeVar("Answer")
POD_SECONDS = 60.0
APPLY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """A mode of the pool, as the steps name it."""

    mode: Mode
    vxlan: bool = False
    """What CrossSubnet encapsulates with."""

    @property
    def name(self) -> str:
        """For people."""
        return (
            f"CrossSubnet, {'VXLAN' if self.vxlan else 'IPIP'}"
            if self.mode is Mode.CROSS_SUBNET
            else {Mode.NONE: "none", Mode.VXLAN: "VXLAN", Mode.IPIP: "IPIP"}[self.mode]
        )


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that the scene made."""

    name: str
    node: str
    address: str


@dataclass(slots=True)
class Watch:
    """Pings that run; what came of them is there when the watch is over."""

    seen: list[Pings] = field(default_factory=list)

    def __str__(self) -> str:
        sent, lost = sum(one.sent for one in self.seen), sum(one.lost for one in self.seen)
        gap = max((one.longest_gap for one in self.seen), default=0)
        return f"{lost} of {sent} pings lost" + (
            f", at most {gap / PINGS_PER_SECOND:.1f} s in a row" if gap else ""
        )

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return sum(one.lost for one in self.seen)


@dataclass(slots=True)
class Scene:
    """The machines and what the steps made on them."""

    machines: Machines
    pods: dict[str, Pod] = field(default_factory=dict)

    def routes(self, node: str) -> list[Route]:
        """A node's main table."""
        return _understood(node, lambda: routes(self.machines.run(node, "ip -j -4 route show")))

    def blocks(self) -> dict[str, str]:
        """Block -> the node that owns it."""
        return {block: node for node in NODES for block in own_blocks(self.routes(node))}

    def apply(self, document: object) -> None:
        """Write resources, with the command line on the first node; again while a starved etcd gives no answer."""
        script = f"tortie apply -f - <<'END'\n{json.dumps(document)}\nEND"
        wait_until("resources applied", lambda: bool(self.machines.run("node1", script)), APPLY_SECONDS)

    def change_encapsulation(self, to: Encapsulation) -> None:
        """Change the pool's mode."""
        (pool,) = json.loads(SEED_POOL.read_text())["items"]
        pool["metadata"] = {
            "name": pool["metadata"]["name"]
        }  # with a revision it would apply to that one alone
        self.apply(with_mode(pool, to.mode, ipip=not to.vxlan))

    def routed(self, to: Encapsulation, nodes: Iterable[str] = tuple(NODES)) -> bool:
        """Whether each of the nodes reaches the blocks of all the others by the mode's device."""
        chosen = list(nodes)
        tables = {node: self.routes(node) for node in chosen}
        blocks = {block: node for node in chosen for block in own_blocks(tables[node])}
        if len(set(blocks.values())) < len(chosen):
            return False
        return all(
            devices(tables[node], {block: owner for block, owner in blocks.items() if owner != node})
            == {
                other: device(
                    to.mode, vxlan=to.vxlan, same_segment=NODES[node].segment == NODES[other].segment
                )
                for other in chosen
                if other != node
            }
            for node in chosen
        )

    def wait_routed(self, to: Encapsulation, nodes: Iterable[str] = tuple(NODES)) -> None:
        """Raises Unmet."""
        wait_until(f"routes for mode {to.name}", lambda: self.routed(to, nodes), SETTLE_SECONDS)

    def find_pods(self) -> None:
        """The pods that an earlier run left."""
        for node in NODES:
            names = self.machines.run(node, "ip netns list | cut -d' ' -f1").split()
            for name in names:
                described = self.machines.run(node, f"ip -n {name} -4 -o address show dev eth0")
                self.pods[name] = Pod(name, node, described.split()[3].split("/")[0])

    def add_pod(self, name: str, node: str) -> None:
        """By the plugin."""
        result = json.loads(self.machines.run(node, f"pod add {name}", POD_SECONDS))
        self.pods[name] = Pod(name, node, str(ip_interface(result["ips"][0]["address"]).ip))

    def remove_pod(self, name: str) -> None:
        """By the plugin."""
        pod = self.pods.pop(name)
        self.machines.run(pod.node, f"pod del {name}", POD_SECONDS)

    def ping_all(self) -> list[Pings]:
        """Every pod pings every other once. Raises Unmet when one is lost."""
        seen: list[Pings] = []
        for pod in self.pods.values():
            targets = " ".join(other.address for other in self.pods.values() if other is not pod)
            said = self.machines.run(pod.node, f"pod ping {pod.name} {targets}")
            seen += _understood(pod.node, lambda said=said: pings(said))  # type: ignore[misc]
        lost = [one.target for one in seen if one.lost]
        if lost:
            raise Unmet(f"{len(lost)} of {len(seen)} pings lost: to {', '.join(sorted(set(lost)))}")
        return seen

    @contextmanager
    def watch(self, nodes: Iterable[str] = tuple(NODES)) -> Iterator[Watch]:
        """The first pod of each of these nodes pings the first pods of the others, five times a second, meanwhile."""
        first = {pod.node: pod for pod in reversed(self.pods.values()) if pod.node in set(nodes)}
        watch = Watch()
        for pod in first.values():
            targets = " ".join(other.address for other in first.values() if other is not pod)
            self.machines.run(pod.node, f"pod watch {pod.name} {targets}")
        try:
            yield watch
        except BaseException:
            for node in first:
                with suppress(Unmet):  # the first trouble is the one to report
                    self.machines.run(node, "pod watched")
            raise
        for node in first:
            said = self.machines.run(node, "pod watched")
            watch.seen += _understood(node, lambda said=said: pings(said))  # type: ignore[misc]


def _understood(node: str, read: Callable[[], Answer]) -> Answer:
    """What was read, or Unmet with the machine's name."""
    try:
        return read()
    except NotAnAnswer as error:
        raise Unmet(f"{node}: {error}") from error
