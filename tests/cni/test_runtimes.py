"""The orders of calls of five container runtimes, through the real plugins on a real kernel; nothing is left of any.

The same orders are played to Debian's `ptp`, so that it is not the player which is kind to us.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.cni.install import Places, install
from agent.cni.pod_netlink import NetlinkPods
from agent.lab.fabric import make_namespace, remove_namespace
from tests.cni.libcni import Call, Libcni, PluginFailed
from tests.cni.world import World
from tests.fixtures.namespace import fresh_namespace, ip

NAMESPACE_SECONDS = 10.0
"""How long the kernel may take to clear away a namespace, and with it the far ends of its devices."""
RTMGRP_LINK = 1
"""linux/rtnetlink.h: whoever listens hears of each link that goes."""
DEBIAN = Path("/usr/lib/cni")
ID = "0f" * 32
SANDBOX = f"IgnoreUnknown=1;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={ID};K8S_POD_NAMESPACE=default"


@dataclass
class Machine:
    """A node whose CNI server answers in this process, and a container that is to be attached."""

    world: World
    places: Places
    namespace: str

    @property
    def netns(self) -> str:
        return f"/run/netns/{self.namespace}"

    def network(self, kind: str, version: str, *more: dict[str, Any]) -> Libcni:
        """A list of one of the plugins under test, and what follows it in the chain."""
        first: dict[str, Any] = {"type": "tortie", "capabilities": {"ips": True, "mac": True}}
        if kind != "tortie":
            ipam = {
                "ptp": {"type": "host-local", "subnet": "10.8.0.0/24", "dataDir": str(self.places.state)},
                "ptp with our addresses": {"type": "tortie-ipam", "length": 24, "gateway": "192.168.0.254"},
            }[kind]
            first = {"type": "ptp", "ipam": ipam}
        conflist = {"name": "pods", "cniVersion": version, "plugins": [first, *more]}
        return Libcni(conflist, [self.places.plugins, DEBIAN])

    def devices(self) -> list[str]:
        """All but loopback, here and in the container."""
        inside = ["-n", self.namespace] if Path(self.netns).exists() else []
        shown = [
            subprocess.run(["ip", *where, "-j", "link"], capture_output=True, check=True)
            for where in ([], inside)
        ]
        return [
            link["ifname"] for text in shown for link in json.loads(text.stdout) if link["ifname"] != "lo"
        ]

    async def must_be_as_before(self) -> None:
        """Nothing in the datastore, the kernel, the journal."""
        assert await self.world.stored() == (0, 0, 0)
        assert (self.world.journal(), self.world.cluster.endpoints) == ([], ())
        assert self.devices() == []

    async def namespaces_cleared(self) -> None:
        """Wait for the kernel, where a plugin leaves a device for it to take away with the namespace."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
            news.setblocking(False)
            news.bind((0, RTMGRP_LINK))
            async with asyncio.timeout(NAMESPACE_SECONDS):
                while self.devices():
                    await asyncio.get_running_loop().sock_recv(news, 1 << 16)


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"tortie-test-runtime-{os.getpid()}"
    make_namespace(name)
    try:
        with fresh_namespace():
            yield name
    finally:
        with suppress(OSError):
            remove_namespace(name)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    root = tmp_path_factory.mktemp("node")
    made = Places(root / "bin", root / "net.d", root / "cni.sock", root)
    for _ in install(made, "auto", "pods"):
        pass
    return made


@pytest.fixture
async def machine(namespace: str, places: Places) -> AsyncIterator[Machine]:
    pods = NetlinkPods()
    world = World(places.state, pods)
    await world.start()
    ready = asyncio.Event()
    server = asyncio.create_task(world.server.run(ready.set))
    await ready.wait()
    try:
        yield Machine(world, places, namespace)
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        pods.close()


# -- orders -----------------------------------------------------------------------------------------------------------


async def containerd(network: Libcni, machine: Machine) -> None:
    """ADD; DEL with the cached result at StopPodSandbox, again without namespace and cache at RemovePodSandbox."""
    call = Call(
        ID, machine.netns, args=SANDBOX, runtime={"portMappings": [], "io.kubernetes.cri.pod-annotations": {}}
    )
    await network.add(call)
    await network.delete(call)
    await network.delete(replace(call, netns=""), cached=False)


async def crio(network: Libcni, machine: Machine) -> None:
    """VERSION first; CHECK, and from 1.1 on STATUS and GC beside ADD and DEL."""
    for known in await network.versions():
        assert network.version in known
    call = Call(ID, machine.netns, args=SANDBOX)
    newest = network.version == "1.1.0"
    if newest:
        await network.status()
        await network.collect([])
    await network.add(call)
    if network.version != "0.3.1":
        await network.check(call)
    if newest:
        await network.collect([(ID, "eth0")])
        await network.check(call)
    await network.delete(call)


