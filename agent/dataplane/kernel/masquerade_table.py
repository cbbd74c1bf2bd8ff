"""Our two nftables tables, `ip tortie` and `ip6 tortie`, which masquerade what leaves the pools, as bytes of nf_tables.

    table ip tortie {
        set masquerade-pools { type ipv4_addr; flags interval; }
        set all-pools { type ipv4_addr; flags interval; }
        chain postrouting {
            type nat hook postrouting priority srcnat; policy accept;
            ip saddr @masquerade-pools ip daddr != @all-pools masquerade
        }
    }

The other has ip6 and ipv6_addr in their places. Promises: pure; a replacement is one batch, so the kernel has the old
table or the new one and never less; what is decoded of an encoded table is the desired one with its networks collapsed.
Does not know: sockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range

from agent.dataplane.kernel.dataplane_objects import Masquerade, collapsed
from agent.netlink import nftables as nft
from agent.netlink.objects import Prefix
from agent.netlink.rtnetlink import AF_INET, AF_INET6, NLM_F_CREATE, NLM_F_DUMP, Message, attributes

TABLE, SOURCES, POOLS, CHAIN = "tortie", "masquerade-pools", "all-pools", "postrouting"
RULE_SHAPE = ("payload", "lookup", "payload", "lookup", "masq")
ELEMENTS_PER_MESSAGE = 60_000 // 36
"""A nested attribute's length is 16 bits; an IPv6 element takes 36 bytes."""


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


def replacement(wanted: Masquerade, family: Family = IP) -> list[bytes]:
    """The messages of one batch that leaves our table of a family so, or leaves none without sources.

    Adding before deleting makes the deletion succeed whether or not the table was there.
    """
    table = nft.packed({nft.TABLE_NAME: TABLE})
    new = nft.request(nft.NEWTABLE, family.number, NLM_F_CREATE, table)
    requests = [new, nft.request(nft.DELTABLE, family.number, 0, table)]
    if wanted.sources:
        requests.append(new)
        for identity, (set_name, networks) in enumerate(
            ((SOURCES, wanted.sources), (POOLS, wanted.pools)), 1
        ):
            requests.append(_set(family, set_name, identity))
            requests += _elements(family, set_name, identity, networks)
        requests += [_chain(family), _rule(family)]
    return nft.batch(requests)


def _set(family: Family, set_name: str, identity: int) -> bytes:
    words: nft.Words = {nft.SET_TABLE: TABLE, nft.SET_NAME: set_name, nft.SET_FLAGS: nft.SET_INTERVAL}
    key = {nft.SET_KEY_TYPE: family.key_type, nft.SET_KEY_LENGTH: family.address_bytes}
    body = nft.packed({**words, **key, nft.SET_ID: identity})
    return nft.request(nft.NEWSET, family.number, NLM_F_CREATE, body)


def _elements(family: Family, set_name: str, identity: int, networks: Iterable[Prefix]) -> list[bytes]:
    elements = [_element(family, value, end) for value, end in edges(networks, family)]
    words = nft.packed(
        {nft.ELEM_LIST_TABLE: TABLE, nft.ELEM_LIST_SET: set_name, nft.ELEM_LIST_SET_ID: identity}
    )
    parts = (
        nft.nested(nft.ELEM_LIST_ELEMENTS, *elements[start : start + ELEMENTS_PER_MESSAGE])
        for start in range(0, len(elements), ELEMENTS_PER_MESSAGE)
    )
    return [nft.request(nft.NEWSETELEM, family.number, NLM_F_CREATE, words, part) for part in parts]


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
    address = value.to_bytes(family.address_bytes, "big")
    key = nft.nested(nft.ELEM_KEY, nft.packed({nft.DATA_VALUE: address}))
    return nft.nested(nft.LIST_ELEM, key, nft.packed({nft.ELEM_FLAGS: nft.INTERVAL_END if end else 0}))


