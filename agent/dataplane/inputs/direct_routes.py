"""Which of BGP's routes further next hops resolve through: those whose own next hops are on a link (decision 58).

So there is one level, as in BIRD, and no circle: whether a next hop is on a link is said by the kernel's routes alone,
never by what BGP learned. Asked are all paths of a prefix and not its best one: which of them is best may depend on how
a next hop resolves, and the answer would then change with itself.
Promises: pure but for what it was given; a route through several next hops has all of them, with their weights.
Does not know: which addresses are asked for, the host's routes, RIBs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network

from agent.netlink.objects import MOST_WEIGHT, Address, NextHop, Route, RouteKey, RouteTarget
from bgp.rib.multipath import NextHops, NextHopSet, single_hops

MOST_KNOWN = 16_384
"""Addresses of which is remembered what was looked up; of one beyond it is looked up each time."""
LearnedHops = Callable[[RouteKey, Callable[[Address], bool]], NextHops | None]
"""The next hops of the paths of a key that are used if only those count whose next hop passes; None: there is none."""


def nothing_learned(key: RouteKey, passes: Callable[[Address], bool]) -> NextHops | None:
    """Before BGP has said anything."""
    return None


class DirectRoutes:
    """BGP's routes by the next hops on a link, looked up when they are first asked for."""

    def __init__(self, learned: LearnedHops, on_link: Callable[[Address], tuple[NextHop, ...]]) -> None:
        """`on_link` answers the way to an address that is on a link, and nothing for any other."""
        self._learned = learned
        self._on_link = on_link
        self._known: dict[Address, tuple[NextHop, ...]] = {}
        """Next hops that were met -> the way to them, if they are on a link."""
        self._found: dict[Address, tuple[Route, ...]] = {}

    def links_changed(self) -> None:
        """Other addresses may be on a link now."""
        now = {address: self._on_link(address) for address in self._known}
        if now != self._known:
            self._known, self._found = now, {}

    def paths_changed(self, addresses: Iterable[Address]) -> None:
        """There may be other paths of prefixes around these."""
        for address in addresses:
            self._found.pop(address, None)

    def around(self, address: Address) -> tuple[Route, ...]:
        """Those around an address, the longest first."""
        found = self._found.get(address)
        if found is None:
            found = tuple(self._look_up(address))
            if len(self._found) < MOST_KNOWN:
                self._found[address] = found
        return found

    def why_not(self, address: Address) -> str:
        """What is learned and leads to an address, yet resolves nothing; empty: there is no such route."""
        for key in _keys(address):
            if hops := single_hops(self._learned(key, lambda _: True)):
                return f"BGP's route to {key} leads there, and its own next hop {hops[0]} is on no link"
        return ""

    def _look_up(self, address: Address) -> Iterator[Route]:
        for key in _keys(address):
            hops = self._learned(key, self._is_on_link)
            if hops is not None:
                yield Route.from_target(key, RouteTarget().through(tuple(self._gateways_of(hops))))

    def _is_on_link(self, address: Address) -> bool:
        return bool(self._way(address))

    def _way(self, address: Address) -> tuple[NextHop, ...]:
        found = self._known.get(address)
        if found is None:
            found = self._on_link(address)
            if len(self._known) < MOST_KNOWN:
                self._known[address] = found
        return found

    def _gateways_of(self, hops: NextHops) -> Iterator[NextHop]:
        members = hops.members if isinstance(hops, NextHopSet) else ((hops, 1),)
        for address, weight in members:
            for hop in self._way(address):
                yield NextHop(hop.gateway, hop.device, hop.onlink, min(weight, MOST_WEIGHT))


def _keys(address: Address) -> Iterator[RouteKey]:
    """Of the prefixes around an address, the longest first."""
    key = RouteKey(ip_network(address))
    yield key
    yield from key.around()
