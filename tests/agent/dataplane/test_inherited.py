"""What an earlier life left stays while a value that may explain it cannot be read, and goes when it can."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, ip_address

import pytest

from agent.dataplane.kernel.dataplane_objects import Dataplane, Masquerade
from agent.dataplane.kinds.states import DesiredState
from agent.netlink.objects import Route, RouteKey, RouteType
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.reconcilers import Bench, running

BLOCK, OTHER = RouteKey(IPv4Network("10.9.0.0/26")), RouteKey(IPv4Network("10.9.1.0/26"))
POOL = Masquerade(frozenset({IPv4Network("10.9.0.0/16")}), frozenset({IPv4Network("10.9.0.0/16")}))
HOLE = Route(BLOCK, RouteType.BLACKHOLE)
FAR = Route(OTHER, gateway=ip_address("172.26.0.2"), device="eth0")


def kernel() -> FakeKernel:
    made = FakeKernel()
    made.add_link("eth0", "172.26.0.1/20")
    return made


async def restarted(*, lost: bool, lost_pools: bool = False) -> tuple[Bench, FakeKernel]:
    """An agent that starts where another has left a blackhole, a route and masquerading."""
    there = kernel()
    async with running(Bench(there, Dataplane(routes={BLOCK: HOLE, OTHER: FAR}, masquerade=POOL))) as before:
        await before.quiet()
    bench = Bench(there)
    bench.desired = replace(bench.desired, lost=lost, lost_pools=lost_pools)
    return bench, there


@pytest.mark.parametrize("lost_pools", [False, True])
async def test_what_was_never_desired_stays_while_a_value_is_lost_and_goes_when_it_is_read(
    *, lost_pools: bool
) -> None:
    bench, there = await restarted(lost=True, lost_pools=lost_pools)
    async with running(bench):
        await bench.quiet()
        assert {BLOCK: HOLE, OTHER: FAR}.items() <= there.route_table.items()
        assert await there.masquerade() == POOL
        bench.desired = DesiredState(Dataplane(), complete=True, bgp_complete=True)
        await bench.quiet()
        assert not {BLOCK, OTHER} & there.route_table.keys()
        assert await there.masquerade() is None


async def test_what_this_life_desired_goes_as_always() -> None:
    bench, there = await restarted(lost=True)
    async with running(bench):
        both = Dataplane(routes={OTHER: FAR})
        bench.desired = replace(bench.desired, dataplane=both)
        await bench.quiet()
        bench.desired = replace(bench.desired, dataplane=Dataplane())
        await bench.quiet()
        assert OTHER not in there.route_table
        assert there.route_table[BLOCK] == HOLE


@pytest.mark.parametrize("lost_pools", [False, True])
async def test_only_a_lost_pool_keeps_how_packets_travel(*, lost_pools: bool) -> None:
    bench, there = await restarted(lost=True, lost_pools=lost_pools)
    elsewhere = Route(OTHER, gateway=ip_address("172.26.0.3"), device="eth0")
    async with running(bench):
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes={OTHER: elsewhere}))
        await bench.quiet()
        assert there.route_table[OTHER] == (FAR if lost_pools else elsewhere)


async def test_a_value_that_is_lost_later_holds_nothing() -> None:
    bench, there = await restarted(lost=False)
    async with running(bench):
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes={BLOCK: HOLE}))
        await bench.quiet()
        assert OTHER not in there.route_table
        bench.desired = replace(bench.desired, dataplane=Dataplane(), lost=True, lost_pools=True)
        await bench.quiet()
        assert BLOCK not in there.route_table
