"""The bytes of nf_tables for two tables, `ip tortie` and `ip6 tortie`, which masquerade what leaves the pools.

    table ip tortie {
        set masquerade-pools { type ipv4_addr; flags interval; }
        set all-pools { type ipv4_addr; flags interval; }
        chain postrouting {
            type nat hook postrouting priority srcnat; policy accept;
            ip saddr @masquerade-pools ip daddr != @all-pools masquerade
        }
    }

The other is the same with ip6 and ipv6_addr (nf_tables.h). Promises: pure; a replacement is one batch, so the kernel
has the old table or the new one and never less; what is decoded of an encoded table is the wish with its networks
collapsed. Does not know: sockets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range

from agent.netlink.objects import Masquerade, Prefix, collapsed
from agent.netlink.rtnetlink import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Message,
    attribute,
    attributes,
    message,
)

TABLE, SOURCES, POOLS, CHAIN = "tortie", "masquerade-pools", "all-pools", "postrouting"

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFNL_SUBSYS_NFTABLES = 10
NFT = NFNL_SUBSYS_NFTABLES << 8
NEWTABLE, DELTABLE, NEWCHAIN, NEWRULE, GETRULE, NEWSET, NEWSETELEM, GETSETELEM = (
    NFT | number for number in (0, 2, 3, 6, 7, 9, 12, 13)
)
NEWGEN = NFT | 15
GEN_PROCESS_NAME = 3
NLM_F_APPEND = 0x800
NESTED = 0x8000

LIST_ELEM = 1
TABLE_NAME = 1
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 1, 3, 4, 5, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS = 1, 2, 4
EXPR_NAME, EXPR_DATA = 1, 2
SET_TABLE, SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH, SET_ID = 1, 2, 3, 4, 5, 10
SET_INTERVAL = 0x4
ELEM_LIST_TABLE, ELEM_LIST_SET, ELEM_LIST_ELEMENTS, ELEM_LIST_SET_ID = 1, 2, 3, 4
ELEM_KEY, ELEM_FLAGS = 1, 3
DATA_VALUE = 1
INTERVAL_END = 0x1
PAYLOAD_DREG, PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LEN = 1, 2, 3, 4
LOOKUP_SET, LOOKUP_SREG, LOOKUP_SET_ID, LOOKUP_FLAGS = 1, 2, 4, 5
NETWORK_HEADER = 1
REGISTER_1 = 1
LOOKUP_INVERTED = 1
HOOK_POSTROUTING, PRIORITY_SRCNAT, POLICY_ACCEPT = 4, 100, 1
RULE_SHAPE = ("payload", "lookup", "payload", "lookup", "masq")

ELEMENTS_PER_MESSAGE = 60_000 // 36
"""A nested attribute's length is 16 bits; an IPv6 element takes 36 bytes."""

_GENERIC = struct.Struct(">BBH")
"""nfgenmsg: family, version, resource."""


@dataclass(frozen=True, slots=True)
class Family:
    """One of the two tables, and how addresses are there."""

    name: str
    number: int
    version: int
    key_type: int
    """What nft(8) shows as `type ipv4_addr`; the kernel only stores it."""
    source_offset: int
    destination_offset: int
    address_bytes: int

    @property
    def end(self) -> int:
        """Behind the last address."""
        return 1 << 8 * self.address_bytes


IP = Family("ip", AF_INET, 4, 7, 12, 16, 4)
IP6 = Family("ip6", AF_INET6, 6, 8, 8, 24, 16)
FAMILIES = (IP, IP6)


def _be(value: int) -> bytes:
    return struct.pack(">I", value)


def name(text: str) -> bytes:
    """A name as attributes bear it."""
    return text.encode() + b"\0"


def _nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(inner))


def _message(family: Family, kind: int, flags: int, *body: bytes) -> bytes:
    return message(kind, NLM_F_REQUEST | flags, _GENERIC.pack(family.number, 0, 0) + b"".join(body))


def edge(*, begin: bool, flags: int = 0) -> bytes:
    """The first or the last message of a batch."""
    kind = NFNL_MSG_BATCH_BEGIN if begin else NFNL_MSG_BATCH_END
    return message(kind, NLM_F_REQUEST | flags, _GENERIC.pack(AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES))


def generic(family: int) -> bytes:
    """nfgenmsg of a family."""
    return _GENERIC.pack(family, 0, 0)


