"""The pure parts of reconciliation: differences, ownership, retries, the limiter, plans."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.kernel.calico_names import TUNL0
from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind, Masquerade
from agent.dataplane.kernel.ownership import Ownership, is_ours
from agent.dataplane.kinds.masquerading import NAT_OUTGOING, Masquerading
from agent.dataplane.kinds.object_kind import difference
from agent.dataplane.kinds.states import ActualState, Comparison, DesiredState
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.dataplane.retries import Retries
from agent.dataplane.trigger import LONGEST_PAUSE_SECONDS, ROUTE_SECONDS, PassLimiter, Trigger
from agent.netlink.objects import Link, Route, RouteKey, RouteType, Scope
from tests.fakes.kernel import FakeKernel
from tests.scenes.reconcilers import Lines, route_plan

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


OWNERSHIP = [
    ("10.1.0.0/26 via 172.26.0.2 dev eth0 proto bird", LEARNED, True),
    ("blackhole proto bird", Route(BLOCK, RouteType.BLACKHOLE), True),
    ("dev eth0 proto 80", LEARNED.with_(protocol=80), True),
    ("dev cali1 boot", LEARNED.with_(gateway=None, device="cali1", protocol=3, scope=Scope.LINK), True),
    ("dev cali1 bird", LEARNED.with_(device="cali1"), True),
    ("dev cali1 static", LEARNED.with_(device="cali1", protocol=4), False),
    ("dev vxlan.calico boot", LEARNED.with_(device="vxlan.calico", protocol=3), True),
    ("dev vxlan.calico static", LEARNED.with_(device="vxlan.calico", protocol=4), False),
    ("dev vxlan.calico kernel", LEARNED.with_(device="vxlan.calico", protocol=2), False),
    ("dev tunl0 boot", LEARNED.with_(device=TUNL0, protocol=3), False),
    ("dev tunl0 bird", LEARNED.with_(device=TUNL0), True),
    ("dev eth0 boot", LEARNED.with_(protocol=3), False),
    ("blackhole boot", Route(BLOCK, RouteType.BLACKHOLE, protocol=3), False),
    ("dev eth0 dhcp", LEARNED.with_(protocol=16), False),
    ("dev eth0 kernel", LEARNED.with_(protocol=2), False),
    ("another table", LEARNED.with_(key=RouteKey(BLOCK.destination, table=100)), False),
]


@pytest.mark.parametrize(("route", "ours"), [row[1:] for row in OWNERSHIP], ids=[row[0] for row in OWNERSHIP])
def test_a_route_is_ours_by_protocol_and_device(route: Route, ours: bool) -> None:
    assert is_ours(route) is ours


def test_the_kernels_own_routes_are_never_ours_whatever_is_configured() -> None:
    assert not Ownership(anywhere=frozenset({2, 12})).is_ours(LEARNED.with_(protocol=2))


def test_waits_double_up_to_a_ceiling_and_end_with_success() -> None:
    retries: Retries[str] = Retries(first_seconds=1.0, most_seconds=5.0)
    now = 100.0
    for wait in (1.0, 2.0, 4.0, 5.0, 5.0):
        retries.failed("a", "no", now)
        assert retries.next_retry_at() == now + wait
        assert not retries.may_try("a", now + wait - 0.1)
        assert retries.may_try("a", now + wait)
        now += wait
    assert retries.may_try("b", now)
    retries.retry_all_now()
    assert retries.may_try("a", 0.0)
    assert retries.failures()["a"].why == "no"
    retries.succeeded("a")
    assert retries.failures() == {}
    assert retries.next_retry_at() is None


def test_a_thing_that_failed_for_years_still_has_a_finite_wait() -> None:
    retries: Retries[str] = Retries()
    for _ in range(5000):
        retries.failed("a", "no", 0.0)
    assert retries.next_retry_at() == retries.most_seconds


def test_cheap_passes_never_wait_and_dear_ones_take_their_share() -> None:
    cheap = PassLimiter(share=0.5, burst_seconds=0.5)
    assert {cheap.spent(0.001, 5.0 + number * 0.002) for number in range(5000)} == {0.0}
    dear = PassLimiter(share=0.5, burst_seconds=0.5)
    assert [dear.spent(0.25, 5.0 + number * 0.25) for number in range(3)] == [0.0, 0.0, pytest.approx(0.0)]
    assert dear.spent(0.28, 6.0) == pytest.approx(0.06)
    assert dear.spent(30.0, 36.0) == LONGEST_PAUSE_SECONDS
    assert dear.spent(0.1, 60.0) == 0.0


def test_a_pass_that_writes_very_many_routes_is_not_paused_for_what_they_cost() -> None:
    limiter = PassLimiter(share=0.5, burst_seconds=0.5)
    many = 10_000
    assert {limiter.spent(many * ROUTE_SECONDS, 5.0 + number * 0.1, many) for number in range(100)} == {0.0}
    assert limiter.spent(1.0, 16.0, many) == LONGEST_PAUSE_SECONDS


async def test_many_rings_are_one_and_none_is_lost() -> None:
    trigger = Trigger()
    for _ in range(3):
        trigger.fire()
    assert await trigger.wait(None)
    assert not await trigger.wait(0.0)
    trigger.fire()
    assert await trigger.wait(5.0)


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


def test_a_removal_is_held_by_share_and_number_and_let_go_by_time_and_a_new_reading() -> None:
    guard = MassDeleteGuard(free=10, share=0.5, hold_seconds=5.0)
    assert guard.allows(Kind.ROUTE, count=10, known=10, reading=1, now=0.0)
    assert guard.allows(Kind.ROUTE, count=50, known=100, reading=1, now=0.0)
    assert not guard.allows(Kind.ROUTE, count=51, known=100, reading=1, now=0.0)
    assert guard.next_at() == 5.0
    assert not guard.allows(Kind.ROUTE, count=51, known=100, reading=2, now=4.9)
    assert guard.due_readings(4.9) == set()
    assert guard.due_readings(5.0) == {Kind.ROUTE}
    assert not guard.allows(Kind.ROUTE, count=51, known=100, reading=1, now=5.0)
    assert guard.allows(Kind.ROUTE, count=51, known=100, reading=2, now=5.0)
    assert guard.next_at() is None


def test_a_removal_that_shrank_is_no_longer_held_and_another_kind_has_its_own_brake() -> None:
    guard = MassDeleteGuard(free=10, share=0.5, hold_seconds=5.0)
    assert not guard.allows(Kind.ROUTE, count=100, known=100, reading=1, now=0.0)
    assert guard.allows(Kind.FDB, count=3, known=3, reading=1, now=0.0)
    assert guard.allows(Kind.ROUTE, count=40, known=100, reading=1, now=1.0)
    assert not guard.allows(Kind.ROUTE, count=100, known=100, reading=2, now=6.0)
