"""The contract of agent/dataplane/kernel/protocol.py, on the fake and on the kernel of a fresh namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import pytest

from agent.dataplane.kernel.calico_names import TUNL0
from agent.dataplane.kernel.dataplane_objects import Kind, Masquerade
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kernel.protocol import Kernel, KernelEvent, LinkChanged, ObjectsChanged
from agent.netlink import sysctl
from agent.netlink.kernel_errors import NoWay, Unsupported
from agent.netlink.objects import (
    RTPROT_KERNEL,
    Address,
    AddressFlag,
    NextHop,
    Route,
    RouteKey,
    Sysctl,
    Tunnel,
    TunnelKind,
)
from tests.contract.kernels import V4, V6, FakeWorld, RealWorld, Values, World, connect
from tests.fakes.kernel import FakeKernel, Fault
from tests.fixtures.namespace import fresh_namespace, ip, kernel_has

PATIENCE_SECONDS = 5.0
NOWHERE: dict[str, Any] = {"gateway": None, "device": None, "onlink": False}
FOREIGN = V4.direct.with_(protocol=11)
IPIP = Tunnel(TUNL0, TunnelKind.IPIP, 1480, IPv4Address("10.1.0.1"))
NETWORK = IPv4Network


async def test_links_bear_their_names_states_and_addresses(world: World) -> None:
    world.set_link("eth1", up=False)
    links = await world.kernel.links()
    assert links["eth0"].up
    assert links["eth0"].mtu == 1500
    assert links["eth0"].kind == "veth"
    assert (IPv4Address("172.26.0.1"), 24) in links["eth0"].addresses
    assert not links["eth1"].up
    assert links["lo"].index == 1


async def test_one_link_is_read_as_it_is_among_all_others(world: World) -> None:
    for _ in range(MOST_READINGS):  # an interface that has just come up gets its IPv6 address a moment later
        every = await world.kernel.links()
        each = {name: await world.kernel.link(name) for name in every}
        if await world.kernel.links() == every:
            break
    assert each == every
    assert await world.kernel.link("nowhere") is None
    world.delete_link("eth1")
    assert await world.kernel.link("eth1") is None


async def test_what_the_kernel_says_of_an_address_is_reported_and_read() -> None:
    """Another machine has fd26::5 as well, which the kernel finds out a moment after it was added (RFC 4862)."""
    with fresh_namespace():
        world = RealWorld()
        ip("address add fd26::5/64 dev eth0-far nodad")
        ip("address add fd26::d/64 dev eth0 nodad preferred_lft 0")
        changes = world.kernel.changes()
        try:
            ip("address add fd26::5/64 dev eth0")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (link := (await world.kernel.links())["eth0"]).flags(ip_address("fd26::5")):
                    await anext(changes)
        finally:
            changes.close()
        flags = {str(address): link.flags(address) for address, _ in link.addresses}
        assert flags.pop("fd26::5") is AddressFlag.DUPLICATE
        assert flags.pop("fd26::d") is AddressFlag.DEPRECATED
        assert {*flags.values()} == {AddressFlag(0)}
        assert await world.kernel.link("eth0") == link
        world.kernel.close()


MOST_READINGS = 100

MASQUERADES = [
    Masquerade(
        frozenset({NETWORK("10.1.0.0/16")}), frozenset({NETWORK("10.1.0.0/16"), NETWORK("10.9.0.0/24")})
    ),
    Masquerade(
        frozenset({NETWORK("10.0.0.0/25"), NETWORK("10.0.0.128/25")}),
        frozenset(
            {NETWORK("10.0.0.0/25"), NETWORK("10.0.0.128/25"), NETWORK("10.0.1.0/24"), NETWORK("10.0.0.0/26")}
        ),
    ),
    Masquerade(
        frozenset({NETWORK("10.1.0.0/16"), IPv6Network("fd10:1::/64")}),
        frozenset({NETWORK("10.1.0.0/16"), IPv6Network("fd10::/33"), IPv6Network("fd10:8000::/33")}),
    ),
    Masquerade(frozenset({IPv6Network("fd10:1::/64")}), frozenset({IPv6Network("ff00::/8")})),
    Masquerade(frozenset({NETWORK("0.0.0.0/1")}), frozenset({NETWORK("240.0.0.0/4"), NETWORK("0.0.0.0/8")})),
]


@pytest.mark.parametrize(
    "desired",
    MASQUERADES,
    ids=["two pools", "neighbours and overlaps", "both versions", "IPv6 alone", "both ends of the space"],
)
async def test_masquerading_is_read_back_collapsed(world: World, desired: Masquerade) -> None:
    assert await world.kernel.masquerade() is None
    for each in (MASQUERADES[0], desired, desired):
        await world.kernel.put_masquerade(each)
        assert await world.kernel.masquerade() == each.collapsed()
    for _ in range(2):
        await world.kernel.put_masquerade(Masquerade())
        assert await world.kernel.masquerade() is None


async def test_sysctls_are_read_where_they_exist_and_set(world: World) -> None:
    there, nowhere = "net/ipv4/conf/eth0/proxy_arp", "net/ipv4/conf/nowhere/proxy_arp"
    assert await world.kernel.sysctls([there, nowhere]) == {there: Sysctl(there, "0")}
    for _ in range(2):
        assert await world.kernel.put_sysctls([Sysctl(there, "1")]) == ()
        assert await world.kernel.sysctls([there]) == {there: Sysctl(there, "1")}
    (refusal,) = await world.kernel.put_sysctls([Sysctl(nowhere, "1")])
    assert refusal.what == Sysctl(nowhere, "1")
    assert "No such file" in refusal.why


CROWD = [IPv4Address("192.0.2.0") + number for number in range(20)]
LOOPBACKS = {4: "127.0.0.{}", 6: "fd00::{}"}


@pytest.mark.parametrize("version", LOOPBACKS)
@pytest.mark.parametrize("crowd", [[], CROWD], ids=["few", "many"])
async def test_connections_of_an_address_are_deleted_and_no_others(
    world: World, crowd: list[Address], version: int
) -> None:
    await delete_some(world.connect, world.kernel.delete_connections, crowd, version)


@pytest.mark.parametrize("version", LOOPBACKS)
async def test_the_kernel_can_look_for_an_address_itself(version: int) -> None:
    with fresh_namespace():
        kernel = NetlinkKernel()
        kernel.few_connections = -1
        await delete_some(connect, kernel.delete_connections, [], version)
        kernel.close()


async def delete_some(
    make: Callable[[Address, Address], None],
    delete: Callable[[list[Address]], Awaitable[int]],
    crowd: list[Address],
    version: int,
) -> None:
    one, two, three = (ip_address(LOOPBACKS[version].format(number)) for number in (1, 2, 3))
    for source, destination in ((one, two), (two, three), (three, three)):
        make(source, destination)
    assert await delete([]) == 0
    assert await delete([two, *crowd]) == 2
    assert await delete([two, *crowd]) == 0
    assert await delete([three, *crowd]) == 1


async def test_who_writes_a_switch_that_was_read_is_heard(world: World) -> None:
    name = "net/ipv4/conf/eth1/route_localnet"
    changes = world.kernel.changes()
    try:
        await world.kernel.sysctls([name], only=True)
        world.foreign_sysctl(name, "1")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await anext(changes) != ObjectsChanged(Kind.SYSCTL, names=frozenset({name})):
                pass
    finally:
        changes.close()


async def test_the_path_to_a_neighbour_is_known_and_to_nowhere_is_an_error(world: World) -> None:
    found = await world.kernel.path_to(IPv4Address("172.26.0.77"))
    assert (found.device, found.source, found.gateway) == ("eth0", IPv4Address("172.26.0.1"), None)
    with pytest.raises(NoWay, match=r"198\.51\.100\.1"):
        await world.kernel.path_to(IPv4Address("198.51.100.1"))


def is_of_a_fresh_link(event: KernelEvent) -> bool:
    """Whether the kernel did it by itself: a link that has just come up, and its IPv6 routes some moments later."""
    if isinstance(event, ObjectsChanged) and event.route is not None:
        return event.route.key.version == 6 and event.route.target.protocol == RTPROT_KERNEL
    return isinstance(event, LinkChanged)


async def test_what_others_change_is_reported_and_what_we_change_is_not(world: World) -> None:
    changes = world.kernel.changes()
    try:
        await world.kernel.put_routes([V4.direct, V4.pod])
        await world.kernel.remove_routes([V4.direct])
        world.foreign_put(FOREIGN)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (event := await anext(changes)) != ObjectsChanged(Kind.ROUTE, FOREIGN):
                assert is_of_a_fresh_link(event), event
        world.set_link("eth1", up=False)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (event := await anext(changes)) is not None:
                assert is_of_a_fresh_link(event), event
                if isinstance(event, LinkChanged) and event.name == "eth1" and event.gone:
                    break
            assert event.seen == replace((await world.kernel.links())["eth1"], addresses=(), flagged=())
    finally:
        changes.close()


async def test_a_kernel_without_ipip_says_so_and_one_with_it_makes_tunl0() -> None:
    has_ipip = kernel_has("ipip")
    with fresh_namespace():
        kernel = RealWorld().kernel
        try:
            if not has_ipip:
                with pytest.raises(Unsupported, match="this kernel has no ipip"):
                    await kernel.put_tunnel(IPIP)
            else:
                await kernel.put_tunnel(IPIP)
                assert (await kernel.tunnels())[TUNL0] == IPIP
        finally:
            kernel.close()


async def counted(kernel: Kernel, tunnel: str, packets: int) -> None:
    """The kernel takes packets from the loopback when it has a moment (softirq): ask until it has."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await kernel.received(tunnel) < packets:
            pass
    assert await kernel.received(tunnel) == packets