def replacement(whole: Masquerade, family: Family = IP) -> list[bytes]:
    """The messages of one batch that leaves our table of a family so, or leaves none for a wish without sources.

    Adding before deleting makes the deletion succeed whether or not the table was there.
    """
    wish = whole.of_version(family.version)
    table = attribute(TABLE_NAME, name(TABLE))
    batch = [
        edge(begin=True),
        _message(family, NEWTABLE, NLM_F_CREATE, table),
        _message(family, DELTABLE, 0, table),
    ]
    if wish.sources:
        batch.append(_message(family, NEWTABLE, NLM_F_CREATE, table))
        for identity, (set_name, networks) in enumerate(((SOURCES, wish.sources), (POOLS, wish.pools)), 1):
            batch.append(_set(family, set_name, identity))
            batch += _elements(family, set_name, identity, networks)
        batch += [_chain(family), _rule(family)]
    # Only the last message is answered: its ACK comes after the commit.
    return [*batch, edge(begin=False, flags=NLM_F_ACK)]


def _set(family: Family, set_name: str, identity: int) -> bytes:
    return _message(
        family,
        NEWSET,
        NLM_F_CREATE,
        attribute(SET_TABLE, name(TABLE)),
        attribute(SET_NAME, name(set_name)),
        attribute(SET_FLAGS, _be(SET_INTERVAL)),
        attribute(SET_KEY_TYPE, _be(family.key_type)),
        attribute(SET_KEY_LENGTH, _be(family.address_bytes)),
        attribute(SET_ID, _be(identity)),
    )


def _elements(family: Family, set_name: str, identity: int, networks: Iterable[Prefix]) -> list[bytes]:
    elements = [_element(family, value, end) for value, end in edges(networks, family)]
    return [
        _message(
            family,
            NEWSETELEM,
            NLM_F_CREATE,
            attribute(ELEM_LIST_TABLE, name(TABLE)),
            attribute(ELEM_LIST_SET, name(set_name)),
            attribute(ELEM_LIST_SET_ID, _be(identity)),
            _nested(ELEM_LIST_ELEMENTS, *elements[start : start + ELEMENTS_PER_MESSAGE]),
        )
        for start in range(0, len(elements), ELEMENTS_PER_MESSAGE)
    ]


def edges(networks: Iterable[Prefix], family: Family = IP) -> list[tuple[int, bool]]:
    """Networks as an interval set holds them: (first address, False) and (first address behind, True), ascending.

    A set that does not begin at the first address bears an end there, as nft(8) writes it; an interval up to the last
    address has no end. Neighbouring networks are one interval.
    """
    found: list[tuple[int, bool]] = []
    for network in sorted(collapsed(networks), key=lambda one: int(one.network_address)):
        first, behind = int(network.network_address), int(network.broadcast_address) + 1
        if found and found[-1] == (first, True):
            found.pop()
        else:
            found.append((first, False))
        if behind < family.end:
            found.append((behind, True))
    return [(0, True), *found] if found and found[0][0] != 0 else found


def networks_of(found: Iterable[tuple[int, bool]], family: Family = IP) -> frozenset[Prefix]:
    """The reverse of `edges`, whatever order the kernel lists them in."""
    networks: list[Prefix] = []
    start: int | None = None
    for value, end in sorted(found, key=lambda edge: (edge[0], not edge[1])):
        if end and start is not None:
            networks += _between(family, start, value - 1)
            start = None
        elif not end and start is None:
            start = value
    if start is not None:
        networks += _between(family, start, family.end - 1)
    return collapsed(networks)


def _between(family: Family, first: int, last: int) -> Iterable[IPv4Network] | Iterable[IPv6Network]:
    if family.version == 4:
        return summarize_address_range(IPv4Address(first), IPv4Address(last))
    return summarize_address_range(IPv6Address(first), IPv6Address(last))


def _element(family: Family, value: int, end: bool) -> bytes:
    key = _nested(ELEM_KEY, attribute(DATA_VALUE, value.to_bytes(family.address_bytes, "big")))
    return _nested(LIST_ELEM, key, attribute(ELEM_FLAGS, _be(INTERVAL_END if end else 0)))


def _chain(family: Family) -> bytes:
    return _message(
        family,
        NEWCHAIN,
        NLM_F_CREATE,
        attribute(CHAIN_TABLE, name(TABLE)),
        attribute(CHAIN_NAME, name(CHAIN)),
        _nested(
            CHAIN_HOOK,
            attribute(HOOK_NUMBER, _be(HOOK_POSTROUTING)),
            attribute(HOOK_PRIORITY, _be(PRIORITY_SRCNAT)),
        ),
        attribute(CHAIN_POLICY, _be(POLICY_ACCEPT)),
        attribute(CHAIN_TYPE, name("nat")),
    )


