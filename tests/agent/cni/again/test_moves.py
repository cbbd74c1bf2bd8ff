"""A container's interface is called for with other arguments, through the real plugin on a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.lab.fabric import remove_namespace
from tests.scenes.cni.cni_machine import ID, SANDBOX, Machine, machine, namespace, paths
from tests.scenes.cni.libcni import Call, PluginFailed

__all__ = ["machine", "namespace", "paths"]


@pytest.fixture
def second() -> Iterator[str]:
    """As a runtime makes it: not even its loopback is up, so that it has no table of routes."""
    name = f"tortie-test-second-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    remove_namespace(name)


def addresses(namespace: str) -> list[str]:
    """Of eth0 in a namespace; nothing where there is none."""
    shown = subprocess.run(
        ["ip", "-n", namespace, "-j", "-4", "addr", "show", "eth0"], capture_output=True, check=False
    )
    found = json.loads(shown.stdout or b"[]")
    return [f"{one['local']}/{one['prefixlen']}" for link in found for one in link.get("addr_info", ())]


def index(namespace: str) -> int:
    """Of eth0: one that is made anew has another."""
    shown = subprocess.run(
        ["ip", "-n", namespace, "-j", "link", "show", "eth0"], capture_output=True, check=True
    )
    return int(json.loads(shown.stdout)[0]["ifindex"])


async def test_a_second_add_with_another_namespace_moves_the_interface(machine: Machine, second: str) -> None:
    network = machine.network("tortie", "1.1.0")
    call = Call(ID, machine.netns, args=SANDBOX)
    await network.add(call)
    moved = replace(call, netns=f"/run/netns/{second}")
    result = await network.add(moved)
    assert (addresses(machine.namespace), addresses(second)) == ([], [result["ips"][0]["address"]])
    await network.check(moved)
    assert await network.add(replace(moved, netns=f"/proc/self/root/run/netns/{second}")) is not None
    assert await machine.world.stored() == (1, 1, 1)
    await network.delete(moved)
    await machine.must_be_as_before()


async def test_a_second_add_makes_an_interface_that_works_again(machine: Machine) -> None:
    network = machine.network("tortie", "1.1.0")
    call = Call(ID, machine.netns, args=SANDBOX)
    for damage in ("link set eth0 down", "addr flush dev eth0", "route flush default", "link del eth0"):
        await network.add(call)
        subprocess.run(["ip", "-n", machine.namespace, *damage.split()], check=True)
        result = await network.add(call)
        assert addresses(machine.namespace) == [result["ips"][0]["address"]], damage
        await network.check(call)
    await network.delete(call)
    await machine.must_be_as_before()


async def test_a_second_add_leaves_an_interface_that_works_as_it_is(machine: Machine) -> None:
    network = machine.network("tortie", "1.1.0")
    call = Call(ID, machine.netns, args=SANDBOX)
    first = await network.add(call)
    before = index(machine.namespace)
    assert await network.add(call) == first
    assert index(machine.namespace) == before
    await network.delete(call)


@pytest.mark.parametrize("arguments", ["", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=other"])
async def test_a_del_without_the_pods_name_takes_the_interface_with_its_address(
    machine: Machine, arguments: str
) -> None:
    network = machine.network("tortie", "1.1.0")
    await network.add(Call(ID, machine.netns, args=SANDBOX))
    await network.delete(Call(ID, machine.netns, args=arguments), cached=False)
    await machine.must_be_as_before()
    assert addresses(machine.namespace) == []


async def test_two_containers_whose_ids_begin_alike_do_not_take_each_others_device(
    machine: Machine, second: str
) -> None:
    network = machine.network("tortie", "1.1.0")
    one, other = "0" * 63 + "1", "0" * 63 + "2"
    first = await network.add(Call(one, machine.netns))
    with pytest.raises(PluginFailed, match=f"is the device of container {one}, whose id begins like"):
        await network.add(Call(other, f"/run/netns/{second}"))
    assert addresses(machine.namespace) == [first["ips"][0]["address"]]
    await network.check(Call(one, machine.netns))
    await network.delete(Call(one, machine.netns))
    await machine.must_be_as_before()
