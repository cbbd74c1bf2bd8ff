"""Nexthop objects on the kernel of a fresh namespace: one per gateway, device and flag, gone with its last route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink import rtnexthops, sysctl
from agent.netlink.objects import RouteKey, Sysctl
from agent.netlink.rtnetlink import HEADER
from agent.netlink.rtnexthops import OURS, Nexthop
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
    return found


async def test_routes_through_one_gateway_share_one_object(kernel: NetlinkKernel) -> None:
    assert await kernel.put_routes([LEARNED, SECOND, OTHER, ONLINK, POD, OWN_BLOCK]) == ()
    assert sorted((one["gateway"], *one["flags"]) for one in objects()) == [
        ("172.26.0.2",),
        ("172.26.0.3",),
        ("172.26.0.3", "onlink"),
    ]
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
    assert [one["gateway"] for one in sorted(objects(), key=lambda one: one["id"])] == [
        "172.26.0.9",
        "172.26.0.2",
    ]
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
        before = objects()
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes={**ELSEWHERE, **more}))
        await bench.quiet()
        assert bench.log.of("route.moved") == [{"count": 200, "was": "172.26.0.2", "now": "172.26.0.3"}]
        assert [one["id"] for one in objects()] == [one["id"] for one in before]
        assert {one["gateway"] for one in objects()} == {"172.26.0.3"}
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
