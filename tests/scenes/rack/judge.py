"""The same small scene with BIRD in the node's place and with us, side by side: the kernel's routes must be equal.

A scene is cables to the far side, routes of the host, BGP peers with what they announce, and steps. It is built twice,
in namespaces of their own with the same names and addresses: once around a lab's node with our agent, once around the
judge. After each step the routes that BGP brought are compared: destination, type, gateways, devices, weights.
Protocol number, metric and flags are each one's own. `has` is how many the judge must have: nothing is proved by
two empty tables.

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
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from agent.lab import fabric, lab_processes, lifecycle
from agent.lab.lab_plan import LabError, LabNode, Mode, gateway, gateway6
from agent.lab.lifecycle import Lab
from tests.scenes.lab.labs import named
from tests.scenes.lab.raw_store import RawStore, raw_store

NODE_AS = 64512
AGREE_SECONDS, QUIET_SECONDS, LOOK_SECONDS = 20.0, 0.3, 0.05
"""To agree with the judge; for how long the judge's routes must stand to be its judgement."""
PEERS_KEY = "/calico/resources/v3/projectcalico.org/bgppeers/"


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair: an interface of the node, and one of the same name at the far side."""

    name: str
    near: tuple[str, ...] = ()
    """The node's addresses with their lengths."""
    far: tuple[str, ...] = ()
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Announced:
    """A prefix that a peer announces."""

    prefix: str
    how: str = ""
    """Statements of a BIRD filter on it: `bgp_next_hop = 10.9.9.9; bgp_med = 5; bgp_path.prepend(65000);`."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A BGP speaker at the far side."""

    name: str
    address: str
    """Its own; one that no cable has is put on the far side's lo."""
    near: str
    """The node's address that it speaks with."""
    announces: tuple[Announced, ...] = ()
    asn: int = 64601
    spec: Mapping[str, Any] = field(default_factory=dict)
    """More of our BGPPeer's spec."""
    bird: str = ""
    """More of the judging BIRD's protocol."""
    far_bird: str = ""
    """More of the peer's own."""

    @property
    def version(self) -> int:
        """Of IP: of the session, and of what it carries."""
        return ip_address(self.address).version


@dataclass(frozen=True, slots=True)
class Step:
    """What happens, on both sides, before the routes are compared."""

    has: int
    """How many routes of BGP the judge must have after it, of both versions of IP."""
    node: tuple[str, ...] = ()
    """`ip` commands at the node: "link set eth1 down", "-6 route add …"."""
    far: tuple[str, ...] = ()
    """`ip` commands at the far side."""
    birdc: tuple[str, ...] = ()
    """Commands of the peers' BIRD: "disable NAME"."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is built; the first step is compared once it all stands."""

    cables: tuple[Cable, ...]
    peers: tuple[Peer, ...]
    steps: tuple[Step, ...]
    node: tuple[str, ...] = ()
    """`ip` commands at the node, before its BGP begins."""
    far: tuple[str, ...] = ()
    has_default: bool = True
    """Whether the node has a default route, of each version of IP."""


FAR = """
router id 192.0.2.9;
log "{folder}/far.log" all;
protocol device {{ scan time 1; }}
{peers}
"""
FAR_PEER = """
ipv{v} table t_{name};
protocol static s_{name} {{ ipv{v} {{ table t_{name}; }}; {routes} }}
protocol bgp {name} {{
  local {address} as {asn}; neighbor {near} as {node_as}; multihop; router id 192.0.2.{number};
  connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9; graceful restart off;
  {more}
  ipv{v} {{ table t_{name}; import none; next hop keep;
    export filter {{ {how} accept; }}; }};
}}
"""
JUDGE = """
router id 172.26.0.11;
log "{folder}/judge.log" all;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; interface -"cali*", "*"; }}
protocol kernel kernel4 {{ learn; persist; scan time 1; ipv4 {{ import all; export where source = RTS_BGP; }}; {more} }}
protocol kernel kernel6 {{ learn; persist; scan time 1; ipv6 {{ import all; export where source = RTS_BGP; }}; {more} }}
{peers}
"""
JUDGE_PEER = """
protocol bgp {name} {{
  local as {node_as}; neighbor {address} as {asn}; multihop; source address {near};
  connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 9; graceful restart off;
  {more}
  ipv{v} {{ import all; export none; }};
}}
"""

