"""The orders of calls of five container runtimes, through the real plugins on a real kernel; nothing is left of any.

The same orders are played to Debian's `ptp`, so that it is not the player which is kind to us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from agent.lab.fabric import remove_namespace
from tests.fixtures.namespace import ip
from tests.scenes.cni.cni_machine import ID, SANDBOX, Machine, machine, namespace, paths
from tests.scenes.cni.libcni import Call, Libcni

__all__ = ["machine", "namespace", "paths"]


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
