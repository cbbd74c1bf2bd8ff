"""Encodes many routes: those on one way, of one length, share all bytes but the address.

Promises: pure; the bytes are those of `rtnetlink.route_request` and `rtnetlink.route_deletion`. Does not know: sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.netlink.objects import ADDRESS_OCTETS, Route
from agent.netlink.rtnetlink import DESTINATION_OFFSET


def encoded(routes: Sequence[Route], whole: Callable[[Route], bytes]) -> list[bytes]:
    """A request for each route; `whole` encodes one, and may look at its way and its key's length, table and metric."""
    shapes: dict[tuple[int, int, int, int, int], tuple[bytes, bytes]] = {}
    found: list[bytes] = []
    for route in routes:
        key, way = route
        version, packed, table, metric = key
        width = ADDRESS_OCTETS[version]
        shape = (
            id(way),
            width,
            packed[0],
            table,
            metric,
        )  # the routes live longer than this, and their ways with them
        known = shapes.get(shape)
        if known is None:
            one = whole(route)
            known = shapes[shape] = (one[:DESTINATION_OFFSET], one[DESTINATION_OFFSET + width :])
        found.append(known[0] + packed[1:].ljust(width, b"\0") + known[1])
    return found
