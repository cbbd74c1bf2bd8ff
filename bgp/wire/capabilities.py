"""Capabilities in OPEN (RFC 5492): what a speaker can do.

Promises: an unknown capability is ignored; a malformed one is a NotificationError. Does not know: sessions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bgp.wire.errors import NotificationError
from bgp.wire.families import UNICAST, Family
from bgp.wire.iana import CapabilityCode, OpenError

RESTART_STATE, NOTIFICATION_BIT = 0x8, 0x4
"""The R bit (RFC 4724) and the N bit (RFC 8538) of the four flag bits."""
FORWARDING_STATE = 0x80


@dataclass(frozen=True, slots=True)
class GracefulRestart:
    """The graceful restart capability (RFC 4724 section 3)."""

    restart_seconds: int
    restarting: bool = False
    notification: bool = False
    """RFC 8538: a NOTIFICATION, too, starts a graceful restart."""
    families: frozenset[Family] = frozenset({Family.IPV4})
    """Families whose paths may be retained, and of which End-of-RIB will be sent."""
    forwarding_preserved: frozenset[Family] = frozenset()
    """Families whose F bit is set: their forwarding state survived."""


@dataclass(frozen=True, slots=True)
class LongLived:
    """What the long-lived graceful restart capability says of one family (RFC 9494 section 3.1)."""

    family: Family
    stale_seconds: int
    """How long its paths may be retained behind the restart time; 24 bits."""
    forwarding_preserved: bool = False
    """Its F bit: its forwarding state survived."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities that one side offers."""

    families: frozenset[Family] = frozenset({Family.IPV4})
    """Families that it exchanges (RFC 4760); those that we do not know are left out."""
    four_octet_as: int | None = None
    route_refresh: bool = False
    graceful_restart: GracefulRestart | None = None
    extended_message: bool = False
    enhanced_refresh: bool = False
    long_lived: tuple[LongLived, ...] | None = None
    """Long-lived graceful restart (RFC 9494), by family; empty: it asks for nothing, and keeps what others ask for."""
    ipv6_next_hops: frozenset[Family] = frozenset()
    """Families besides IPv6 whose prefixes it takes with an IPv6 next hop (RFC 8950)."""
    add_path_receive: frozenset[Family] = frozenset()
    """Families of which it receives several paths to a prefix, told apart by identifiers (RFC 7911)."""
    add_path_send: frozenset[Family] = frozenset()
    """Families of which it sends several paths to a prefix (RFC 7911)."""
    host_name: str = ""
    """What the peer calls itself, for people; read, never sent."""


def encode(offer: Capabilities) -> bytes:
    """All capabilities as one optional parameter, in the order of their codes."""
    asn, restart = offer.four_octet_as, offer.graceful_restart
    paths = {
        family: RECEIVES * (family in offer.add_path_receive) + SENDS * (family in offer.add_path_send)
        for family in offer.add_path_receive | offer.add_path_send
    }
    values: tuple[tuple[int, bytes | None], ...] = (
        (CapabilityCode.ROUTE_REFRESH, b"" if offer.route_refresh else None),
        (CapabilityCode.EXTENDED_NEXT_HOP, _pack_next_hops(offer.ipv6_next_hops) or None),
        (CapabilityCode.EXTENDED_MESSAGE, b"" if offer.extended_message else None),
        (CapabilityCode.GRACEFUL_RESTART, _pack_restart(restart) if restart is not None else None),
        (CapabilityCode.FOUR_OCTET_AS, asn.to_bytes(4, "big") if asn is not None else None),
        (CapabilityCode.ADD_PATH, _pack_families(paths) if paths else None),
        (CapabilityCode.ENHANCED_REFRESH, b"" if offer.enhanced_refresh else None),
        (CapabilityCode.LONG_LIVED_GRACEFUL_RESTART, _pack_long_lived(offer.long_lived)),
    )
    parts = [multiprotocol(family) for family in sorted(offer.families)]
    parts += [_packed(code, value) for code, value in values if value is not None]
    joined = b"".join(parts)
    return bytes([2, len(joined)]) + joined if joined else b""


