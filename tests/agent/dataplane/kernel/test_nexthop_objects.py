"""Nexthop objects on the kernel of a fresh namespace: one per gateway, device and flag, gone with its last route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from agent.configuration.config import Config, KernelSettings
from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink import rtnexthops, sysctl
from agent.netlink.objects import NextHop, Route, RouteKey, Sysctl
from agent.netlink.rtnetlink import HEADER, BadMessage
from agent.netlink.rtnexthops import OURS, Group, Nexthop, Resilience
from agent.service.start import kernel_of
from tests.contract.kernels import set_carrier
from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.dataplane.desired_states import LEARNED, OWN_BLOCK, POD, routes
from tests.scenes.dataplane.reconcilers import Bench, running

SECOND = LEARNED.with_(key=RouteKey(IPv4Network("10.1.2.0/26")))
OTHER = LEARNED.with_(key=RouteKey(IPv4Network("10.1.3.0/26")), gateway=IPv4Address("172.26.0.3"))
ONLINK = OTHER.with_(key=RouteKey(IPv4Network("10.1.4.0/26")), onlink=True)


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        for name in ("eth0", "cali1"):
            ip(f"link add {name} type veth peer name {name}-far")
            ip(f"link set {name}-far up")
            ip(f"link set {name} up")
        ip("address add 172.26.0.1/24 dev eth0")
        kernel = NetlinkKernel(nexthop_objects=True)
        yield kernel
        kernel.close()


def objects() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ip("-j nexthop"))
    return sorted(found, key=lambda one: one["id"])


def gateways() -> list[tuple[str, ...]]:
    """Of the objects of single next hops, with their flags."""
    return sorted((one["gateway"], *one["flags"]) for one in objects() if "gateway" in one)


def groups() -> dict[int, dict[str, int]]:
    """Number -> gateway -> weight."""
    there = objects()
    gateway = {one["id"]: one["gateway"] for one in there if "gateway" in one}
    return {
        one["id"]: {gateway[member["id"]]: member.get("weight", 1) for member in one["group"]}
        for one in there
        if "group" in one
    }


async def test_routes_through_one_gateway_share_one_object(kernel: NetlinkKernel) -> None:
    assert await kernel.put_routes([LEARNED, SECOND, OTHER, ONLINK, POD, OWN_BLOCK]) == ()
    assert gateways() == [("172.26.0.2",), ("172.26.0.3",), ("172.26.0.3", "onlink")]
    assert sorted(map(list, groups().values())) == [["172.26.0.2"], ["172.26.0.3"], ["172.26.0.3"]]
    assert all(one["id"] in OURS for one in objects())
    assert ip("route").count("nhid") == 4
    found = await kernel.routes()
    assert {
        route.key: route for route in (LEARNED, SECOND, OTHER, ONLINK, POD, OWN_BLOCK)
    }.items() <= found.items()


async def test_an_object_goes_with_its_last_route_and_foreign_ones_stay(kernel: NetlinkKernel) -> None:
    ip("nexthop add id 7 via 172.26.0.9 dev eth0")
    await kernel.put_routes([LEARNED, SECOND, OTHER])
    await kernel.remove_routes([LEARNED, OTHER])
    await kernel.routes()
    assert gateways() == [("172.26.0.2",), ("172.26.0.9",)]
    assert list(groups().values()) == [{"172.26.0.2": 1}]
    await kernel.remove_routes([SECOND])
    await kernel.routes()
    assert [one["id"] for one in objects()] == [7]


async def test_a_new_life_uses_the_objects_of_the_old_one(kernel: NetlinkKernel) -> None:
    await kernel.put_routes([LEARNED])
    before = objects()
    again = NetlinkKernel(nexthop_objects=True)
    await again.put_routes([LEARNED, SECOND])
    again.close()
    assert objects() == before


async def test_a_kernel_that_hides_the_gateways_gets_plain_routes(kernel: NetlinkKernel) -> None:
    assert sysctl.write(Sysctl("net/ipv4/nexthop_compat_mode", "0")) is None
    assert await kernel.put_routes([LEARNED]) == ()
    assert objects() == []
    assert (await kernel.routes())[LEARNED.key] == LEARNED


@pytest.mark.parametrize("drift", ["nexthop flush", "link set eth0 down", "route del 10.1.1.0/26"])
async def test_routes_that_went_with_their_object_come_back(kernel: NetlinkKernel, drift: str) -> None:
    desired = Dataplane(routes=routes(LEARNED, SECOND, OTHER).routes)
    async with running(Bench(kernel, desired)) as bench:
        await bench.quiet()
        whole = ip("route show proto bird")
        assert whole.count("nhid") == 3
        ip(drift)
        assert ip("route show proto bird") != whole
        if "down" in drift:
            ip("link set eth0 up")
        await bench.until(lambda: ip("route show proto bird") == whole, 1.0)


MANY = {
    key: LEARNED.with_(key=key)
    for key in (RouteKey(IPv4Network((0x14000000 + (number << 6), 26))) for number in range(200))
}
ELSEWHERE = {key: route.with_(gateway=OTHER.gateway) for key, route in MANY.items()}


@pytest.mark.parametrize(
    "others", [False, True], ids=["alone", "and the new gateway has an object of its own"]
)
async def test_a_gateway_that_moves_is_its_object_and_all_routes_follow(
    kernel: NetlinkKernel, others: bool
) -> None:
    more = {OTHER.key: OTHER} if others else {}
    async with running(Bench(kernel, Dataplane(routes={**MANY, **more}))) as bench:
        await bench.quiet()
        before = groups()
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes={**ELSEWHERE, **more}))
        await bench.quiet()
        assert bench.log.of("route.moved") == [{"count": 200, "was": "172.26.0.2", "now": "172.26.0.3"}]
        assert groups() == {number: {"172.26.0.3": 1} for number in before}
        assert ip("route show proto bird").count("via 172.26.0.3 dev eth0") == 200 + others
        assert {**ELSEWHERE, **more}.items() <= (await kernel.routes()).items()
        # And back again, with one route more that goes through either object.
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes={**MANY, SECOND.key: SECOND}))
        await bench.quiet()
        assert len(bench.log.of("route.moved")) == (1 if others else 2)
        assert ip("route show proto bird").count("via 172.26.0.2 dev eth0") == 201


async def test_a_plain_route_of_an_earlier_life_keeps_the_others_from_moving(
    kernel: NetlinkKernel,
) -> None:
    plain = NetlinkKernel()
    await plain.put_routes([next(iter(MANY.values()))])
    plain.close()
    async with running(Bench(kernel, Dataplane(routes=MANY))) as bench:
        await bench.quiet()
        assert ip("route show proto bird").count("nhid") == 199  # it is right as it is
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes=ELSEWHERE))
        await bench.quiet()
        assert bench.log.of("route.moved") == []
        assert ip("route show proto bird").count("nhid") == 200
        assert ELSEWHERE.items() <= (await kernel.routes()).items()
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes=MANY))
        await bench.quiet()
        assert len(bench.log.of("route.moved")) == 1
        assert MANY.items() <= (await kernel.routes()).items()


async def test_what_was_believed_of_objects_is_doubted_when_a_route_is_refused(kernel: NetlinkKernel) -> None:
    assert await kernel.put_routes([LEARNED]) == ()
    ip("nexthop flush")
    assert len(await kernel.put_routes([LEARNED])) == 1
    assert await kernel.put_routes([LEARNED, SECOND]) == ()
    assert ip("route show proto bird").count("nhid") == 2


BOTH = LEARNED.target.through(
    (NextHop(IPv4Address("172.26.0.2"), "eth0", weight=3), NextHop(IPv4Address("172.27.0.2"), "eth1"))
)
SEVERAL = {key: Route.from_target(key, BOTH) for key in MANY}


async def test_what_fails_leaves_its_group_and_comes_back_by_one_message_each(kernel: NetlinkKernel) -> None:
    """The first next hop is withdrawn, then heard again: the routes are not touched."""
    add_uplink()
    fewer = {key: Route.from_target(key, BOTH.through(BOTH.hops[1:])) for key in SEVERAL}
    async with running(Bench(kernel, Dataplane(routes=SEVERAL))) as bench:
        await bench.quiet()
        assert list(groups().values()) == [{"172.26.0.2": 3, "172.27.0.2": 1}]
        before = written()
        for now, gateways_now in ((fewer, {"172.27.0.2": 1}), (SEVERAL, {"172.26.0.2": 3, "172.27.0.2": 1})):
            bench.desired = replace(bench.desired, dataplane=Dataplane(routes=now))
            await bench.quiet()
            assert list(groups().values()) == [gateways_now]
            assert now.items() <= (await kernel.routes()).items()
        assert written() == before
        both, one = "172.26.0.2, 172.27.0.2", "172.27.0.2"
        assert bench.log.of("route.moved") == [
            {"count": 200, "was": both, "now": one},
            {"count": 200, "was": one, "now": both},
        ]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("link set eth1 down", "eth1 is down"),
        ("the other end down", "eth1 has no carrier"),
        ("link del eth1", "eth1 is not there"),
    ],
)
async def test_a_next_hop_goes_with_its_interface_and_comes_back_with_it(
    kernel: NetlinkKernel, how: str, why: str
) -> None:
    """Down, without a carrier, or deleted: the kernel takes it out of groups and says nothing of that."""
    add_uplink()
    async with running(Bench(kernel, Dataplane(routes=SEVERAL))) as bench:
        await bench.quiet()
        before = written()
        if "carrier" in why:
            set_carrier("eth1", carrier=False)
        else:
            ip(how)
        assert list(groups().values()) == [{"172.26.0.2": 3}]
        await bench.quiet()
        left = BOTH.through(BOTH.hops[:1])
        snapshot = bench.reconciler.snapshot()
        assert {snapshot.actual.routes[key].target for key in SEVERAL} == {left}
        assert {*snapshot.waiting.values()} == {why}
        if "carrier" in why:
            set_carrier("eth1", carrier=True)
        elif "del" in how:
            add_uplink()
        else:
            ip(how.replace("down", "up"))
        await bench.until(lambda: list(groups().values()) == [{"172.26.0.2": 3, "172.27.0.2": 1}], 2.0)
        await bench.quiet()
        assert SEVERAL.items() <= (await kernel.routes()).items()
        assert written() == before


@pytest.mark.parametrize("version", [4, 6])
async def test_flows_of_next_hops_that_stay_do_not_move_in_a_resilient_group(version: int) -> None:
    """Which way each of many flows goes is the kernel's word, before one of three next hops leaves and after."""
    hops = tuple(
        NextHop(ip_address(f"172.26.0.{last}" if version == 4 else f"fd26::{last}"), "eth0")
        for last in (2, 3, 4)
    )
    block = ip_network("10.1.1.0/26" if version == 4 else "fd10:1::/122")
    with fresh_namespace():
        add_uplink("eth0", "172.26.0.1/24", "fd26::1/64")
        sysctl.write(Sysctl(f"net/ipv{version}/fib_multipath_hash_policy", "1"))
        kernel = NetlinkKernel(nexthop_objects=True, resilience=Resilience(buckets=64))
        route = Route(RouteKey(block), hops=hops)
        fewer = Route.from_target(route.key, route.target.through(hops[:2]))
        assert await kernel.put_routes([route]) == ()
        assert [one["type"] for one in objects() if "group" in one] == ["resilient"]
        before = ways_of_flows(block)
        assert set(before.values()) == {str(hop.gateway) for hop in hops}
        assert await kernel.move_routes(route.target, fewer.target, [route.key])
        after = ways_of_flows(block)
        assert set(after.values()) == {str(hop.gateway) for hop in hops[:2]}
        stayed = {flow: way for flow, way in before.items() if way in after.values()}
        assert stayed.items() <= after.items()
        assert (await kernel.routes())[route.key] == fewer
        kernel.close()


