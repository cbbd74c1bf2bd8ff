"""What the contract says of routes, tunnels and their entries, in both versions of IP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import NextHop, Route, RouteKey
from tests.contract.kernels import V4, V6, Values, World


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def given(request: pytest.FixtureRequest) -> Values:
    found: Values = request.param
    return found


@pytest.mark.parametrize("name", ["direct", "onlink", "blackhole", "pod", "several"])
async def test_a_route_is_read_back_as_it_was_put(world: World, given: Values, name: str) -> None:
    route = getattr(given, name)
    assert await world.kernel.put_routes([route]) == ()
    assert (await world.kernel.routes())[route.key] == route


async def test_putting_again_is_success_and_putting_another_replaces(world: World, given: Values) -> None:
    for route in (
        *(given.direct, given.direct, given.onlink, given.blackhole, given.direct, given.several),
        *(given.several, given.direct, given.several, given.blackhole, given.several, other_ways(given)),
    ):
        assert await world.kernel.put_routes([route]) == ()
        assert (await world.kernel.routes())[given.block] == route


def other_ways(given: Values) -> Route:
    """By the same interfaces with other weights, and with three next hops."""
    first, second = given.several.target.hops
    assert first.gateway is not None
    third = replace(first, gateway=first.gateway + 5, weight=1)
    hops = tuple(sorted((replace(first, weight=1), replace(second, weight=7), third)))
    return given.several.with_(hops=hops)


def left_of(given: Values, device: str) -> Route:
    """What is left of several next hops without those over a device."""
    hops = tuple(hop for hop in given.several.target.hops if hop.device != device)
    return Route.from_target(given.block, given.several.target.through(hops))


async def test_several_next_hops_lead_through_a_tunnel(world: World, given: Values) -> None:
    await world.kernel.put_tunnel(given.vxlan)
    vteps = (given.vtep.address, given.vtep.address + 7)
    hops = tuple(
        NextHop(one, given.vxlan.name, onlink=True, weight=number) for number, one in enumerate(vteps, 1)
    )
    route = Route(given.block, hops=hops, protocol=3)
    assert await world.kernel.put_routes([route]) == ()
    assert (await world.kernel.routes())[given.block] == route
    await world.kernel.remove_tunnel(given.vxlan.name)
    assert given.block not in await world.kernel.routes()


async def test_a_next_hop_whose_link_is_down_is_none_and_comes_back_by_being_put(
    world: World, given: Values
) -> None:
    assert await world.kernel.put_routes([given.several]) == ()
    world.set_link("eth1", up=False)
    assert (await world.kernel.routes())[given.block] == left_of(given, "eth1")
    (refusal,) = await world.kernel.put_routes([given.several])
    assert refusal.what == given.several
    assert (await world.kernel.routes())[given.block] == left_of(given, "eth1")
    world.set_link("eth1", up=True)
    assert await world.kernel.put_routes([given.several]) == ()
    assert (await world.kernel.routes())[given.block] == given.several


async def test_with_the_last_links_of_its_next_hops_a_route_goes(world: World, given: Values) -> None:
    assert await world.kernel.put_routes([given.several, given.direct.with_(key=given.pod.key)]) == ()
    world.set_link("eth0", up=False)
    world.set_link("eth1", up=False)
    assert (await world.kernel.routes()).keys().isdisjoint({given.block, given.pod.key})


async def test_a_link_that_is_deleted_takes_its_next_hops_and_without_objects_ipv4_routes_as_well(
    world: World, given: Values
) -> None:
    assert await world.kernel.put_routes([given.several]) == ()
    moves = await world.kernel.move_routes(given.several.target, given.several.target, [given.block])
    world.delete_link("eth1")
    left = (await world.kernel.routes()).get(given.block)
    assert left == (left_of(given, "eth1") if moves or given.block.version == 6 else None)
    (refusal,) = await world.kernel.put_routes([given.several])
    assert "there is no device eth1" in refusal.why


async def test_what_is_read_after_a_carrier_was_lost_can_be_put_right(world: World, given: Values) -> None:
    """With nexthop objects the kernel has dropped them; a plain route stays as it is, and leads nowhere."""
    one = given.direct.with_(key=given.pod.key)
    assert await world.kernel.put_routes([given.several, one]) == ()
    moves = await world.kernel.move_routes(given.several.target, given.several.target, [given.block])
    world.set_carrier("eth0", carrier=False)
    found = await world.kernel.routes()
    left = left_of(given, "eth0") if moves else given.several
    assert (found.get(given.block), found.get(one.key)) == (left, None if moves else one)
    world.set_carrier("eth0", carrier=True)
    assert await world.kernel.put_routes([given.several, one]) == ()
    found = await world.kernel.routes()
    assert (found[given.block], found[one.key]) == (given.several, one)


async def test_a_next_hop_leaves_and_comes_back_in_one_step_where_routes_share_objects(
    world: World, given: Values
) -> None:
    other = given.several.with_(key=RouteKey(given.block.destination, metric=512))
    both, keys = [given.several, other], [given.block, other.key]
    assert await world.kernel.put_routes(both) == ()
    fewer = left_of(given, "eth1").target
    for was, now in ((given.several.target, fewer), (fewer, given.several.target)):
        moved = await world.kernel.move_routes(was, now, keys)
        found = await world.kernel.routes()
        assert [found[key].target for key in keys] == [now if moved else given.several.target] * 2
    assert await world.kernel.put_routes([given.direct]) == ()
    found = await world.kernel.routes()
    assert (found[given.block], found[other.key]) == (given.direct, other)


async def test_a_gateway_that_does_not_answer_is_left_where_there_is_another(
    world: World, given: Values
) -> None:
    other = given.several.with_(key=RouteKey(given.block.destination, metric=512))
    alone = given.direct.with_(key=given.pod.key)
    assert await world.kernel.put_routes([given.several, other, alone]) == ()
    changed = await world.kernel.leave_next_hops([given.far])
    found = await world.kernel.routes()
    left = left_of(given, "eth0").target if changed else given.several.target
    assert changed == await world.kernel.move_routes(left, given.several.target, [given.block, other.key])
    assert (found[given.block].target, found[other.key].target, found[alone.key]) == (left, left, alone)
    assert await world.kernel.leave_next_hops([given.near]) == 0


async def test_a_route_of_several_next_hops_is_removed_and_others_are_met(
    world: World, given: Values
) -> None:
    world.foreign_put(given.several.with_(protocol=11))
    assert (await world.kernel.routes())[given.block] == given.several.with_(protocol=11)
    assert await world.kernel.remove_routes([given.several]) == ()
    assert given.block in await world.kernel.routes()
    assert await world.kernel.put_routes([given.several]) == ()
    assert await world.kernel.remove_routes([given.several]) == ()
    assert given.block not in await world.kernel.routes()


async def test_without_replacing_what_stands_there_stays(world: World, given: Values) -> None:
    world.foreign_put(given.foreign)
    (refusal,) = await world.kernel.put_routes([given.direct], replace=False)
    assert refusal.what == given.direct
    assert refusal.exists
    assert (await world.kernel.routes())[given.block] == given.foreign
    assert await world.kernel.put_routes([given.pod], replace=False) == ()


async def test_one_refused_route_stops_no_other(world: World, given: Values) -> None:
    bad = given.direct.with_(key=given.pod.key, device="nowhere")
    other = given.blackhole.with_(key=RouteKey(given.block.destination, metric=512))
    (refusal,) = await world.kernel.put_routes([given.direct, bad, other])
    assert refusal.what == bad
    assert "nowhere" in refusal.why
    assert {given.block, other.key} <= (await world.kernel.routes()).keys()


async def test_a_removed_route_is_gone_and_removing_it_again_is_success(world: World, given: Values) -> None:
    await world.kernel.put_routes([given.direct, given.pod])
    for _ in range(2):
        assert await world.kernel.remove_routes([given.direct]) == ()
        assert given.block not in await world.kernel.routes()
    assert given.pod.key in await world.kernel.routes()


async def test_removing_never_takes_somebody_elses_route_in_its_place(world: World, given: Values) -> None:
    world.foreign_put(given.foreign)
    assert await world.kernel.remove_routes([given.direct, given.blackhole]) == ()
    assert (await world.kernel.routes())[given.block] == given.foreign


async def test_a_way_is_turned_for_all_its_routes_or_for_none(world: World, given: Values) -> None:
    second = given.direct.with_(key=RouteKey(given.pod.key.destination))
    routes = {route.key: route for route in (given.direct, second)}
    await world.kernel.put_routes([*routes.values()])
    now = given.direct.with_(gateway=given.far + 1).target
    moved = await world.kernel.move_routes(given.direct.target, now, routes.keys())
    expected = {key: Route.from_target(key, now) for key in routes} if moved else routes
    found = await world.kernel.routes()
    assert {key: found[key] for key in routes} == expected
    nowhere = given.direct.with_(device="nowhere").target
    assert not await world.kernel.move_routes(now if moved else given.direct.target, nowhere, routes.keys())
    assert {key: (await world.kernel.routes())[key] for key in routes} == expected


async def test_metrics_are_part_of_the_key(world: World, given: Values) -> None:
    second = given.direct.with_(key=RouteKey(given.block.destination, metric=512))
    await world.kernel.put_routes([given.direct, second])
    assert {given.block, second.key} <= (await world.kernel.routes()).keys()
    await world.kernel.remove_routes([second])
    found = await world.kernel.routes()
    assert given.block in found
    assert second.key not in found


async def test_routes_of_a_lost_device_are_gone(world: World, given: Values) -> None:
    await world.kernel.put_routes([given.direct, given.pod])
    world.set_link("eth1", up=False)
    assert given.pod.key not in await world.kernel.routes()
    world.delete_link("eth0")
    assert given.block not in await world.kernel.routes()


async def test_a_vxlan_device_is_read_back_as_it_was_put(world: World, given: Values) -> None:
    await world.kernel.put_tunnel(given.vxlan)
    assert (await world.kernel.tunnels())[given.vxlan.name] == given.vxlan
    link = (await world.kernel.links())[given.vxlan.name]
    assert link.up
    assert link.mac == given.vxlan.mac
    assert link.addresses[0] == (given.vxlan.address, given.near.max_prefixlen)


async def test_what_may_change_changes_in_place(world: World, given: Values) -> None:
    await world.kernel.put_tunnel(given.vxlan)
    index = (await world.kernel.links())[given.vxlan.name].index
    other = replace(
        given.vxlan, mtu=1400, address=given.pod.key.destination.network_address, mac="66:00:00:00:00:01"
    )
    await world.kernel.put_tunnel(other)
    assert (await world.kernel.tunnels())[given.vxlan.name] == other
    assert (await world.kernel.links())[given.vxlan.name].index == index
    world.set_link(given.vxlan.name, up=False)
    await world.kernel.put_tunnel(other)
    assert (await world.kernel.links())[given.vxlan.name].up


@pytest.mark.parametrize(
    "change",
    [{"vni": 7}, {"port": 8472}, {"parent": "eth1"}, {"local": None}],
    ids=lambda change: next(iter(change)),
)
async def test_what_may_not_change_makes_a_new_device(
    world: World, given: Values, change: dict[str, Any]
) -> None:
    await world.kernel.put_tunnel(given.vxlan)
    index = (await world.kernel.links())[given.vxlan.name].index
    change = {name: given.far if name == "local" else value for name, value in change.items()}
    other = replace(given.vxlan, **change)
    assert len(other.immutable_differences(given.vxlan)) == 1
    await world.kernel.put_tunnel(other)
    assert (await world.kernel.tunnels())[given.vxlan.name] == other
    assert (await world.kernel.links())[given.vxlan.name].index != index


async def test_a_tunnel_needs_its_parent(world: World, given: Values) -> None:
    with pytest.raises(KernelError, match="nowhere"):
        await world.kernel.put_tunnel(replace(given.vxlan, parent="nowhere"))


async def test_a_removed_vxlan_device_is_gone_and_removing_it_again_is_success(
    world: World, given: Values
) -> None:
    await world.kernel.put_tunnel(given.vxlan)
    for _ in range(2):
        await world.kernel.remove_tunnel(given.vxlan.name)
        assert given.vxlan.name not in await world.kernel.tunnels()


async def test_neighbours_and_forwarding_entries_come_go_and_are_replaced(
    world: World, given: Values
) -> None:
    await world.kernel.put_tunnel(given.vxlan)
    moved = replace(given.vtep, mac="66:00:00:00:00:02"), replace(given.forwarding, remote=given.far + 1)
    for neighbour, entry in ((given.vtep, given.forwarding), (given.vtep, given.forwarding), moved):
        assert await world.kernel.put_entries([neighbour]) == ()
        assert await world.kernel.put_entries([entry]) == ()
        assert await world.kernel.neighbours(given.vxlan.name) == {neighbour.address: neighbour}
        assert await world.kernel.fdb(given.vxlan.name) == {entry.mac: entry}
    for _ in range(2):
        assert await world.kernel.remove_entries([given.vtep]) == ()
        assert await world.kernel.remove_entries([given.forwarding]) == ()
        assert await world.kernel.neighbours(given.vxlan.name) == {}
        assert await world.kernel.fdb(given.vxlan.name) == {}


async def test_entries_without_their_device_are_refused_and_read_as_none(world: World, given: Values) -> None:
    assert len(await world.kernel.put_entries([given.vtep])) == 1
    assert len(await world.kernel.put_entries([given.forwarding])) == 1
    assert await world.kernel.remove_entries([given.vtep]) == ()
    assert await world.kernel.neighbours(given.vxlan.name) == {}
    assert await world.kernel.fdb(given.vxlan.name) == {}