def _chain(family: Family) -> bytes:
    hook = {nft.HOOK_NUMBER: nft.HOOK_POSTROUTING, nft.HOOK_PRIORITY: nft.PRIORITY_SRCNAT}
    return nft.request(
        nft.NEWCHAIN,
        family.number,
        NLM_F_CREATE,
        nft.packed({nft.CHAIN_TABLE: TABLE, nft.CHAIN_NAME: CHAIN}),
        nft.nested(nft.CHAIN_HOOK, nft.packed(hook)),
        nft.packed({nft.CHAIN_POLICY: nft.POLICY_ACCEPT, nft.CHAIN_TYPE: "nat"}),
    )


def _rule(family: Family) -> bytes:
    expressions = (
        _address_at(family.source_offset, family.address_bytes),
        _lookup(SOURCES, 1),
        _address_at(family.destination_offset, family.address_bytes),
        _lookup(POOLS, 2, {nft.LOOKUP_FLAGS: nft.LOOKUP_INVERTED}),
        nft.expression("masq"),
    )
    words = nft.packed({nft.RULE_TABLE: TABLE, nft.RULE_CHAIN: CHAIN})
    flags = NLM_F_CREATE | nft.NLM_F_APPEND
    return nft.request(
        nft.NEWRULE, family.number, flags, words, nft.nested(nft.RULE_EXPRESSIONS, *expressions)
    )


def _address_at(offset: int, length: int) -> bytes:
    """Load an address of the IP header into register 1."""
    where = {nft.PAYLOAD_BASE: nft.NETWORK_HEADER, nft.PAYLOAD_OFFSET: offset, nft.PAYLOAD_LEN: length}
    return nft.expression("payload", {nft.PAYLOAD_DREG: nft.REGISTER_1, **where})


def _lookup(set_name: str, identity: int, flags: nft.Words | None = None) -> bytes:
    """Look register 1 up in a set."""
    words: nft.Words = {
        nft.LOOKUP_SET: set_name,
        nft.LOOKUP_SREG: nft.REGISTER_1,
        nft.LOOKUP_SET_ID: identity,
    }
    return nft.expression("lookup", {**words, **(flags or {})})


def rules_request(family: Family = IP) -> bytes:
    """NFT_MSG_GETRULE of our chain."""
    words = nft.packed({nft.RULE_TABLE: TABLE, nft.RULE_CHAIN: CHAIN})
    return nft.request(nft.GETRULE, family.number, NLM_F_DUMP, words)


def elements_request(set_name: str, family: Family = IP) -> bytes:
    """NFT_MSG_GETSETELEM of one of our sets."""
    words = nft.packed({nft.ELEM_LIST_TABLE: TABLE, nft.ELEM_LIST_SET: set_name})
    return nft.request(nft.GETSETELEM, family.number, NLM_F_DUMP, words)


def concerns_masquerading(data: bytes, found: Message) -> bool:
    """Whether a notification is about one of our tables."""
    if not nft.is_about_objects(found) or data[found.start] not in (AF_INET, AF_INET6):
        return False
    return nft.decoded(data, found.start, found.end).get(nft.TABLE_NAME) == nft.octets(TABLE)


def decode_rule(data: bytes, start: int, end: int) -> tuple[str, ...]:
    """The names of a rule's expressions. Raises BadMessage."""
    rules = nft.items(nft.decoded(data, start, end).get(nft.RULE_EXPRESSIONS, b""))
    return tuple(nft.text_of(attributes(item, 0, len(item)), nft.EXPR_NAME) for item in rules)


def decode_elements(data: bytes, start: int, end: int) -> list[tuple[int, bool]]:
    """The edges in one message of a set's elements. Raises BadMessage."""
    found: list[tuple[int, bool]] = []
    for item in nft.items(nft.decoded(data, start, end).get(nft.ELEM_LIST_ELEMENTS, b"")):
        element = attributes(item, 0, len(item))
        key = element.get(nft.ELEM_KEY, b"")
        value = attributes(key, 0, len(key)).get(nft.DATA_VALUE, b"")
        flags = int.from_bytes(element.get(nft.ELEM_FLAGS, b""), "big")
        if value:
            found.append((int.from_bytes(value, "big"), bool(flags & nft.INTERVAL_END)))
    return found