def multiprotocol(family: Family) -> bytes:
    """The capability that stands for a family (RFC 4760 section 8)."""
    return _packed(CapabilityCode.MULTIPROTOCOL, struct.pack("!HBB", family, 0, UNICAST))


def family_at(afi: int, safi: int) -> Family | None:
    """The family of these numbers, when it is one of ours."""
    return Family(afi) if safi == UNICAST and afi in Family.__members__.values() else None


def _packed(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value


def decode(parameters: bytes) -> Capabilities:
    """The offer in an OPEN's optional parameters, in the form of RFC 4271 or of RFC 9072. Raises NotificationError."""
    families: list[Family | None] = []
    found: dict[str, Any] = {}
    for code, value in _capabilities(parameters):
        if code == CapabilityCode.MULTIPROTOCOL:
            families.append(family_at(int.from_bytes(_exactly(value, 4)[:2], "big"), value[3]))
        elif code == CapabilityCode.ADD_PATH:
            found["add_path_receive"], found["add_path_send"] = _paths(value)
        elif code in _READERS:
            field, read = _READERS[code]
            found[field] = read(value)
    if "graceful_restart" not in found:
        found.pop("long_lived", None)  # RFC 9494 section 4.5: as though it had not been received
    # Without any multiprotocol capability a speaker means IPv4 unicast alone (RFC 4760 section 8).
    known = frozenset(family for family in families or [Family.IPV4] if family is not None)
    return Capabilities(families=known, **found)


def _malformed(why: str) -> NotificationError:
    return NotificationError(OpenError.UNSPECIFIC, why)


def _exactly(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise _malformed(f"a capability of {len(value)} octets instead of {length}")
    return value


def _families(value: bytes) -> Iterator[tuple[Family, int]]:
    """The list of AFI, SAFI and one octet that graceful restart and ADD-PATH share; families not ours are left out."""
    for afi, safi, octet in struct.iter_unpack("!HBB", value):
        if (family := family_at(afi, safi)) is not None:
            yield family, octet


def _pack_families(octets: dict[Family, int]) -> bytes:
    return b"".join(struct.pack("!HBB", family, UNICAST, octets[family]) for family in sorted(octets))


def _restart(value: bytes) -> GracefulRestart:
    if len(value) < 2 or (len(value) - 2) % 4:
        raise _malformed(f"a graceful restart capability of {len(value)} octets")
    head, found = int.from_bytes(value[:2], "big"), dict(_families(value[2:]))
    return GracefulRestart(
        head & 0xFFF,
        restarting=bool(head >> 12 & RESTART_STATE),
        notification=bool(head >> 12 & NOTIFICATION_BIT),
        families=frozenset(found),
        forwarding_preserved=frozenset(one for one, octet in found.items() if octet & FORWARDING_STATE),
    )


def _pack_restart(restart: GracefulRestart) -> bytes:
    flags = RESTART_STATE * restart.restarting | NOTIFICATION_BIT * restart.notification
    octets = {one: FORWARDING_STATE * (one in restart.forwarding_preserved) for one in restart.families}
    return struct.pack("!H", flags << 12 | restart.restart_seconds) + _pack_families(octets)


LONG_LIVED_BYTES = 7
"""AFI, SAFI, flags, and three octets of seconds (RFC 9494 section 3.1)."""
LONGEST_STALE_SECONDS = (1 << 24) - 1


def _long_lived(value: bytes) -> tuple[LongLived, ...]:
    if len(value) % LONG_LIVED_BYTES:
        raise _malformed(f"a long-lived graceful restart capability of {len(value)} octets")
    found: dict[Family, LongLived] = {}
    for afi, safi, flags, high, low in struct.iter_unpack("!HBBBH", value):
        if (family := family_at(afi, safi)) is not None:
            found[family] = LongLived(family, high << 16 | low, bool(flags & FORWARDING_STATE))
    return tuple(found[family] for family in sorted(found))


def _pack_long_lived(entries: tuple[LongLived, ...] | None) -> bytes | None:
    if entries is None:
        return None
    return b"".join(
        struct.pack("!HBB", one.family, UNICAST, FORWARDING_STATE * one.forwarding_preserved)
        + one.stale_seconds.to_bytes(3, "big")
        for one in entries
    )


RECEIVES, SENDS = 1, 2
"""RFC 7911 section 4; both bits are 3, and any other value counts as nothing."""


def _paths(value: bytes) -> tuple[frozenset[Family], frozenset[Family]]:
    if len(value) % 4:
        raise _malformed(f"an ADD-PATH capability of {len(value)} octets")
    found = {family: bits for family, bits in _families(value) if 1 <= bits <= RECEIVES | SENDS}
    receives = frozenset(family for family, bits in found.items() if bits & RECEIVES)
    return receives, frozenset(family for family, bits in found.items() if bits & SENDS)


_NEXT_HOP = struct.Struct("!HHH")
"""AFI and SAFI of prefixes, AFI of their next hops (RFC 8950 section 4): here SAFI has two octets."""


def _next_hops(value: bytes) -> frozenset[Family]:
    if len(value) % _NEXT_HOP.size:
        raise _malformed(f"an extended next hop capability of {len(value)} octets")
    found = ((family_at(afi, safi), hop) for afi, safi, hop in _NEXT_HOP.iter_unpack(value))
    return frozenset(one for one, hop in found if one is Family.IPV4 and hop == Family.IPV6)


def _pack_next_hops(families: frozenset[Family]) -> bytes:
    return b"".join(_NEXT_HOP.pack(family, UNICAST, Family.IPV6) for family in sorted(families))


def _host_name(value: bytes) -> str:
    """The host name of the FQDN capability; a wrong one is worth no session, so it reads as empty."""
    length = value[0] if value else 0
    text = value[1 : 1 + length].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())


def _present(_: bytes) -> bool:
    return True


_READERS: dict[int, tuple[str, Callable[[bytes], Any]]] = {
    CapabilityCode.ROUTE_REFRESH: ("route_refresh", _present),
    CapabilityCode.EXTENDED_NEXT_HOP: ("ipv6_next_hops", _next_hops),
    CapabilityCode.EXTENDED_MESSAGE: ("extended_message", _present),
    CapabilityCode.GRACEFUL_RESTART: ("graceful_restart", _restart),
    CapabilityCode.FOUR_OCTET_AS: ("four_octet_as", lambda value: int.from_bytes(_exactly(value, 4), "big")),
    CapabilityCode.ENHANCED_REFRESH: ("enhanced_refresh", _present),
    CapabilityCode.LONG_LIVED_GRACEFUL_RESTART: ("long_lived", _long_lived),
    CapabilityCode.FQDN: ("host_name", _host_name),
}
"""Capability code -> (field, reader)."""


def _capabilities(parameters: bytes) -> list[tuple[int, bytes]]:
    # RFC 9072: a first parameter of type 255 announces two-octet lengths.
    extended = parameters[:1] == b"\xff"
    if extended:
        if int.from_bytes(parameters[1:3], "big") != len(parameters) - 3:
            raise _malformed("the extended optional parameters have another length")
        parameters = parameters[3:]
    found = []
    for kind, value in _triples(parameters, 2 if extended else 1):
        if kind != 2:
            why = f"optional parameter {kind} is not known"
            raise NotificationError(OpenError.UNSUPPORTED_PARAMETER, why)
        found += _triples(value, 1)
    return found


def _triples(data: bytes, width: int) -> list[tuple[int, bytes]]:
    """(type, value) of type-length-value triples whose length field has `width` octets."""
    found, offset = [], 0
    while offset < len(data):
        start = offset + 1 + width
        end = start + int.from_bytes(data[offset + 1 : start], "big")
        if start > len(data) or end > len(data):
            raise _malformed("an optional parameter runs past its field")
        found.append((data[offset], data[start:end]))
        offset = end
    return found
