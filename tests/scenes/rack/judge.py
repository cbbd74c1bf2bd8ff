"""The same small scene with BIRD, FRR and us in the node's place, side by side: the kernel's routes must be equal.

A scene is cables to the far side, routes of the host, BGP peers with what they announce, and steps. It is built
three times, in namespaces of their own with the same names and addresses: around a lab's node with our agent, and
around each judge. After each step the routes that BGP brought are compared: destination, type, gateways, devices and
weights. Protocol number, metric and flags are each one's own. `has` is how many a judge must have: nothing is proved
by empty tables.

    with judging("word", settings={...}, bird="merge paths on;") as judged:
        judged.compare(Scene(cables=(...), peers=(...), steps=(Step(has=1), ...)))

The node is 172.26.0.11/20, fd26::b/64 on eth0, its gateway 172.26.0.1, its AS 64512; peers that speak with its link's
address have `sourceAddress: None`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_interface
from typing import Any

from agent.lab import fabric, lab_processes, lifecycle
from agent.lab.lab_plan import LabError, LabNode, Mode, gateway, gateway6
from agent.lab.lifecycle import Lab
from tests.scenes.lab.labs import named
from tests.scenes.lab.raw_store import RawStore, raw_store
from tests.scenes.rack.judged_scenes import Peer, Scene, Step
from tests.scenes.rack.judges import JUDGES, Judge, Options, Place, far_config

AGREE_SECONDS, QUIET_SECONDS = 30.0, 0.5
"""To agree with a judge; for how long both must have the same."""
PEERS_KEY = "/calico/resources/v3/projectcalico.org/bgppeers/"


Routes = dict[str, tuple[str, ...]]
"""Destination -> its type and next hops, each a text."""


def routes_of(namespace: str, protocol: str) -> Routes:
    """What a protocol has in a namespace's main table."""
    found: Routes = {}
    for version in ("-4", "-6"):
        words = lab_processes.inside(namespace, ["ip", "-j", version, "route", "show", "proto", protocol])
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        for route in json.loads(done.stdout or "[]"):
            hops = route.get("nexthops") or [route]
            mine = (route.get("type", "unicast"), *sorted(map(_hop, hops)))
            found[route["dst"]] = mine + found.get(route["dst"], ())
    return found


def _hop(hop: dict[str, Any]) -> str:
    """`via GATEWAY dev DEVICE`, with a weight where it is not the least."""
    through = hop.get("gateway") or hop.get("via", {}).get("host", "")
    weight = f" weight {hop['weight']}" if hop.get("weight", 1) > 1 else ""
    return (f"via {through} " if through else "") + f"dev {hop.get('dev', '-')}" + weight


def _text(routes: Routes) -> str:
    return "\n".join(f"  {where}: {', '.join(ways)}" for where, ways in sorted(routes.items())) or "  nothing"


