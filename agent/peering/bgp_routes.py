"""What a speaker has learned, as route keys and next hops: the dataplane's view of a Loc-RIB.

Promises: a view; nothing is copied for a caller that asks for a few of very many. A path whose next hop is of the other
version of IP (RFC 8950) is left out: no route of ours has one.
Does not know: the kernel, peers.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping

from agent.netlink.objects import Address, RouteKey
from bgp.transport.speaker import Speaker
from bgp.wire.families import Family

FAMILIES = {4: Family.IPV4, 6: Family.IPV6}
"""By the version of IP."""


class LearnedRoutes(Mapping[RouteKey, Address]):
    """Key -> next hop of each best path, as it is at the moment of the question."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def __getitem__(self, key: RouteKey) -> Address:
        if (next_hop := self._next_hop(key)) is None:
            raise KeyError(key)
        return next_hop

    def __contains__(self, key: object) -> bool:
        return isinstance(key, RouteKey) and self._next_hop(key) is not None

    def _next_hop(self, key: RouteKey) -> Address | None:
        version, packed, _, _ = key
        next_hop = self._speaker.instance.ribs[FAMILIES[version]].next_hop(packed)
        return next_hop if next_hop is not None and next_hop.version == version else None

    def pairs(self) -> Iterator[tuple[RouteKey, Address]]:
        """All of them; a change during the iteration may be seen or not."""
        for version, family in FAMILIES.items():
            rib = self._speaker.instance.ribs[family]
            for packed, hop in rib.next_hops_of(list(rib.prefixes)):
                if hop is not None and hop.version == version:
                    yield RouteKey.of_packed(version, packed), hop

    def __iter__(self) -> Iterator[RouteKey]:
        return (key for key, _ in self.pairs())

    def items(self) -> ItemsView[RouteKey, Address]:
        """A view that does not look everything up twice."""
        return _Pairs(self)

    def __len__(self) -> int:
        return sum(1 for _ in self.pairs())


class _Pairs(ItemsView[RouteKey, Address]):
    def __init__(self, routes: LearnedRoutes) -> None:
        super().__init__(routes)
        self._routes = routes

    def __iter__(self) -> Iterator[tuple[RouteKey, Address]]:
        return self._routes.pairs()


def take_changed_routes(speaker: Speaker) -> dict[RouteKey, Address | None]:
    """Where the best path changed since the last call, with its next hop of now; None: there is no path."""
    touched = speaker.take_changed()
    of, found = RouteKey.of_packed, dict[RouteKey, Address | None]()
    for version, family in FAMILIES.items():
        some = speaker.instance.ribs[family].next_hops_of(touched.get(family, ()))
        found |= {of(version, packed): hop for packed, hop in some}
    return found
