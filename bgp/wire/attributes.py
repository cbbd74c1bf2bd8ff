"""Path attributes: one table says each one's flags, how it is read and written, and what a fault costs (RFC 7606).

Promises: reading one raises only MalformedAttribute. Equal attributes are equal values.
Does not know: blocks of attributes, NLRI fields, RIBs.
RFC 4271 section 5, 1997, 4360, 4456, 6793, 7606, 7607, 8092, 9774.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from bgp.wire.errors import MalformedAttribute, Treatment
from bgp.wire.families import Address, Family
from bgp.wire.iana import AS_TRANS, Attribute, Flag, Origin, SegmentType

NEXT_HOPS_SHARED = 8192
"""Next hops that are one object each: as many as a large cluster has nodes."""
DEFAULT_LOCAL_PREF = 100
MOST_SEGMENT_AS = 255

Segment = tuple[int, tuple[int, ...]]
"""A segment of AS_PATH: (SegmentType, AS numbers)."""


@dataclass(frozen=True, slots=True)
class PathAttributes:
    """The path attributes of a route (RFC 4271 section 5); hashable, so equal ones can be shared."""

    origin: int = Origin.IGP
    as_path: tuple[Segment, ...] = ()
    next_hop: Address | None = None
    link_local: IPv6Address | None = None
    """The next hop's link-local address, where it came beside a global one (RFC 2545 section 3)."""
    med: int | None = None
    local_pref: int | None = None
    atomic_aggregate: bool = False
    aggregator: tuple[int, IPv4Address] | None = None
    communities: tuple[int, ...] = ()
    originator_id: IPv4Address | None = None
    cluster_list: tuple[IPv4Address, ...] = ()
    extended_communities: tuple[bytes, ...] = ()
    large_communities: tuple[bytes, ...] = ()
    unknown: tuple[tuple[int, int, bytes], ...] = ()
    """(flags, code, value) of unrecognised optional transitive attributes, to be passed on with Partial set."""

    @property
    def as_path_length(self) -> int:
        """RFC 4271 section 9.1.2.2: a set counts one; RFC 5065: confederation segments count nothing."""
        sequences = sum(len(numbers) for kind, numbers in self.as_path if kind == SegmentType.AS_SEQUENCE)
        return sequences + sum(kind == SegmentType.AS_SET for kind, _ in self.as_path)

    @property
    def neighbour_as(self) -> int:
        """The AS the path came from; 0 for one of our own AS."""
        for _, numbers in self.as_path:
            return numbers[0]
        return 0


@dataclass(frozen=True, slots=True)
class Context:
    """What was negotiated, as far as the meaning of messages depends on it."""

    four_octet_as: bool
    internal: bool
    """Whether the session is iBGP."""
    families: frozenset[Family] = frozenset({Family.IPV4})
    """Families negotiated; attributes of others are discarded."""
    path_ids: frozenset[Family] = frozenset()
    """Families in which the peer puts an identifier before each prefix (RFC 7911)."""
    ipv6_next_hops: frozenset[Family] = frozenset()
    """Families besides IPv6 whose prefixes may have an IPv6 next hop (RFC 8950), which both sides offered."""


AS_SET = "AS_PATH holds an AS_SET (RFC 9774)"


def withdraw(why: str) -> MalformedAttribute:
    """A fault that costs the UPDATE's routes."""
    return MalformedAttribute(Treatment.TREAT_AS_WITHDRAW, why)


def discard(why: str) -> MalformedAttribute:
    """A fault that costs the attribute alone."""
    return MalformedAttribute(Treatment.DISCARD_ATTRIBUTE, why)


def _origin(value: bytes, _: Context) -> int:
    if len(value) != 1 or value[0] > Origin.INCOMPLETE:
        raise withdraw("ORIGIN is not one of IGP, EGP, INCOMPLETE")
    return value[0]


def read_as_path(value: bytes, context: Context) -> tuple[Segment, ...]:
    """AS_PATH, and AS4_PATH with four octets."""
    width = 4 if context.four_octet_as else 2
    segments: list[Segment] = []
    offset = 0
    while offset < len(value):
        if offset + 2 > len(value):
            raise withdraw("AS_PATH has octets behind its last segment")
        kind, count = value[offset], value[offset + 1]
        end = offset + 2 + count * width
        if kind not in SegmentType.__members__.values() or not count or end > len(value):
            raise withdraw("AS_PATH has a malformed segment")
        numbers = struct.unpack_from(f"!{count}{'I' if width == 4 else 'H'}", value, offset + 2)
        if 0 in numbers:
            raise withdraw("AS_PATH holds AS 0 (RFC 7607)")
        if kind in (SegmentType.AS_SET, SegmentType.AS_CONFED_SET):
            raise withdraw(AS_SET)
        if kind == SegmentType.AS_CONFED_SEQUENCE and not context.internal:
            raise withdraw("AS_PATH holds a confederation segment from outside")
        segments.append((kind, numbers))
        offset = end
    return tuple(segments)


@lru_cache(maxsize=NEXT_HOPS_SHARED)
def _host(value: bytes) -> IPv4Address:
    """One object for a next hop that many attribute blocks have: later they are compared by identity first."""
    address = IPv4Address(value)
    if address.is_multicast or address.is_reserved or address.is_unspecified:
        raise withdraw(f"NEXT_HOP {address} cannot be a host's address")
    return address


def _atomic_aggregate(value: bytes, _: Context) -> bool:
    if value:
        raise discard("ATOMIC_AGGREGATE is not empty")
    return True


