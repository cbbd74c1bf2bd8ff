"""Interfaces that may be uplinks as the kernel has them: state, addresses, neighbours, gateways of default routes.

Promises: one interface's neighbours are asked for, never all; a default route is looked up, never all routes read: a
node has very many of both. Whoever goes while it is read is left out. Does not know: which router is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from agent.netlink import rtnetlink
from agent.netlink.kernel_errors import NoWay
from agent.netlink.netlink_socket import NETLINK_ROUTE, Lost, NlmsgError, Subscription, dump
from agent.netlink.objects import Address
from agent.netlink.rtlinks import (
    LinkRow,
    NeighbourRow,
    decode_address,
    decode_link,
    decode_neighbour,
    link_dump_request,
    neighbour_dump_request,
)
from agent.netlink.rtnetlink import messages
from agent.netlink.rtroutes import PathRow, decode_path, path_request
from agent.uplinks.discovery import UplinkLink
from bgp.transport.socket_addresses import own_addresses

GROUPS = (rtnetlink.RTNLGRP_LINK, rtnetlink.RTNLGRP_NEIGH, rtnetlink.RTNLGRP_IPV6_IFADDR)
OUTSIDE: tuple[Address, ...] = (ip_address("198.51.100.1"), ip_address("2001:db8::1"))
"""Of documentation (RFC 5737, RFC 3849): a route there is a default route."""
MOST_NEIGHBOURS = 64
"""Of one link that are looked at: behind a cable to a router there are few."""
MOST_EVENTS = 256
"""Notifications taken in one go."""


async def read_links(wants: Callable[[str, str | None], bool]) -> list[UplinkLink]:
    """The interfaces that are wanted. Raises KernelError."""
    rows = await dump(link_dump_request(), rtnetlink.RTM_NEWLINK, decode_link)
    return [await _read(row) for row in rows if wants(row.name, row.kind)]


async def _read(row: LinkRow) -> UplinkLink:
    try:
        addresses = tuple(own_addresses(row.name))
    except OSError:
        addresses = ()
    neighbours = [one for family in (4, 6) for one in await _neighbours(row.index, family)]
    known = tuple(
        (one.destination, one.mac, one.is_router)
        for one in neighbours[:MOST_NEIGHBOURS]
        if one.destination is not None and one.mac is not None
    )
    found = [await _gateway(outside, row.index) for outside in OUTSIDE] if row.up and row.carrier else []
    gateways = tuple(one for one in found if one is not None)
    return UplinkLink(row.name, row.index, row.up, row.carrier, row.kind, row.mac, addresses, known, gateways)


async def _neighbours(number: int, version: int) -> list[NeighbourRow]:
    request = neighbour_dump_request(rtnetlink.FAMILY_OF[version], number)
    rows = await dump(request, rtnetlink.RTM_NEWNEIGH, decode_neighbour)
    return [one for one in rows if one.index == number and one.is_known]


async def _gateway(outside: Address, number: int) -> Address | None:
    """The gateway of the route that packets to the outside would take over an interface."""
    request = path_request(outside, number)
    try:
        rows: list[PathRow] = await dump(request, rtnetlink.RTM_NEWROUTE, decode_path)
    except (NoWay, NlmsgError):
        return None
    return next((row.gateway for row in rows if row.interface == number), None)


class LinkEvents:
    """Says that something about an interface that is wanted may have changed; close it at the end."""

    def __init__(self) -> None:
        self._subscription = Subscription(NETLINK_ROUTE, GROUPS)

    def fileno(self) -> int:
        """For the event loop."""
        return self._subscription.fileno()

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()

    def concern(self, wants: Callable[[str, str | None], bool], numbers: frozenset[int]) -> bool:
        """Take what waits; whether any of it is about an interface that is wanted, or has one of these numbers."""
        found = False
        for _ in range(MOST_EVENTS):
            try:
                data = self._subscription.read()
            except Lost:
                return True
            if data is None:
                break
            found = self._concerns(data, wants, numbers) or found
        return found

    @staticmethod
    def _concerns(data: bytes, wants: Callable[[str, str | None], bool], numbers: frozenset[int]) -> bool:
        for one in messages(data):
            if one.type in {rtnetlink.RTM_NEWLINK, rtnetlink.RTM_DELLINK}:
                link = decode_link(data, one.start, one.end)
                if link is not None and (link.index in numbers or wants(link.name, link.kind)):
                    return True
            elif one.type in {rtnetlink.RTM_NEWNEIGH, rtnetlink.RTM_DELNEIGH}:
                neighbour = decode_neighbour(data, one.start, one.end)
                if neighbour is not None and neighbour.index in numbers:
                    return True
            elif one.type in {rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR}:
                address = decode_address(data, one.start, one.end)
                if address is not None and address.index in numbers:
                    return True
        return False
