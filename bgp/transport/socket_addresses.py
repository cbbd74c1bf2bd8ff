"""The address of a socket and back: the one place where a zone (RFC 4007) becomes the number of an interface.

The kernel knows a link-local address by its octets and the interface's number (sin6_scope_id); Python's sockets take
that number as the fourth part of an address, and lose a `%eth1` in the first part when they bind.
Promises: an interface that is not there is an OSError (ENODEV), never another one. Does not know: sockets' options.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from bgp.wire.families import Address, in_zone, zone_of

SCOPE_LINK = 0x20
"""IPV6_ADDR_LINKLOCAL of net/ipv6.h."""
UNUSABLE = 0x40 | 0x08
"""IFA_F_TENTATIVE and IFA_F_DADFAILED of linux/if_addr.h: not yet, and never, this node's alone (RFC 4862)."""
MOST_ADDRESSES = 8
"""Link-local addresses of one interface that are listened on; it has one unless somebody gave it more."""
SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""Host and port; of IPv6 also flow label and the number of the zone's interface."""


def socket_address(address: Address, port: int) -> SocketAddress:
    """What bind, connect and listen take. Raises OSError: there is no interface of the zone's name."""
    if isinstance(address, IPv4Address):
        return (str(address), port)
    return (str(IPv6Address(int(address))), port, 0, zone_number(address))


def zone_number(address: Address) -> int:
    """The number of the interface that an address's zone names; 0: it has none. Raises OSError."""
    zone = zone_of(address)
    if not zone:
        return 0
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        raise OSError(errno.ENODEV, f"there is no interface {zone}") from None


def own_addresses(zone: str) -> list[IPv6Address]:
    """Our link-local addresses on an interface that can be used, in their order. Raises OSError: there is none yet.

    As /proc/net/if_inet6 has them: address, interface's number, length, scope and flags in hex, the name.
    """
    zone_number(IPv6Address(f"fe80::%{zone}"))
    found: list[IPv6Address] = []
    for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines():
        octets, _, _, scope, flags, name = line.split(maxsplit=5)
        if name == zone and int(scope, 16) == SCOPE_LINK and not int(flags, 16) & UNUSABLE:
            found.append(in_zone(IPv6Address(int(octets, 16)), zone))
    if not found:
        raise OSError(errno.EADDRNOTAVAIL, f"{zone} has no link-local address that can be used")
    return sorted(found)[:MOST_ADDRESSES]


def address_of(found: tuple[Any, ...]) -> Address:
    """The address that a socket has, a link-local one with its zone.

    The zone of an interface that has gone meanwhile is its number: no peer's name.
    """
    if len(found) == 2:
        return IPv4Address(found[0])
    address, number = IPv6Address(str(found[0]).partition("%")[0]), int(found[3])
    if not address.is_link_local or not number:
        return address
    zone = str(number)
    with suppress(OSError):
        zone = socket.if_indextoname(number)
    return in_zone(address, zone)


def socket_family(address: Address) -> int:
    """The family of sockets that talk to an address."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