class JudgedLab:
    """A lab of one node with our agent, and a namespace for each judge."""

    def __init__(self, lab: Lab, store: RawStore, options: Options) -> None:
        self._store = store
        self.node: LabNode = lab.plan.nodes[0]
        self.ours = _place(lab, "ours", self.node.namespace)
        self._judges = [
            kind(_place(lab, kind.name, f"{lab.plan.prefix}{kind.name}"), options) for kind in JUDGES
        ]
        self._defaults = (
            f"route replace default via {gateway(lab.plan.segments[0])} dev eth0 proto static",
            f"-6 route replace default via {gateway6(0)} dev eth0 proto static",
        )
        for judge in self._judges:
            place = judge.place
            fabric.make_namespace(place.node)
            place.ip(
                place.node,
                "link add eth0 up type veth peer name beyond",
                "link set beyond up",
                f"address add {self.node.interface} dev eth0",
                f"address add {self.node.interface6} dev eth0 nodad",
                *self._defaults,
            )

    def compare(self, scene: Scene) -> None:
        """Build it, go through its steps, compare after each, take it away. Raises AssertionError with both tables."""
        running: list[subprocess.Popen[bytes]] = []
        judges = [one for one in self._judges if one.name in scene.judges]
        places = (self.ours, *(one.place for one in judges))
        try:
            for place in places:
                self._cable(place, scene)
                running.append(place.bird(place.far, "far", far_config(place, scene)))
            self._store.write({PEERS_KEY + one.name: _bgp_peer(one) for one in scene.peers})
            for judge in judges:
                running += judge.start(scene)
            for judge in judges:
                lab_processes.wait_for(
                    f"the sessions of {judge.name}",
                    lambda: judge.established() == len(scene.peers),  # noqa: B023
                    AGREE_SECONDS,
                    judge.said,
                )
            for number, step in enumerate(scene.steps):
                for place in places:
                    place.ip(place.node, *step.node)
                    place.ip(place.far, *step.far)
                    for command in step.birdc:
                        place.birdc("far", *command.split())
                for judge in judges:
                    self._agree(judge, number, step)
        finally:
            for process in running:
                process.kill()
                process.wait()
            self._store.write({PEERS_KEY + one.name: None for one in scene.peers})
            for place in places:
                self._clear(place, scene)

    def _cable(self, place: Place, scene: Scene) -> None:
        on_cables = {str(ip_interface(one).ip) for cable in scene.cables for one in cable.far}
        alone = sorted({one.address for one in scene.peers} - on_cables)
        for cable in scene.cables:
            place.ip(
                place.node,
                f"link add {cable.name} mtu {cable.mtu} type veth "
                f"peer name {cable.name} mtu {cable.mtu} netns {place.far}",
            )
            for space, own in ((place.node, cable.near), (place.far, cable.far)):
                place.ip(space, f"link set {cable.name} up", *map(partial(_address, cable.name), own))
        place.ip(place.far, *(_address("lo", one) for one in alone), *scene.far)
        if not scene.has_default:
            place.ip(place.node, "route del default", "-6 route del default")
        place.ip(place.node, *scene.node)

    def _clear(self, place: Place, scene: Scene) -> None:
        for cable in scene.cables:
            words = lab_processes.inside(place.node, ["ip", "link", "del", cable.name])
            subprocess.run(words, check=False, capture_output=True)
        for words in (
            ["ip", "route", "flush", "proto", "boot"],
            ["ip", "-6", "route", "flush", "proto", "boot"],
        ):
            subprocess.run(lab_processes.inside(place.node, words), check=False, capture_output=True)
        if place is not self.ours:  # these daemons leave their routes when they are killed
            for judge in JUDGES:
                for where in routes_of(place.node, judge.protocol):
                    place.ip(place.node, f"route del {where} proto {judge.protocol}")
        place.ip(place.node, *self._defaults)
        place.ip(place.far, "address flush dev lo scope global")
        lab_processes.wait_for(
            "an end of the scene's routes",
            lambda: not any(routes_of(place.node, judge.protocol) for judge in JUDGES),
            AGREE_SECONDS,
        )

    def _agree(self, judge: Judge, number: int, step: Step) -> None:
        """Until both have the same, and it stands."""
        judged: Routes = {}
        ours: Routes = {}
        since = time.monotonic()

        def stand() -> bool:
            nonlocal judged, ours, since
            before = judged, ours
            judged = routes_of(judge.place.node, judge.protocol)
            ours = routes_of(self.ours.node, "bird")
            if (judged, ours) != before or judged != ours or len(judged) != step.has:
                since = time.monotonic()
            return time.monotonic() - since >= QUIET_SECONDS

        try:
            lab_processes.wait_for("the same", stand, AGREE_SECONDS)
        except LabError:
            raise AssertionError(
                f"step {number}: {judge.name} should have {step.has} routes and has\n{_text(judged)}\n"
                f"we have\n{_text(ours)}\n{judge.said()}"
            ) from None


def _place(lab: Lab, name: str, node: str) -> Place:
    """A folder, and the far side's namespace."""
    place = Place(name, node, f"{lab.plan.prefix}far-{name}", lab.plan.directory / name)
    place.folder.mkdir()
    fabric.make_namespace(place.far)
    return place


def _address(device: str, text: str) -> str:
    return f"address add {text} dev {device}" + (" nodad" if ":" in text else "")


def _bgp_peer(peer: Peer) -> bytes:
    spec = {
        "node": "node1",
        "peerIP": peer.address,
        "asNumber": peer.asn,
        "sourceAddress": "None",
        **peer.spec,
    }
    return json.dumps(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "BGPPeer",
            "metadata": {"name": peer.name},
            "spec": spec,
        }
    ).encode()


@contextmanager
def judging(
    word: str, settings: Mapping[str, str] | None = None, options: Options | None = None
) -> Iterator[JudgedLab]:
    """A lab for scenes; `settings` of our agent (`TORTIE_…`), `options` of the judges."""
    name = named(word)
    try:
        lab = lifecycle.up(name, 1, Mode.NONE, lambda _: None, dual_stack=True)
        if settings:
            (node,) = lab.plan.nodes
            lab_processes.stop_agent(node, signal.SIGTERM)
            lab_processes.start_agents([node], settings)
            lab_processes.wait_for_agents(lab.plan)
        with raw_store(lab.plan) as store:
            yield JudgedLab(lab, store, options or Options())
    finally:
        lifecycle.down(name)
