"""Finds, among routes to be replaced, those that together leave next hops for others: a node moves, a switch fails.

How it works. A kernel with nexthop objects can give a group of them other next hops, and with it all routes that refer
to it, in one step whatever their number. What that does must equal replacing each route. So a move takes every route of
ours through the same gateways, devices, flags and weights (counted over all of the table), changes nothing else of
them, and leaves none behind; where a single one stays or goes elsewhere, there is no move and each route is replaced.
A next hop that fails or comes back is such a move, too: from several to fewer, or to more.
Promises: pure. Does not know: whether the kernel can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import NextHop, Route, RouteKey, RouteTarget

MANY = 64
"""Fewer routes are as quickly replaced as counted."""
_Hops = tuple[NextHop, ...]


@dataclass(frozen=True, slots=True)
class NextHopMove:
    """All routes to one target get another one."""

    was: RouteTarget
    now: RouteTarget
    routes: Mapping[RouteKey, Route]
    """As they should be."""


def find_moves(
    replaced: Mapping[RouteKey, Route], actual: Mapping[RouteKey, Route], ownership: Ownership
) -> tuple[NextHopMove, ...]:
    """Of the routes to be replaced those that move together; `actual` is the whole table as it is."""
    if len(replaced) < MANY:
        return ()
    pairs: dict[tuple[int, int], dict[RouteKey, Route]] = {}  # by identity: very many routes share a target
    for key, route in replaced.items():
        pairs.setdefault((id(actual[key][1]), id(route[1])), {})[key] = route
    found: dict[tuple[_Hops, _Hops], dict[RouteKey, Route]] = {}
    for routes in pairs.values():
        key = next(iter(routes))
        was, now = actual[key].target, routes[key].target
        before, after = was.next_hops(), now.next_hops()
        if after and was.through(after) == now:
            found.setdefault((before, after), {}).update(routes)
    some = {
        pair: routes for pair, routes in found.items() if len(routes) >= MANY and _is_by_gateways(pair[0])
    }
    counts = _counts(actual, ownership) if some else Counter[_Hops]()
    return tuple(
        NextHopMove(actual[key].target, routes[key].target, routes)
        for (hops, _), routes in some.items()
        for key in (next(iter(routes)),)
        if len(routes) == counts[hops]
    )


def _is_by_gateways(hops: _Hops) -> bool:
    """Whether objects can stand for these."""
    return bool(hops) and all(hop.gateway is not None and hop.device is not None for hop in hops)


def _counts(actual: Mapping[RouteKey, Route], ownership: Ownership) -> Counter[_Hops]:
    """How many routes of ours lead to the same next hops."""
    speakers = {id(route[1]): route for route in actual.values()}
    many = Counter(id(route[1]) for route in actual.values())
    counts = Counter[_Hops]()
    for number, route in speakers.items():
        if ownership.is_ours(route):  # one speaks for all with its target, for they are of one table
            counts[route.target.next_hops()] += many[number]
    return counts
