"""Deliberate mistakes with the RFCs' right answers: a table, read by test_mistakes.

An UPDATE's row is told by `Outcome`s, for an iBGP and for an eBGP sender: `KEPT` (the route stands, whatever was
dropped), `GONE` (treated as withdrawn, the session stands), or the (code, subcode) of a NOTIFICATION.
"""

from __future__ import annotations

from dataclasses import dataclass

from bgp.wire.attributes import SPECS
from bgp.wire.families import Family
from bgp.wire.iana import Attribute, Flag

KEPT, GONE = "kept", "gone"
Outcome = str | tuple[int, int]
PREFIX = bytes.fromhex("1ac0a80100")
"""192.168.1.0/26, which the sender has announced properly before."""
NEXT_HOP = {True: "7f000c02", False: "7f000c03"}
US, AS_EXTERNAL = "7f000c01", "0000fde9"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong UPDATE, as body octets for each kind of sender."""

    name: str
    bodies: tuple[bytes, bytes]
    outcomes: tuple[Outcome, Outcome]
    family: Family = Family.IPV4


def tlv(flags: int, code: int, value: str) -> bytes:
    data = bytes.fromhex(value)
    if len(data) > 255:
        return bytes([flags | Flag.EXTENDED_LENGTH, code]) + len(data).to_bytes(2, "big") + data
    return bytes([flags, code, len(data)]) + data


def good(internal: bool) -> dict[int, bytes]:
    """The attributes of a right announcement."""
    found = {
        Attribute.ORIGIN: tlv(0x40, 1, "00"),
        Attribute.AS_PATH: tlv(0x40, 2, "" if internal else "0201" + AS_EXTERNAL),
        Attribute.NEXT_HOP: tlv(0x40, 3, NEXT_HOP[internal]),
    }
    if internal:
        found[Attribute.LOCAL_PREF] = tlv(0x40, 5, "00000064")
    return {int(code): value for code, value in found.items()}


def body(
    block: bytes, prefixes: bytes = PREFIX, withdrawn: bytes = b"", block_length: int | None = None
) -> bytes:
    length = len(block) if block_length is None else block_length
    return len(withdrawn).to_bytes(2, "big") + withdrawn + length.to_bytes(2, "big") + block + prefixes


VALUES = {
    Attribute.ORIGIN: "00",
    Attribute.AS_PATH: "",
    Attribute.NEXT_HOP: "",
    Attribute.MULTI_EXIT_DISC: "00000007",
    Attribute.LOCAL_PREF: "00000064",
    Attribute.ATOMIC_AGGREGATE: "",
    Attribute.AGGREGATOR: "0000fc007f000c02",
    Attribute.COMMUNITIES: "fc000001",
    Attribute.ORIGINATOR_ID: "0a000009",
    Attribute.CLUSTER_LIST: "0a000009",
    Attribute.EXTENDED_COMMUNITIES: "0002fc0000000001",
    Attribute.LARGE_COMMUNITY: "0000fc000000000100000002",
}


def with_attribute(
    name: str, code: int, raw: dict[bool, bytes], outcomes: tuple[Outcome, Outcome]
) -> Mistake:
    """A right announcement with one attribute put in or replaced."""
    bodies = []
    for internal in (True, False):
        attributes = good(internal) | {code: raw[internal]}
        bodies.append(body(b"".join(attributes[one] for one in sorted(attributes))))
    return Mistake(name, (bodies[0], bodies[1]), outcomes)


def valued(
    name: str, code: int, value: str, outcomes: tuple[Outcome, Outcome], flags: int | None = None
) -> Mistake:
    used = SPECS[code].flags if flags is None and code in SPECS else flags or 0
    raw = tlv(used, code, value)
    return with_attribute(name, code, {True: raw, False: raw}, outcomes)


def _right(code: int, internal: bool) -> str:
    if code == Attribute.AS_PATH:
        return "" if internal else "0201" + AS_EXTERNAL
    return NEXT_HOP[internal] if code == Attribute.NEXT_HOP else VALUES[Attribute(code)]


def _flags() -> list[Mistake]:
    """RFC 7606 section 3 c: the Optional and the Transitive bit count, the Partial bit and the low ones do not."""
    rows = []
    for code, spec in SPECS.items():
        for word, flip, outcome in (
            ("optional bit", Flag.OPTIONAL, GONE),
            ("transitive bit", Flag.TRANSITIVE, GONE),
            ("partial bit", Flag.PARTIAL, KEPT),
            ("low bits", 0x0F, KEPT),
        ):
            raw = {inside: tlv(spec.flags ^ flip, code, _right(code, inside)) for inside in (True, False)}
            rows.append(with_attribute(f"{spec.code.name}: {word} flipped", code, raw, (outcome, outcome)))
    return rows


BOTH_GONE, BOTH_KEPT = (GONE, GONE), (KEPT, KEPT)
RESET = ((3, 9), (3, 9))
INTERNAL_ONLY: tuple[Outcome, Outcome] = (GONE, KEPT)
"""What an external peer must not send is dropped there, whatever its length."""
A = Attribute

_LENGTHS: list[tuple[Attribute, tuple[str, ...], tuple[Outcome, Outcome]]] = [
    (A.ORIGIN, ("", "0000"), BOTH_GONE),
    (A.NEXT_HOP, ("", "7f000c", "7f000c0200"), BOTH_GONE),
    (A.MULTI_EXIT_DISC, ("", "000007", "0000000700"), BOTH_GONE),
    (A.LOCAL_PREF, ("", "000064", "0000006400"), INTERNAL_ONLY),
    (A.ATOMIC_AGGREGATE, ("00", "0000"), BOTH_KEPT),
    (A.AGGREGATOR, ("", "fc007f000c02", "00fc007f000c02", "0000fc007f000c0200"), BOTH_KEPT),
    (A.COMMUNITIES, ("", "fc0000", "fc00000100"), BOTH_GONE),
    (A.ORIGINATOR_ID, ("", "0a0000", "0a00000900"), INTERNAL_ONLY),
    (A.CLUSTER_LIST, ("", "0a0000", "0a00000900"), INTERNAL_ONLY),
    (A.EXTENDED_COMMUNITIES, ("", "0002fc00000000", "0002fc000000000100"), BOTH_GONE),
    (A.LARGE_COMMUNITY, ("", "0000fc0000000001000000", "0000fc00000000010000000200"), BOTH_GONE),
]

_EXTERNAL_HEAD = "0201" + AS_EXTERNAL
_PATHS: list[tuple[str, str, tuple[Outcome, Outcome]]] = [
    ("segment type 0", "0001" + AS_EXTERNAL, BOTH_GONE),
    ("segment type 5", "0501" + AS_EXTERNAL, BOTH_GONE),
    ("empty segment", _EXTERNAL_HEAD + "0200", BOTH_GONE),
    ("segment overruns", "0202" + AS_EXTERNAL, BOTH_GONE),
    ("one octet behind", _EXTERNAL_HEAD + "02", BOTH_GONE),
    ("two-octet numbers", "0201fde9", BOTH_GONE),
    ("AS 0", "0202" + AS_EXTERNAL + "00000000", BOTH_GONE),
    ("AS_SET", _EXTERNAL_HEAD + "0101" + "0000fdea", BOTH_GONE),
    ("AS_CONFED_SET", _EXTERNAL_HEAD + "0401" + "0000fdea", BOTH_GONE),
    ("AS_CONFED_SEQUENCE", "0301" + "0000fdea" + _EXTERNAL_HEAD, (KEPT, GONE)),
    ("our own AS", "0202" + AS_EXTERNAL + "0000fc00", BOTH_GONE),
    ("another AS first", "0202" + "0000fdea" + AS_EXTERNAL, (KEPT, GONE)),
    ("empty", "", (KEPT, GONE)),
]

_ODD: list[Mistake] = [
    valued("ORIGIN 3", A.ORIGIN, "03", BOTH_GONE),
    valued("ORIGIN 255", A.ORIGIN, "ff", BOTH_GONE),
    *[
        valued(f"NEXT_HOP {text}", A.NEXT_HOP, value, BOTH_GONE)
        for text, value in (
            ("0.0.0.0", "00000000"),
            ("multicast", "e0000001"),
            ("class E", "f0000001"),
            ("broadcast", "ffffffff"),
            ("ourselves", US),
        )
    ],
    valued("AGGREGATOR of AS 0", A.AGGREGATOR, "000000007f000c02", BOTH_KEPT),
    valued("our ORIGINATOR_ID", A.ORIGINATOR_ID, US, INTERNAL_ONLY),
    valued("our identifier in CLUSTER_LIST", A.CLUSTER_LIST, "0a000009" + US, INTERNAL_ONLY),
    valued("unknown well-known", 99, "00", BOTH_GONE, flags=0x40),
    valued("unknown optional transitive", 99, "abcd", BOTH_KEPT, flags=0xC0),
    valued("unknown optional non-transitive", 98, "abcd", BOTH_KEPT, flags=0x80),
    valued("AS4_PATH between four-octet speakers", A.AS4_PATH, "0201000fdea0", BOTH_KEPT, flags=0xC0),
    valued("malformed AS4_PATH", A.AS4_PATH, "0702", BOTH_KEPT, flags=0xC0),
    valued("malformed AS4_AGGREGATOR", A.AS4_AGGREGATOR, "07", BOTH_KEPT, flags=0xC0),
    valued(
        "MP_REACH of a family not agreed", A.MP_REACH_NLRI, "0019410400000000" + "00", BOTH_KEPT, flags=0x80
    ),
    valued("MP_UNREACH of a family not agreed", A.MP_UNREACH_NLRI, "001941", BOTH_KEPT, flags=0x80),
    valued("MP_REACH too short", A.MP_REACH_NLRI, "00010104", RESET, 0x80),
    valued(
        "MP_REACH with a next hop that overruns", A.MP_REACH_NLRI, "000101" + "20" + "7f000c0200", RESET, 0x80
    ),
    valued(
        "MP_REACH with a next hop of 5 octets", A.MP_REACH_NLRI, "000101" + "05" + "7f000c020000", RESET, 0x80
    ),
    valued(
        "MP_REACH with a prefix of 33 bits",
        A.MP_REACH_NLRI,
        "00010104" + "7f000c0200" + "210a00000000",
        RESET,
        0x80,
    ),
    valued(
        "MP_REACH with half a prefix", A.MP_REACH_NLRI, "000101" + "04" + "7f000c0200" + "180a", RESET, 0x80
    ),
    valued("MP_UNREACH too short", A.MP_UNREACH_NLRI, "0001", RESET, 0x80),
    valued("MP_UNREACH with half a prefix", A.MP_UNREACH_NLRI, "000101" + "180a", RESET, 0x80),
    valued(
        "MP_REACH with wrong flags", A.MP_REACH_NLRI, "000101" + "04" + "7f000c0200", BOTH_GONE, flags=0xC0
    ),
]


def _blocks() -> list[Mistake]:
    """Mistakes in how the UPDATE is put together."""

    def both(name: str, make: object, outcome: Outcome, external: Outcome | None = None) -> Mistake:
        assert callable(make)
        bodies = tuple(make(b"".join(good(inside).values())) for inside in (True, False))
        return Mistake(name, (bodies[0], bodies[1]), (outcome, external or outcome))

    def without(code: int) -> tuple[bytes, bytes]:
        kept = [b"".join(v for c, v in good(inside).items() if c != code) for inside in (True, False)]
        return body(kept[0]), body(kept[1])

    mp = tlv(0x80, 15, "000101")
    rows = [Mistake(f"{A(code).name} missing", without(code), BOTH_GONE) for code in (1, 2, 3)]
    rows.append(Mistake("LOCAL_PREF missing", without(5), BOTH_KEPT))
    for code in (1, 2, 3):
        rows.append(both(f"{A(code).name} twice", lambda b, c=code: body(b + tlv(0x40, c, "")), KEPT))
    rows += [
        both("MP_UNREACH twice", lambda b: body(b + mp + mp), (3, 1)),
        both("an attribute overruns the block", lambda b: body(b + b"\x80\x04\x09\x00"), GONE),
        both("half an attribute header", lambda b: body(b + b"\x80"), GONE),
        both("an extended length cut short", lambda b: body(b + b"\x90\x04\x00"), GONE),
        both("the block overruns the message", lambda b: body(b, b"", block_length=len(b) + 1), (3, 1)),
        both("the withdrawn routes overrun the message", lambda b: b"\xff\xff" + body(b)[2:], (3, 1)),
        both("NLRI of 33 bits", lambda b: body(b, b"\x21\x0a\0\0\0\0"), (3, 10)),
        both("NLRI of 255 bits", lambda b: body(b, b"\xff\x0a\0\0\0\0"), (3, 10)),
        both("half an NLRI", lambda b: body(b, b"\x18\x0a"), (3, 10)),
        both("withdrawn prefix of 33 bits", lambda b: body(b, withdrawn=b"\x21\x0a\0\0\0\0"), (3, 10)),
        both("half a withdrawn prefix", lambda b: body(b, withdrawn=b"\x18\x0a"), (3, 10)),
        both("a prefix withdrawn and announced at once", lambda b: body(b, withdrawn=PREFIX), KEPT),
        both("withdrawal of what was never told", lambda b: body(b"", b"", b"\x18\x0a\x09\x09"), KEPT),
        both("a fault and nothing to withdraw", lambda b: body(tlv(0x40, 1, "07"), b""), (3, 1)),
        both("NLRI without attributes", lambda _: body(b""), GONE),
    ]
    return rows


UPDATES: list[Mistake] = [
    *_flags(),
    *[
        valued(f"{code.name} of {len(value) // 2} octets", code, value, outcomes)
        for code, values, outcomes in _LENGTHS
        for value in values
    ],
    *[valued(f"AS_PATH: {name}", A.AS_PATH, value, outcomes) for name, value, outcomes in _PATHS],
    *_ODD,
    *_blocks(),
]

MARK = "ff" * 16
GOOD_OPEN = MARK + "002b01" + "04fc00005a7f000c02" + "0e020c" + "010400010001" + "41040000fc00"


def _open(parameters: str = "41040000fc00", *, head: str = "04fc00005a7f000c02") -> str:
    capability = bytes.fromhex(parameters)
    body = bytes.fromhex(head) + bytes([len(capability) + 2, 2, len(capability)]) + capability
    return MARK + (19 + len(body)).to_bytes(2, "big").hex() + "01" + body.hex()


OPENS: list[tuple[str, str, str]] = [
    ("a wrong marker", "00" + GOOD_OPEN[2:], "0101"),
    ("a marker wrong at its end", GOOD_OPEN[:30] + "fe" + GOOD_OPEN[32:], "0101"),
    ("length 18", MARK + "001201", "01020012"),
    ("length 0", MARK + "000001", "01020000"),
    ("length 4097", MARK + "100101", "01021001"),
    ("length 65535", MARK + "ffff01", "0102ffff"),
    ("an OPEN of 28 octets", MARK + "001c01", "0102001c"),
    ("type 0", MARK + "001300", "010300"),
    ("type 6", MARK + "001306", "010306"),
    ("type 255", MARK + "0013ff", "0103ff"),
    ("version 3", _open(head="03fc00005a7f000c02"), "02010004"),
    ("version 5", _open(head="05fc00005a7f000c02"), "02010004"),
    ("another AS", _open("41040000fc01"), "0202"),
    ("AS 0", _open(head="040000005a7f000c02"), "0202"),
    ("AS 0 as capability", _open("410400000000"), "0202"),
    ("identifier 0.0.0.0", _open(head="04fc00005a00000000"), "0203"),
    ("our own identifier", _open(head="04fc00005a7f000c01"), "0203"),
    ("hold time 1", _open(head="04fc0000017f000c02"), "0206"),
    ("hold time 2", _open(head="04fc0000027f000c02"), "0206"),
    ("an unknown parameter", MARK + "002001" + "04fc00005a7f000c02" + "03" + "0101ff", "0204"),
    ("a parameter that overruns", MARK + "002001" + "04fc00005a7f000c02" + "03" + "0204ff", "0200"),
    ("a capability that overruns", _open("4105000000"), "0200"),
    ("a short AS4 capability", _open("4102fc00"), "0200"),
    ("a long AS4 capability", _open("41050000fc0000"), "0200"),
    ("a short ADD-PATH capability", _open("450300010141040000fc00"), "0200"),
    ("a short multiprotocol capability", _open("0102000141040000fc00"), "0200"),
    ("a graceful restart capability of one octet", _open("40010041040000fc00"), "0200"),
    ("only a family that we do not have", _open("01040019004141040000fc00"), "0207010400010001010400020001"),
    ("only IPv6 multicast", _open("01040002000241040000fc00"), "0207010400010001010400020001"),
    ("a KEEPALIVE instead", MARK + "001304", "0501"),
    ("an UPDATE instead", MARK + "00170200000000", "0501"),
    ("a ROUTE-REFRESH instead", MARK + "00170500010001", "0501"),
]
"""What stands for the OPEN -> the NOTIFICATION's code, subcode and data."""

ESTABLISHED: list[tuple[str, str, str]] = [
    ("an OPEN again", GOOD_OPEN, "0503"),
    ("a KEEPALIVE with a body", MARK + "00140400", "01020014"),
    ("an UPDATE of 22 octets", MARK + "00160200", "01020016"),
    ("a NOTIFICATION of 20 octets", MARK + "00140300", "01020014"),
    ("a ROUTE-REFRESH of 22 octets", MARK + "00160500", "01020016"),
    ("a message of 4097 octets", MARK + "100102", "01021001"),
    ("type 7", MARK + "001307", "010307"),
    (
        "a beginning of a refresh with ORF",
        MARK + "001805" + "0001010100",
        "0701" + MARK + "001805" + "0001010100",
    ),
    ("an end of a refresh with ORF", MARK + "001805" + "0001020100", "0701" + MARK + "001805" + "0001020100"),
    ("garbage", "00" * 19, "0101"),
]
"""What is sent in an established session -> the NOTIFICATION."""
