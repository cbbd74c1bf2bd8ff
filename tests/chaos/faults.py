"""What happens to nodes, their links, their kernels and their datastore: each fault has a beginning and an end.

A fault is a context manager: entered, some pods are changed, it is left. `loses` says that pings of steady pods may be
lost for its sake, `fails` that CNI calls may fail; where it says neither, none may.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.lab import lab_processes
from agent.lab.fabric import processes_in
from agent.lab.lab_plan import LabNode
from tests.chaos.world import World

Run = Callable[[World], AbstractContextManager[None]]
AGENT, ETCD, LINK, KERNEL, OUTSIDE = "agent", "etcd", "link", "kernel", "outside"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    name: str
    run: Run
    on: str
    """What it is done to: two faults of one round are done to different things."""
    loses: bool = False
    """Pings of steady pods may be lost."""
    fails: bool = False
    """CNI calls may fail meanwhile."""


def fault(
    on: str, *, loses: bool = False, fails: bool = False
) -> Callable[[Callable[[World], Iterator[None]]], Fault]:
    """Make a fault of a generator function, named after it."""

    def made(run: Callable[[World], Iterator[None]]) -> Fault:
        return Fault(run.__name__.replace("_", " "), contextmanager(run), on, loses, fails)

    return made


def _agent(world: World, node: LabNode) -> int:
    return world.agent_pids()[node.name]


# -- processes ---------------------------------------------------------------------------------------------------------


@fault(AGENT, fails=True)
def an_agent_is_killed(world: World) -> Iterator[None]:
    """kill -9, and its return."""
    node = world.any_node()
    world.say(f"kill -9 of the agent on {node.name}")
    lab_processes.stop_agent(node, signal.SIGKILL)
    yield
    lab_processes.start_agents([node])


@fault(AGENT, fails=True)
def an_agent_is_restarted(world: World) -> Iterator[None]:
    """SIGTERM and its return at once, as a package's upgrade does."""
    node = world.any_node()
    world.say(f"restart of the agent on {node.name}")
    lab_processes.stop_agent(node, signal.SIGTERM)
    lab_processes.start_agents([node])
    yield


@fault(AGENT, fails=True)
def an_agent_is_frozen(world: World) -> Iterator[None]:
    """SIGSTOP for a while: a paused machine."""
    node = world.any_node()
    pid = _agent(world, node)
    world.say(f"SIGSTOP of the agent on {node.name}")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def etcd_process(world: World) -> int:
    for pid in processes_in(world.lab.plan.fabric):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "etcd":
            return pid
    raise AssertionError("there is no etcd")


@fault(ETCD, fails=True)
def etcd_is_frozen(world: World) -> Iterator[None]:
    """SIGSTOP: its connections stay, nothing answers."""
    pid = etcd_process(world)
    world.say("SIGSTOP of etcd")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@fault(ETCD, fails=True)
def etcd_is_restarted(world: World) -> Iterator[None]:
    """Away for a while."""
    world.say("etcd is stopped")
    lab_processes.stop_etcd(world.lab.plan)
    yield
    lab_processes.start_etcd(world.lab.plan)


@fault(ETCD)
def etcd_is_compacted(world: World) -> Iterator[None]:
    """History goes: a watch that is behind has to list again."""
    world.say("etcd is compacted")
    world.etcdctl("put", "/chaos", "compaction")
    revision = world.etcdctl("get", "/chaos", "--write-out=json").decode()
    number = revision.partition('"revision":')[2].partition(",")[0]
    world.etcdctl("compaction", number, "--physical")
    yield


@fault(ETCD, fails=True)
def etcd_goes_back(world: World) -> Iterator[None]:
    """A backup is restored that is older than some pods."""
    data, backup = world.lab.plan.directory / "etcd", world.lab.plan.directory / "backup"
    world.say("etcd is backed up")
    lab_processes.stop_etcd(world.lab.plan)
    shutil.copytree(data, backup)
    lab_processes.start_etcd(world.lab.plan)
    world.only_adds = True
    try:
        yield
    finally:
        world.only_adds = False
        world.finish_calls()
        world.say("etcd is restored from the backup")
        lab_processes.stop_etcd(world.lab.plan)
        shutil.rmtree(data)
        backup.rename(data)
        lab_processes.start_etcd(world.lab.plan)


# -- links and addresses -----------------------------------------------------------------------------------------------


