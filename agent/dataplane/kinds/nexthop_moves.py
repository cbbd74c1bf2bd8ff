"""Finds, among routes to be replaced, those that together leave one gateway for another: a node that moves.

How it works. A kernel with nexthop objects can give such an object another gateway, and with it all routes that refer
to it, in one step whatever their number. What that does must equal replacing each route. So a move takes every route of
ours through one gateway, device and flag (counted over all of the table), changes nothing else of them, and leaves none
behind; where a single one stays or goes elsewhere, there is no move and each route is replaced.
Promises: pure. Does not know: whether the kernel can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Address, Route, RouteKey, RouteTarget

MANY = 64
"""Fewer routes are as quickly replaced as counted."""
_Hop = tuple[Address | None, str | None, bool]


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
    found: dict[tuple[_Hop, _Hop], dict[RouteKey, Route]] = {}
    for routes in pairs.values():
        key = next(iter(routes))
        was, now = actual[key].target, routes[key].target
        if replace(was, gateway=now.gateway, device=now.device, onlink=now.onlink) == now:
            found.setdefault((_hop(was), _hop(now)), {}).update(routes)
    some = {pair: routes for pair, routes in found.items() if len(routes) >= MANY and None not in pair[0][:2]}
    counts = _counts(actual, ownership) if some else Counter[_Hop]()
    return tuple(
        NextHopMove(actual[key].target, routes[key].target, routes)
        for (hop, _), routes in some.items()
        for key in (next(iter(routes)),)
        if len(routes) == counts[hop]
    )


def _hop(target: RouteTarget) -> _Hop:
    """What routes of several protocols may share."""
    return target.gateway, target.device, target.onlink


def _counts(actual: Mapping[RouteKey, Route], ownership: Ownership) -> Counter[_Hop]:
    """How many routes of ours lead to each hop."""
    speakers = {id(route[1]): route for route in actual.values()}
    many = Counter(id(route[1]) for route in actual.values())
    counts = Counter[_Hop]()
    for number, route in speakers.items():
        if ownership.is_ours(route):  # one speaks for all with its target, for they are of one table
            counts[_hop(route.target)] += many[number]
    return counts
