"""Encodes many routes: those that differ in their destination alone share all other bytes.

Promises: pure; the bytes are those of `rtnetlink.route_request`. Does not know: sockets.
"""

from __future__ import annotations

from agent.dataplane.objects import Route
from agent.dataplane.rtnetlink import DESTINATION_OFFSET, route_request


class RouteEncoder:
    """For one batch, whose routes live longer than this: gateways are told apart as objects, which costs no hash."""

    def __init__(self, *, replace: bool) -> None:
        self._replace = replace
        self._shapes: dict[tuple[object, ...], tuple[bytes, bytes]] = {}
        """Everything but the destination -> the bytes before and behind its address."""

    def request(self, route: Route, interface: int | None, nexthop: int | None = None) -> bytes:
        """RTM_NEWROUTE, as `route_request`."""
        key = route.key
        destination = key.destination
        packed = destination.network_address.packed
        shape = (
            id(route.gateway),
            interface,
            nexthop,
            destination.prefixlen,
            len(packed),
            route.protocol,
            route.type,
            route.scope,
            route.onlink,
            key.table,
            key.metric,
        )
        known = self._shapes.get(shape)
        if known is None:
            whole = route_request(route, interface, replace=self._replace, nexthop=nexthop)
            behind = DESTINATION_OFFSET + len(packed)
            known = self._shapes[shape] = (whole[:DESTINATION_OFFSET], whole[behind:])
        return known[0] + packed + known[1]
