"""Five hundred pods, made and removed by sixteen callers at once: everyone reaches a neighbour, nothing is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.lab import fabric, icmp, processes
from agent.lab.life import Lab
from agent.lab.plan import Mode, etcd_endpoint
from agent.lab.pods import pods
from agent.lab.routes import table
from tests.lab.conftest import COMMAND, MakeLab, named, tortie

pytestmark = pytest.mark.lab

PODS, CALLERS = 500, 16
REPLY_SECONDS, ROUNDS = 6.0, 3
"""One kernel stands for all nodes and pods here, and its neighbour table (gc_thresh3, 1024 entries in all namespaces
together) may be full for a moment; entries older than five seconds make room."""
CLAIMS = re.compile(r"/calico/ipam/v2/(assignment|host)/")
"""Blocks and their claims stay with the node that took them, as Calico's do."""


def datastore(lab: Lab) -> dict[str, str]:
    """Everything in etcd."""
    asked = subprocess.run(
        processes.inside(
            lab.plan.fabric, ["etcdctl", "--endpoints", etcd_endpoint(), "get", "--prefix", "/calico/"]
        ),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ETCDCTL_API": "3"},
    )
    lines = asked.stdout.splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=True))


def kernel(lab: Lab) -> dict[str, tuple[list[str], list[str]]]:
    """Node -> its interfaces, and its routes but those of blocks."""
    found = {}
    for node in lab.plan.nodes:
        shown = subprocess.run(
            processes.inside(node.namespace, ["ip", "-o", "link"]), capture_output=True, text=True, check=True
        )
        links = sorted(line.split(": ")[1] for line in shown.stdout.splitlines())
        found[node.name] = (links, sorted(line for line in table(node) if "/26" not in line))
    return found


def calls(verb: str, lab: Lab, names: list[str]) -> None:
    """Sixteen callers share the work, each a command line of its own that calls the plugin pod by pod."""
    with ThreadPoolExecutor(CALLERS) as callers:
        words = ("lab", "pod", verb, "--name", lab.plan.name)
        shares = [names[first::CALLERS] for first in range(CALLERS)]
        for done in callers.map(lambda share: tortie(*words, *share), shares):
            assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    return make_lab("crowd", Mode.NONE, nodes=3, pods=3)


@pytest.mark.timeout(300)
def test_five_hundred_pods_come_reach_their_neighbours_and_go_without_a_trace(lab: Lab) -> None:
    assert lab.plan.name == named("crowd")
    before_store, before_kernel = datastore(lab), kernel(lab)
    names = [f"crowd{number:03}" for number in range(PODS)]
    calls("add", lab, names)
    made = {pod.name: pod for pod in pods(lab.plan) if pod.name in names}
    assert len({pod.address for pod in made.values()}) == PODS
    assert {pod.node for pod in made.values()} == {node.name for node in lab.plan.nodes}
    spaces = {name: fabric.NAMESPACES / lab.plan.pod_namespace(name) for name in names}
    neighbours = [(one, names[(number + 1) % PODS]) for number, one in enumerate(names)]
    pings = icmp.pinger(spaces, {name: made[name].ip for name in names})
    try:
        processes.wait_for("the last new block's routes", lambda: blocks_routed(lab), REPLY_SECONDS)
        for _ in range(ROUNDS):
            pings.send_round([pair for pair in neighbours if not reached(pings, pair)])
            pings.receive(time.monotonic() + REPLY_SECONDS)
            pings.forget_outstanding()
    finally:
        icmp.close(pings)
    assert [pair for pair in neighbours if not reached(pings, pair)] == []

    calls("rm", lab, names)
    processes.wait_for("the last release", lambda: allocated(lab) == 3, 30)
    after = datastore(lab)
    assert {key for key in after if not CLAIMS.search(key)} == {
        key for key in before_store if not CLAIMS.search(key)
    }
    assert kernel(lab) == before_kernel
    checked = tortie("lab", "exec", "--name", lab.plan.name, "node1", "--", *COMMAND, "ipam", "check")
    assert checked.returncode == 0, checked.stdout


def blocks_routed(lab: Lab) -> bool:
    """Whether every node has every block: its own as a blackhole, the others' by a way."""
    tables = [table(node) for node in lab.plan.nodes]
    own = {line.split()[1] for lines in tables for line in lines if line.startswith("blackhole")}
    return all(
        own <= {word for line in lines for word in line.split()[:2] if word.endswith("/26")}
        for lines in tables
    )


def reached(pings: icmp.Pinger, pair: icmp.Pair) -> bool:
    """Whether a reply came."""
    count = pings.counts.get(pair)
    return count is not None and count.received > 0


def allocated(lab: Lab) -> int:
    """Addresses in use in all blocks."""
    blocks = [json.loads(value) for key, value in datastore(lab).items() if "/ipam/v2/assignment/" in key]
    return sum(slot is not None for block in blocks for slot in block["allocations"])
