"""The desired routes, updated with the facts: a change of k learned prefixes or pods costs k, any other the whole.

Promises: the routes are at every moment those that all producers give for the same facts, merged by class; the answer
names the keys where they may differ from the last one, so that whoever compares them with the kernel need not look at
the rest. A whole computation goes piece by piece, from the facts as they were when it began.
Does not know: who learned what, the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from itertools import chain, filterfalse, islice
from operator import itemgetter

from agent.dataplane.cooperative import PIECE, Work
from agent.dataplane.desired.route_producers import (
    NoRoute,
    Without,
    datastore_routes,
    learned_routes,
    merge,
    routes_to_pod,
)
from agent.dataplane.inputs.facts import Endpoint, Facts, FactSettings
from agent.dataplane.kernel.dataplane_objects import host_links
from agent.memo import Each, Memo
from agent.netlink.objects import Route, RouteKey
from bgp.rib.multipath import NextHops

Answer = tuple[Mapping[RouteKey, Route], Set[RouteKey] | None]


class DesiredRoutes:
    """The routes of one node; a core with a memory."""

    def __init__(self) -> None:
        self._computed_from: Facts | None = None
        """The facts of the last whole computation, without those that are followed change by change."""
        self._datastore: dict[RouteKey, Route] = {}
        self._workloads: dict[RouteKey, Route] = {}
        self._routes: dict[RouteKey, Route] = {}
        """All of them, merged."""
        self._without: tuple[Without, Without] = {}, {}
        """What the datastore, and what BGP knows of and no producer of that side has a route for."""
        self._workloads_of = Memo[dict[RouteKey, Route]](by_identity=True)
        self._each = Each[Endpoint, tuple[tuple[RouteKey, Route], ...]]()
        self._settings: FactSettings | None = None
        """With which these were made."""

    def without(self) -> Iterator[tuple[RouteKey, NoRoute]]:
        """The prefixes that others have and to which no route is desired, and why."""
        by_datastore, by_bgp = self._without
        for key, reason in by_bgp.items():
            if key not in self._routes:
                yield key, reason
        for key, reason in by_datastore.items():
            if key not in self._routes and key not in by_bgp:
                yield key, reason

    def update(self, facts: Facts, touched: Mapping[RouteKey, NextHops | None] | None) -> Work[Answer]:
        """The desired routes, and the keys where they may differ from the last answer; None: anywhere.

        `touched` is where the best path changed since the last call, with the next hop of now; None: anywhere. The
        mapping follows later calls: it is read before the next one. Nothing is adopted before the last piece is done.
        """
        followed = _without_followed(facts)
        workloads = self._workloads_of.get(lambda: self._of_workloads(facts), facts.endpoints, facts.settings)
        if touched is not None and followed == self._computed_from:
            return self._routes, (yield from self._change(facts, touched, workloads))
        # What was learned goes on changing while others run.
        facts = replace(facts, bgp_nexthops=dict(facts.bgp_nexthops.items()))
        found, without = [], (Without(), Without())
        for producer in datastore_routes(facts, without[0]):
            found.append((yield from _collected(producer)))
        learned = yield from _collected(learned_routes(facts, facts.bgp_nexthops.items(), without[1]))
        self._without = without
        self._computed_from, self._datastore, self._workloads = followed, merge(*found), workloads
        # In this order they are written: no route comes before the one to its gateway.
        self._routes = merge(self._datastore, workloads, learned)
        return self._routes, None

    def _of_workloads(self, facts: Facts) -> dict[RouteKey, Route]:
        if facts.settings is not self._settings:
            self._each, self._settings = Each(), facts.settings
        protocol = facts.settings.protocols.workload
        self._each.update(facts.endpoints, lambda one: _by_key(routes_to_pod(one, protocol)))
        return dict(chain.from_iterable(self._each))

    def _change(
        self,
        facts: Facts,
        touched: Mapping[RouteKey, NextHops | None],
        workloads: dict[RouteKey, Route],
    ) -> Work[Set[RouteKey]]:
        """Compute anew at the keys that were touched and those of pods that came, went or moved."""
        hops, before = touched, self._workloads
        if workloads is not before:
            # Routes of pods that stay are the same objects.
            was, now = ({*zip(some, map(id, some.values()), strict=True)} for some in (before, workloads))
            hops = dict(touched) | {key: facts.bgp_nexthops.get(key) for key, _ in was ^ now}
        without = Without()
        learned = yield from _collected(learned_routes(facts, hops.items(), without))
        by_bgp = self._without[1]
        for key in hops if by_bgp else ():
            by_bgp.pop(key, None)
        by_bgp.update(without)
        others = [
            {key: some[key] for key in hops.keys() & some.keys()} for some in (self._datastore, workloads)
        ]
        changed = merge(learned, *others) if any(others) else learned
        self._workloads = workloads
        self._routes.update(changed)
        if len(changed) < len(hops):
            for key in filterfalse(changed.__contains__, hops):
                self._routes.pop(key, None)
        return hops.keys()


def _without_followed(facts: Facts) -> Facts:
    """The facts but for what is followed change by change: BGP's next hops and pods, with their interfaces.

    And but for what is refused, of which no route follows.
    """
    return replace(facts, bgp_nexthops={}, endpoints=(), links=host_links(facts.links), refused=())


def _collected(routes: Iterator[Route]) -> Work[dict[RouteKey, Route]]:
    found: dict[RouteKey, Route] = {}
    while piece := list(islice(routes, PIECE)):
        found.update(zip(map(itemgetter(0), piece), piece, strict=True))
        yield
    return found


def _by_key(routes: Iterator[Route]) -> tuple[tuple[RouteKey, Route], ...]:
    return tuple((route.key, route) for route in routes)