def read_aggregator(value: bytes, context: Context) -> tuple[int, IPv4Address]:
    """AGGREGATOR, and AS4_AGGREGATOR with four octets."""
    width = 4 if context.four_octet_as else 2
    if len(value) != width + 4:
        raise discard(f"AGGREGATOR is not {width + 4} octets")
    number = int.from_bytes(value[:width], "big")
    if not number:
        raise discard("AGGREGATOR is AS 0 (RFC 7607)")
    return number, IPv4Address(value[width:])


@dataclass(frozen=True, slots=True)
class Spec:
    """One attribute: its required flags, where its value goes, how it is read and written."""

    code: Attribute
    flags: int
    field: str
    decode: Callable[[bytes, Context], Any]
    encode: Callable[[Any, Context], bytes]
    only_internal: bool = False
    """Whether it is discarded when an external peer sends it (RFC 4271 section 5.1.5, RFC 4456 section 8)."""


WELL_KNOWN = Flag.TRANSITIVE
TRANSITIVE = Flag.OPTIONAL | Flag.TRANSITIVE


def pack_as_path(path: tuple[Segment, ...], context: Context) -> bytes:
    """The value of AS_PATH; in two octets a larger AS number reads AS_TRANS (RFC 6793)."""
    out = b""
    for kind, numbers in path:
        wide = context.four_octet_as
        shown = numbers if wide else tuple(number if number <= 0xFFFF else AS_TRANS for number in numbers)
        out += bytes([kind, len(shown)]) + struct.pack(f"!{len(shown)}{'I' if wide else 'H'}", *shown)
    return out


def pack_aggregator(value: tuple[int, IPv4Address], context: Context) -> bytes:
    """The value of AGGREGATOR, and of AS4_AGGREGATOR with four octets."""
    number, address = value
    if context.four_octet_as:
        return number.to_bytes(4, "big") + address.packed
    return (number if number <= 0xFFFF else AS_TRANS).to_bytes(2, "big") + address.packed


Form = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
"""How a single value is read from its octets, and packed."""
_NUMBER: Form = (lambda octets: int.from_bytes(octets, "big"), lambda number: number.to_bytes(4, "big"))
_ADDRESS: Form = (IPv4Address, lambda address: address.packed)
_HOST: Form = (_host, lambda address: address.packed)
_OCTETS: Form = (bytes, bytes)


def _single(code: Attribute, flags: int, field: str, form: Form, *, only_internal: bool = False) -> Spec:
    """An attribute that is one value of four octets."""
    read, pack = form

    def decode(value: bytes, _: Context) -> Any:
        if len(value) != 4:
            raise withdraw(f"{code.name} is not four octets")
        return read(value)

    return Spec(code, flags, field, decode, lambda value, _: pack(value), only_internal)


def _list_of(
    width: int, code: Attribute, flags: int, field: str, form: Form, *, only_internal: bool = False
) -> Spec:
    """An attribute that is a list of values of `width` octets; one that stands twice is read once."""
    read, pack = form

    def decode(value: bytes, _: Context) -> tuple[Any, ...]:
        if not value or len(value) % width:
            raise withdraw(f"{code.name} is not a multiple of {width} octets")
        items = dict.fromkeys(value[offset : offset + width] for offset in range(0, len(value), width))
        return tuple(map(read, items))

    return Spec(code, flags, field, decode, lambda values, _: b"".join(map(pack, values)), only_internal)


SPECS: dict[int, Spec] = {
    spec.code: spec
    for spec in (
        Spec(Attribute.ORIGIN, WELL_KNOWN, "origin", _origin, lambda value, _: bytes([value])),
        Spec(Attribute.AS_PATH, WELL_KNOWN, "as_path", read_as_path, pack_as_path),
        _single(Attribute.NEXT_HOP, WELL_KNOWN, "next_hop", _HOST),
        _single(Attribute.MULTI_EXIT_DISC, Flag.OPTIONAL, "med", _NUMBER),
        _single(Attribute.LOCAL_PREF, WELL_KNOWN, "local_pref", _NUMBER, only_internal=True),
        Spec(Attribute.ATOMIC_AGGREGATE, WELL_KNOWN, "atomic_aggregate", _atomic_aggregate, lambda *_: b""),
        Spec(Attribute.AGGREGATOR, TRANSITIVE, "aggregator", read_aggregator, pack_aggregator),
        _list_of(4, Attribute.COMMUNITIES, TRANSITIVE, "communities", _NUMBER),
        _single(Attribute.ORIGINATOR_ID, Flag.OPTIONAL, "originator_id", _ADDRESS, only_internal=True),
        _list_of(4, Attribute.CLUSTER_LIST, Flag.OPTIONAL, "cluster_list", _ADDRESS, only_internal=True),
        _list_of(8, Attribute.EXTENDED_COMMUNITIES, TRANSITIVE, "extended_communities", _OCTETS),
        _list_of(12, Attribute.LARGE_COMMUNITY, TRANSITIVE, "large_communities", _OCTETS),
    )
}
"""Every attribute that is understood, by code."""


def prepended(path: tuple[Segment, ...], asn: int) -> tuple[Segment, ...]:
    """The path with `asn` in front; a full segment is left alone and a new one begun (RFC 4271 section 5.1.2)."""
    if path and path[0][0] == SegmentType.AS_SEQUENCE and len(path[0][1]) < MOST_SEGMENT_AS:
        return ((SegmentType.AS_SEQUENCE, (asn, *path[0][1])), *path[1:])
    return ((SegmentType.AS_SEQUENCE, (asn,)), *path)
