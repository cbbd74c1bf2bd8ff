"""The one function from facts to what the kernel should hold; the daemon, `plan` and the tests all call it.

Promises: pure; whole recompute (20,000 routes cost tens of milliseconds). Does not know: what the kernel holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.dataplane.desired.desired_sysctls import sysctls
from agent.dataplane.desired.desired_tunnels import fdb, neighbours, tunnels
from agent.dataplane.desired.route_producers import routes
from agent.dataplane.inputs.facts import Facts
from agent.netlink.objects import Address, Dataplane, FdbEntry, Masquerade, Neighbour, Route, RouteKey, Sysctl


class DesiredObjects:
    """Remembers what follows from the nodes and pools alone: there may be thousands, and most changes are others."""

    def __init__(self) -> None:
        self._made_of: tuple[object, ...] = ()
        self._neighbours: Mapping[tuple[str, Address], Neighbour] = {}
        self._fdb: Mapping[tuple[str, str], FdbEntry] = {}
        self._switched: tuple[object, object] = (None, None)
        """The pods and pools that the switches were made of: the same objects until one comes or goes."""
        self._switches: dict[str, Sysctl] = {}

    def dataplane(self, facts: Facts, wished_routes: Mapping[RouteKey, Route]) -> Dataplane:
        """What should be; `wished_routes` are those of the same facts."""
        made_of = facts.node, facts.pools, facts.nodes
        if made_of != self._made_of:
            self._made_of = made_of
            self._neighbours, self._fdb = neighbours(facts), fdb(facts)
        if facts.endpoints is not self._switched[0] or facts.pools is not self._switched[1]:
            self._switched, self._switches = (facts.endpoints, facts.pools), sysctls(facts)
        return Dataplane(
            tunnels=tunnels(facts),
            neighbours=self._neighbours,
            fdb=self._fdb,
            routes=wished_routes,
            masquerade=masquerade(facts),
            sysctls=self._switches,
            open_forward=facts.open_forward,
        )


def dataplane(facts: Facts, wished_routes: Mapping[RouteKey, Route] | None = None) -> Dataplane:
    """What should be; `wished_routes` are those of the same facts, where somebody has them already."""
    return DesiredObjects().dataplane(facts, routes(facts) if wished_routes is None else wished_routes)


def masquerade(facts: Facts) -> Masquerade:
    """natOutgoing: pods of such pools speak to the world with the node's address, to other pools with their own."""
    sources = frozenset(pool.cidr for pool in facts.pools if pool.nat_outgoing)
    return Masquerade(sources, frozenset(pool.cidr for pool in facts.pools)) if sources else Masquerade()
