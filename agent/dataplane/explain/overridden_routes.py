"""Routes of ours that are in the kernel and lead nobody: others' longer ones inside them take the packets, or one to
the same prefix with a lower metric, as IPv6 has them beside ours.

A route to a block is in force only where nothing longer leads elsewhere (RFC 1812, section 5.2.4.3): the network of a
bridge that somebody made inside a pool, a VPN's, a static route.
Promises: pure; of very many others' routes the first are looked at. Does not know: rules of policy routing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import IPV6_METRIC, Address, Route, RouteKey, RouteType

NOWHERE = frozenset({(None, None)})
"""Where a blackhole leads."""
MOST_OTHERS = 5_000
"""Others' routes that are looked at: a host that holds more is a router, and these lie beside our prefixes."""


def overridden(
    desired: Mapping[RouteKey, Route], actual: Mapping[RouteKey, Route], ownership: Ownership
) -> Iterator[tuple[Route, Route]]:
    """(ours, the other's that goes before it or is a longer one inside it), the longest of ours for each."""
    known = ownership.ours(actual.values())
    others = (route for route in actual.values() if id(route[1]) not in known and not _is_nothing(route))
    for other in islice(others, MOST_OTHERS):
        ours = next((desired[key] for key in _behind(other.key) if key in desired), None)
        if ours is None or ours.type is not RouteType.UNICAST:
            continue
        if not _next_hops(other) <= _next_hops(ours):
            yield ours, other


def goes_before(other: Route, ours: Route) -> bool:
    """Whether it is to the same prefix."""
    return other.key[:3] == ours.key[:3]


def _behind(other: RouteKey) -> Iterator[RouteKey]:
    """The keys of ours that get no packets where this one does; ours have no metric of their own."""
    if other.version == 6 and 0 < other.metric < IPV6_METRIC:  # in IPv4 none is what goes first
        yield RouteKey.of_packed(*other[:3])
    yield from other.around()


def _next_hops(route: Route) -> frozenset[tuple[Address | None, str | None]]:
    """Where packets go."""
    return frozenset((hop.gateway, hop.device) for hop in route.target.next_hops()) or NOWHERE


def _is_nothing(route: Route) -> bool:
    """Whether no packet to a pod could take it: an IPv6 link's own, and multicast."""
    destination = route.key.destination
    return destination.is_link_local or destination.is_multicast