DRIFTS = [
    (version, with_objects, drift)
    for version in (4, 6)
    for with_objects in (True, False)
    for drift in (
        "-{version} route replace {key} via {first} dev eth0 proto bird",
        "-{version} route replace {key} proto bird nexthop via {first} dev eth0 nexthop via {second} dev eth0 weight 9",
        "-{version} route del {key} proto bird",
    )
]
DRIFTS += [
    (version, True, drift)
    for version in (4, 6)
    for drift in (
        "nexthop del id {member}",
        "nexthop replace id {group} group {member}",
        "nexthop flush",
    )
]
DRIFTS += [(6, False, "-6 route del {key} via {first} dev eth0")]


@pytest.mark.parametrize(("version", "with_objects", "drift"), DRIFTS)
async def test_what_others_do_to_several_next_hops_is_mended(
    kernel: NetlinkKernel, version: int, with_objects: bool, drift: str
) -> None:
    ip("address add fd26::1/64 dev eth0 nodad")
    key = RouteKey(ip_network("10.1.1.0/26" if version == 4 else "fd10:1::/122"))
    addresses = [ip_address(f"172.26.0.{one}" if version == 4 else f"fd26::{one}") for one in (2, 3)]
    route = Route(key, hops=tuple(NextHop(one, "eth0", weight=2) for one in addresses))
    plain = NetlinkKernel()
    async with running(Bench(kernel if with_objects else plain, Dataplane(routes={key: route}))) as bench:
        await bench.quiet()
        there = await plain.routes()
        assert there[key] == route
        numbers = {
            kind: min((one["id"] for one in objects() if kind in one), default=0)
            for kind in ("gateway", "group")
        }
        first, second = addresses
        words = {"member": numbers["gateway"], "group": numbers["group"], "first": first, "second": second}
        ip(drift.format(**words, key=key, version=version))
        assert (await plain.routes()).get(key) != route
        await bench.until(lambda: bench.reconciler.report().drift.get("route", 0) > 0, 2.0)
        await bench.quiet()
        assert (await plain.routes())[key] == route
    plain.close()