async def test_what_comes_out_of_a_tunnel_is_counted(world: World) -> None:
    assert await world.kernel.received(V4.vxlan.name) == 0
    await world.kernel.put_tunnel(V4.vxlan)
    before = await world.kernel.received(V4.vxlan.name)
    for _ in range(3):
        world.arrive(V4.vxlan, V4.near)
    await counted(world.kernel, V4.vxlan.name, before + 3)


@pytest.mark.ipip
async def test_what_comes_out_of_tunl0_is_counted(world: World) -> None:
    await world.kernel.put_tunnel(IPIP)
    before = await world.kernel.received(TUNL0)
    for _ in range(3):
        world.arrive(IPIP, V4.near)
    await counted(world.kernel, TUNL0, before + 3)


async def test_the_fake_lacks_ipip_when_told() -> None:
    fake = FakeKernel()
    fake.faults.add(Fault.NO_IPIP)
    with pytest.raises(Unsupported):
        await fake.put_tunnel(IPIP)


@pytest.mark.ipip
async def test_tunl0_is_adopted_set_and_never_deleted(world: World) -> None:
    for desired in (IPIP, replace(IPIP, mtu=1400, address=IPv4Address("10.1.0.9"))):
        await world.kernel.put_tunnel(desired)
        assert (await world.kernel.tunnels())[TUNL0] == desired
    routed = V4.onlink.with_(device=TUNL0, gateway=IPv4Address("172.26.0.2"))
    other = replace(routed.target.next_hops()[0], gateway=IPv4Address("172.26.0.3"), weight=2)
    for route in (routed, routed.with_(hops=(*routed.target.next_hops(), other), **NOWHERE), routed):
        assert await world.kernel.put_routes([route]) == ()
        assert (await world.kernel.routes())[V4.block] == route
    for _ in range(2):
        await world.kernel.remove_tunnel(TUNL0)
        left = (await world.kernel.tunnels())[TUNL0]
        assert (left.up, left.address, left.strays) == (False, None, ())
    assert TUNL0 in await world.kernel.links()


