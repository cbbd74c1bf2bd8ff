"""Everything that the kernel should hold, from the facts and the routes that follow from them.

Promises: pure but for its memory. Does not know: what the kernel holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.dataplane.desired.desired_filter import DesiredFilter
from agent.dataplane.desired.desired_sysctls import OfEndpoints, sysctls
from agent.dataplane.desired.desired_tunnels import fdb, neighbours, tunnels
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kernel.dataplane_objects import Dataplane, Masquerade
from agent.memo import Memo
from agent.netlink.objects import Address, FdbEntry, Neighbour, Route, RouteKey, Sysctl


class DesiredObjects:
    """Remembers what follows from the nodes and pools alone: there may be thousands, and most changes are others."""

    def __init__(self) -> None:
        self._neighbours = Memo[Mapping[tuple[str, Address], Neighbour]](by_identity=False)
        self._fdb = Memo[Mapping[tuple[str, str], FdbEntry]](by_identity=False)
        self._sysctls = Memo[Mapping[str, Sysctl]](by_identity=True)
        self._of_endpoints = OfEndpoints()
        self._forwarding: tuple[str, ...] = ()
        self._filter = DesiredFilter()

    def dataplane(self, facts: Facts, routes: Mapping[RouteKey, Route]) -> Dataplane:
        """What should be; `routes` are those of the same facts."""
        vteps = facts.node, facts.pools, facts.nodes
        devices = tunnels(facts)
        return Dataplane(
            tunnels=devices,
            neighbours=self._neighbours.get(lambda: neighbours(facts), *vteps),
            fdb=self._fdb.get(lambda: fdb(facts), *vteps),
            routes=routes,
            masquerade=masquerade(facts),
            sysctls=self._sysctls_of(facts, devices),
            open_forward=facts.settings.open_forward,
            workload_filter=self._filter.of(facts, devices),
        )

    def _sysctls_of(self, facts: Facts, devices: Iterable[str]) -> Mapping[str, Sysctl]:
        parent = facts.parent_of(4)
        forwarding = (*([parent.name] if parent is not None else []), *devices)
        if forwarding != self._forwarding:
            self._forwarding = forwarding
        return self._sysctls.get(
            lambda: sysctls(facts, forwarding, self._of_endpoints),
            facts.endpoints,
            facts.pools,
            self._forwarding,
        )


def masquerade(facts: Facts) -> Masquerade:
    """natOutgoing: pods of such pools speak to the world with the node's address, to other pools with their own."""
    sources = frozenset(pool.cidr for pool in facts.pools if pool.nat_outgoing)
    return Masquerade(sources, frozenset(pool.cidr for pool in facts.pools)) if sources else Masquerade()