async def test_what_does_not_answer_is_left_at_once_and_kept_out_until_it_answers_again(
    kernel: NetlinkKernel,
) -> None:
    """The routes are desired as before: BGP has yet to hear of it."""
    add_uplink()
    async with running(Bench(kernel, Dataplane(routes=SEVERAL))) as bench:
        await bench.quiet()
        before = written()
        await bench.reconciler.avoid(frozenset({IPv4Address("172.26.0.2")}))
        assert list(groups().values()) == [{"172.27.0.2": 1}]
        await bench.quiet()
        assert list(groups().values()) == [{"172.27.0.2": 1}]
        why = {*bench.reconciler.snapshot().waiting.values()}
        assert why == {"eth0 leads to 172.26.0.2, which does not answer"}
        both = frozenset({IPv4Address("172.26.0.2"), IPv4Address("172.27.0.2")})
        await bench.reconciler.avoid(both)  # and now nothing is better than anything else
        await bench.quiet()
        assert list(groups().values()) == [{"172.26.0.2": 3, "172.27.0.2": 1}]
        await bench.reconciler.avoid(frozenset({IPv4Address("172.27.0.2")}))
        assert list(groups().values()) == [{"172.26.0.2": 3, "172.27.0.2": 1}]  # it was known
        await bench.quiet()
        assert list(groups().values()) == [{"172.26.0.2": 1}]
        await bench.reconciler.avoid(frozenset())
        await bench.quiet()
        assert list(groups().values()) == [{"172.26.0.2": 3, "172.27.0.2": 1}]
        assert SEVERAL.items() <= (await kernel.routes()).items()
        assert written() == before