@pytest.mark.parametrize("values", [V4, V6], ids=["IPv4", "IPv6"])
async def test_a_route_has_a_source_that_this_host_has_and_no_other(world: World, values: Values) -> None:
    sent_from = values.direct.with_(source=values.near)
    assert await world.kernel.put_routes([sent_from]) == ()
    assert (await world.kernel.routes())[values.block] == sent_from
    (refusal,) = await world.kernel.put_routes([values.direct.with_(source=values.far)])
    assert "nvalid" in refusal.why
    assert await world.kernel.put_routes([values.direct]) == ()
    assert (await world.kernel.routes())[values.block] == values.direct


@pytest.mark.parametrize("values", [V4, V6], ids=["IPv4", "IPv6"])
async def test_a_route_by_a_nexthop_object_has_its_source_too(values: Values) -> None:
    with fresh_namespace():
        world = RealWorld()
        kernel = NetlinkKernel(nexthop_objects=True)
        try:
            sent_from = values.direct.with_(source=values.near)
            assert await kernel.put_routes([sent_from]) == ()
            assert (await kernel.routes())[values.block] == sent_from
            assert await kernel.put_routes([values.direct]) == ()
            assert (await kernel.routes())[values.block] == values.direct
        finally:
            kernel.close()
            world.kernel.close()


