"""Keeps the wished routes up with the facts: a change of k learned prefixes or pods costs k, any other the whole.

Promises: the routes are at every moment those that `routing.routes` makes of the same facts; where they may differ from
the last answer is told, so that whoever compares them with the kernel need not look at the rest. The whole is computed
in pieces, from the facts as they were when it began.
Does not know: who learned what, the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from itertools import islice

from agent.dataplane.cooperative import PIECE, Work, run_now
from agent.dataplane.desired.route_producers import learned_routes, stored_routes, workload_routes
from agent.dataplane.inputs.facts import Facts
from agent.netlink.objects import WORKLOAD_PREFIX, Address, Route, RouteKey

Answer = tuple[Mapping[RouteKey, Route], Set[RouteKey] | None]


class DesiredRoutes:
    """The routes of one node; a core with a memory."""

    def __init__(self) -> None:
        self._frame: Facts | None = None
        """The facts of the last whole computation, without what is followed change by change."""
        self._stored: dict[RouteKey, Route] = {}
        """What the datastore tells; each goes before a learned one."""
        self._local: dict[RouteKey, Route] = {}
        """Of this node's pods; each goes before all others."""
        self._routes: dict[RouteKey, Route] = {}
        self._pods: object = None
        self._marks: object = None
        """What the next is made of."""
        self._of_pods: dict[RouteKey, Route] = {}

    def follow(self, facts: Facts, touched: Mapping[RouteKey, Address | None] | None) -> Answer:
        """The wished routes, and the keys where they may differ from the last answer; None: anywhere.

        `touched` is where the best path changed since the last call, with the next hop of now; None: anywhere. The
        mapping follows later calls: it is read before the next one.
        """
        return run_now(self.work(facts, touched))

    def work(self, facts: Facts, touched: Mapping[RouteKey, Address | None] | None) -> Work[Answer]:
        """The same in pieces; nothing is adopted before the last."""
        frame = _frame(facts)
        local = self._local_routes(facts)
        if touched is not None and frame == self._frame:
            return self._routes, (yield from self._change(facts, touched, local))
        # What was learned goes on changing while others run.
        facts = replace(facts, learned=dict(facts.learned.items()))
        stored = yield from _collected(stored_routes(facts))
        untold = ((key, hop) for key, hop in facts.learned.items() if key not in stored)
        routes = yield from _collected(learned_routes(facts, untold))
        self._frame, self._stored, self._local = frame, stored, local
        self._routes = {**routes, **stored, **local}
        return self._routes, None

    def _local_routes(self, facts: Facts) -> dict[RouteKey, Route]:
        """Of this node's pods; made anew when one of them came or went."""
        if facts.endpoints is not self._pods or facts.protocols is not self._marks:
            self._pods, self._marks = facts.endpoints, facts.protocols
            self._of_pods = {route.key: route for route in workload_routes(facts)}
        return self._of_pods

    def _change(
        self, facts: Facts, touched: Mapping[RouteKey, Address | None], local: dict[RouteKey, Route]
    ) -> Work[Set[RouteKey]]:
        before, stored = self._local, self._stored
        keys = before.keys() | local.keys() if before is not local else ()
        moved = {key for key in keys if before.get(key) != local.get(key)}
        hidden = stored.keys() | before.keys() | local.keys()
        free = {key: hop for key, hop in touched.items() if key not in hidden} if hidden else dict(touched)
        free |= {key: facts.learned.get(key) for key in moved if key not in local and key not in stored}
        found = yield from _collected(learned_routes(facts, free.items()))
        self._local = local
        for key in moved - free.keys():
            self._routes[key] = local.get(key) or stored[key]
        if len(found) < len(free):
            for key in free:
                if key not in found:
                    self._routes.pop(key, None)
        self._routes.update(found)
        return (free | dict.fromkeys(moved)).keys() if moved else free.keys()


def _frame(facts: Facts) -> Facts:
    links = {name: link for name, link in facts.links.items() if not name.startswith(WORKLOAD_PREFIX)}
    return replace(facts, learned={}, endpoints=(), links=links)


def _collected(routes: Iterator[Route]) -> Work[dict[RouteKey, Route]]:
    found: dict[RouteKey, Route] = {}
    while piece := list(islice(routes, PIECE)):
        found.update([(route[0], route) for route in piece])
        yield
    return found
