"""MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760), with the IPv6 next hops of RFC 2545 and 8950, both ways.

Promises: what is malformed is a NotificationError 3/9 (RFC 7606 section 5.3: its prefixes cannot be found, so nothing
less helps); one of a family that was not negotiated is to be discarded. Does not know: the rest of an UPDATE.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bgp.wire import nlri
from bgp.wire.attribute_codec import pack_attribute
from bgp.wire.attributes import Context, PathAttributes, discard
from bgp.wire.capabilities import family_at
from bgp.wire.errors import NotificationError
from bgp.wire.families import UNICAST, Address, Family
from bgp.wire.iana import Attribute, Flag, UpdateError
from bgp.wire.nlri import Nlri

SHORTEST_REACH, SHORTEST_UNREACH = 5, 3
NEXT_HOP_BYTES = {Family.IPV4: (4,), Family.IPV6: (16, 32)}
IPV6_NEXT_HOP_BYTES = NEXT_HOP_BYTES[Family.IPV6]
"""Of prefixes of the other family as well, where that was agreed (RFC 8950 section 3)."""
REACH_BYTES, UNREACH_BYTES = 4 + 4 + 32 + 1, 4 + 3
"""The most octets that both need beside their prefixes."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What MP_REACH_NLRI announces."""

    family: Family
    next_hop: Address
    link_local: IPv6Address | None
    prefixes: list[Nlri]


def _wrong(why: str) -> NotificationError:
    return NotificationError(UpdateError.OPTIONAL_ATTRIBUTE, why)


def _prefixes(field: bytes, family: Family, context: Context, name: str) -> list[Nlri]:
    split = nlri.split_identified if family in context.path_ids else nlri.split
    try:
        return split(field, nlri.LONGEST[family])
    except NotificationError as error:
        raise _wrong(f"{name}: {error}") from error


def _negotiated(value: bytes, families: frozenset[Family], name: str) -> Family:
    afi, safi = int.from_bytes(value[:2], "big"), value[2]
    family = family_at(afi, safi)
    if family is None or family not in families:
        raise discard(f"{name} of family ({afi}, {safi}), which was not agreed")
    return family


def reach(value: bytes, context: Context) -> Reach:
    """Read MP_REACH_NLRI. Raises NotificationError, and MalformedAttribute for a family that was not negotiated."""
    if len(value) < SHORTEST_REACH:
        raise _wrong(f"MP_REACH_NLRI has {len(value)} octets")
    end = 4 + value[3]
    if end >= len(value):
        raise _wrong("the next hop in MP_REACH_NLRI runs past it")
    family = _negotiated(value, context.families, "MP_REACH_NLRI")
    more = IPV6_NEXT_HOP_BYTES if family in context.ipv6_next_hops else ()
    if value[3] not in (*NEXT_HOP_BYTES[family], *more):
        raise _wrong(f"the next hop in MP_REACH_NLRI has {value[3]} octets")
    next_hop, link_local = _next_hops(value[4:end])
    return Reach(family, next_hop, link_local, _prefixes(value[end + 1 :], family, context, "MP_REACH_NLRI"))


def _next_hops(field: bytes) -> tuple[Address, IPv6Address | None]:
    """The next hop, and its link-local address where both are there.

    Where there is no global address, speakers put the other in its place, alone, twice, or behind zeros: it is then
    the next hop.
    """
    if len(field) == 4:
        return IPv4Address(field), None
    first, second = IPv6Address(field[:16]), IPv6Address(field[16:]) if len(field) == 32 else None
    if second is None or not second.is_link_local or second == first:
        return first, None
    return (second, None) if not int(first) else (first, second)


def unreach(value: bytes, context: Context) -> tuple[Family, list[Nlri]]:
    """Read MP_UNREACH_NLRI: what it withdraws. Raises as `reach`."""
    if len(value) < SHORTEST_UNREACH:
        raise _wrong(f"MP_UNREACH_NLRI has {len(value)} octets")
    family = _negotiated(value, context.families, "MP_UNREACH_NLRI")
    return family, _prefixes(value[3:], family, context, "MP_UNREACH_NLRI")


def needs_reach(family: Family, attributes: PathAttributes) -> bool:
    """Whether prefixes of a family cannot stand in an UPDATE's own field, for their next hop is no IPv4 address."""
    return family is not Family.IPV4 or (attributes.next_hop is not None and attributes.next_hop.version == 6)


def pack_reach(family: Family, attributes: PathAttributes, prefixes: Sequence[Nlri]) -> bytes:
    """MP_REACH_NLRI as an attribute, header included."""
    assert attributes.next_hop is not None
    next_hop = attributes.next_hop.packed
    if attributes.link_local is not None:
        next_hop += attributes.link_local.packed
    head = struct.pack("!HBB", family, UNICAST, len(next_hop)) + next_hop + b"\0"
    return pack_attribute(Flag.OPTIONAL, Attribute.MP_REACH_NLRI, head + nlri.joined(prefixes))


def pack_unreach(family: Family, prefixes: Sequence[Nlri]) -> bytes:
    """MP_UNREACH_NLRI as an attribute, header included."""
    head = struct.pack("!HB", family, UNICAST)
    return pack_attribute(Flag.OPTIONAL, Attribute.MP_UNREACH_NLRI, head + nlri.joined(prefixes))
