"""The contract of agent/dataplane/kernel.py, on the fake and on the kernel of a fresh namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

import pytest

from agent.dataplane.kernel import KernelError, LinkChanged, ObjectsChanged, Unsupported
from agent.dataplane.netlink_conntrack import Conntrack
from agent.dataplane.objects import (
    TUNL0,
    VXLAN_DEVICE,
    Address,
    FdbEntry,
    Kind,
    Masquerade,
    Neighbour,
    Route,
    RouteKey,
    RouteType,
    Scope,
    Sysctl,
    Tunnel,
    TunnelKind,
)
from tests.contract.kernels import RealWorld, World, connect
from tests.fakes.kernel import FakeKernel, Fault
from tests.fixtures.namespace import fresh_namespace, kernel_has

PATIENCE_SECONDS = 5.0
BLOCK = RouteKey(IPv4Network("10.1.0.0/26"))
DIRECT = Route(BLOCK, gateway=IPv4Address("172.26.0.2"), device="eth0")
ONLINK = Route(BLOCK, gateway=IPv4Address("203.0.113.9"), device="eth0", onlink=True)
BLACKHOLE = Route(BLOCK, RouteType.BLACKHOLE)
POD = Route(RouteKey(IPv4Network("10.1.0.7/32")), device="eth1", protocol=3, scope=Scope.LINK)
FOREIGN = replace(DIRECT, protocol=11)
VXLAN = Tunnel(
    VXLAN_DEVICE,
    TunnelKind.VXLAN,
    1450,
    IPv4Address("10.1.0.0"),
    vni=4096,
    port=4789,
    parent="eth0",
    local=IPv4Address("172.26.0.1"),
    mac="66:f9:37:c3:7e:94",
)
IPIP = Tunnel(TUNL0, TunnelKind.IPIP, 1480, IPv4Address("10.1.0.1"))
VTEP = Neighbour(VXLAN_DEVICE, IPv4Address("10.1.1.0"), "66:2d:bf:44:a6:8b")
FORWARDING = FdbEntry(VXLAN_DEVICE, "66:2d:bf:44:a6:8b", IPv4Address("172.26.0.2"))
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


@pytest.mark.parametrize("route", [DIRECT, ONLINK, BLACKHOLE, POD], ids=str)
async def test_a_route_is_read_back_as_it_was_put(world: World, route: Route) -> None:
    assert await world.kernel.put_routes([route]) == ()
    assert (await world.kernel.routes())[route.key] == route


async def test_putting_again_is_success_and_putting_another_replaces(world: World) -> None:
    for route in (DIRECT, DIRECT, ONLINK, BLACKHOLE, DIRECT):
        assert await world.kernel.put_routes([route]) == ()
        assert (await world.kernel.routes())[BLOCK] == route


async def test_without_replacing_what_stands_there_stays(world: World) -> None:
    world.foreign_put(FOREIGN)
    (refusal,) = await world.kernel.put_routes([DIRECT], replace=False)
    assert refusal.what == DIRECT
    assert refusal.exists
    assert (await world.kernel.routes())[BLOCK] == FOREIGN
    assert await world.kernel.put_routes([POD], replace=False) == ()


async def test_one_refused_route_stops_no_other(world: World) -> None:
    bad = Route(RouteKey(IPv4Network("10.9.0.0/26")), gateway=IPv4Address("10.8.0.1"), device="nowhere")
    (refusal,) = await world.kernel.put_routes([DIRECT, bad, POD])
    assert refusal.what == bad
    assert "nowhere" in refusal.why
    assert {BLOCK, POD.key} <= (await world.kernel.routes()).keys()


async def test_a_removed_route_is_gone_and_removing_it_again_is_success(world: World) -> None:
    await world.kernel.put_routes([DIRECT, POD])
    for _ in range(2):
        assert await world.kernel.remove_routes([DIRECT]) == ()
        assert BLOCK not in await world.kernel.routes()
    assert POD.key in await world.kernel.routes()


async def test_removing_never_takes_somebody_elses_route_in_its_place(world: World) -> None:
    world.foreign_put(FOREIGN)
    assert await world.kernel.remove_routes([DIRECT, BLACKHOLE]) == ()
    assert (await world.kernel.routes())[BLOCK] == FOREIGN


async def test_metrics_are_part_of_the_key(world: World) -> None:
    second = replace(DIRECT, key=replace(BLOCK, metric=512))
    await world.kernel.put_routes([DIRECT, second])
    assert {BLOCK, second.key} <= (await world.kernel.routes()).keys()
    await world.kernel.remove_routes([second])
    found = await world.kernel.routes()
    assert BLOCK in found
    assert second.key not in found


async def test_routes_of_a_lost_device_are_gone(world: World) -> None:
    await world.kernel.put_routes([DIRECT, POD])
    world.set_link("eth1", up=False)
    assert POD.key not in await world.kernel.routes()
    world.delete_link("eth0")
    assert BLOCK not in await world.kernel.routes()


async def test_a_vxlan_device_is_read_back_as_it_was_put(world: World) -> None:
    await world.kernel.put_tunnel(VXLAN)
    assert (await world.kernel.tunnels())[VXLAN_DEVICE] == VXLAN
    link = (await world.kernel.links())[VXLAN_DEVICE]
    assert link.up
    assert link.mac == VXLAN.mac
    assert link.addresses[0] == (VXLAN.address, 32)


async def test_what_may_change_changes_in_place(world: World) -> None:
    await world.kernel.put_tunnel(VXLAN)
    index = (await world.kernel.links())[VXLAN_DEVICE].index
    other = replace(VXLAN, mtu=1400, address=IPv4Address("10.1.0.5"), mac="66:00:00:00:00:01")
    await world.kernel.put_tunnel(other)
    assert (await world.kernel.tunnels())[VXLAN_DEVICE] == other
    assert (await world.kernel.links())[VXLAN_DEVICE].index == index
    world.set_link(VXLAN_DEVICE, up=False)
    await world.kernel.put_tunnel(other)
    assert (await world.kernel.links())[VXLAN_DEVICE].up


@pytest.mark.parametrize(
    "change",
    [{"vni": 7}, {"port": 8472}, {"parent": "eth1"}, {"local": IPv4Address("172.26.0.9")}],
    ids=lambda change: next(iter(change)),
)
async def test_what_may_not_change_makes_a_new_device(world: World, change: dict[str, Any]) -> None:
    await world.kernel.put_tunnel(VXLAN)
    index = (await world.kernel.links())[VXLAN_DEVICE].index
    other = replace(VXLAN, **change)
    assert len(other.immutable_differences(VXLAN)) == 1
    await world.kernel.put_tunnel(other)
    assert (await world.kernel.tunnels())[VXLAN_DEVICE] == other
    assert (await world.kernel.links())[VXLAN_DEVICE].index != index


async def test_a_tunnel_needs_its_parent(world: World) -> None:
    with pytest.raises(KernelError, match="nowhere"):
        await world.kernel.put_tunnel(replace(VXLAN, parent="nowhere"))


async def test_a_removed_vxlan_device_is_gone_and_removing_it_again_is_success(world: World) -> None:
    await world.kernel.put_tunnel(VXLAN)
    for _ in range(2):
        await world.kernel.remove_tunnel(VXLAN_DEVICE)
        assert VXLAN_DEVICE not in await world.kernel.tunnels()


async def test_neighbours_and_forwarding_entries_come_go_and_are_replaced(world: World) -> None:
    await world.kernel.put_tunnel(VXLAN)
    moved = replace(VTEP, mac="66:00:00:00:00:02"), replace(FORWARDING, remote=IPv4Address("172.26.0.3"))
    for neighbour, entry in ((VTEP, FORWARDING), (VTEP, FORWARDING), moved):
        assert await world.kernel.put_neighbours([neighbour]) == ()
        assert await world.kernel.put_fdb([entry]) == ()
        assert await world.kernel.neighbours(VXLAN_DEVICE) == {neighbour.address: neighbour}
        assert await world.kernel.fdb(VXLAN_DEVICE) == {entry.mac: entry}
    for _ in range(2):
        assert await world.kernel.remove_neighbours([VTEP]) == ()
        assert await world.kernel.remove_fdb([FORWARDING]) == ()
        assert await world.kernel.neighbours(VXLAN_DEVICE) == {}
        assert await world.kernel.fdb(VXLAN_DEVICE) == {}


async def test_entries_without_their_device_are_refused_and_read_as_none(world: World) -> None:
    assert len(await world.kernel.put_neighbours([VTEP])) == 1
    assert len(await world.kernel.put_fdb([FORWARDING])) == 1
    assert await world.kernel.remove_neighbours([VTEP]) == ()
    assert await world.kernel.neighbours(VXLAN_DEVICE) == {}
    assert await world.kernel.fdb(VXLAN_DEVICE) == {}


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
    Masquerade(frozenset({NETWORK("0.0.0.0/1")}), frozenset({NETWORK("240.0.0.0/4"), NETWORK("0.0.0.0/8")})),
]


@pytest.mark.parametrize(
    "wish", MASQUERADES, ids=["two pools", "neighbours and overlaps", "both ends of the space"]
)
async def test_masquerading_is_read_back_collapsed(world: World, wish: Masquerade) -> None:
    assert await world.kernel.masquerade() is None
    for each in (MASQUERADES[0], wish, wish):
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
async def test_connections_of_an_address_are_forgotten_and_no_others(
    world: World, crowd: list[Address], version: int
) -> None:
    await forget_some(world.connect, world.kernel.forget_connections, crowd, version)


@pytest.mark.parametrize("version", LOOPBACKS)
async def test_the_kernel_can_look_for_an_address_itself(version: int) -> None:
    with fresh_namespace():
        table = Conntrack(few=-1)
        await forget_some(connect, table.forget, [], version)
        table.close()


async def forget_some(
    make: Callable[[Address, Address], None],
    forget: Callable[[list[Address]], Awaitable[int]],
    crowd: list[Address],
    version: int,
) -> None:
    one, two, three = (ip_address(LOOPBACKS[version].format(number)) for number in (1, 2, 3))
    for source, destination in ((one, two), (two, three), (three, three)):
        make(source, destination)
    assert await forget([]) == 0
    assert await forget([two, *crowd]) == 2
    assert await forget([two, *crowd]) == 0
    assert await forget([three, *crowd]) == 1


async def test_who_writes_a_switch_that_was_read_is_heard(world: World) -> None:
    name = "net/ipv4/conf/eth1/route_localnet"
    changes = world.kernel.changes()
    try:
        await world.kernel.sysctls([name], only=True)
        world.foreign_sysctl(name, "1")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await anext(changes) != ObjectsChanged(Kind.SYSCTL):
                pass
    finally:
        changes.close()


async def test_the_way_to_a_neighbour_is_known_and_to_nowhere_is_an_error(world: World) -> None:
    found = await world.kernel.path_to(IPv4Address("172.26.0.77"))
    assert (found.device, found.source, found.gateway) == ("eth0", IPv4Address("172.26.0.1"), None)
    with pytest.raises(KernelError, match=r"198\.51\.100\.1"):
        await world.kernel.path_to(IPv4Address("198.51.100.1"))


async def test_what_others_change_is_heard_and_what_we_change_is_not(world: World) -> None:
    changes = world.kernel.changes()
    try:
        await world.kernel.put_routes([DIRECT, POD])
        await world.kernel.remove_routes([DIRECT])
        world.foreign_put(FOREIGN)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await anext(changes) == ObjectsChanged(Kind.ROUTE, FOREIGN)
        world.set_link("eth1", up=False)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (event := await anext(changes)) != LinkChanged("eth1", lost=True):
                assert isinstance(event, LinkChanged), event
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


async def test_the_fake_lacks_ipip_when_told() -> None:
    fake = FakeKernel()
    fake.faults.add(Fault.NO_IPIP)
    with pytest.raises(Unsupported):
        await fake.put_tunnel(IPIP)


@pytest.mark.ipip
async def test_tunl0_is_adopted_set_and_never_deleted(world: World) -> None:
    for wish in (IPIP, replace(IPIP, mtu=1400, address=IPv4Address("10.1.0.9"))):
        await world.kernel.put_tunnel(wish)
        assert (await world.kernel.tunnels())[TUNL0] == wish
    routed = replace(ONLINK, device=TUNL0, gateway=IPv4Address("172.26.0.2"))
    assert await world.kernel.put_routes([routed]) == ()
    assert (await world.kernel.routes())[BLOCK] == routed
    for _ in range(2):
        await world.kernel.remove_tunnel(TUNL0)
        left = (await world.kernel.tunnels())[TUNL0]
        assert (left.up, left.address, left.strays) == (False, None, ())
    assert TUNL0 in await world.kernel.links()
