"""The attribute block of an UPDATE: octets to attributes and back (RFC 4271 4.3, RFC 6793, RFC 7606 sections 3, 4).

Promises: a malformed attribute becomes a Treatment, the strongest wins and the rest is still read, so that a later
MP_UNREACH_NLRI is found. Only a second multiprotocol attribute is a NotificationError.
Does not know: NLRI fields, RIBs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from bgp.wire.attributes import (
    AS_SET,
    SPECS,
    TRANSITIVE,
    Context,
    PathAttributes,
    Segment,
    discard,
    pack_aggregator,
    pack_as_path,
    read_aggregator,
    read_as_path,
    withdraw,
)
from bgp.wire.errors import MalformedAttribute, NotificationError, Treatment
from bgp.wire.iana import AS_TRANS, Attribute, Flag, SegmentType, UpdateError

_DEFAULTS = PathAttributes()


@dataclass(frozen=True, slots=True)
class Decoded:
    """An attribute block, decoded: what it says and what was wrong with it."""

    attributes: PathAttributes
    treatment: Treatment | None
    faults: tuple[str, ...]
    present: frozenset[int]
    reach: bytes | None = None
    """The value of MP_REACH_NLRI."""
    unreach: bytes | None = None
    """The value of MP_UNREACH_NLRI."""
    next_hop_fault: str = ""
    """What is wrong with NEXT_HOP; it matters only to what stands in the NLRI field (RFC 4760 section 3)."""


class _Block:
    """An attribute block while it is read."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.values: dict[str, Any] = {}
        self.unknown: list[tuple[int, int, bytes]] = []
        self.raw: dict[int, bytes] = {}
        """Multiprotocol and AS4 attributes, which are no fields of their own."""
        self.present: set[int] = set()
        self.treatment: Treatment | None = None
        self.faults: list[str] = []
        self.next_hop_fault = ""

    def fault(self, error: MalformedAttribute) -> None:
        """The strongest treatment wins; what happens all the time has no text and is not said."""
        self.treatment = max(self.treatment or error.treatment, error.treatment)
        if str(error):
            self.faults.append(str(error))

    def read(self, flags: int, code: int, value: bytes) -> None:
        """Take one attribute. Raises MalformedAttribute."""
        spec = SPECS.get(code)
        if spec is not None:
            if flags & TRANSITIVE != spec.flags:
                raise withdraw(f"{spec.code.name} has the wrong flags 0x{flags:02x}")
            if spec.only_internal and not self.context.internal:
                raise discard("")  # common, and nothing to log
            self.values[spec.field] = spec.decode(value, self.context)
        elif code in _RAW_FLAGS:
            self.raw[code] = value
            if flags & TRANSITIVE != _RAW_FLAGS[code]:
                raise withdraw(f"{Attribute(code).name} has the wrong flags 0x{flags:02x}")
        elif not flags & Flag.OPTIONAL:
            raise withdraw(f"attribute {code} is well-known by its flags but not known")
        elif flags & Flag.TRANSITIVE:
            self.unknown.append((flags & ~Flag.EXTENDED_LENGTH & 0xF0 | Flag.PARTIAL, code, value))

    def merge_as4(self) -> None:
        """RFC 6793: between speakers of four octets AS4 attributes mean nothing, and a malformed one means nothing.

        A set in AS4_PATH is not malformed, and as good as one in AS_PATH (RFC 9774 section 3).
        """
        if self.context.four_octet_as:
            return
        wide = replace(self.context, four_octet_as=True)
        new: dict[int, Any] = {}
        for code, read in ((Attribute.AS4_PATH, read_as_path), (Attribute.AS4_AGGREGATOR, read_aggregator)):
            if code in self.raw:
                try:
                    new[code] = read(self.raw[code], wide)
                except MalformedAttribute as error:
                    if str(error) == AS_SET:
                        self.fault(withdraw(AS_SET.replace("AS_PATH", "AS4_PATH")))
        aggregator, real = self.values.get("aggregator"), new.get(Attribute.AS4_AGGREGATOR)
        is_old = real is not None and aggregator is not None and aggregator[0] != AS_TRANS
        if "as_path" in self.values:
            self.values["as_path"] = _merged(self.values["as_path"], new.get(Attribute.AS4_PATH), is_old)
        if real is not None and aggregator is not None and not is_old:
            self.values["aggregator"] = real


_RAW_FLAGS: dict[int, int] = {
    Attribute.MP_REACH_NLRI: Flag.OPTIONAL,
    Attribute.MP_UNREACH_NLRI: Flag.OPTIONAL,
    Attribute.AS4_PATH: TRANSITIVE,
    Attribute.AS4_AGGREGATOR: TRANSITIVE,
}


