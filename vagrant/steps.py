"""The smoke test's steps, each a function that returns what was seen or raises Unmet.

Promises: a step leaves the scene as the next one needs it. Does not know: how the steps are reported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.lab.lab_plan import TOPOLOGY, Mode, gateway
from vagrant.answers import FIRST_HOPS, established, own_blocks
from vagrant.forbidden import OF_A_POD, OF_A_STRANGER, PACKETS, drops, more, sending
from vagrant.machines import Unmet, wait_until
from vagrant.scene import LAB, NODES, ROUTER, SETTLE_SECONDS, Encapsulation, Scene

IPIP, VXLAN, NONE = (Encapsulation(mode) for mode in (Mode.IPIP, Mode.VXLAN, Mode.NONE))
CROSS_IPIP, CROSS_VXLAN = (Encapsulation(Mode.CROSS_SUBNET, vxlan=vxlan) for vxlan in (False, True))
ENCAPSULATION_CHANGES = (VXLAN, CROSS_VXLAN, CROSS_IPIP, NONE)
PODS_PER_NODE = 2
BOOT_SECONDS = 600.0
INSTALL_SECONDS = 900.0
QUIET_SECONDS = 3.0
REBOOTED, UPGRADED, DRAINED, RESTARTED = "node2", "node3", "node2", "node2"
PACKAGE_ON_NODE = "/tmp/tortie-next.deb"

StepFunction = Callable[[Scene], str]


def status(scene: Scene, node: str) -> dict[str, object]:
    """What a node's agent says of itself."""
    answer: dict[str, object] = json.loads(
        scene.machines.run(node, "tortie node status --json || test $? = 1")
    )
    return answer


def sessions(scene: Scene, node: str) -> int:
    """Its established sessions."""
    peers = status(scene, node)["peers"]
    assert isinstance(peers, list)
    return sum(peer["state"] == "Established" for peer in peers)


def _resource(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec}


def peering(scene: Scene) -> str:
    """Nodes in a mesh, and the router of each rack as a peer of its nodes.

    Nodes advertise to the router their own blocks alone: it would take some from a node that sends them back to it.
    """
    rule = {"source": "RemotePeers", "action": "Reject"}
    scene.apply(_resource("BGPFilter", "own-blocks", {"exportV4": [rule]}))
    for number, segment in enumerate(LAB.segments):
        spec = {
            "peerIP": str(gateway(segment)),
            "asNumber": TOPOLOGY.router_as,
            "nodeSelector": f"rack == 'rack{number}'",
            "filters": ["own-blocks"],
        }
        scene.apply(_resource("BGPPeer", f"rack{number}", spec))
    for node in NODES:
        wait_until(
            f"{node} in session with two nodes and the router",
            lambda node=node: sessions(scene, node) == len(NODES),  # type: ignore[misc]
            SETTLE_SECONDS,
        )
    said = established(scene.machines.run(ROUTER, "vtysh -c 'show bgp summary json'"))
    expected = {str(node.interface.ip) for node in LAB.nodes}
    if said != expected:
        raise Unmet(f"FRR is in session with {sorted(said)}, not with {sorted(expected)}")
    return f"{len(NODES)} nodes, each in session with the {len(NODES) - 1} others and with FRR"


def attaching(scene: Scene) -> str:
    """Pods by the installed plugin, with IPIP."""
    scene.change_encapsulation(IPIP)
    for number in range(PODS_PER_NODE * len(NODES)):
        scene.add_pod(f"p{number + 1}", list(NODES)[number % len(NODES)])
    scene.wait_routed(IPIP)
    return _pinged(scene)


def _pinged(scene: Scene) -> str:
    seen = scene.ping_all()
    ttls = {ttl for one in seen for ttl in one.ttls}
    if FIRST_HOPS not in ttls or ttls - {FIRST_HOPS - 1, FIRST_HOPS, FIRST_HOPS + 1}:
        raise Unmet(f"replies with the TTLs {sorted(ttls)}, which no way between two nodes has")
    return f"{len(scene.pods)} pods, {len(seen)} pings between them, 0 lost"


