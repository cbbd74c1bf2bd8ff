"""Routes that leave one gateway for another together are found, and moved in one step where that can be done."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.nexthop_moves import MANY, find_moves
from agent.netlink.objects import NextHop, Route, RouteKey
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.desired_states import FOREIGN, LEARNED, OWN_BLOCK
from tests.scenes.dataplane.reconcilers import Bench, running

KEYS = [RouteKey(IPv4Network((0x14000000 + (number << 6), 26))) for number in range(MANY)]
ELSEWHERE = IPv4Address("172.26.0.3")
BEFORE = {key: LEARNED.with_(key=key) for key in KEYS}
AFTER = {key: LEARNED.with_(key=key, gateway=ELSEWHERE) for key in KEYS}
OWN = Ownership()


def test_all_routes_of_a_gateway_that_go_to_another_are_one_turn() -> None:
    (move,) = find_moves(AFTER, {**BEFORE, OWN_BLOCK.key: OWN_BLOCK}, OWN)
    assert (move.was, move.now) == (LEARNED.target, LEARNED.with_(gateway=ELSEWHERE).target)
    assert move.routes == AFTER


def test_two_protocols_on_one_gateway_turn_together() -> None:
    other = RouteKey(IPv4Network("30.0.0.0/24"))
    before = {**BEFORE, other: LEARNED.with_(key=other, protocol=80)}
    after = {**AFTER, other: LEARNED.with_(key=other, protocol=80, gateway=ELSEWHERE)}
    (move,) = find_moves(after, before, OWN)
    assert move.routes == after
    assert find_moves(AFTER, before, OWN) == ()


def test_a_foreign_route_through_the_same_gateway_is_no_hindrance_and_does_not_turn() -> None:
    foreign = FOREIGN.with_(key=RouteKey(IPv4Network("0.0.0.0/0")), gateway=LEARNED.gateway)
    (move,) = find_moves(AFTER, {**BEFORE, foreign.key: foreign}, OWN)
    assert foreign.key not in move.routes


BOTH = tuple(NextHop(IPv4Address(f"172.26.0.{last}"), "eth0", weight=last) for last in (2, 3))
SEVERAL = {key: Route(key, hops=BOTH) for key in KEYS}
LEFT = {key: Route.from_target(key, route.target.through(BOTH[1:])) for key, route in SEVERAL.items()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(SEVERAL, LEFT, id="one of two fails"),
        pytest.param(LEFT, SEVERAL, id="it comes back"),
        pytest.param(SEVERAL, {key: LEARNED.with_(key=key) for key in KEYS}, id="the other one"),
        pytest.param(
            SEVERAL,
            {key: Route(key, hops=(replace(BOTH[0], weight=9), BOTH[1])) for key in KEYS},
            id="another weight",
        ),
    ],
)
def test_next_hops_that_come_go_or_get_another_weight_are_one_turn(
    before: dict[RouteKey, Route], after: dict[RouteKey, Route]
) -> None:
    (move,) = find_moves(after, before, OWN)
    assert (move.was, move.now, move.routes) == (before[KEYS[0]].target, after[KEYS[0]].target, after)
    stays = before[KEYS[0]].with_(key=RouteKey(IPv4Network("30.0.0.0/24")))
    assert find_moves(after, {**before, stays.key: stays}, OWN) == ()


def test_what_fails_for_several_sets_of_next_hops_is_one_turn_for_each() -> None:
    three = (*BOTH, NextHop(IPv4Address("172.26.0.9"), "eth0"))
    others = {key: RouteKey(IPv4Network((0x28000000 + (number << 6), 26))) for number, key in enumerate(KEYS)}
    more = {key: Route(key, hops=three) for key in others.values()}
    fewer = {key: Route.from_target(key, route.target.through(three[1:])) for key, route in more.items()}
    moves = find_moves({**LEFT, **fewer}, {**SEVERAL, **more}, OWN)
    assert [move.routes for move in moves] == [LEFT, fewer]


def test_next_hops_without_a_gateway_are_no_objects() -> None:
    links = (NextHop(None, "eth0"), NextHop(None, "eth1"))
    before = {key: Route(key, hops=links) for key in KEYS}
    assert find_moves(AFTER, before, OWN) == ()


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(dict(list(AFTER.items())[1:]), id="one stays, and the rest are too few"),
        pytest.param(
            {key: route.with_(protocol=80) for key, route in AFTER.items()}, id="more than the hop changes"
        ),
        pytest.param({key: OWN_BLOCK.with_(key=key) for key in KEYS}, id="they lead nowhere"),
        pytest.param(
            {**AFTER, KEYS[0]: LEARNED.with_(key=KEYS[0], gateway=IPv4Address("172.26.0.4"))},
            id="one goes to a third gateway",
        ),
    ],
)
def test_what_is_not_all_or_more_than_another_hop_is_no_move(after: dict[RouteKey, Route]) -> None:
    assert find_moves(after, BEFORE, OWN) == ()


def test_one_that_stays_keeps_the_others_from_moving() -> None:
    stays = LEARNED.with_(key=RouteKey(IPv4Network("30.0.0.0/24")))
    assert find_moves(AFTER, {**BEFORE, stays.key: stays}, OWN) == ()


@pytest.mark.parametrize("can", [True, False])
async def test_a_node_that_moves_is_one_step_where_the_kernel_can(can: bool) -> None:
    kernel = FakeKernel()
    kernel.moves_routes = can
    kernel.add_link("eth0", "172.26.0.1/24")
    async with running(Bench(kernel, Dataplane(routes=BEFORE))) as bench:
        for number, after in enumerate((AFTER, SEVERAL, LEFT, SEVERAL, BEFORE), 2):
            await bench.quiet()
            kernel.writes.clear()
            bench.desired = replace(bench.desired, dataplane=Dataplane(routes=after))
            await bench.quiet()
            assert kernel.route_table == after
            assert len(kernel.writes) == (1 if can else MANY)
            assert bench.reconciler.report().written["route"] == number * MANY
