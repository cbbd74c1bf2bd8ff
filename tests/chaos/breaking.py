"""How one thing breaks and stays broken, and is mended: a breakage, and what breakages are made of.

A breakage is a context manager like a fault, entered when it breaks and left when somebody mends it. `words` are what a
trouble that names it has one of.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from agent.lab.lab_plan import LabNode
from tests.chaos.world import World

DEFAULT_POOL = "/calico/resources/v3/projectcalico.org/ippools/default-ipv4-ippool"
KINDS = {"bgpconfigurations": "BGPConfiguration", "bgpfilters": "BGPFilter", "bgppeers": "BGPPeer"}
OTHERS_DEVICE = "law0"
"""What somebody else calls a device."""


@dataclass(frozen=True, slots=True)
class Breakage:
    """One thing that can break."""

    name: str
    run: Callable[[World], AbstractContextManager[None]]
    words: tuple[str, ...]
    """In lower case; a trouble has one of them. Empty: no ping may be lost."""


def breaks(*words: str) -> Callable[[Callable[[World], Iterator[None]]], Breakage]:
    """Make a breakage of a generator function, named after it."""

    def made(run: Callable[[World], Iterator[None]]) -> Breakage:
        return Breakage(run.__name__.replace("_", " "), contextmanager(run), words)

    return made


def one_node(world: World, what: str) -> LabNode:
    node = world.any_node()
    world.say(f"{what} on {node.name}")
    return node


def another_node(world: World, node: LabNode) -> LabNode:
    return world.chance.choice([one for one in world.nodes if one is not node])


def must(world: World, node: LabNode, words: str) -> str:
    done = world.on(node, *words.split())
    if done.returncode != 0:
        raise AssertionError(f"{words} on {node.name}: {done.stderr}")
    return done.stdout


def block_of(world: World, node: LabNode) -> str:
    """A block of a node, as others route it."""
    for line in must(world, node, "ip -4 route").splitlines():
        if line.startswith("blackhole"):
            return line.split()[1]
    raise AssertionError(f"{node.name} has no block")


def host_ends(world: World, node: LabNode) -> list[str]:
    links = json.loads(must(world, node, "ip -j link"))
    return [link["ifname"] for link in links if link["ifname"].startswith("cali")]


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def rename(world: World, node: LabNode, old: str, new: str) -> None:
    for words in (f"ip link set {old} down", f"ip link set {old} name {new}", f"ip link set {new} up"):
        must(world, node, words)


@contextmanager
def stopped(world: World, node: LabNode) -> Iterator[None]:
    """Its agent does not run meanwhile."""
    pid = world.agent_pids()[node.name]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def changed(world: World, key: str, spec: dict[str, object] | None) -> Iterator[None]:
    """A stored value with other fields in its spec, or (None) gone; then as it was."""
    world.say(f"{key}: {spec}")
    before = world.etcdctl("get", "--print-value-only", key).rstrip(b"\n")
    if spec is None:
        world.etcdctl("del", key)
    else:
        value = json.loads(before)
        world.put(key, json.dumps({**value, "spec": {**value["spec"], **spec}}).encode())
    try:
        yield
    finally:
        world.put(key, before)


@contextmanager
def resource_there(world: World, plural: str, name: str, spec: Mapping[str, object]) -> Iterator[None]:
    """A resource that is there meanwhile, as calicoctl stores it."""
    key = f"/calico/resources/v3/projectcalico.org/{plural}/{name}"
    kind = KINDS[plural]
    document = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
    world.put(key, json.dumps(document).encode())
    try:
        yield
    finally:
        world.etcdctl("del", key)