async def test_the_settings_make_groups_resilient(kernel: NetlinkKernel) -> None:
    settings = KernelSettings(nexthop_objects=True, resilient_groups=True, resilient_buckets=7)
    own = kernel_of(Config(kernel=settings))
    assert await own.put_routes([LEARNED]) == ()
    (group,) = (one for one in objects() if "group" in one)
    assert (group["type"], group["resilient_args"]["buckets"]) == ("resilient", 7)
    assert groups() == {group["id"]: {"172.26.0.2": 1}}
    await kernel.remove_routes([LEARNED])
    own.close()


async def test_an_object_that_an_earlier_version_refers_to_keeps_the_others_from_moving(
    kernel: NetlinkKernel,
) -> None:
    """It is no group, which alone can get another next hop."""
    old, *rest = MANY.values()
    ip(f"nexthop add id {OURS.start + 9} via 172.26.0.2 dev eth0")
    ip(f"route add {old.key} nhid {OURS.start + 9} proto bird")
    async with running(Bench(kernel, Dataplane(routes=MANY))) as bench:
        await bench.quiet()
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes=ELSEWHERE))
        await bench.quiet()
        assert bench.log.of("route.moved") == []
        assert ELSEWHERE.items() <= (await kernel.routes()).items()
    assert len(rest) == 199


