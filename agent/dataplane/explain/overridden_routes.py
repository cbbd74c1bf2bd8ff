"""Routes of ours that are in the kernel and lead nobody: others' longer ones inside them take the packets.

A route to a block is in force only where nothing longer leads elsewhere (RFC 1812, section 5.2.4.3): the network of a
bridge that somebody made inside a pool, a VPN's, a static route.
Promises: pure; of very many others' routes the first are looked at. Does not know: rules of policy routing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Route, RouteKey, RouteType

MOST_OTHERS = 5_000
"""Others' routes that are looked at: a host that holds more is a router, and these lie beside our prefixes."""


def overridden(
    desired: Mapping[RouteKey, Route], actual: Mapping[RouteKey, Route], ownership: Ownership
) -> Iterator[tuple[Route, Route]]:
    """(ours, the other's longer one inside it), the longest of ours for each."""
    lengths: dict[int, set[int]] = {4: set(), 6: set()}
    for key in desired:
        if not key.is_host:
            lengths[key.version].add(key.length)
    others = (route for route in actual.values() if not ownership.is_ours(route) and not _is_nothing(route))
    for other in islice(others, MOST_OTHERS):
        prefix = other.key.destination
        for length in sorted(
            (one for one in lengths[prefix.version] if one < prefix.prefixlen), reverse=True
        ):
            ours = desired.get(RouteKey(prefix.supernet(new_prefix=length)))
            if ours is not None:
                same = other.device == ours.device and other.gateway == ours.gateway
                if ours.type is RouteType.UNICAST and not same:
                    yield ours, other
                break


def _is_nothing(route: Route) -> bool:
    """Whether no packet to a pod could take it: an IPv6 link's own, and multicast."""
    destination = route.key.destination
    return destination.is_link_local or destination.is_multicast
