"""Measure g: pod to pod through routes the agents made, beside the same routes made by hand, on the same kernel.

Two rigs stand side by side: a lab of two nodes with its agents, and the same topology with `ip` commands only. Rounds
alternate between them: a TCP stream by iperf3, and the round trip of small packets by ping.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode
from agent.lab.pods import add_pod
from bench.figures import OURS, Measure, Series
from bench.testbed import BenchError, Space, spaces

LAB = f"stream{os.getpid() % 100_000}"
BY_HAND = "by hand"
PINGS = 500
PORT = "5201"

Inside = Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Rig:
    """Two pods on two nodes; how to run something in each, and where the second is."""

    name: str
    client: Inside
    server: Inside
    address: str


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def stream(rig: Rig, length: tuple[str, str]) -> float:
    """Gbit/s of one TCP connection from the client to the server; `length` is iperf3's: `-t` seconds or `-n` octets."""
    server = subprocess.Popen(
        rig.server(["iperf3", "-s", "-1", "-p", PORT]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        listening = rig.server(["ss", "-Hltn", f"sport = :{PORT}"])
        deadline = time.monotonic() + 10
        while not _run(listening).strip():
            if time.monotonic() > deadline:
                raise BenchError(f"{rig.name}: iperf3 does not listen")
        said = _run(rig.client(["iperf3", "-c", rig.address, "-p", PORT, *length, "-J"]))
        answer = json.loads(said)
        if "error" in answer:
            raise BenchError(f"{rig.name}: iperf3: {answer['error']}")
        received: float = answer["end"]["sum_received"]["bits_per_second"]
        return received / 1e9
    finally:
        server.kill()
        server.wait()


def round_trip(rig: Rig) -> float:
    """Microseconds, the mean of many."""
    said = _run(rig.client(["ping", "-q", "-c", str(PINGS), "-i", "0.002", rig.address]))
    found = re.search(r"= [\d.]+/([\d.]+)/", said)
    if found is None or " 0% packet loss" not in said:
        raise BenchError(f"{rig.name}: {said.strip()}")
    return float(found[1]) * 1000


NFT = """
table inet hand {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 192.168.0.0/16 ip daddr != 192.168.0.0/16 masquerade
  }
}
"""
"""What natOutgoing needs: with it the kernel tracks connections, as it does for every agent's."""


def _veth(one: Space, device: str, other: Space, there: str) -> None:
    one.run(
        "ip", "link", "add", device, "type", "veth", "peer", "name", there, "netns", str(other.holder.pid)
    )
    one.run("ip", "link", "set", device, "up")
    other.run("ip", "link", "set", there, "up")


def by_hand(made: list[Space], mode: Mode, mtu: int) -> Rig:
    """The topology of the lab, by `ip` alone: fabric with a bridge, two nodes, a pod on each."""
    fabric, *ends = made
    fabric.run("ip", "link", "add", "br0", "type", "bridge")
    fabric.run("ip", "link", "set", "br0", "up")
    nodes, pods = ends[:2], ends[2:]
    for number, (node, pod) in enumerate(zip(nodes, pods, strict=True), 1):
        _veth(fabric, f"n{number}", node, "eth0")
        fabric.run("ip", "link", "set", f"n{number}", "master", "br0")
        node.run("ip", "address", "add", f"172.26.0.{number}/20", "dev", "eth0")
        node.run(
            "ip", "route", "add", "default", "via", "172.26.0.9"
        )  # proxy ARP answers for what has a route
        node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        node.run("nft", "-f", "-", text=NFT)
        _veth(node, "cali0", pod, "eth0")
        node.run("sysctl", "-qw", "net.ipv4.conf.cali0.proxy_arp=1")
        for space, device in ((node, "cali0"), (pod, "eth0")):
            space.run("ip", "link", "set", device, "mtu", str(mtu))
        node.run("ip", "route", "add", f"192.168.{number}.1", "dev", "cali0", "scope", "link")
        pod.run("ip", "address", "add", f"192.168.{number}.1/32", "dev", "eth0")
        pod.run("ip", "route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
        pod.run("ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
        if mode is Mode.VXLAN:
            node.run("ip", "link", "add", "vx", "address", f"02:00:00:00:00:0{number}", "type", "vxlan", "id", "4096",
                     "dstport", "4789", "local", f"172.26.0.{number}", "dev", "eth0", "nolearning")  # fmt: skip
            node.run("ip", "address", "add", f"192.168.{number}.0/32", "dev", "vx")
            node.run("ip", "link", "set", "vx", "mtu", str(mtu), "up")
    for number, node in enumerate(nodes, 1):
        other = 3 - number
        if mode is Mode.VXLAN:
            mac = f"02:00:00:00:00:0{other}"
            node.run(
                "ip", "neigh", "add", f"192.168.{other}.0", "lladdr", mac, "dev", "vx", "nud", "permanent"
            )
            node.run("bridge", "fdb", "add", mac, "dev", "vx", "dst", f"172.26.0.{other}")
            words = ["via", f"192.168.{other}.0", "dev", "vx", "onlink"]
        else:
            words = ["via", f"172.26.0.{other}", "dev", "eth0"]
        node.run("ip", "route", "add", f"192.168.{other}.0/26", *words)
    return Rig(BY_HAND, pods[0].inside, pods[1].inside, "192.168.2.1")


def measure(rounds: int, length: tuple[str, str], progress: Callable[[str], None]) -> list[Measure]:
    """Every mode that needs no more than a plain kernel; each stream has iperf3's `length`."""
    found = []
    for mode in (Mode.NONE, Mode.VXLAN):
        progress(f"(g) traffic, {mode.value}")
        lab = lifecycle.up(LAB, 2, mode, progress)
        try:
            one, two = (
                add_pod(lab.plan, f"pod{number}", node) for number, node in enumerate(lab.plan.nodes, 1)
            )

            def inside(pod: str) -> Inside:
                return lambda command: lab_processes.inside(lab.plan.pod_namespace(pod), command)  # noqa: B023

            ours = Rig(OURS, inside(one.name), inside(two.name), two.address)
            mtu = _mtu(ours)
            with spaces(5) as made:
                rigs = (ours, by_hand(made, mode, mtu))
                streams: dict[str, list[float]] = {rig.name: [] for rig in rigs}
                trips: dict[str, list[float]] = {rig.name: [] for rig in rigs}
                for number in range(rounds):
                    progress(f"(g) traffic, {mode.value}, round {number + 1} of {rounds}")
                    for rig in rigs:
                        streams[rig.name].append(stream(rig, length))
                        trips[rig.name].append(round_trip(rig))
        finally:
            lifecycle.down(LAB)
        found += [
            Measure(
                f"g-{mode.value}",
                f"pod to pod, one TCP stream, {mode.value}",
                tuple(Series(name, "Gbit/s", tuple(values)) for name, values in streams.items()),
                ">= 0.98 of by hand",
                BY_HAND,
                0.98,
                at_least=True,
            ),
            Measure(
                f"g-{mode.value}-rtt",
                f"pod to pod, round trip, {mode.value}",
                tuple(Series(name, "us", tuple(values)) for name, values in trips.items()),
            ),
        ]
    return found


def _mtu(rig: Rig) -> int:
    found = re.search(r"mtu (\d+)", _run(rig.client(["ip", "link", "show", "dev", "eth0"])))
    if found is None:
        raise BenchError("the pod's eth0 has no MTU")
    return int(found[1])
