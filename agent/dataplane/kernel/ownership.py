"""Which kernel objects are this agent's, known from the kernel's state alone: a restarted agent has no memory.

Promises: pure. A route of the kernel's own (protocol 2) or of a protocol that is neither ours nor on a device of ours
is never ours. Tunnel devices are ours by name, everything on them is ours, the nftables table by its name.
Does not know: what is desired.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from operator import itemgetter

from agent.dataplane.kernel.calico_names import RTPROT_DATASTORE, VXLAN_DEVICES, WORKLOAD_PREFIX
from agent.netlink.objects import (
    MAIN_TABLE,
    RTPROT_BIRD,
    RTPROT_BOOT,
    RTPROT_KERNEL,
    Route,
    RouteKey,
    RouteTarget,
    RouteType,
)


@dataclass(frozen=True, slots=True)
class Ownership:
    """rtm_protocol of each class of our routes; the defaults give the table that Calico with BIRD makes.

    The first three are ours on any device.
    """

    learned: int = RTPROT_BIRD
    """Of what BGP learned: left alone until BGP has converged again."""
    blackhole: int = RTPROT_BIRD
    datastore: int = RTPROT_DATASTORE
    """Routes from the datastore over the parent device; those over our own tunnel need no mark and have `tunnel`."""
    tunnel: int = RTPROT_BOOT
    """Ours on our VXLAN devices only."""
    workload: int = RTPROT_BOOT
    """Ours on `cali*` devices only: elsewhere it is what people type with `ip route add`."""

    def is_ours(self, route: Route) -> bool:
        """Whether this agent may replace or delete a route."""
        if route.key.table != MAIN_TABLE or route.protocol == RTPROT_KERNEL:
            return False
        if route.protocol in (self.learned, self.blackhole, self.datastore):
            return True
        device = route.device or ""
        if device in VXLAN_DEVICES or any(hop.device in VXLAN_DEVICES for hop in route.target.hops):
            return route.protocol == self.tunnel
        return device.startswith(WORKLOAD_PREFIX) and route.protocol == self.workload

    def is_learned(self, route: Route) -> bool:
        """Whether only BGP can say that a route should go."""
        return self.is_learned_by(route[1])

    def is_learned_by(self, target: RouteTarget) -> bool:
        """The same of every route to a target."""
        return target.type is RouteType.UNICAST and target.protocol == self.learned

    def ours(self, routes: Collection[Route]) -> Set[int]:
        """The targets, by identity, whose routes among these are ours; the routes are of one table.

        One route speaks for all with its target.
        """
        speakers = dict(zip(map(id, map(itemgetter(1), routes)), routes, strict=True))
        return {number for number, route in speakers.items() if self.is_ours(route)}


class Installed(Mapping[RouteKey, Route]):
    """Those of many routes that are ours, found out when asked: most who ask want to know of a few."""

    def __init__(self, routes: Mapping[RouteKey, Route], ownership: Ownership) -> None:
        self._routes = routes
        self._ownership = ownership

    def __getitem__(self, key: RouteKey) -> Route:
        route = self._routes[key]
        if not self._ownership.is_ours(route):
            raise KeyError(key)
        return route

    def __iter__(self) -> Iterator[RouteKey]:
        ours = self._ownership.ours(self._routes.values())
        return (key for key, route in self._routes.items() if id(route[1]) in ours)

    def __len__(self) -> int:
        ours = self._ownership.ours(self._routes.values())
        return sum(1 for route in self._routes.values() if id(route[1]) in ours)
