"""Encodes many routes: those to one target, of one length, share all bytes but the address.

Promises: pure; the bytes are those of `rtnetlink.route_request` and `rtnetlink.route_deletion`. Does not know: sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.netlink.objects import ADDRESS_OCTETS, Route
from agent.netlink.rtnetlink import DESTINATION_OFFSET


def encoded(routes: Sequence[Route], whole: Callable[[Route], bytes]) -> list[bytes]:
    """A request for each route; `whole` encodes one by its target and its key's length, table and metric."""
    shapes: dict[tuple[int, int, int, int, int], tuple[bytes, bytes]] = {}
    found: list[bytes] = []
    for route in routes:
        key, target = route
        version, packed, table, metric = key
        width = ADDRESS_OCTETS[version]
        # By identity: the routes live longer than this table, and their targets with them.
        shape = id(target), width, packed[0], table, metric
        known = shapes.get(shape)
        if known is None:
            one = whole(route)
            known = shapes[shape] = (one[:DESTINATION_OFFSET], one[DESTINATION_OFFSET + width :])
        found.append(known[0] + packed[1:].ljust(width, b"\0") + known[1])
    return found
