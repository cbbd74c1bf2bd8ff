"""A pod attached by the real kernel: what is inside, what is outside, and that nothing is left of a failure."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from agent.cni.attachment import HOST_MAC, Attachment, NoNamespace, endpoint
from agent.cni.differences import differences
from agent.cni.plugin.spec import parse
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.lab.fabric import make_namespace, remove_namespace
from agent.netlink import sysctl
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address, Sysctl
from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.cni.cni_world import set_host_sysctls

HOST = "cali0123456789a"
ADDRESS, ADDRESS_6 = IPv4Address("192.168.31.65"), IPv6Address("fd00:10::41")
BOTH: tuple[Address, ...] = (ADDRESS, ADDRESS_6)


@pytest.fixture
def pod() -> Iterator[str]:
    name = f"tortie-test-pod-{os.getpid()}"
    make_namespace(name)
    try:
        with fresh_namespace():
            yield name
    finally:
        remove_namespace(name)


@pytest.fixture
def pods(pod: str) -> Iterator[NetlinkPodNetwork]:
    made = NetlinkPodNetwork()
    yield made
    made.close()


def attachment(pod: str, interface: str = "eth0") -> Attachment:
    return Attachment(HOST, interface, f"/run/netns/{pod}", "02:00:00:00:00:07", 1450, (ADDRESS,), "c1")


async def attach(pods: NetlinkPodNetwork, attachment: Attachment) -> None:
    await pods.make_pair(replace(attachment, addresses=(), wants_ipv6=attachment.has_ipv6))
    await pods.configure_pod(attachment)


def dual(pod: str) -> Attachment:
    return replace(attachment(pod), addresses=BOTH)


def inside(pod: str, words: str) -> list[dict[str, object]]:
    done = subprocess.run(["ip", "-n", pod, "-j", *words.split()], capture_output=True, text=True, check=True)
    found: list[dict[str, object]] = json.loads(done.stdout or "[]")
    return found


async def test_a_pod_has_its_address_its_way_out_and_a_neighbour_that_needs_no_arp(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, attachment(pod))
    (link,) = [item for item in inside(pod, "addr show eth0") if item]
    assert (link["address"], link["mtu"]) == ("02:00:00:00:00:07", 1450)
    assert "UP" in link["flags"]  # type: ignore[operator]
    assert [item["local"] for item in link["addr_info"] if item["family"] == "inet"] == [str(ADDRESS)]  # type: ignore[attr-defined]
    routes = {item["dst"]: item for item in inside(pod, "route")}
    assert routes["default"]["gateway"] == "169.254.1.1"
    assert routes["169.254.1.1"]["scope"] == "link"
    (neighbour,) = [item for item in inside(pod, "neigh") if item["dst"] == "169.254.1.1"]
    assert (neighbour["lladdr"], neighbour["state"]) == (HOST_MAC, ["PERMANENT"])
    host = json.loads(ip(f"-j link show {HOST}"))[0]
    assert (host["address"], host["mtu"]) == (HOST_MAC, 1450)
    assert "UP" in host["flags"]


async def test_the_host_knows_a_pod_without_asking_and_its_entry_takes_no_place_from_others(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, dual(pod))
    found = {item["dst"]: item for item in json.loads(ip(f"-j neigh show dev {HOST}"))}
    assert {found[str(address)]["lladdr"] for address in BOTH} == {"02:00:00:00:00:07"}
    # Only entries that somebody else learned are exempt from the limit that all namespaces share.
    assert all("extern_learn" in found[str(address)] for address in BOTH)
    # Confirmed after its first use: it follows a MAC that a chained plugin changes.
    assert all(found[str(address)]["state"] == ["STALE"] for address in BOTH)


async def test_attaching_again_replaces_and_detaching_twice_succeeds(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, attachment(pod))
    await attach(pods, attachment(pod))
    assert await pods.owner(HOST) == "c1"
    await pods.detach(HOST)
    await pods.detach(HOST)
    assert await pods.owner(HOST) is None
    assert [item["ifname"] for item in inside(pod, "link") if item["ifname"] == "eth0"] == []


async def test_an_interface_of_this_name_is_told_from_the_other_end_of_the_device(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, attachment(pod))
    assert (await pods.state(f"/run/netns/{pod}", "eth0", HOST)).paired
    for made in (
        f"link set eth0 netns {os.getpid()} name moved0",
        "link add eth0 type veth peer name other0",
    ):
        subprocess.run(["ip", "-n", pod, *made.split()], check=True)
    state = await pods.state(f"/run/netns/{pod}", "eth0", HOST)
    assert (state.host is None, state.inside is None, state.paired) == (False, False, False)


async def test_a_device_is_found_by_the_attachment_that_is_written_on_it(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, attachment(pod))
    second = replace(attachment(pod, "net1"), host_interface="cali0123456789b")
    await attach(pods, second)
    assert await pods.devices_of("c1", "eth0") == (HOST,)
    assert await pods.devices_of("c1", "net1") == ("cali0123456789b",)
    assert (await pods.devices_of("c1", "net2"), await pods.devices_of("c", "eth0")) == ((), ())
    assert [await pods.owner(device) for device in (HOST, "cali0123456789b")] == ["c1", "c1"]


async def test_a_namespace_that_is_gone_is_said_and_leaves_nothing(pod: str, pods: NetlinkPodNetwork) -> None:
    gone = Attachment(HOST, "eth0", "/run/netns/no-such-pod", "02:00:00:00:00:07", 1450, (ADDRESS,))
    with pytest.raises(
        KernelError, match="the pod's namespace /run/netns/no-such-pod: No such file or directory"
    ):
        await attach(pods, gone)
    assert await pods.owner(HOST) is None


async def test_a_file_that_is_no_namespace_is_said_and_leaves_nothing(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    wrong = Attachment(HOST, "eth0", "/etc/hostname", "02:00:00:00:00:07", 1450, (ADDRESS,))
    with pytest.raises(KernelError):
        await attach(pods, wrong)
    assert await pods.owner(HOST) is None


async def test_a_name_that_the_pod_has_already_is_said_and_leaves_nothing(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    with pytest.raises(KernelError, match="File exists"):
        await attach(pods, attachment(pod, "lo"))
    assert await pods.owner(HOST) is None


CONFIG = b'{"cniVersion":"1.1.0","name":"net","type":"tortie","prevResult":{"ips":[{"address":"192.168.31.65/32"}]}}'
DAMAGE = {
    "link set eth0 address 02:00:00:00:00:09": "eth0 has MAC 02:00:00:00:00:09, not 02:00:00:00:00:07",
    "link set eth0 mtu 1400": f"eth0 has MTU 1400, {HOST} has 1450",
    "addr del 192.168.31.65/32 dev eth0": "eth0 does not have the address 192.168.31.65",
    "route del default": "the pod has no default route via 169.254.1.1 on eth0",
    "route replace default dev eth0 scope link": "the pod has no default route via 169.254.1.1 on eth0",
    "neigh del 169.254.1.1 dev eth0": "the pod has nothing as neighbour 169.254.1.1, not ee:ee:ee:ee:ee:ee",
    "link del eth0": "eth0 is not in the pod",
    "link set eth0 down": "eth0 is down",
}


async def found_wrong(
    pod: str, pods: NetlinkPodNetwork, addresses: tuple[Address, ...] = (ADDRESS,)
) -> list[str]:
    """What CHECK says of it."""
    environment = {
        "CNI_COMMAND": "CHECK",
        "CNI_CONTAINERID": "0123456789a",
        "CNI_NETNS": pod,
        "CNI_IFNAME": "eth0",
    }
    request = parse(environment, CONFIG)
    stored = endpoint(request, "node1", "02:00:00:00:00:07", addresses, "2026-01-01T00:00:00Z")
    state = await pods.state(f"/run/netns/{pod}", "eth0", HOST)
    return list(differences(request, stored, addresses, state))


async def test_a_check_of_what_was_just_attached_finds_nothing(pod: str, pods: NetlinkPodNetwork) -> None:
    await attach(pods, attachment(pod))
    set_host_sysctls(HOST)
    assert await found_wrong(pod, pods) == []


async def test_a_check_finds_a_switch_of_the_host_side_that_somebody_turned(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, dual(pod))
    set_host_sysctls(HOST)
    for name in (f"net/ipv4/conf/{HOST}/proxy_arp", f"net/ipv6/conf/{HOST}/forwarding"):
        assert sysctl.write(Sysctl(name, "0")) is None
    assert await found_wrong(pod, pods, BOTH) == [
        f"net/ipv4/conf/{HOST}/proxy_arp is 0, not 1",
        f"net/ipv6/conf/{HOST}/forwarding is 0, not 1",
    ]


DAMAGE_6 = {
    "-6 addr del fd00:10::41/128 dev eth0": "eth0 does not have the address fd00:10::41",
    "-6 route del default": "the pod has no default route via fe80::ecee:eeff:feee:eeee on eth0",
    "-6 neigh del fe80::ecee:eeff:feee:eeee dev eth0": (
        "the pod has nothing as neighbour fe80::ecee:eeff:feee:eeee, not ee:ee:ee:ee:ee:ee"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE_6)
async def test_a_check_finds_each_thing_of_ipv6_that_somebody_changed(
    pod: str, pods: NetlinkPodNetwork, damage: str
) -> None:
    await attach(pods, dual(pod))
    set_host_sysctls(HOST)
    assert await found_wrong(pod, pods, BOTH) == []
    subprocess.run(["ip", "-n", pod, *damage.split()], check=True)
    assert DAMAGE_6[damage] in await found_wrong(pod, pods, BOTH)


@pytest.mark.parametrize("off_before", ["0", "1"])
async def test_a_pod_of_both_families_reaches_the_host_at_once_even_where_ipv6_was_off(
    pod: str, pods: NetlinkPodNetwork, off_before: str
) -> None:
    """Docker and podman make namespaces whose IPv6 is off; no address may wait for duplicate detection."""
    assert sysctl.write(Sysctl("net/ipv6/conf/default/disable_ipv6", off_before)) is None
    subprocess.run(
        ["ip", "netns", "exec", pod, "sysctl", "-qw", f"net.ipv6.conf.all.disable_ipv6={off_before}"],
        check=True,
    )
    ip("addr add 172.30.0.1/32 dev lo")
    ip("addr add fd00:30::1/128 dev lo nodad")
    await attach(pods, dual(pod))
    set_host_sysctls(HOST)
    ip(f"route add {ADDRESS}/32 dev {HOST}")
    ip(f"route add {ADDRESS_6}/128 dev {HOST}")
    (link,) = [item for item in inside(pod, "-6 addr show eth0") if item]
    flags = [(one["local"], one.get("tentative", False)) for one in link["addr_info"]]  # type: ignore[attr-defined]
    assert (str(ADDRESS_6), False) in flags
    for words in (("-4", "172.30.0.1"), ("-6", "fd00:30::1"), ("-6", "fe80::ecee:eeff:feee:eeee%eth0")):
        done = subprocess.run(
            ["ip", "netns", "exec", pod, "ping", "-c1", "-w3", *words], capture_output=True, check=False
        )
        assert done.returncode == 0, (words, done.stdout)
    await pods.detach(HOST)
    assert ip("-6 route show fd00:10::/64") == ""


async def test_a_pod_of_ipv4_alone_has_no_ipv6_route_and_its_switches_are_left(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, attachment(pod))
    assert [item["dst"] for item in inside(pod, "-6 route show default")] == []


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_check_finds_each_thing_that_somebody_changed_in_the_pod(
    pod: str, pods: NetlinkPodNetwork, damage: str
) -> None:
    await attach(pods, attachment(pod))
    subprocess.run(["ip", "-n", pod, *damage.split()], check=True)
    assert DAMAGE[damage] in await found_wrong(pod, pods)


async def test_a_check_finds_each_thing_that_somebody_changed_on_the_host(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    await attach(pods, attachment(pod))
    set_host_sysctls(HOST)
    ip(f"link set {HOST} down address 02:00:00:00:00:01")
    assert await found_wrong(pod, pods) == [
        f"{HOST} is down",
        f"{HOST} has MAC 02:00:00:00:00:01, not {HOST_MAC}",
    ]
    await pods.detach(HOST)
    assert (await found_wrong(pod, pods))[0] == f"{HOST} is not there"


@pytest.mark.parametrize("forwarding", [True, False])
async def test_a_pod_forwards_only_if_it_is_asked_for(
    pod: str, pods: NetlinkPodNetwork, forwarding: bool
) -> None:
    await attach(pods, replace(attachment(pod), forwarding=forwarding))
    shown = subprocess.run(
        ["ip", "netns", "exec", pod, "cat", "/proc/sys/net/ipv4/ip_forward"], capture_output=True, check=True
    )
    assert shown.stdout.strip() == (b"1" if forwarding else b"0")


async def test_the_hosts_own_namespace_is_refused(pods: NetlinkPodNetwork) -> None:
    own = replace(attachment("x"), netns="/proc/thread-self/ns/net")
    with pytest.raises(NoNamespace, match="is the host itself"):
        await attach(pods, own)


async def test_many_removed_at_once_share_the_kernels_wait_and_spare_the_others(
    pod: str, pods: NetlinkPodNetwork
) -> None:
    names = [f"cali{number}" for number in range(8)]
    for number, name in enumerate(names):
        await attach(pods, replace(attachment(pod, f"eth{number}"), host_interface=name))
    calls = [asyncio.create_task(pods.detach(name)) for name in (*names[:6], "calinone", names[0])]
    await asyncio.sleep(0)
    calls[3].cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in ended if one is not None] == [asyncio.CancelledError]
    assert [name for name in names if pods.exists(name)] == names[6:]


async def test_a_removal_that_the_kernel_refuses_is_told_to_each(pod: str, pods: NetlinkPodNetwork) -> None:
    await attach(pods, attachment(pod))
    results = await asyncio.gather(pods.detach(HOST), pods.detach("lo"), return_exceptions=True)
    assert [str(found).partition(":")[0] for found in results] == [f"removing {HOST}", "removing lo"]
