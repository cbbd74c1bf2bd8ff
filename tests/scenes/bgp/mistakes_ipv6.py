"""Deliberate mistakes around MP_REACH_NLRI and MP_UNREACH_NLRI of IPv6: a table as in mistakes.

Each row's message is about PREFIX6, which the sender has announced properly before.
"""

from __future__ import annotations

from bgp.wire.families import Family
from bgp.wire.iana import Attribute
from tests.scenes.bgp.mistakes import (
    AS_EXTERNAL,
    BOTH_GONE,
    BOTH_KEPT,
    GONE,
    INTERNAL_ONLY,
    KEPT,
    RESET,
    US,
    Mistake,
    Outcome,
    body,
    good,
    tlv,
)

A = Attribute
WIRE6 = "7afd100001000000000000000000000000"
PREFIX6 = bytes.fromhex(WIRE6)
"""fd10:1::/122."""
HOST, LINK, OURS6 = "fd00" + "0" * 27 + "9", "fe80" + "0" * 27 + "9", "fd00" + "0" * 27 + "1"
ZERO = "0" * 32
MAPPED = "0" * 20 + "ffff"
"""An IPv4 address follows."""


def reach(
    next_hop: str = HOST, prefixes: str = WIRE6, *, reserved: str = "00", family: str = "000201"
) -> str:
    return f"{family}{len(next_hop) // 2:02x}{next_hop}{reserved}{prefixes}"


MARKER6 = bytes.fromhex("40fd10000900000000")
"""fd10:9::/64."""
MARKER_REACH: dict[int, bytes | None] = {
    A.MP_REACH_NLRI: tlv(0x80, A.MP_REACH_NLRI, reach(prefixes=MARKER6.hex()))
}


def good6(internal: bool) -> dict[int, bytes]:
    """The attributes of a right announcement."""
    found = {A.MP_REACH_NLRI: tlv(0x80, A.MP_REACH_NLRI, reach())} | good(internal)
    del found[A.NEXT_HOP]
    return {int(code): value for code, value in found.items()}


def body6(internal: bool, replaced: dict[int, bytes | None], **more: bytes) -> bytes:
    """A right announcement with some attributes put in, replaced, or (None) left out."""
    attributes = good6(internal) | replaced
    block = b"".join(value for code, value in sorted(attributes.items()) if value is not None)
    return body(block, more.get("prefixes", b""), more.get("withdrawn", b""))


def row(
    name: str, replaced: dict[int, bytes | None], outcomes: tuple[Outcome, Outcome], **more: bytes
) -> Mistake:
    bodies = body6(True, replaced, **more), body6(False, replaced, **more)
    return Mistake(f"IPv6: {name}", bodies, outcomes, Family.IPV6)


def reached(name: str, value: str, outcomes: tuple[Outcome, Outcome], flags: int = 0x80) -> Mistake:
    return row(name, {A.MP_REACH_NLRI: tlv(flags, A.MP_REACH_NLRI, value)}, outcomes)


def unreached(name: str, value: str, outcomes: tuple[Outcome, Outcome], flags: int = 0x80) -> Mistake:
    return row(name, {A.MP_UNREACH_NLRI: tlv(flags, A.MP_UNREACH_NLRI, value)}, outcomes)


OTHER6 = "40fd10000200000000"
TWICE = ((3, 1), (3, 1))

