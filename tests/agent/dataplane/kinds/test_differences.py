"""What the kinds find to be done."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind, Masquerade
from agent.dataplane.kinds.masquerading import NAT_OUTGOING, Masquerading
from agent.dataplane.kinds.object_kind import difference
from agent.dataplane.kinds.states import ActualState, Comparison, DesiredState
from agent.netlink.objects import Link, Route, RouteKey
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.reconcilers import Lines, route_plan

BLOCK = RouteKey(IPv4Network("10.1.0.0/26"))
LEARNED = Route(BLOCK, gateway=IPv4Address("172.26.0.2"), device="eth0")
maps = st.dictionaries(st.integers(0, 9), st.integers(0, 2))


@given(maps, maps)
def test_applying_a_difference_gives_what_is_desired(desired: dict[int, int], actual: dict[int, int]) -> None:
    delta = difference(desired, actual)
    applied = {key: value for key, value in {**actual, **delta.wanted}.items() if key not in delta.delete}
    assert applied == desired
    assert not delta.create.keys() & actual.keys()
    assert delta.replace.keys() <= actual.keys()
    assert bool(delta) == (desired != actual)


async def test_masquerading_waits_until_all_pools_are_known() -> None:
    pool = frozenset({IPv4Network("10.1.0.0/16")})
    desired_state = DesiredState(
        Dataplane(masquerade=Masquerade(pool, pool)), complete=False, bgp_complete=True
    )
    kind = Masquerading(FakeKernel(), Lines())
    assert not await kind.diff(Comparison(desired_state, ActualState(), {}))
    delta = await kind.diff(Comparison(replace(desired_state, complete=True), ActualState(), {}))
    assert delta.create == {NAT_OUTGOING: Masquerade(pool, pool)}


def test_an_odd_route_of_ours_is_replaced() -> None:
    desired_state = DesiredState(Dataplane(routes={BLOCK: LEARNED}), complete=True, bgp_complete=True)
    actual = ActualState({Kind.ROUTE: {BLOCK: LEARNED.with_(odd=True)}})
    steps = route_plan(desired_state, actual, {"eth0": Link(2, "eth0", None, 1500, True)})
    assert steps.replace == {BLOCK: LEARNED}


def test_a_route_that_waits_for_its_device_keeps_what_of_ours_stands_in_its_place() -> None:
    desired_state = DesiredState(
        Dataplane(routes={BLOCK: LEARNED.with_(device="eth9")}), complete=True, bgp_complete=True
    )
    steps = route_plan(desired_state, ActualState({Kind.ROUTE: {BLOCK: LEARNED}}), {})
    assert not steps
    assert steps.waiting == {BLOCK: "eth9 is not there"}


DEFAULT, HALF = RouteKey(IPv4Network("0.0.0.0/0")), RouteKey(IPv4Network("128.0.0.0/1"))
BY_DHCP = Route(
    RouteKey(IPv4Network("0.0.0.0/0"), metric=100),
    gateway=IPv4Address("172.26.0.1"),
    device="eth0",
    protocol=16,
)
ETH0 = {"eth0": Link(2, "eth0", None, 1500, True)}


def default_routes(*versions: int) -> DesiredState:
    routes = {key: LEARNED.with_(key=key) for key in (DEFAULT, HALF, BLOCK)}
    return DesiredState(
        Dataplane(routes=routes), complete=True, bgp_complete=True, above_the_host=frozenset(versions)
    )


def test_a_learned_default_route_never_stands_beside_the_hosts_own_whatever_the_metrics() -> None:
    steps = route_plan(default_routes(), ActualState({Kind.ROUTE: {BY_DHCP.key: BY_DHCP}}), ETH0)
    assert steps.create.keys() == {BLOCK}
    assert steps.conflicts == {DEFAULT: BY_DHCP, HALF: BY_DHCP}
    ours = default_routes().dataplane.routes
    steps = route_plan(
        default_routes(), ActualState({Kind.ROUTE: {BY_DHCP.key: BY_DHCP, **ours}}), ETH0, {BLOCK}
    )
    assert (steps.create, steps.delete.keys()) == ({}, {DEFAULT, HALF})


def test_without_a_default_route_of_the_hosts_or_by_a_setting_ours_is_there() -> None:
    kernels_own = BY_DHCP.with_(protocol=2)
    for actual in ({}, {kernels_own.key: kernels_own}):
        assert len(route_plan(default_routes(), ActualState({Kind.ROUTE: actual}), ETH0).create) == 3
    beside = ActualState({Kind.ROUTE: {BY_DHCP.key: BY_DHCP}})
    assert len(route_plan(default_routes(4), beside, ETH0).create) == 3
    assert len(route_plan(default_routes(6), beside, ETH0).create) == 1
