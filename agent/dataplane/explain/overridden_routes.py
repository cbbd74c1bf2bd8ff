"""Routes of ours that are in the kernel and lead nobody: others' longer ones inside them take the packets.

A route to a block is in force only where nothing longer leads elsewhere (RFC 1812, section 5.2.4.3): the network of a
bridge that somebody made inside a pool, a VPN's, a static route.
Promises: pure; of very many others' routes the first are looked at. Does not know: rules of policy routing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Address, Route, RouteKey, RouteType

NOWHERE = frozenset({(None, None)})
"""Where a blackhole leads."""
MOST_OTHERS = 5_000
"""Others' routes that are looked at: a host that holds more is a router, and these lie beside our prefixes."""


def overridden(
    desired: Mapping[RouteKey, Route], actual: Mapping[RouteKey, Route], ownership: Ownership
) -> Iterator[tuple[Route, Route]]:
    """(ours, the other's longer one inside it), the longest of ours for each."""
    others = (route for route in actual.values() if not ownership.is_ours(route) and not _is_nothing(route))
    for other in islice(others, MOST_OTHERS):
        ours = next((desired[key] for key in other.key.around() if key in desired), None)
        if ours is None or ours.type is not RouteType.UNICAST:
            continue
        if not _next_hops(other) <= _next_hops(ours):
            yield ours, other


def _next_hops(route: Route) -> frozenset[tuple[Address | None, str | None]]:
    """Where packets go."""
    return frozenset((hop.gateway, hop.device) for hop in route.target.next_hops()) or NOWHERE


def _is_nothing(route: Route) -> bool:
    """Whether no packet to a pod could take it: an IPv6 link's own, and multicast."""
    destination = route.key.destination
    return destination.is_link_local or destination.is_multicast
