"""Address families: IPv4 and IPv6 unicast (RFC 4760), and the types that go with them. Knows no messages."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network
UNICAST = 1
"""The only SAFI."""
ZONED_SHARED = 1024
"""Next hops with a zone that are one object each: more routers than a node has on its links."""


class Family(IntEnum):
    """A family by its AFI; the SAFI is always unicast."""

    IPV4 = 1
    IPV6 = 2


def family_of(one: Address | Prefix) -> Family:
    """The family that an address or a prefix belongs to."""
    return Family.IPV4 if one.version == 4 else Family.IPV6


def plain(address: Address) -> Address:
    """The IPv4 address inside of an IPv4-mapped one, else the address: Python 3.11 does not look inside by itself."""
    inside = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if inside is None else inside


def number_of(address: Address) -> int:
    """An address as a number that no other one has; every IPv4 address is less than any IPv6 one.

    With a zone (RFC 4007) it is another address than on another link, or without: the zone's octets stand above.
    """
    if address.version == 4:
        return int(address)
    zone = int.from_bytes((address.scope_id or "").encode())
    return zone << 129 | 1 << 128 | int(address)


def without_zone(address: Address) -> Address:
    """The address as packets have it: the zone of a link-local one is this node's own word for a link."""
    return IPv6Address(int(address)) if address.version == 6 and address.scope_id is not None else address


def zone_of(address: Address) -> str:
    """The interface on whose link an address is; empty: it means the same on all of them."""
    return (address.scope_id or "") if address.version == 6 else ""


@lru_cache(maxsize=ZONED_SHARED)
def in_zone(address: IPv6Address, zone: str) -> IPv6Address:
    """The address on the link of an interface; one object for each, since next hops are compared by identity first."""
    return IPv6Address(f"{IPv6Address(int(address))}%{zone}") if zone else IPv6Address(int(address))