def guarded(scene: Scene) -> str:
    """With IPIP in force: a pod is nobody else and no node, and who is no node sends nothing into a tunnel."""
    pod = next(one for one in scene.pods.values() if one.node == "node1")
    far = next(one for one in scene.pods.values() if one.node == REBOOTED)
    node, words = NODES[REBOOTED].interface.ip, f"192.0.2.7 {far.address}"
    look, watched = "nft list table inet tortie", ("node1", REBOOTED)
    before = {name: drops(scene.machines.run(name, look)) for name in watched}
    own = f"{pod.address} {words} {node} {' '.join(sorted(OF_A_POD))}"
    scene.machines.run("node1", f"ip netns exec {pod.name} {sending(own)}")
    gate = gateway(LAB.segments[NODES[REBOOTED].segment])
    scene.machines.run(ROUTER, sending(f"{gate} {words} {node} {' '.join(OF_A_STRANGER)}"))
    found = {name: more(before[name], drops(scene.machines.run(name, look))) for name in watched}
    wanted = {"node1": OF_A_POD, REBOOTED: OF_A_STRANGER}
    for name, reasons in wanted.items():
        if found[name].keys() != reasons or min(found[name].values()) < PACKETS:
            raise Unmet(f"{name} dropped {found[name]}, not {PACKETS} of each of {sorted(reasons)}")
    return f"node1 dropped {found['node1']}, {REBOOTED} {found[REBOOTED]}; then {_pinged(scene)}"


def change_live(to: Encapsulation, scene: Scene) -> str:
    """The pool's mode changed under ping."""
    with scene.watch() as watch:
        began = time.monotonic()
        scene.change_encapsulation(to)
        scene.wait_routed(to)
        took = time.monotonic() - began
        time.sleep(QUIET_SECONDS)
    devices = sorted(
        {route.device for node in NODES for route in scene.routes(node) if "/26" in route.destination}
    )
    return f"{watch} while it changed ({took:.0f} s); over {', '.join(filter(None, devices))}; then {_pinged(scene)}"


def top_of_rack(scene: Scene) -> str:
    """FRR has every block in its kernel, and reaches every pod."""
    blocks = set(scene.blocks())
    command = "ip -j -4 route show proto bgp"

    def learned() -> bool:
        answer = json.loads(scene.machines.run(ROUTER, command) or "[]")
        return {route["dst"] for route in answer} == blocks

    wait_until(f"FRR's kernel to have exactly {sorted(blocks)}", learned, SETTLE_SECONDS)
    targets = " ".join(pod.address for pod in scene.pods.values())
    scene.machines.run(ROUTER, f"for pod in {targets}; do ping -n -q -c 1 -W 5 $pod; done")
    return f"FRR's kernel has the {len(blocks)} blocks and nothing else; it pings all {len(scene.pods)} pods"


def network_restarting(scene: Scene) -> str:
    """What configures a node's interfaces restarts: it takes their addresses off and puts them on again.

    The kernel drops the routes over an interface that loses its last address, and says nothing of it.
    """
    command = (
        "for unit in systemd-networkd networking; do systemctl -q is-active $unit && break; done; echo $unit"
    )
    unit = scene.machines.run(RESTARTED, command).strip()
    with scene.watch() as watch:
        began = time.monotonic()
        scene.machines.run(RESTARTED, f"systemctl restart {unit}")
        time.sleep(QUIET_SECONDS)
        scene.wait_routed(NONE)
        took = time.monotonic() - began
    return f"{unit}: all routes there again within {took:.0f} s; {watch}; then {_pinged(scene)}"


def booted(scene: Scene, node: str) -> str:
    """Which start of the machine this is."""
    return scene.machines.run(node, "cat /proc/sys/kernel/random/boot_id").strip()


def rebooting(scene: Scene) -> str:
    """A node restarts; the others' pods notice nothing, its own can be made again."""
    others = [node for node in NODES if node != REBOOTED]
    before = booted(scene, REBOOTED)
    with scene.watch(others) as watch:
        began = time.monotonic()
        scene.machines.run(REBOOTED, "(sleep 1; systemctl reboot) >/dev/null 2>&1 </dev/null &")
        time.sleep(QUIET_SECONDS)
        scene.machines.drop_connection(REBOOTED)

        def back() -> bool:
            if not scene.machines.answers(REBOOTED):
                scene.machines.drop_connection(REBOOTED)
                return False
            return booted(scene, REBOOTED) != before and sessions(scene, REBOOTED) == len(NODES)

        wait_until(f"{REBOOTED} to be back in session", back, BOOT_SECONDS)
        took = time.monotonic() - began
    for name in [pod.name for pod in scene.pods.values() if pod.node == REBOOTED]:
        # Its namespace went with the machine; the runtime calls DEL for what it finds gone, then ADD.
        scene.machines.run(REBOOTED, f"ip netns add {name}; pod del {name}")
        scene.add_pod(name, REBOOTED)
    scene.wait_routed(IPIP)
    if watch.lost:
        raise Unmet(f"between the other nodes {watch}")
    return f"back in session after {took:.0f} s; between the others {watch}; then {_pinged(scene)}"


