"""Keeps the wished routes up with the facts: a change of k learned prefixes costs k, any other change the whole.

Promises: the routes are at every moment those that `routing.routes` makes of the same facts; where they may differ from
the last answer is told, so that whoever compares them with the kernel need not look at the rest.
Does not know: who learned what, the kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from agent.dataplane.facts import Facts
from agent.dataplane.objects import Prefix, Route, RouteKey
from agent.dataplane.routing import learned_routes, told_routes


class RouteWishes:
    """The routes of one node; a core with a memory."""

    def __init__(self) -> None:
        self._frame: Facts | None = None
        """The facts of the last whole computation, without what was learned."""
        self._told: dict[RouteKey, Route] = {}
        """Routes of all producers but BGP; each goes before a learned one."""
        self._routes: dict[RouteKey, Route] = {}

    def follow(
        self, facts: Facts, touched: Collection[Prefix] | None
    ) -> tuple[Mapping[RouteKey, Route], frozenset[RouteKey] | None]:
        """The wished routes, and the keys where they may differ from the last answer; None: anywhere.

        `touched` are the prefixes whose best path changed since the last call; None: any. The mapping follows later
        calls: it is read before the next one.
        """
        frame = replace(facts, learned={})
        if touched is None or frame != self._frame:
            self._frame, self._told = frame, told_routes(facts)
            self._routes = {route.key: route for route in learned_routes(facts, facts.learned)}
            self._routes.update(self._told)
            return self._routes, None
        told, wished = self._told, self._routes
        keys = {prefix: RouteKey(prefix) for prefix in touched}
        if told:
            keys = {prefix: key for prefix, key in keys.items() if key not in told}
        gone = set(keys.values())
        for route in learned_routes(facts, keys):
            wished[route.key] = route
            gone.discard(route.key)
        for key in gone:
            wished.pop(key, None)
        return wished, frozenset(keys.values())