def _rule(family: Family) -> bytes:
    expressions = (
        _address_at(family.source_offset, family.address_bytes),
        _lookup(SOURCES, 1, inverted=False),
        _address_at(family.destination_offset, family.address_bytes),
        _lookup(POOLS, 2, inverted=True),
        expression("masq"),
    )
    return _message(
        family,
        NEWRULE,
        NLM_F_CREATE | NLM_F_APPEND,
        attribute(RULE_TABLE, name(TABLE)),
        attribute(RULE_CHAIN, name(CHAIN)),
        _nested(RULE_EXPRESSIONS, *expressions),
    )


def expression(kind: str, *data: bytes) -> bytes:
    """One expression of a rule's list."""
    return _nested(LIST_ELEM, attribute(EXPR_NAME, name(kind)), _nested(EXPR_DATA, *data))


def _address_at(offset: int, length: int) -> bytes:
    """Load an address of the IP header into register 1."""
    return expression(
        "payload",
        attribute(PAYLOAD_DREG, _be(REGISTER_1)),
        attribute(PAYLOAD_BASE, _be(NETWORK_HEADER)),
        attribute(PAYLOAD_OFFSET, _be(offset)),
        attribute(PAYLOAD_LEN, _be(length)),
    )


def _lookup(set_name: str, identity: int, *, inverted: bool) -> bytes:
    return expression(
        "lookup",
        attribute(LOOKUP_SET, name(set_name)),
        attribute(LOOKUP_SREG, _be(REGISTER_1)),
        attribute(LOOKUP_SET_ID, _be(identity)),
        *((attribute(LOOKUP_FLAGS, _be(LOOKUP_INVERTED)),) if inverted else ()),
    )


def rules_request(family: Family = IP) -> bytes:
    """NFT_MSG_GETRULE of our chain."""
    words = attribute(RULE_TABLE, name(TABLE)), attribute(RULE_CHAIN, name(CHAIN))
    return _message(family, GETRULE, NLM_F_DUMP, *words)


def elements_request(set_name: str, family: Family = IP) -> bytes:
    """NFT_MSG_GETSETELEM of one of our sets."""
    words = attribute(ELEM_LIST_TABLE, name(TABLE)), attribute(ELEM_LIST_SET, name(set_name))
    return _message(family, GETSETELEM, NLM_F_DUMP, *words)


def concerns_us(data: bytes, found: Message) -> bool:
    """Whether a notification is about our table: every nf_tables object but a generation names its table first."""
    if (
        found.type >> 8 != NFNL_SUBSYS_NFTABLES
        or found.type == NEWGEN
        or found.end - found.start < _GENERIC.size
    ):
        return False
    words = attributes(data, found.start + _GENERIC.size, found.end)
    return data[found.start] in (AF_INET, AF_INET6) and words.get(TABLE_NAME) == name(TABLE)


def author(data: bytes, found: Message) -> str | None:
    """The program behind a new generation of the ruleset. Raises Malformed."""
    program = attributes(data, found.start + _GENERIC.size, found.end).get(GEN_PROCESS_NAME, b"")
    return program.rstrip(b"\0").decode(errors="replace") or None


def decode_rule(data: bytes, start: int, end: int) -> tuple[str, ...]:
    """The names of a rule's expressions. Raises Malformed."""
    words = attributes(data, start + _GENERIC.size, end)
    return tuple(
        attributes(item, 0, len(item)).get(EXPR_NAME, b"").rstrip(b"\0").decode(errors="replace")
        for item in _items(words.get(RULE_EXPRESSIONS, b""))
    )


def decode_elements(data: bytes, start: int, end: int) -> list[tuple[int, bool]]:
    """The edges in one message of a set's elements. Raises Malformed."""
    words = attributes(data, start + _GENERIC.size, end)
    found: list[tuple[int, bool]] = []
    for item in _items(words.get(ELEM_LIST_ELEMENTS, b"")):
        element = attributes(item, 0, len(item))
        key = element.get(ELEM_KEY, b"")
        value = attributes(key, 0, len(key)).get(DATA_VALUE, b"")
        flags = int.from_bytes(element.get(ELEM_FLAGS, b""), "big")
        if value:
            found.append((int.from_bytes(value, "big"), bool(flags & INTERVAL_END)))
    return found


def _items(data: bytes) -> Sequence[bytes]:
    """The entries of a list attribute: unlike other attributes they repeat one type."""
    found, offset = [], 0
    while offset + 4 <= len(data):
        length = int.from_bytes(data[offset : offset + 2], "little" if struct.pack("=H", 1)[0] else "big")
        if length < 4 or offset + length > len(data):
            break
        found.append(data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return found
