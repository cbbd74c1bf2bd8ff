"""The octets of router discovery (RFC 4861 section 4) and of an echo (RFC 4443): what is heard and said on an uplink.

Promises: pure; what is malformed, or did not come from the link itself, is nothing: None, never an exception.
Does not know: sockets, which router is chosen.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address


class Message(IntEnum):
    """ICMPv6 types."""

    ECHO_REQUEST = 128
    ECHO_REPLY = 129
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134


HEARD = (Message.ECHO_REPLY, Message.ROUTER_SOLICITATION, Message.ROUTER_ADVERTISEMENT)
LARGEST_HOPS = 255
"""RFC 4861 section 6.1.2: a packet with less has come through a router, and is nobody's on this link."""
SOURCE_LINK_LAYER = 1
"""Option of RFC 4861 section 4.6.1."""
_ADVERTISEMENT = struct.Struct("!BBHBBHII")
"""Type, code, checksum, hop limit for hosts, flags, router lifetime, reachable and retransmission time."""
_SOLICITATION = struct.Struct("!BBHI")
_ECHO = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What somebody on the link said."""

    interface: int
    """Its number."""
    source: IPv6Address
    """Link-local."""
    kind: Message
    lifetime_seconds: int = 0
    """Of an advertisement: how long it is a default router; 0: it is none."""


def heard(data: bytes, source: IPv6Address, interface: int, hops: int, echo: int) -> Heard | None:
    """What a packet says; `echo` is the identifier of our own echo requests. None: nothing that counts."""
    if not source.is_link_local or len(data) < _SOLICITATION.size or data[0] not in HEARD or data[1]:
        return None
    kind, bare = Message(data[0]), IPv6Address(int(source))
    if kind is Message.ECHO_REPLY:
        return Heard(interface, bare, kind) if _ECHO.unpack_from(data)[3] == echo else None
    fixed = _ADVERTISEMENT if kind is Message.ROUTER_ADVERTISEMENT else _SOLICITATION
    if hops != LARGEST_HOPS or len(data) < fixed.size or not _has_whole_options(data, fixed.size):
        return None
    lifetime = _ADVERTISEMENT.unpack_from(data)[5] if kind is Message.ROUTER_ADVERTISEMENT else 0
    return Heard(interface, bare, kind, lifetime)


def _has_whole_options(data: bytes, offset: int) -> bool:
    while offset < len(data):
        if offset + 2 > len(data) or not data[offset + 1]:
            return False
        offset += 8 * data[offset + 1]
    return offset == len(data)


def advertisement(mac: str | None) -> bytes:
    """A router advertisement of a node that is nobody's default router: lifetime 0, and nothing else is said.

    The kernel computes the checksum of an ICMPv6 socket's packets (RFC 3542 section 3.1).
    """
    return _ADVERTISEMENT.pack(Message.ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0) + _source(mac)


def solicitation(mac: str | None) -> bytes:
    """A router solicitation: routers on the link advertise themselves."""
    return _SOLICITATION.pack(Message.ROUTER_SOLICITATION, 0, 0, 0) + _source(mac)


def echo_request(identifier: int) -> bytes:
    """An echo request: sent to all routers, it is answered by whoever forwards, advertisements or not."""
    return _ECHO.pack(Message.ECHO_REQUEST, 0, 0, identifier, 1)


def _source(mac: str | None) -> bytes:
    octets = bytes.fromhex(mac.replace(":", "")) if mac else b""
    return bytes((SOURCE_LINK_LAYER, 1)) + octets if len(octets) == 6 else b""
