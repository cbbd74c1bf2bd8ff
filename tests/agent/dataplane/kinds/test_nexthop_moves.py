"""Routes that leave one gateway for another together are found, and moved in one step where that can be done."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.nexthop_moves import MANY, find_moves
from agent.netlink.objects import Route, RouteKey
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
        await bench.quiet()
        kernel.writes.clear()
        bench.desired = replace(bench.desired, dataplane=Dataplane(routes=AFTER))
        await bench.quiet()
        assert kernel.route_table == AFTER
        assert len(kernel.writes) == (1 if can else MANY)
        assert bench.reconciler.report().written["route"] == 2 * MANY
