"""Long computations let others run, and end in what they would have been in one go."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network

from agent.dataplane.objects import RouteKey
from agent.dataplane.ownership import Ownership
from agent.dataplane.plan import Picture, Wish, route_steps, route_work
from agent.dataplane.route_wishes import RouteWishes
from agent.dataplane.routing import routes
from agent.dataplane.turns import in_turns
from agent.dataplane.wishes import dataplane
from agent.dataplane.work import PIECE
from tests.dataplane.test_route_wishes import HOPS, START

PIECES = 5
MANY = [RouteKey(IPv4Network((0x14000000 + (number << 6), 26))) for number in range(PIECE * PIECES)]


class Others:
    """Counts how often somebody else could run."""

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


async def test_twenty_thousand_routes_are_wished_and_planned_in_pieces() -> None:
    learned = dict.fromkeys(MANY, HOPS[0])
    facts = replace(START, learned=learned)
    others = Others()
    task = asyncio.create_task(others.run())
    computing = asyncio.create_task(in_turns(RouteWishes().work(facts, None)))
    await asyncio.sleep(0)
    # What is learned meanwhile is for the next computation: this one is of the facts as they were.
    learned[MANY[0]] = HOPS[1]
    wished, keys = await computing
    assert keys is None
    assert others.turns >= PIECES
    assert wished == routes(replace(facts, learned=dict.fromkeys(MANY, HOPS[0])))
    before = others.turns
    wish = Wish(dataplane(facts, wished), complete=True, bgp_complete=True)
    plan = await in_turns(route_work(wish, Picture(), facts.links, Ownership()))
    assert others.turns >= before + PIECES - 1
    assert plan.delta == route_steps(wish, Picture(), facts.links, Ownership()).delta
    assert plan.delta.create.keys() == set(MANY)
    task.cancel()
