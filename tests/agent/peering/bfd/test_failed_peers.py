"""A peer whose way is broken: the kernel leaves it by one message, before BGP walks what it announced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Address, ip_address, ip_network

import pytest

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address, NextHop, Route, RouteKey, RouteTarget
from agent.peering.bfd.failed_peers import MOST_WAITING, FailedPeers
from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.dataplane.reconcilers import Bench, running

TOR1, TOR2 = ip_address("172.26.0.2"), ip_address("172.27.0.2")
ROUTES = 10_000


class World:
    """BGP, which remembers what it was told, and a kernel that may refuse."""

    def __init__(self) -> None:
        self.peers: set[Address] = {TOR1, TOR2}
        self.established = frozenset(self.peers)
        self.restarting: set[Address] = set()
        self.happened: list[object] = []
        self.refuses = ""
        self.failed = FailedPeers(self, self._avoid)

    async def _avoid(self, gateways: frozenset[Address]) -> None:
        self.happened.append(gateways)
        if self.refuses:
            raise KernelError(self.refuses)

    def ends_by_bfd(self, address: Address, *, independent: bool) -> bool:
        return independent or address not in self.restarting

    def bfd_changed(self, address: Address, *, up: bool, independent: bool) -> None:
        self.happened.append((address, up))
        if not up and self.ends_by_bfd(address, independent=independent):
            self.established -= {address}

    async def hears(self, address: Address, *, up: bool, independent: bool = False) -> list[object]:
        self.happened.clear()
        self.failed.bfd_changed(address, up=up, independent=independent)
        await self.failed.step()
        return self.happened


async def test_the_kernel_goes_before_bgp_and_again_when_the_way_works() -> None:
    world = World()
    assert await world.hears(TOR1, up=False) == [frozenset({TOR1}), (TOR1, False)]
    assert await world.hears(TOR1, up=True) == [frozenset(), (TOR1, True)]


async def test_a_failure_that_ends_no_session_moves_no_route() -> None:
    world = World()
    world.restarting.add(TOR1)
    assert await world.hears(TOR1, up=False) == [(TOR1, False)]
    assert await world.hears(TOR1, up=False, independent=True) == [frozenset({TOR1}), (TOR1, False)]


async def test_a_new_session_of_bgp_says_that_the_way_works_too() -> None:
    world = World()
    await world.hears(TOR1, up=False)
    world.failed.look()
    await world.failed.step()
    assert world.happened[-1] == (TOR1, False)
    world.established |= {TOR1}
    await world.failed.step()
    assert world.happened[-1] == frozenset()


async def test_a_peer_that_nobody_wants_any_more_is_not_avoided() -> None:
    world = World()
    await world.hears(TOR1, up=False)
    world.peers -= {TOR1}
    await world.failed.step()
    assert world.happened[-1] == frozenset()


async def test_bgp_hears_of_it_though_the_kernel_refuses() -> None:
    world = World()
    world.refuses = "no buffer"
    assert await world.hears(TOR1, up=False) == [frozenset({TOR1}), (TOR1, False)]


async def test_more_events_than_may_wait_go_to_bgp_alone() -> None:
    world = World()
    for _ in range(MOST_WAITING):
        world.failed.bfd_changed(TOR1, up=False, independent=False)
    assert not world.happened
    world.failed.bfd_changed(TOR2, up=False, independent=False)
    assert world.happened == [(TOR2, False)]


# -- on a kernel -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel() -> Iterator[NetlinkKernel]:
    with fresh_namespace():
        for number, name in ((26, "eth0"), (27, "eth1")):
            ip(f"link add {name} type veth peer name {name}-far")
            ip(f"link set {name}-far up")
            ip(f"link set {name} up")
            ip(f"address add 172.{number}.0.1/24 dev {name}")
        made = NetlinkKernel(nexthop_objects=True)
        yield made
        made.close()


def many(target: RouteTarget) -> dict[RouteKey, Route]:
    networks = IPv4Network("10.64.0.0/10").subnets(new_prefix=24)
    return {
        key: Route.from_target(key, target)
        for key, _ in zip((RouteKey(one) for one in networks), range(ROUTES), strict=False)
    }


@asynccontextmanager
async def at_work(bench: Bench, world: World) -> AsyncIterator[None]:
    world.failed = FailedPeers(world, bench.reconciler.avoid)
    async with running(bench):
        await bench.quiet()
        yield


async def test_ten_thousand_routes_leave_a_peer_before_bgp_hears_of_it_and_come_back(
    kernel: NetlinkKernel,
) -> None:
    target = RouteTarget().through((NextHop(TOR1, "eth0"), NextHop(TOR2, "eth1")))
    world, bench, seen = World(), Bench(kernel, Dataplane(routes=many(target))), list[int]()
    asked = NetlinkKernel()
    told = world.bfd_changed

    def bfd_changed(address: Address, *, up: bool, independent: bool) -> None:
        seen.append(ip("route show proto bird").count("via 172.26.0.2 "))
        told(address, up=up, independent=independent)

    world.bfd_changed = bfd_changed  # type: ignore[method-assign]
    async with at_work(bench, world):
        assert ip("route show proto bird").count("nexthop via 172.26.0.2 ") == ROUTES
        await world.hears(TOR1, up=False)
        assert seen == [0]
        await bench.quiet()
        left = target.through((NextHop(TOR2, "eth1"),))
        there = await asked.routes()
        assert all(there[key].target == left for key in bench.desired.dataplane.routes)
        await world.hears(TOR1, up=True)
        await bench.quiet()
        assert bench.desired.dataplane.routes.items() <= (await asked.routes()).items()
    asked.close()


async def test_of_two_peers_with_one_link_local_address_only_the_dead_one_is_left(
    kernel: NetlinkKernel,
) -> None:
    router = IPv6Address("fe80::1")
    hops = (NextHop(router, "eth0"), NextHop(router, "eth1"))
    key = RouteKey(ip_network("fd10:1::/122"))
    route = Route.from_target(key, RouteTarget().through(hops))
    world, bench = World(), Bench(kernel, Dataplane(routes={key: route}))
    zoned = IPv6Address("fe80::1%eth1")
    world.peers.add(zoned)
    async with at_work(bench, world):
        await world.hears(zoned, up=False)
        await bench.quiet()
        assert "dev eth0" in (there := ip("-6 route show proto bird"))
        assert "dev eth1" not in there
