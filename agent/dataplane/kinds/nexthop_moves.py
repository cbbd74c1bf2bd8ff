"""Finds, among routes to be replaced, those that together leave one gateway for another: a node that moves.

Promises: pure; a turn holds every route of ours through its gateway, device and flag, and changes nothing else of them,
so that whoever can turn all of them in one step does what replacing each would do. Does not know: who can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Address, Route, RouteKey, RouteTarget

MANY = 64
"""Fewer routes are as quickly replaced as counted."""
_Hop = tuple[Address | None, str | None, bool]


@dataclass(frozen=True, slots=True)
class NextHopMove:
    """All routes on one way go another."""

    was: RouteTarget
    now: RouteTarget
    routes: Mapping[RouteKey, Route]
    """As they should be."""


def find_moves(
    replaced: Mapping[RouteKey, Route], standing: Mapping[RouteKey, Route], ownership: Ownership
) -> tuple[NextHopMove, ...]:
    """Of the routes to be replaced those that turn together."""
    if len(replaced) < MANY:
        return ()
    pairs: dict[tuple[int, int], dict[RouteKey, Route]] = {}  # by identity: very many routes share a way
    for key, route in replaced.items():
        pairs.setdefault((id(standing[key][1]), id(route[1])), {})[key] = route
    found: dict[tuple[_Hop, _Hop], dict[RouteKey, Route]] = {}
    for routes in pairs.values():
        key = next(iter(routes))
        was, now = standing[key].target, routes[key].target
        if replace(was, gateway=now.gateway, device=now.device, onlink=now.onlink) == now:
            found.setdefault((_hop(was), _hop(now)), {}).update(routes)
    some = {pair: routes for pair, routes in found.items() if len(routes) >= MANY and None not in pair[0][:2]}
    counts = _counts(standing, ownership) if some else {}
    return tuple(
        NextHopMove(standing[key].target, routes[key].target, routes)
        for (hop, _), routes in some.items()
        for key in (next(iter(routes)),)
        if len(routes) == counts[hop]
    )


def _hop(way: RouteTarget) -> _Hop:
    """What routes of several protocols may share."""
    return way.gateway, way.device, way.onlink


def _counts(standing: Mapping[RouteKey, Route], ownership: Ownership) -> dict[_Hop, int]:
    """How many routes of ours stand on each hop."""
    ways: dict[int, tuple[Route, int]] = {}
    for route in standing.values():
        number = id(route[1])
        ways[number] = route, (ways[number][1] + 1 if number in ways else 1)
    counts: dict[_Hop, int] = {}
    for route, many in ways.values():
        if ownership.is_ours(route):  # one speaks for all on its way: the picture is of one table
            counts[_hop(route.target)] = counts.get(_hop(route.target), 0) + many
    return counts