def add_uplink(name: str = "eth1", *addresses: str) -> None:
    ip(f"link add {name} type veth peer name {name}-far")
    ip(f"link set {name}-far up")
    ip(f"link set {name} up")
    for address in addresses or ("172.27.0.1/24",):
        ip(f"address add {address} dev {name}{' nodad' if ':' in address else ''}")


def written() -> str:
    """The routes of ours with the numbers of their groups, as nobody wrote them anew."""
    return "\n".join(line for line in ip("route show proto bird").splitlines() if "nhid" in line)


def ways_of_flows(block: IPv4Network | IPv6Network) -> dict[int, str]:
    """The kernel's gateway for flows that differ in a port."""
    found = {}
    for port in range(1000, 1100):
        (way,) = json.loads(ip(f"-j route get {block[1]} ipproto tcp sport {port} dport 80"))
        found[port] = way["gateway"]
    return found


HOP = Nexthop(IPv4Address("172.26.0.2"), 3, onlink=True)


def test_an_object_is_these_bytes_and_these_bytes_are_the_object() -> None:
    data = rtnexthops.nexthop_request(OURS.start, HOP)
    assert data == bytes.fromhex(
        "30000000 6800 0106 00000000 00000000 02 00 0c 00 04000000 0800 0100 00000054 0800 0500 03000000"
        "0800 0600 ac1a0002"
    )
    assert rtnexthops.decode_nexthop(data, HEADER.size, len(data)) == (OURS.start, HOP)
    foreign = rtnexthops.nexthop_request(7, HOP)
    assert rtnexthops.decode_nexthop(foreign, HEADER.size, len(foreign)) is None


def test_a_group_is_these_bytes_and_these_bytes_are_the_group() -> None:
    members = [(OURS.start + 1, 1), (OURS.start, 3)]
    data = rtnexthops.group_request(OURS.start + 2, members, resilience=Resilience(16, 30, 60))
    numbers = "0800 0100 02000054 1400 0200 00000054 02 00 0000 01000054 00 00 0000"
    assert data == bytes.fromhex(
        f"58000000 6800 0106 00000000 00000000 00 00 0c 00 00000000 {numbers} 0600 0300 0100 0000"
        "1c00 0c80 0600 0100 1000 0000 0800 0200 b80b0000 0800 0300 70170000"
    )
    group = Group(tuple(sorted(members)), is_resilient=True)
    assert rtnexthops.decode_nexthop(data, HEADER.size, len(data)) == (OURS.start + 2, group)
    plain = rtnexthops.group_request(OURS.start + 2, members, replaces=Group(()))
    assert plain == bytes.fromhex(f"34000000 6800 0101 00000000 00000000 00 00 0c 00 00000000 {numbers}")
    for wrong in (plain.replace(b"\x14\0\2\0", b"\x13\0\2\0"), data.replace(b"\6\0\3\0", b"\5\0\3\0")):
        with pytest.raises(BadMessage, match="a group of"):
            rtnexthops.decode_nexthop(wrong, HEADER.size, len(wrong))
