"""Five hundred pods on three nodes, made and removed by sixteen callers at once; nothing of them is left."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_interface
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agent.cni.plugin.plugin_install import PluginPaths, install
from agent.lab import icmp, lifecycle
from agent.lab.fabric import NAMESPACES
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lab_processes import wait_for
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_remains import datastore, kernels
from tests.scenes.lab.labs import MakeLab, make_lab, named

__all__ = ["make_lab"]

PODS, CALLERS, LEFT_TO_GC = 500, 16, 100
CALL_SECONDS = 60.0
PING_SECONDS = 10.0
KERNEL_SECONDS = 20.0
NETWORK = {"cniVersion": "1.1.0", "name": "pods", "type": "tortie"}


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    """Three nodes with tunnels: each has a block from the start."""
    yield make_lab("many", Mode.VXLAN, nodes=3, pods=0)
    lifecycle.down(named("many"))


@dataclass(frozen=True)
class Pod:
    """One of many."""

    name: str
    container: str
    node: LabNode
    namespace: str

    def call(self, verb: str) -> Any:
        """The plugin, as a runtime calls it; its answer."""
        words = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": str(NAMESPACES / self.namespace),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name}",
        }
        return run(self.node, words, NETWORK)


def run(node: LabNode, words: dict[str, str], config: dict[str, Any]) -> Any:
    """One invocation of a node's plugin."""
    done = subprocess.run(
        [plugin(node)],
        env=words,
        input=json.dumps(config).encode(),
        capture_output=True,
        timeout=CALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout)
    return json.loads(done.stdout) if done.stdout else None


def plugin(node: LabNode) -> Path:
    return node.directory / "plugins" / "tortie"


def batch(lines: Sequence[str]) -> None:
    """Many commands of ip(8) in one process."""
    text = "\n".join(lines).encode()
    subprocess.run(["ip", "-batch", "-"], input=text, check=True, capture_output=True)


def test_five_hundred_pods_of_sixteen_callers_ping_their_neighbours_and_leave_nothing(lab: Lab) -> None:
    for node in lab.plan.nodes:
        home = node.directory / "plugins"
        for _ in install(
            PluginPaths(home, home, node.run / "cni.sock", node.directory / "state"), "c", "pods"
        ):
            pass
    before, stored = kernels(lab), datastore(lab)
    pods = [
        Pod(name, uuid4().hex, lab.plan.nodes[number % len(lab.plan.nodes)], lab.plan.pod_namespace(name))
        for number, name in ((number, f"p{number}") for number in range(PODS))
    ]
    batch([f"netns add {pod.namespace}" for pod in pods])
    with ThreadPoolExecutor(CALLERS) as callers:
        started = time.monotonic()
        results = list(callers.map(lambda pod: pod.call("ADD"), pods))
        added = time.monotonic() - started
        addresses = {pod.name: result["ips"][0]["address"] for pod, result in zip(pods, results, strict=True)}
        assert len(set(addresses.values())) == PODS
        wait_for("a ping's answer from every pod's neighbour", lambda: silent(pods, addresses) == [], 60)
        started = time.monotonic()
        list(callers.map(lambda pod: pod.call("DEL"), pods[LEFT_TO_GC:]))
        deleted = time.monotonic() - started
    started = time.monotonic()
    for node in lab.plan.nodes:
        run(node, {"CNI_COMMAND": "GC"}, {**NETWORK, "cni.dev/valid-attachments": []})
    collected = time.monotonic() - started
    batch([f"netns del {pod.namespace}" for pod in pods])
    wait_for("the end of the routes", lambda: kernels(lab) == before, KERNEL_SECONDS)
    assert datastore(lab) == stored
    assert [list((node.directory / "state").glob("releases/*")) for node in lab.plan.nodes] == [[], [], []]
    print(
        f"{PODS} ADDs of {CALLERS} callers {added:.1f} s, {PODS - LEFT_TO_GC} DELs {deleted:.1f} s, "
        f"GC of {LEFT_TO_GC} {collected:.2f} s"
    )


def silent(pods: Sequence[Pod], addresses: dict[str, str]) -> list[tuple[str, str]]:
    """Who had no answer from the pod after it; neighbours are on different nodes."""
    with icmp.pinger(
        {pod.name: NAMESPACES / pod.namespace for pod in pods},
        {name: IPv4Address(ip_interface(address).ip) for name, address in addresses.items()},
    ) as pings:
        following = [*pods[1:], pods[0]]
        pings.send_round([(pod.name, other.name) for pod, other in zip(pods, following, strict=True)])
        pings.receive(time.monotonic() + PING_SECONDS)
        return [pair for pair, count in pings.counts.items() if count.lost]
