"""Address families: IPv4 and IPv6 unicast (RFC 4760), and the types that go with them. Knows no messages."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network
UNICAST = 1
"""The only SAFI."""


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
    """An address as a number that no address of the other family has; every IPv4 address is less than any IPv6 one."""
    return int(address) if address.version == 4 else 1 << 128 | int(address)