Routes = dict[str, tuple[str, ...]]
"""Destination -> its type and next hops, each a text."""


def routes_of_bgp(namespace: str) -> Routes:
    """What BIRD, or we, have written into a namespace's main table."""
    found: Routes = {}
    for version in ("-4", "-6"):
        words = lab_processes.inside(namespace, ["ip", "-j", version, "route", "show", "proto", "bird"])
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


@dataclass(frozen=True, slots=True)
class Place:
    """The node's namespace and the far side's, once around us and once around the judge."""

    name: str
    node: str
    far: str
    folder: Path

    def ip(self, namespace: str, *commands: str) -> None:
        """Run some `ip` commands; each must succeed."""
        for command in commands:
            words = lab_processes.inside(namespace, ["ip", *command.split()])
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{self.name}: ip {command}: {done.stderr.strip()}"

    def bird(self, namespace: str, what: str, config: str) -> subprocess.Popen[bytes]:
        """Start a BIRD; it answers when this returns."""
        (self.folder / f"{what}.conf").write_text(config)
        control = self.folder / f"{what}.ctl"
        control.unlink(missing_ok=True)
        words = ["bird", "-f", "-c", str(self.folder / f"{what}.conf"), "-s", str(control)]
        errors = (self.folder / f"{what}.err").open("w+b")
        with errors:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *lab_processes.inside(namespace, words)],
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        try:
            lab_processes.wait_for(
                "BIRD", lambda: control.exists() or process.poll() is not None, AGREE_SECONDS
            )
            assert control.exists(), (self.folder / f"{what}.err").read_text()
        except (LabError, AssertionError):
            process.kill()
            process.wait()
            raise
        return process

    def birdc(self, what: str, *words: str) -> str:
        """What a BIRD here answers."""
        control = str(self.folder / f"{what}.ctl")
        done = subprocess.run(["birdc", "-s", control, *words], check=True, capture_output=True, text=True)
        return done.stdout