@fault(LINK, loses=True, fails=True)
def a_link_goes_down(world: World) -> Iterator[None]:
    """A node's cable is pulled, and plugged in again."""
    node = world.any_node()
    world.say(f"the cable of {node.name} is pulled")
    fabric = world.lab.plan.fabric
    _fabric(world, fabric, "ip", "link", "set", node.name, "down")
    try:
        yield
    finally:
        _fabric(world, fabric, "ip", "link", "set", node.name, "up")


@fault(LINK, loses=True, fails=True)
def packets_are_lost(world: World) -> Iterator[None]:
    """A third of what a node sends and gets."""
    node = world.any_node()
    world.say(f"a third of the packets of {node.name} are lost")
    world.on(node, "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "33%")
    try:
        yield
    finally:
        world.on(node, "tc", "qdisc", "del", "dev", "eth0", "root")


@fault(LINK, loses=True, fails=True)
def an_address_vanishes(world: World) -> Iterator[None]:
    """The node's address is taken off its interface, and comes back with its default route."""
    node = world.any_node()
    world.say(f"the address of {node.name} vanishes")
    router = world.on(node, "ip", "route", "show", "default").stdout.split()
    world.on(node, "ip", "addr", "del", str(node.interface), "dev", "eth0")
    try:
        yield
    finally:
        world.on(node, "ip", "addr", "add", str(node.interface), "dev", "eth0")
        world.on(node, "ip", "route", "add", *router)


@fault(LINK)
def another_address_appears(world: World) -> Iterator[None]:
    """A VIP comes to a node's interface and goes."""
    node = world.any_node()
    world.say(f"{node.name} has one more address")
    world.on(node, "ip", "addr", "add", "172.26.15.250/32", "dev", "eth0")
    try:
        yield
    finally:
        world.on(node, "ip", "addr", "del", "172.26.15.250/32", "dev", "eth0")


def _fabric(world: World, namespace: str, *words: str) -> None:
    subprocess.run(lab_processes.inside(namespace, list(words)), check=True, capture_output=True)


# -- the kernel --------------------------------------------------------------------------------------------------------


@fault(KERNEL, loses=True, fails=True)
def routes_are_flushed(world: World) -> Iterator[None]:
    """Somebody deletes every route but connected and default ones."""
    node = world.any_node()
    world.say(f"routes of {node.name} are flushed")
    for line in world.on(node, "ip", "route").stdout.splitlines():
        if not line.startswith("default") and "proto kernel" not in line:
            world.on(node, "ip", "route", "del", *line.replace("onlink", "").split())
    yield


@fault(KERNEL, loses=True)
def a_tunnel_is_deleted(world: World) -> Iterator[None]:
    """The tunnel device, with all routes over it."""
    node = world.any_node()
    world.say(f"tunnels of {node.name} are deleted")
    for device in ("vxlan.calico", "tunl0"):
        world.on(node, "ip", "link", "del", device)
    yield


@fault(KERNEL, loses=True)
def forwarding_is_off(world: World) -> Iterator[None]:
    """sysctl net.ipv4.ip_forward=0, as another program's hand has it."""
    node = world.any_node()
    world.say(f"{node.name} forwards no more")
    world.on(node, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    yield


@fault(KERNEL)
def tables_are_flushed(world: World) -> Iterator[None]:
    """nft flush ruleset: a firewall's reload."""
    node = world.any_node()
    world.say(f"nft flush ruleset on {node.name}")
    world.on(node, "nft", "flush", "ruleset")
    yield


@fault(KERNEL)
def a_foreign_route_comes(world: World) -> Iterator[None]:
    """Somebody's static route, that has nothing to do with us."""
    node = world.any_node()
    world.say(f"a static route of another on {node.name}")
    world.on(node, "ip", "route", "add", "198.51.100.0/24", "via", "172.26.0.1", "proto", "static")
    try:
        yield
    finally:
        world.on(node, "ip", "route", "del", "198.51.100.0/24")


FAULTS: tuple[Fault, ...] = (
    an_agent_is_killed,
    an_agent_is_restarted,
    an_agent_is_frozen,
    etcd_is_frozen,
    etcd_is_restarted,
    etcd_is_compacted,
    etcd_goes_back,
    a_link_goes_down,
    packets_are_lost,
    an_address_vanishes,
    another_address_appears,
    routes_are_flushed,
    a_tunnel_is_deleted,
    forwarding_is_off,
    tables_are_flushed,
    a_foreign_route_comes,
)