async def nerdctl(network: Libcni, machine: Machine) -> None:
    """A DEL without namespace before every start, and after the end; the id begins with its namespace's name."""
    call = Call(f"default-{ID}", machine.netns, args="IgnoreUnknown=1")
    for _ in range(2):
        await network.delete(replace(call, netns=""))
        await network.add(call)
        ip(f"netns del {machine.namespace}")  # the container ends, and is started again
        ip(f"netns add {machine.namespace}")
    await network.delete(replace(call, netns=""))


async def podman(network: Libcni, machine: Machine) -> None:
    """VERSION; a pod's name without a namespace; DEL twice with the cached result."""
    await network.versions()
    call = Call(ID, machine.netns, args="IgnoreUnknown=1;K8S_POD_NAME=pp")
    result = await network.add(call)
    assert any(item.get("mac") and item.get("sandbox") == machine.netns for item in result["interfaces"])
    assert all("interface" in address for address in result["ips"])
    await network.delete(call)
    await network.delete(call)


async def ctr(network: Libcni, machine: Machine) -> None:
    """No arguments; the namespace is a process's, and gone with it before the DEL."""
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", machine.namespace, "sh", "-c", "echo; read _", stdin=-1, stdout=-1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    await network.add(Call("default-c1", f"/proc/{process.pid}/ns/net"))
    process.stdin.close()
    await process.wait()
    remove_namespace(machine.namespace)
    await network.delete(Call("default-c1", ""))


ORDERS: list[Callable[[Libcni, Machine], Awaitable[None]]] = [containerd, crio, nerdctl, podman, ctr]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.parametrize("order", ORDERS)
async def test_nothing_is_left_of_what_a_runtime_calls(
    machine: Machine, order: Callable[[Libcni, Machine], Awaitable[None]], version: str
) -> None:
    await order(machine.network("tortie", version), machine)
    await machine.must_be_as_before()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["ptp", "ptp with our addresses"])
async def test_the_same_orders_work_with_debians_plugin_and_either_ipam(
    machine: Machine, order: Callable[[Libcni, Machine], Awaitable[None]], kind: str
) -> None:
    await order(machine.network(kind, "1.0.0"), machine)
    await machine.namespaces_cleared()
    await machine.must_be_as_before()


async def test_a_chain_of_debians_plugins_follows_ours_and_is_checked(machine: Machine) -> None:
    chain = [
        {"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"}},
        {"type": "bandwidth", "ingressRate": 1000000, "ingressBurst": 1000000},
    ]
    network = machine.network("tortie", "1.0.0", *chain)
    call = Call(
        ID, machine.netns, args=SANDBOX, runtime={"ips": ["192.168.0.40"], "mac": "02:00:00:00:00:40"}
    )
    result = await network.add(call)
    assert [address["address"] for address in result["ips"]] == ["192.168.0.40/32"]
    assert next(item["mac"] for item in result["interfaces"] if item["name"] == "eth0") == "02:00:00:00:00:40"
    await network.delete(call)
    await machine.must_be_as_before()


async def test_an_add_whose_chain_fails_behind_us_leaves_nothing(machine: Machine) -> None:
    network = machine.network(
        "tortie", "1.0.0", {"type": "tuning", "sysctl": {"net.ipv4.no_such_switch": "1"}}
    )
    with pytest.raises(PluginFailed):
        await network.add(Call(ID, machine.netns, args=SANDBOX))
    await machine.must_be_as_before()


async def test_a_pod_reaches_the_host_through_what_was_made(machine: Machine) -> None:
    network = machine.network("tortie", "1.1.0")
    call = Call(ID, machine.netns, args=SANDBOX)
    result = await network.add(call)
    address = result["ips"][0]["address"]
    ip("addr add 10.1.1.1/32 dev lo")
    ip(f"route add {address} dev {result['interfaces'][0]['name']} scope link")
    done = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", machine.namespace, "ping", "-c1", "-W2", "-q", "10.1.1.1", stdout=-3
    )
    assert await done.wait() == 0
    await network.delete(call)
    await machine.must_be_as_before()


async def test_gc_takes_what_a_runtime_forgot_and_leaves_the_rest(machine: Machine) -> None:
    network = machine.network("tortie", "1.1.0")
    await network.add(Call(ID, machine.netns, args=SANDBOX))
    await network.add(Call(ID, machine.netns, "net1", args=SANDBOX))
    forgetful = machine.network("tortie", "1.1.0")
    await forgetful.collect([(ID, "eth0")])
    assert len(machine.devices()) == 2
    assert (await machine.world.stored())[2] == 1
    await forgetful.collect([])
    await machine.must_be_as_before()
