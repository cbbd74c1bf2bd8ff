"""Rules of policy routing that lead pods' packets past our routes: the kernel is asked how it would forward them.

Strategy. A rule may concern nobody's packets, or some: its selectors alone do not say it, so the kernel is asked, for
one address of each route, how it would send on what comes from a pod. A host without rules of its own is not asked.
Promises: a look is bounded; the routes of a large cluster are gone through in turn. Does not know: the rules' purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from itertools import islice

from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.states import RouteSnapshot, is_pod
from agent.netlink.objects import Address, PolicyRule, Prefix, Route, RouteKey, RouteType
from agent.trouble import Trouble, TroubleKind

SECONDS_BETWEEN = 0.5
"""Looks at the rules: what they do is told within a second."""
ROUTES_AT_ONCE = 256
"""Routes that one look goes through: some milliseconds."""
MOST_NAMED = 3
LOSS = "they reach their pods another way, or not at all"
CURE = "end the rule, or put one before it that looks the pools up in table main"


class RuleMonitor:
    """Looks now and then; has the troubles of policy routing."""

    def __init__(self, kernel: Kernel, snapshot: Callable[[], RouteSnapshot]) -> None:
        """`snapshot` answers what the last pass left."""
        self._kernel = kernel
        self._snapshot = snapshot
        self._rules: tuple[PolicyRule, ...] = ()
        self._astray: dict[RouteKey, tuple[Route, str | None]] = {}
        """Routes of ours that the packets do not take -> by which interface they go; None: by none."""
        self._begin = 0
        """Of the routes, where the next look begins."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(SECONDS_BETWEEN)

    async def look(self) -> None:
        """Ask once. Raises KernelError."""
        self._rules = await self._kernel.policy_rules()
        if not self._rules:
            self._astray = {}
            return
        snapshot = self._snapshot()
        routes, actual = snapshot.desired.dataplane.routes, snapshot.actual.routes
        pods = _pods(routes)
        astray = {key: found for key, found in self._astray.items() if routes.get(key) == found[0]}
        for route in self._next(routes):
            astray.pop(route.key, None)
            pod = pods.get(route.key.version)
            host = _address_in(route.key.destination)
            longer = RouteKey(ip_network(host))
            if pod is None or actual.get(route.key) != route or (longer != route.key and longer in actual):
                continue
            device = await self._kernel.forwarded_by(host, *pod)
            if device not in route.target.devices():
                astray[route.key] = route, device
        self._astray = astray

    def _next(self, routes: Mapping[RouteKey, Route]) -> list[Route]:
        """The routes to other machines among the next ones; behind the last comes the first again."""
        if self._begin >= len(routes):
            self._begin = 0
        some = list(islice(routes.values(), self._begin, self._begin + ROUTES_AT_ONCE))
        self._begin += ROUTES_AT_ONCE
        return [route for route in some if route.type is RouteType.UNICAST and not is_pod(route)]

    def troubles(self) -> Iterable[Trouble]:
        """What the last look found."""
        if not self._astray:
            return
        key, (route, device) = next(iter(self._astray.items()))
        which = str(key) if len(self._astray) == 1 else f"{len(self._astray)} prefixes, {key} among them,"
        goes = f"by {device}" if device is not None else "nowhere"
        evidence = (
            f"what pods send to {which} goes {goes} and not by {' or '.join(sorted(route.target.devices()))}, "
            f"past our route: {self._said()}"
        )
        yield Trouble(TroubleKind.ROUTE, "ip rule", evidence, LOSS, CURE)

    def _said(self) -> str:
        version = next(iter(self._astray)).version
        rules = [str(rule) for rule in self._rules if rule.version == version]
        more = f" and {len(rules) - MOST_NAMED} more" if len(rules) > MOST_NAMED else ""
        return "; ".join(rules[:MOST_NAMED]) + more


def _pods(routes: Mapping[RouteKey, Route]) -> dict[int, tuple[Address, str]]:
    """By version of IP a pod's address and interface."""
    found: dict[int, tuple[Address, str]] = {}
    for version in (4, 6):
        some = (route for route in routes.values() if route.key.version == version and is_pod(route))
        if (route := next(some, None)) is not None and route.device is not None:
            found[version] = route.key.destination.network_address, route.device
    return found


def _address_in(prefix: Prefix) -> Address:
    """One of a prefix that a pod can have: the first may be a VTEP's."""
    return prefix.broadcast_address