_NEXT_HOPS = [
    *[
        reached(f"a next hop of {octets} octets", reach("fd" * octets), RESET)
        for octets in (0, 4, 8, 12, 15, 17, 24, 31, 33, 48)
    ],
    reached("a next hop that overruns", "000201" + "20" + HOST + "00", RESET),
    reached("a next hop with nothing behind it", "000201" + "10" + HOST, RESET),
    reached("next hop ::", reach(ZERO), BOTH_GONE),
    reached("next hop :: twice", reach(ZERO + ZERO), BOTH_GONE),
    reached("next hop multicast", reach("ff02" + "0" * 27 + "1"), BOTH_GONE),
    *[
        reached(f"next hop {name} in IPv4", reach(MAPPED + inside), BOTH_GONE)
        for name, inside in (
            ("unspecified", "00000000"),
            ("multicast", "e0000001"),
            ("reserved", "f0000001"),
        )
    ],
    reached(
        "next hop unspecified in IPv4, before one on the link", reach(MAPPED + "00000000" + LINK), BOTH_GONE
    ),
    reached("a next hop of IPv4", reach(MAPPED + "0a090002"), BOTH_KEPT),
    reached("next hop ourselves", reach(OURS6), BOTH_GONE),
    reached("a next hop on the link beside the global one", reach(HOST + LINK), BOTH_KEPT),
    reached("a next hop on the link alone", reach(LINK), BOTH_KEPT),
    reached("a next hop on the link behind zeros", reach(ZERO + LINK), BOTH_KEPT),
    reached("a next hop on the link twice", reach(LINK + LINK), BOTH_KEPT),
    reached("a second next hop that is global", reach(HOST + HOST), BOTH_KEPT),
    reached("a second next hop of zeros", reach(HOST + ZERO), BOTH_KEPT),
]
_REACHES = [
    *[reached(f"MP_REACH of {octets} octets", "00020110fd"[: 2 * octets], RESET) for octets in range(5)],
    reached("reserved octet not zero", reach(reserved="ff"), BOTH_KEPT),
    reached("a prefix of 129 bits", reach(prefixes=WIRE6 + "81" + "fd" * 17), RESET),
    reached("a prefix of 255 bits", reach(prefixes=WIRE6 + "ff" + "fd" * 32), RESET),
    reached("half a prefix", reach(prefixes=WIRE6 + "40fd10"), RESET),
    reached("bits behind the length", reach(prefixes="7afd10000100000000000000000000003f"), BOTH_KEPT),
    reached("a prefix twice", reach(prefixes=WIRE6 + WIRE6), BOTH_KEPT),
    reached("no prefix at all", reach(prefixes=""), BOTH_KEPT),
    reached("wrong flags: transitive", reach(), BOTH_GONE, 0xC0),
    reached("wrong flags: well-known", reach(), BOTH_GONE, 0x40),
    reached("wrong flags: neither", reach(), BOTH_GONE, 0x00),
    reached("the partial bit", reach(), BOTH_KEPT, 0xA0),
    reached("the low bits", reach(), BOTH_KEPT, 0x8F),
    reached("another SAFI", reach(family="000202"), BOTH_KEPT),
    reached("a VPN's SAFI", reach(family="000280"), BOTH_KEPT),
]
_UNREACHES = [
    *[unreached(f"MP_UNREACH of {octets} octets", "000201"[: 2 * octets], RESET) for octets in range(3)],
    unreached("withdrawn prefix of 129 bits", "000201" + "81" + "fd" * 17, RESET),
    unreached("half a withdrawn prefix", "000201" + "40fd10", RESET),
    unreached("withdrawn and announced at once", "000201" + WIRE6, BOTH_KEPT),
    unreached("withdrawal of what was never told", "000201" + OTHER6, BOTH_KEPT),
    unreached("an empty MP_UNREACH beside an announcement", "000201", BOTH_KEPT),
    unreached("an MP_UNREACH of another SAFI", "000202" + WIRE6, BOTH_KEPT),
    unreached("MP_UNREACH with wrong flags", "000201", BOTH_GONE, 0xC0),
]


def _twice(code: A, value: str) -> Mistake:
    first = tlv(0x80, code, value)
    return row(f"{code.name} twice", {code: first + first}, TWICE)


def _attribute(
    name: str, code: A, flags: int, value: str | None, outcomes: tuple[Outcome, Outcome]
) -> Mistake:
    return row(name, {code: None if value is None else tlv(flags, code, value)}, outcomes)


_ATTRIBUTES = [
    _twice(A.MP_REACH_NLRI, reach()),
    _twice(A.MP_UNREACH_NLRI, "000201"),
    _attribute("ORIGIN missing", A.ORIGIN, 0, None, BOTH_GONE),
    _attribute("AS_PATH missing", A.AS_PATH, 0, None, BOTH_GONE),
    _attribute("LOCAL_PREF missing", A.LOCAL_PREF, 0, None, BOTH_KEPT),
    _attribute("ORIGIN 3", A.ORIGIN, 0x40, "03", BOTH_GONE),
    _attribute("AS 0", A.AS_PATH, 0x40, "0202" + AS_EXTERNAL + "00000000", BOTH_GONE),
    _attribute("AS_SET", A.AS_PATH, 0x40, "0201" + AS_EXTERNAL + "0101" + "0000fdea", BOTH_GONE),
    _attribute("our own AS", A.AS_PATH, 0x40, "0202" + AS_EXTERNAL + "0000fc00", BOTH_GONE),
    _attribute("another AS first", A.AS_PATH, 0x40, "0202" + "0000fdea" + AS_EXTERNAL, (KEPT, GONE)),
    _attribute("our ORIGINATOR_ID", A.ORIGINATOR_ID, 0x80, US, INTERNAL_ONLY),
    _attribute("our identifier in CLUSTER_LIST", A.CLUSTER_LIST, 0x80, US, INTERNAL_ONLY),
    # RFC 4760 section 3: a NEXT_HOP that no prefix of the NLRI field needs is ignored, whatever is in it.
    _attribute("a NEXT_HOP that is not needed", A.NEXT_HOP, 0x40, "0a000001", BOTH_KEPT),
    _attribute("a NEXT_HOP of zeros that is not needed", A.NEXT_HOP, 0x40, "00000000", BOTH_KEPT),
    _attribute("a short NEXT_HOP that is not needed", A.NEXT_HOP, 0x40, "0a0000", BOTH_KEPT),
    row(
        "a good message with 33 bits in the NLRI field", {}, ((3, 10), (3, 10)), prefixes=b"\x21\x0a\0\0\0\0"
    ),
    row("a good message with half a withdrawn prefix", {}, ((3, 10), (3, 10)), withdrawn=b"\x18\x0a"),
    row("IPv4 prefixes beside it without NEXT_HOP", {}, BOTH_GONE, prefixes=b"\x18\x0a\x01\x02"),
]

UPDATES6: list[Mistake] = [*_NEXT_HOPS, *_REACHES, *_UNREACHES, *_ATTRIBUTES]