def upgrading(package: Path, scene: Scene) -> str:
    """A newer package under traffic."""
    before = scene.machines.run(UPGRADED, "dpkg-query -W -f '${Version}' tortie")
    scene.machines.copy(package, UPGRADED, PACKAGE_ON_NODE)
    with scene.watch() as watch:
        began = time.monotonic()
        scene.machines.run(UPGRADED, f"dpkg -i {PACKAGE_ON_NODE}", INSTALL_SECONDS)
        wait_until(
            f"{UPGRADED} in session again",
            lambda: sessions(scene, UPGRADED) == len(NODES),
            SETTLE_SECONDS,
        )
        took = time.monotonic() - began
    after = scene.machines.run(UPGRADED, "dpkg-query -W -f '${Version}' tortie")
    if after == before or watch.lost:
        raise Unmet(f"from {before} to {after}, {watch}")
    return f"{before} to {after} in {took:.0f} s; {watch}; then {_pinged(scene)}"


def without_etcd(scene: Scene) -> str:
    """The datastore stops and comes back."""
    with scene.watch() as watch:
        scene.machines.run("node1", "systemctl stop etcd")
        time.sleep(QUIET_SECONDS)
        routed = scene.routed(IPIP)
        scene.machines.run("node1", "systemctl start etcd")
    if watch.lost or not routed:
        raise Unmet(f"{watch}; the routes {'stood' if routed else 'went'}")
    return f"routes stood, {watch}"


def draining(scene: Scene) -> str:
    """A node leaves its peers on purpose, and comes back."""
    others = [node for node in NODES if node != DRAINED]
    blocks = own_blocks(scene.routes(DRAINED))

    def gone() -> bool:
        return not any(route.destination in blocks for node in others for route in scene.routes(node))

    with scene.watch(others) as watch:
        began = time.monotonic()
        scene.machines.run(DRAINED, "tortie drain --text 'smoke test'")
        wait_until("the others to lose the drained node's blocks", gone, SETTLE_SECONDS)
        left = time.monotonic() - began
        scene.machines.run(DRAINED, "tortie undrain")
        scene.wait_routed(IPIP)
    if watch.lost:
        raise Unmet(f"between the other nodes {watch}")
    return (
        f"its blocks gone everywhere after {left:.0f} s; between the others {watch}; back, {_pinged(scene)}"
    )


def removing(scene: Scene) -> str:
    """The package is purged from a node: by its own proof and by ours the machine is as before."""
    for name in [pod.name for pod in scene.pods.values() if pod.node == UPGRADED]:
        scene.remove_pod(name)
    others = [node for node in NODES if node != UPGRADED]
    with scene.watch(others) as watch:
        proof = scene.machines.run(UPGRADED, "dpkg -P tortie 2>&1", INSTALL_SECONDS)
    different = scene.machines.run(UPGRADED, "picture | diff /root/picture - || true").strip()
    missing = [
        what for what in ("links", "routes", "rules", "nft", "sysctls") if f"{what}: as before" not in proof
    ]
    if different or missing or watch.lost:
        raise Unmet(f"not proved: {', '.join(missing) or 'nothing'}; different: {different[:1500]}; {watch}")
    return f"proof printed, and the machine's picture is byte for byte that before the installation; {watch}"


def steps(package: Path) -> list[tuple[str, StepFunction]]:
    """All of them, in order. `package`: a newer one than is installed."""
    return [
        ("BGP: mesh, and FRR as the racks' router", peering),
        ("pods, with IPIP", attaching),
        ("the workload filter, with IPIP", guarded),
        ("FRR learns the blocks", top_of_rack),
        *((f"live to {to.name}", partial(change_live, to)) for to in ENCAPSULATION_CHANGES),
        (f"networkd of {RESTARTED} restarts", network_restarting),
        ("live to IPIP", partial(change_live, IPIP)),
        ("etcd stops for a while", without_etcd),
        (f"reboot of {REBOOTED}", rebooting),
        (f"upgrade of {UPGRADED}", partial(upgrading, package)),
        (f"drain of {DRAINED}", draining),
        (f"removal from {UPGRADED}", removing),
    ]
