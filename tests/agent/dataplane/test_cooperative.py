"""Long computations let others run, and end in what a table says by hand for each of very many routes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from agent.dataplane.cooperative import PIECE, run_cooperatively
from agent.dataplane.desired.desired_routes import DesiredRoutes
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.kernel_routes import route_diff
from agent.dataplane.kinds.states import ActualState, Comparison, DesiredState
from agent.netlink.objects import Route, RouteKey
from tests.scenes.dataplane.route_facts import HOPS, START, dataplane_of

OURS, FOREIGN = 12, 4
"""RTPROT_BIRD and RTPROT_STATIC of linux/rtnetlink.h."""
ONE, TWO, UNREACHABLE = HOPS
CASES = (
    # BGP has, there is (via, protocol), desired via, what is to be done
    (ONE, None, ONE, "create"),
    (ONE, (TWO, OURS), ONE, "replace"),
    (ONE, (ONE, OURS), ONE, "nothing"),
    (ONE, (TWO, FOREIGN), ONE, "conflict"),
    (None, (TWO, OURS), None, "delete"),
    (None, (TWO, FOREIGN), None, "nothing"),
    (UNREACHABLE, None, None, "nothing"),
)
KEYS = [RouteKey(IPv4Network((0x14000000 + (number << 6), 26))) for number in range(20_000)]
TABLE = [(key, *CASES[number % len(CASES)]) for number, key in enumerate(KEYS)]
"""Each piece of the computation has some of every case."""
LEARNED = {key: hop for key, hop, *_ in TABLE if hop is not None}


def via(key: RouteKey, gateway: IPv4Address, protocol: int = OURS) -> Route:
    return Route(key, gateway=gateway, device="eth0", protocol=protocol)


DESIRED = {key: via(key, hop) for key, _, _, hop, _ in TABLE if hop is not None}
ACTUAL = {key: via(key, *stands) for key, _, stands, _, _ in TABLE if stands is not None}


def keys_of(step: str) -> set[RouteKey]:
    return {key for key, *_, what in TABLE if what == step}


class Others:
    """Counts how often somebody else could run."""

    def __init__(self) -> None:
        self.rounds = 0

    async def run(self) -> None:
        while True:
            self.rounds += 1
            await asyncio.sleep(0)


async def test_twenty_thousand_routes_are_desired_in_pieces_from_the_facts_as_they_were() -> None:
    learned = dict(LEARNED)
    others = Others()
    task = asyncio.create_task(others.run())
    computing = asyncio.create_task(
        run_cooperatively(DesiredRoutes().update(replace(START, bgp_nexthops=learned), None))
    )
    await asyncio.sleep(0)
    assert not computing.done()
    # What is learned meanwhile is for the next computation, at the beginning of this one as at its end.
    first, *_, last = learned
    learned[first] = learned[last] = TWO
    desired, keys = await computing
    assert others.rounds >= len(LEARNED) // PIECE > 5
    assert keys is None
    assert desired == DESIRED
    task.cancel()


async def test_twenty_thousand_routes_are_compared_with_the_kernels_in_pieces() -> None:
    desired = DesiredState(dataplane_of(START, DESIRED), complete=True, bgp_complete=True)
    others = Others()
    task = asyncio.create_task(others.run())
    given = Comparison(desired, ActualState({Kind.ROUTE: ACTUAL}), START.links)
    plan = await run_cooperatively(route_diff(given, Ownership()))
    assert others.rounds >= len(DESIRED | ACTUAL) // PIECE > 5
    assert plan.create == {key: DESIRED[key] for key in keys_of("create")}
    assert plan.replace == {key: DESIRED[key] for key in keys_of("replace")}
    assert plan.delete == {key: ACTUAL[key] for key in keys_of("delete")}
    assert plan.conflicts == {key: ACTUAL[key] for key in keys_of("conflict")}
    assert plan.waiting == {}
    task.cancel()
