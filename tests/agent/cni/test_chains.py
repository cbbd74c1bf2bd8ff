"""Debian's plugins behind ours in a chain, and our addresses under Debian's plugins: it works, and all of it goes."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface
from socket import create_connection, create_server
from typing import Any

import pytest

from agent.netlink.namespaces import entered
from tests.fixtures.namespace import ip
from tests.scenes.cni.cni_machine import DEBIAN, ID, SANDBOX, Machine, machine, namespace, paths
from tests.scenes.cni.libcni import Call, Libcni, PluginFailed

__all__ = ["machine", "namespace", "paths"]

CONNECT_SECONDS = 5.0
HOST_PORT, POD_PORT = 8080, 8081


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
    with pytest.raises(PluginFailed, match="eth0 has MTU 1400, cali"):
        await network.check(call)  # ours comes first in a CHECK too, and reports what tuning has changed
    await network.delete(call)
    await machine.must_be_as_before()


async def test_a_check_takes_a_mac_from_the_plugin_that_changed_it(machine: Machine) -> None:
    network = machine.network("tortie", "1.0.0", {"type": "tuning", "mac": "02:00:00:00:00:41"})
    call = Call(ID, machine.netns, args=SANDBOX)
    await network.add(call)
    await network.check(call)
    await network.delete(call)
    await machine.must_be_as_before()


async def test_an_add_whose_chain_fails_behind_us_leaves_nothing(machine: Machine) -> None:
    network = machine.network(
        "tortie", "1.0.0", {"type": "tuning", "sysctl": {"net.ipv4.no_such_switch": "1"}}
    )
    with pytest.raises(PluginFailed):
        await network.add(Call(ID, machine.netns, args=SANDBOX))
    await machine.must_be_as_before()


def rules() -> str:
    """Every rule of iptables here."""
    shown = [subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout]
    return "".join(shown)


def greeting(address: str, port: int) -> bytes:
    """What a server says to whoever connects."""
    with create_connection((address, port), CONNECT_SECONDS) as connection:
        connection.settimeout(CONNECT_SECONDS)
        return connection.recv(64)


async def test_ports_limits_sysctls_and_firewall_of_a_chain_are_in_force_and_go_with_the_pod(
    machine: Machine,
) -> None:
    chain = [
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"}},
        {"type": "firewall", "backend": "iptables"},
    ]
    network = machine.network("tortie", "1.0.0", *chain)
    call = Call(
        ID,
        machine.netns,
        args=SANDBOX,
        runtime={
            "portMappings": [{"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 1_000_000},
        },
    )
    ip("addr add 10.1.1.1/32 dev lo")
    result = await network.add(call)
    address, device = str(ip_interface(result["ips"][0]["address"]).ip), result["interfaces"][0]["name"]
    ip(f"route add {address} dev {device} scope link")
    with entered(machine.netns):
        server = create_server(("0.0.0.0", POD_PORT))
    with server:
        server.settimeout(CONNECT_SECONDS)
        connecting = asyncio.create_task(asyncio.to_thread(partial(greeting, "10.1.1.1", HOST_PORT)))
        connection, _ = await asyncio.to_thread(server.accept)
        with connection:
            connection.sendall(b"here")
        assert await connecting == b"here"
    assert (
        "tbf" in subprocess.run(["tc", "qdisc", "show", "dev", device], capture_output=True, text=True).stdout
    )
    assert address in rules()
    await network.delete(call)
    assert address not in rules()
    assert ID not in rules()
    await network.delete(call, cached=False)
    await machine.must_be_as_before()


UNDER: dict[str, dict[str, Any]] = {
    "bridge": {"bridge": "br0", "isGateway": True},
    "ptp": {},
    "macvlan": {"master": "up0", "mode": "bridge"},
}


@pytest.mark.parametrize("plugin", UNDER)
async def test_our_addresses_serve_debians_plugins(machine: Machine, plugin: str) -> None:
    ip("link add up0 type veth peer name up1")
    for name in ("up0", "up1"):
        ip(f"link set {name} up")
    ipam = {"type": "tortie-ipam", "length": 24, "gateway": "192.168.0.254"}
    conflist = {
        "name": "pods",
        "cniVersion": "1.0.0",
        "plugins": [{"type": plugin, "ipam": ipam, **UNDER[plugin]}],
    }
    network = Libcni(conflist, [machine.paths.plugins, DEBIAN])
    # ptp puts the same gateway into a container for each of its interfaces, and so takes one only.
    calls = [
        Call(ID, machine.netns, name, args=SANDBOX)
        for name in (("eth0",) if plugin == "ptp" else ("eth0", "net1"))
    ]
    addresses = {(await network.add(call))["ips"][0]["address"] for call in calls}
    assert all(address.endswith("/24") for address in addresses)
    assert (await machine.world.stored())[2] == len(addresses) == len(calls)
    await network.check(calls[0])
    if plugin == "bridge":
        words = ["ip", "netns", "exec", machine.namespace, "ping", "-c1", "-w5", "-q", "192.168.0.254"]
        assert await (await asyncio.create_subprocess_exec(*words, stdout=-3)).wait() == 0
    for call in calls:
        await network.delete(call)
        await network.delete(replace(call, netns=""), cached=False)
    await machine.namespaces_cleared("up0", "up1", "br0")
    for name in ("up0", *(["br0"] if plugin == "bridge" else [])):
        ip(f"link del {name}")
    await machine.must_be_as_before()
