"""Which next hops BGP is told of as unreachable: after a moment, never all of them, and each is a trouble."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network

import pytest

from agent.dataplane.cooperative import run_now
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Address, Link, Route, RouteKey, RouteType
from agent.peering.nexthop_tracking import LOSS_SECONDS, MOST_NAMED, NexthopTracking
from tests.fakes.clock import SetClock

NEAR, FAR, FARTHER = (ip_address(text) for text in ("172.26.0.9", "10.0.0.9", "10.8.0.10"))
ROUTER = ip_address("172.26.0.254")
ETH0 = {"eth0": Link(2, "eth0", "veth", 1500, True, addresses=((ip_address("172.26.0.1"), 24),))}
ON_LINK = Route(RouteKey(ip_network("172.26.0.0/24")), device="eth0", protocol=2)


def via_router(prefix: str) -> Route:
    return Route(RouteKey(ip_network(prefix)), gateway=ROUTER, device="eth0", protocol=4)


class World:
    """A speaker with these next hops, and the tracking of them; the kernel was read with these routes."""

    def __init__(
        self, *next_hops: Address, routes: Collection[Route] = (ON_LINK,), read: bool = True
    ) -> None:
        self.clock, self.resolver = SetClock(), NextHopResolver(Ownership())
        self.unreachable: list[set[Address]] = []
        self.next_hops = next_hops
        self.readings = 0
        self.tracking = NexthopTracking(self.resolver, lambda: self, self.clock, self._read)
        self.resolver.changed = self.tracking.update
        self.resolver.set_links(ETH0)
        if read:
            self.read(*routes)
        self.tracking.update()

    @property
    def instance(self) -> World:
        return self

    def _read(self) -> None:
        self.readings += 1

    def read(self, *routes: Route) -> None:
        run_now(self.resolver.adopt({route.key: route for route in routes}))

    def set_unreachable_nexthops(self, next_hops: Collection[Address]) -> None:
        self.unreachable.append(set(next_hops))

    def check(self, after: float = 0.0) -> set[Address]:
        self.clock.at += after
        self.tracking.check()
        return self.unreachable[-1]

    def put(self, route: Route, *, gone: bool = False) -> None:
        self.resolver.change(route, gone=gone, appended=False)

    def troubles(self) -> list[tuple[str, str, str]]:
        return [(one.about, one.evidence, one.loss) for one in self.tracking.troubles()]


def test_a_next_hop_is_unreachable_a_moment_after_its_way_is_gone_and_reachable_at_once() -> None:
    world, way = World(NEAR, FAR, routes=(ON_LINK, via_router("10.0.0.0/24"))), via_router("10.0.0.0/24")
    assert world.check() == set()
    world.put(way, gone=True)
    assert world.check() == set()
    assert world.check(LOSS_SECONDS) == {FAR}
    world.put(way)
    assert world.check() == set()
    world.put(way, gone=True)
    assert world.check(LOSS_SECONDS / 2) == set()
    world.put(way)  # deleted and made again: no loss
    assert world.check(LOSS_SECONDS) == set()


def test_the_check_says_when_it_is_to_be_made_again() -> None:
    world = World(NEAR, FAR)
    assert world.tracking.check() == pytest.approx(LOSS_SECONDS)
    world.clock.at += LOSS_SECONDS
    assert world.tracking.check() is None
    assert world.unreachable[-1] == {FAR}


def test_a_way_that_changes_says_nothing_to_bgp() -> None:
    world = World(NEAR, FAR, routes=(ON_LINK, via_router("10.0.0.0/24")))
    world.put(via_router("10.0.0.0/25"))
    world.put(via_router("10.0.0.0/24"), gone=True)
    assert world.check(LOSS_SECONDS) == set()
    assert world.troubles() == []


def test_where_every_next_hop_is_unreachable_bgp_keeps_its_paths_and_routes_their_way() -> None:
    default = via_router("0.0.0.0/0")
    world = World(FAR, FARTHER, routes=(ON_LINK, default))
    world.check()
    world.put(default, gone=True)
    assert world.check(LOSS_SECONDS) == set()
    assert [hop.gateway for hop in world.resolver.resolutions.of(FAR).hops] == [ROUTER]
    about, evidence, loss = world.troubles()[0]
    assert about == "BGP next hop 10.0.0.9"
    assert evidence == "it does not resolve: no route of this host leads there"
    assert loss.startswith("no next hop resolves: the routes stay")
    world.put(via_router("10.8.0.0/24"))
    assert world.check(LOSS_SECONDS) == {FAR}


def test_before_the_kernels_routes_were_read_nothing_is_unreachable() -> None:
    world = World(NEAR, FAR, read=False)
    assert world.check(LOSS_SECONDS) == set()
    world.read(ON_LINK)
    assert world.check() == set()
    assert world.check(LOSS_SECONDS) == {FAR}


def test_a_next_hop_of_this_hosts_own_is_left_to_bgp() -> None:
    assert World(NEAR, ip_address("172.26.0.1")).check(LOSS_SECONDS) == set()


def test_each_next_hop_that_does_not_resolve_is_a_trouble_with_its_reason_and_very_many_are_counted() -> None:
    nowhere = Route(RouteKey(ip_network("10.8.0.0/24")), type=RouteType.BLACKHOLE, protocol=4)
    world = World(NEAR, FAR, FARTHER, routes=(ON_LINK, nowhere))
    world.check()
    world.check(LOSS_SECONDS)
    lost = "its paths are not used while others are; where there is no other, the routes go"
    assert world.troubles() == [
        ("BGP next hop 10.0.0.9", "it does not resolve: no route of this host leads there", lost),
        (
            "BGP next hop 10.8.0.10",
            "it does not resolve: by the route `blackhole 10.8.0.0/24 proto static` of this host packets go nowhere",
            lost,
        ),
    ]
    many = World(NEAR, *(ip_address((10 << 24) + number) for number in range(MOST_NAMED + 5)))
    many.check()
    many.check(LOSS_SECONDS)
    assert many.troubles()[-1][1] == "5 more BGP next hops do not resolve"


def test_without_a_speaker_nothing_is_told_and_nothing_is_a_trouble() -> None:
    resolver = NextHopResolver(Ownership())
    tracking = NexthopTracking(resolver, lambda: None, SetClock())
    tracking.update()
    assert tracking.check() is None
    assert list(tracking.troubles()) == []