def decode(block: bytes, context: Context) -> Decoded:
    """Read a whole block. Raises NotificationError only where RFC 7606 section 3 asks for a reset."""
    found = _Block(context)
    offset = 0
    while offset < len(block):
        try:
            flags, code, value, offset = _next(block, offset)
        except MalformedAttribute as error:
            found.fault(error)
            break
        if code in found.present:
            if code in (Attribute.MP_REACH_NLRI, Attribute.MP_UNREACH_NLRI):
                why = f"attribute {code} stands twice"
                raise NotificationError(UpdateError.MALFORMED_ATTRIBUTE_LIST, why)
            continue  # RFC 7606 section 3 g: all but the first are dropped
        found.present.add(code)
        try:
            found.read(flags, code, value)
        except MalformedAttribute as error:
            if code == Attribute.NEXT_HOP:
                found.next_hop_fault = str(error)
            else:
                found.fault(error)
    found.merge_as4()
    return Decoded(
        replace(_DEFAULTS, **found.values, unknown=tuple(found.unknown)),
        found.treatment,
        tuple(found.faults),
        frozenset(found.present),
        found.raw.get(Attribute.MP_REACH_NLRI),
        found.raw.get(Attribute.MP_UNREACH_NLRI),
        found.next_hop_fault,
    )


def _next(block: bytes, offset: int) -> tuple[int, int, bytes, int]:
    """(flags, code, value, offset behind) of the next attribute."""
    if offset + 3 > len(block):
        raise withdraw("an attribute's header runs past the attribute field")
    flags, code = block[offset], block[offset + 1]
    width = 2 if flags & Flag.EXTENDED_LENGTH else 1
    start = offset + 2 + width
    end = start + int.from_bytes(block[offset + 2 : start], "big")
    if start > len(block) or end > len(block):
        raise withdraw(f"attribute {code} runs past the attribute field")
    return flags, code, block[start:end], end


def encode(attributes: PathAttributes, context: Context) -> bytes:
    """The block as sent, in the order of the codes; what has its default and need not be there is left out.

    A next hop that is not IPv4 stands in MP_REACH_NLRI, which is not made here.
    """
    parts: list[tuple[int, int, bytes]] = []
    for code, spec in SPECS.items():
        value = getattr(attributes, spec.field)
        if code == Attribute.NEXT_HOP and not isinstance(value, IPv4Address):
            continue
        mandatory = code in (Attribute.ORIGIN, Attribute.AS_PATH)
        if mandatory or value != getattr(_DEFAULTS, spec.field):
            parts.append((spec.flags, code, spec.encode(value, context)))
    parts += attributes.unknown
    if not context.four_octet_as:
        wide = replace(context, four_octet_as=True)
        if any(number > 0xFFFF for _, numbers in attributes.as_path for number in numbers):
            parts.append((TRANSITIVE, Attribute.AS4_PATH, pack_as_path(attributes.as_path, wide)))
        if attributes.aggregator is not None and attributes.aggregator[0] > 0xFFFF:
            parts.append((TRANSITIVE, Attribute.AS4_AGGREGATOR, pack_aggregator(attributes.aggregator, wide)))
    return b"".join(pack_attribute(*part) for part in sorted(parts, key=lambda part: part[1]))


def pack_attribute(flags: int, code: int, value: bytes) -> bytes:
    """The octets of one attribute, header included."""
    if len(value) > 0xFF:
        return struct.pack("!BBH", flags | Flag.EXTENDED_LENGTH, code, len(value)) + value
    return struct.pack("!BBB", flags, code, len(value)) + value


# -- AS numbers of four octets through a speaker that knows two (RFC 6793 section 4.2.3) -------------------------------


def _count(path: tuple[Segment, ...]) -> int:
    """How many AS numbers the decision process counts in a path."""
    return sum(len(numbers) if kind == SegmentType.AS_SEQUENCE else 1 for kind, numbers in path)


def _merged(
    old: tuple[Segment, ...], new: tuple[Segment, ...] | None, aggregator_is_old: bool
) -> tuple[Segment, ...]:
    """The real AS_PATH: the head of AS_PATH, which old speakers prepended to, and AS4_PATH.

    `aggregator_is_old`: AGGREGATOR names an AS other than AS_TRANS although AS4_AGGREGATOR is there, so an old speaker
    aggregated on the way and both AS4 attributes describe an earlier route.
    """
    if new is None or aggregator_is_old:
        return old
    surplus = _count(old) - _count(new)
    if surplus < 0:
        return old
    head: list[Segment] = []
    for kind, numbers in old:
        if surplus <= 0:
            break
        taken = numbers[:surplus] if kind == SegmentType.AS_SEQUENCE else numbers
        head.append((kind, taken))
        surplus -= len(taken) if kind == SegmentType.AS_SEQUENCE else 1
    return _concatenated(tuple(head), new)


def _concatenated(head: tuple[Segment, ...], tail: tuple[Segment, ...]) -> tuple[Segment, ...]:
    if (
        head
        and tail
        and head[-1][0] == tail[0][0] == SegmentType.AS_SEQUENCE
        and len(head[-1][1] + tail[0][1]) <= 255
    ):
        return (*head[:-1], (SegmentType.AS_SEQUENCE, head[-1][1] + tail[0][1]), *tail[1:])
    return (*head, *tail)