class JudgedLab:
    """A lab of one node with our agent, and a namespace for the judge."""

    def __init__(self, lab: Lab, store: RawStore, bird: str) -> None:
        self._store, self._bird = store, bird
        self.node: LabNode = lab.plan.nodes[0]
        places = []
        for name, node in (("ours", self.node.namespace), ("judge", f"{lab.plan.prefix}judge")):
            folder = lab.plan.directory / name
            folder.mkdir()
            places.append(Place(name, node, f"{lab.plan.prefix}far-{name}", folder))
        self.ours, self.judge = places
        fabric.make_namespace(self.judge.node)
        own, own6 = self.node.interface, self.node.interface6
        self.judge.ip(
            self.judge.node,
            "link add eth0 up type veth peer name beyond",
            "link set beyond up",
            f"address add {own} dev eth0",
            f"address add {own6} dev eth0 nodad",
        )
        self._defaults = (
            f"route replace default via {gateway(lab.plan.segments[0])} dev eth0 proto static",
            f"-6 route replace default via {gateway6(0)} dev eth0 proto static",
        )
        self.judge.ip(self.judge.node, *self._defaults)
        for place in places:
            fabric.make_namespace(place.far)

    def compare(self, scene: Scene) -> None:
        """Build it, go through its steps, compare after each, take it away. Raises AssertionError with both tables."""
        running: list[subprocess.Popen[bytes]] = []
        places = (self.ours, self.judge)
        try:
            for place in places:
                self._cable(place, scene)
                running.append(place.bird(place.far, "far", _far(place, scene)))
            self._store.write({PEERS_KEY + one.name: _bgp_peer(one) for one in scene.peers})
            running.append(self.judge.bird(self.judge.node, "judge", _judge(self.judge, scene, self._bird)))
            for number, step in enumerate(scene.steps):
                for place in places:
                    place.ip(place.node, *step.node)
                    place.ip(place.far, *step.far)
                    for command in step.birdc:
                        place.birdc("far", *command.split())
                self._agree(number, step)
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
        for version in ("-4", "-6"):
            if place is self.judge:
                place.ip(place.node, f"{version} route flush proto bird")
        place.ip(place.node, *self._defaults)
        place.ip(place.far, "address flush dev lo scope global")
        lab_processes.wait_for(
            "an end of the scene's routes", lambda: not routes_of_bgp(place.node), AGREE_SECONDS
        )

    def _agree(self, number: int, step: Step) -> None:
        judged = self._judged(number, step)
        ours: Routes = {}

        def same() -> bool:
            nonlocal ours
            ours = routes_of_bgp(self.ours.node)
            return ours == judged

        try:
            lab_processes.wait_for("the same", same, AGREE_SECONDS)
        except LabError:
            raise AssertionError(
                f"step {number}:\nthe judge has\n{_text(judged)}\nwe have\n{_text(ours)}"
            ) from None

    def _judged(self, number: int, step: Step) -> Routes:
        """The judge's routes, once it has as many as it must and they stand."""
        found: Routes = {}
        since = time.monotonic()

        def stands() -> bool:
            nonlocal found, since
            now = routes_of_bgp(self.judge.node)
            if now != found or len(now) != step.has:
                found, since = now, time.monotonic()
            return time.monotonic() - since >= QUIET_SECONDS

        try:
            lab_processes.wait_for("a judgement", stands, AGREE_SECONDS)
        except LabError:
            protocols = self.judge.birdc("judge", "show", "protocols")
            routes = self.judge.birdc("judge", "show", "route", "all")
            raise AssertionError(
                f"step {number}: the judge should have {step.has} routes and has\n{_text(found)}\n{protocols}\n{routes}"
            ) from None
        return found


def _address(device: str, text: str) -> str:
    return f"address add {text} dev {device}" + (" nodad" if ":" in text else "")


def _far(place: Place, scene: Scene) -> str:
    peers = [
        FAR_PEER.format(
            v=one.version,
            name=one.name,
            number=number,
            address=one.address,
            asn=one.asn,
            near=one.near,
            node_as=NODE_AS,
            routes=" ".join(f"route {what.prefix} blackhole;" for what in one.announces),
            how=" ".join(
                f"if net = {what.prefix} then {{ {what.how} }}" for what in one.announces if what.how
            ),
            more=one.far_bird,
        )
        for number, one in enumerate(scene.peers, 10)
    ]
    return FAR.format(folder=place.folder, peers="".join(peers))


def _judge(place: Place, scene: Scene, more: str) -> str:
    peers = [
        JUDGE_PEER.format(
            v=one.version,
            name=one.name,
            address=one.address,
            asn=one.asn,
            near=one.near,
            node_as=NODE_AS,
            more=one.bird,
        )
        for one in scene.peers
    ]
    return JUDGE.format(folder=place.folder, more=more, peers="".join(peers))


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
def judging(word: str, settings: Mapping[str, str] | None = None, bird: str = "") -> Iterator[JudgedLab]:
    """A lab for scenes; `settings` of our agent (`TORTIE_…`), `bird` in the judge's kernel protocols."""
    name = named(word)
    try:
        lab = lifecycle.up(name, 1, Mode.NONE, lambda _: None, dual_stack=True)
        if settings:
            (node,) = lab.plan.nodes
            lab_processes.stop_agent(node, signal.SIGTERM)
            lab_processes.start_agents([node], settings)
            lab_processes.wait_for_agents(lab.plan)
        with raw_store(lab.plan) as store:
            yield JudgedLab(lab, store, bird)
    finally:
        lifecycle.down(name)