@pytest.mark.parametrize("values", [V4, V6], ids=["IPv4", "IPv6"])
async def test_a_vxlan_device_of_no_parent_is_made_and_one_that_has_one_is_made_anew(
    world: World, values: Values
) -> None:
    for tunnel in (values.vxlan, replace(values.vxlan, parent=None), values.vxlan):
        await world.kernel.put_tunnel(tunnel)
        assert (await world.kernel.tunnels())[tunnel.name] == tunnel


async def test_an_ipv6_gateway_is_taken_only_where_its_own_route_is_over_the_same_device(
    world: World,
) -> None:
    tunnelled = Route(V6.block, gateway=IPv6Address("fd10:1::"), device="eth1", onlink=True)
    assert await world.kernel.put_routes([V6.direct]) == ()
    (refusal,) = await world.kernel.put_routes([tunnelled])
    assert (refusal.what, "device mismatch" in refusal.why) == (tunnelled, True)
    own = Route(RouteKey(IPv6Network("fd10:1::/128")), device="eth1")
    assert await world.kernel.put_routes([own, tunnelled]) == ()
    assert (await world.kernel.routes())[V6.block] == tunnelled


CROSSED = Route(V4.block, gateway=IPv6Address("fe80::2"), device="eth1")
SEVERAL_CROSSED = Route(
    V4.block, hops=(NextHop(V4.far, "eth0"), NextHop(IPv6Address("fe80::2"), "eth1", weight=256))
)


async def test_ipv4_goes_through_ipv6_gateways_and_ipv6_never_through_ipv4_ones(world: World) -> None:
    for route in (CROSSED, SEVERAL_CROSSED, CROSSED):
        assert await world.kernel.put_routes([route]) == ()
        assert (await world.kernel.routes())[V4.block] == route
    for route in (V6.direct.with_(gateway=V4.far), V6.several.with_(hops=SEVERAL_CROSSED.target.hops)):
        (refusal,) = await world.kernel.put_routes([route])
        assert refusal.what == route
        assert V6.block not in await world.kernel.routes()


@pytest.mark.parametrize("route", [CROSSED, SEVERAL_CROSSED], ids=["one", "several"])
async def test_the_fake_is_an_old_kernel_without_via_when_told(route: Route) -> None:
    fake = FakeWorld().kernel
    fake.faults.add(Fault.NO_VIA)
    (refusal,) = await fake.put_routes([route])
    assert refusal.why == "IPv4 does not support RTA_VIA attribute"


async def test_rules_are_read_and_what_they_do_to_a_forwarded_packet_is_asked() -> None:
    with fresh_namespace():
        world = RealWorld()
        pod, far = IPv4Address("10.1.0.7"), IPv4Address("10.1.9.63")
        ip("route add 10.1.0.7 dev eth1")
        ip("route add 10.1.9.0/26 via 172.26.0.2 dev eth0")
        sysctl.write(Sysctl("net/ipv4/ip_forward", "1"))
        assert await world.kernel.policy_rules() == ()
        assert await world.kernel.forwarded_by(far, pod, "eth1") == "eth0"
        ip("rule add from 10.1.0.0/24 to 10.1.0.0/16 iif eth1 fwmark 7 lookup 77 priority 90")
        ip("rule add to 10.1.0.0/16 blackhole priority 100")
        ip("-6 rule add to fd10::/16 lookup 5 priority 101")
        assert [(rule.version, str(rule)) for rule in await world.kernel.policy_rules()] == [
            (4, "90: from 10.1.0.0/24 to 10.1.0.0/16 iif eth1 fwmark 0x7 lookup 77"),
            (4, "100: to 10.1.0.0/16 blackhole"),
            (6, "101: to fd10::/16 lookup 5"),
        ]
        assert await world.kernel.forwarded_by(far, pod, "eth1") is None
        assert await world.kernel.forwarded_by(far, pod, "gone0") is None
        world.kernel.close()
