"""What must hold once the faults of a round are over, looked at from outside: namespaces, `ip`, `tortie`, /proc."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.lab import lab_processes, lifecycle
from agent.lab.fabric import NAMESPACES
from agent.lab.lab_plan import LabError
from agent.lab.pods import pods
from tests.chaos.world import STEADY, World

CALM_SECONDS = 60.0
PLAN_SECONDS = 20.0
MORE_DESCRIPTORS = 24
"""Of an agent after many rounds: connections that come and go."""
MORE_KIBIBYTES = 24 << 10


def violations(world: World) -> Iterator[str]:
    """What does not hold, a sentence each; waits until the agents are calm first."""
    try:
        lab_processes.wait_for("calm", world.is_calm, CALM_SECONDS)
        world.remove_what_failed()
    except LabError as error:
        yield f"{error}: {world.why_not_calm()}"
        return
    yield from shared_addresses(world)
    try:
        lab_processes.wait_for("the kernel as desired", lambda: not any(plans(world).values()), PLAN_SECONDS)
    except LabError as error:
        yield f"{error}: {plans(world)}"
    counts = lifecycle.ping(world.lab, rounds=2).counts
    for (one, other), count in counts.items():
        if count.received == 0:
            yield f"{one} does not reach {other}"
    check = world.tortie(world.nodes[0], "ipam", "check")
    if check.returncode != 0:
        yield f"ipam check: {check.stdout} {check.stderr}"


def shared_addresses(world: World) -> Iterator[str]:
    """Addresses that two pods bear, and pods that bear another than they were given."""
    borne = Counter[str]()
    for pod in pods(world.lab.plan):
        command = lab_processes.inside(
            world.lab.plan.pod_namespace(pod.name), ["ip", "-j", "-4", "addr", "show", "dev", "eth0"]
        )
        done = subprocess.run(command, capture_output=True, check=False)
        found = [
            one["local"] for link in json.loads(done.stdout or "[]") for one in link.get("addr_info", [])
        ]
        if found != [pod.address]:
            yield f"{pod.name} was given {pod.address} and bears {found}"
        borne.update(found)
    yield from (f"{address} is borne by {count} pods" for address, count in borne.items() if count > 1)


def plans(world: World) -> dict[str, list[str]]:
    """Node -> what the next pass would change."""
    found = {}
    for node in world.nodes:
        done = world.tortie(node, "plan", "-o", "json")
        steps = json.loads(done.stdout)["steps"] if done.returncode == 0 else [done.stderr]
        found[node.name] = [str(step) for step in steps]
    return found


@dataclass(frozen=True)
class Weight:
    """What an agent holds."""

    descriptors: int
    kibibytes: int
    """Resident."""


def weights(world: World) -> dict[str, Weight]:
    """Node -> its agent's."""
    found = {}
    for name, pid in world.agent_pids().items():
        status = Path(f"/proc/{pid}/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0])
        found[name] = Weight(len(os.listdir(f"/proc/{pid}/fd")), resident)
    return found


def growth(before: dict[str, Weight], after: dict[str, Weight]) -> Iterator[str]:
    """Agents that hold much more than before."""
    for name, now in after.items():
        was = before[name]
        if now.descriptors > was.descriptors + MORE_DESCRIPTORS:
            yield f"the agent of {name} has {now.descriptors} descriptors, it had {was.descriptors}"
        if now.kibibytes > was.kibibytes + MORE_KIBIBYTES:
            yield f"the agent of {name} has {now.kibibytes} KiB resident, it had {was.kibibytes}"


def remains(world: World) -> Iterator[str]:
    """What is left once every pod is removed: devices, endpoints, addresses of pods, descriptors to nowhere."""
    for node in world.nodes:
        links = json.loads(world.on(node, "ip", "-j", "link").stdout)
        yield from (
            f"{link['ifname']} is left on {node.name}" for link in links if link["ifname"].startswith("cali")
        )
    keys = world.etcdctl("get", "--prefix", "--keys-only", "/calico/").decode().split()
    yield from (f"{key} is left" for key in keys if "/workloadendpoints/" in key or f"{STEADY}" in key)
    check = world.tortie(world.nodes[0], "ipam", "check")
    if check.returncode != 0:
        yield f"ipam check at the end: {check.stdout} {check.stderr}"
    left = [name.name for name in NAMESPACES.glob(f"{world.lab.plan.prefix}pod-*")]
    yield from (f"namespace {name} is left" for name in left)
