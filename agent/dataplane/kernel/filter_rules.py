"""The rules of the workload filter as bytes of nf_tables: what no workload may send, and which tunnels' packets count.

The table is `inet tortie`. Its rules never change: all that differs from node to node is in its sets (`filter_table`).

    chain prerouting { type filter hook prerouting priority raw; policy accept; }
    chain input      { type filter hook input priority filter; policy accept; }
    chain forward    { type filter hook forward priority filter; policy accept; }

Prerouting, before connection tracking and any translation, is RFC 2827's ingress filtering at each workload's
interface, with the binding of interface and address of RFC 7039. Forward and input come after translation: a Service
may lead to a node's port. An accept ends our own chain alone; every other table is asked all the same.
Promises: pure; each rule that drops counts, and bears the reason as its comment. Does not know: sets' elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.dataplane.kernel.calico_names import VXLAN_PORT, WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import FilterSet
from agent.netlink import nftables as nft
from agent.netlink.rtnetlink import AF_INET, AF_INET6, attribute

PREROUTING, INPUT, FORWARD = "prerouting", "input", "forward"
TO_SPEAKERS, TO_VXLAN = "to-bgp-speakers", "to-vxlan"
CHAINS: dict[str, tuple[int, int] | None] = {
    PREROUTING: (nft.HOOK_PREROUTING, nft.PRIORITY_RAW),
    INPUT: (nft.HOOK_INPUT, nft.PRIORITY_FILTER),
    FORWARD: (nft.HOOK_FORWARD, nft.PRIORITY_FILTER),
    TO_SPEAKERS: None,
    TO_VXLAN: None,
}
"""Name -> hook and priority; None: it is jumped to."""
IPIP, TCP, UDP, ICMPV6 = 4, 6, 17, 58
ROUTER_ADVERTISEMENT, REDIRECT = 134, 137
SOURCE = {4: 12, 6: 8}
DESTINATION = {4: 16, 6: 24}
"""Offsets of the addresses in the headers."""
LENGTH = {4: 4, 6: 16}
ANY_6 = bytes(16)

Expression = tuple[str, bytes]
"""Its name and its bytes."""
Expressions = tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule; what identifies it when it is read back."""

    chain: str
    comment: str
    """Of a rule that drops: the reason, as metrics have it."""
    expressions: Expressions
    drops: bool

    @property
    def identity(self) -> tuple[str, str, tuple[str, ...]]:
        """Chain, comment and the names of the expressions."""
        return self.chain, self.comment, tuple(name for name, _ in self.expressions)


# -- expressions ------------------------------------------------------------------------------------------------------


def _expression(name: str, words: nft.Words | None = None, *nests: bytes) -> Expression:
    return name, nft.expression(name, words, *nests)


def _meta(key: int) -> Expression:
    return _expression("meta", {nft.META_KEY: key, nft.META_DREG: nft.REGISTER_1})


def _payload(base: int, offset: int, length: int, register: int = nft.REGISTER_1) -> Expression:
    where = {nft.PAYLOAD_BASE: base, nft.PAYLOAD_OFFSET: offset, nft.PAYLOAD_LEN: length}
    return _expression("payload", {nft.PAYLOAD_DREG: register, **where})


def _is(value: bytes, operator: int = nft.CMP_EQ) -> Expression:
    compared = nft.nested(nft.CMP_DATA, attribute(nft.DATA_VALUE, value))
    return _expression("cmp", {nft.CMP_SREG: nft.REGISTER_1, nft.CMP_OP: operator}, compared)


def _masked(mask: bytes) -> Expression:
    size = {nft.BITWISE_SREG: nft.REGISTER_1, nft.BITWISE_DREG: nft.REGISTER_1, nft.BITWISE_LEN: len(mask)}
    both = ((nft.BITWISE_MASK, mask), (nft.BITWISE_XOR, bytes(len(mask))))
    nests = (nft.nested(kind, attribute(nft.DATA_VALUE, value)) for kind, value in both)
    return _expression("bitwise", size, *nests)


def _in(which: FilterSet) -> Expression:
    return _expression("lookup", {nft.LOOKUP_SET: which.value, nft.LOOKUP_SREG: nft.REGISTER_1})


def _not_in(which: FilterSet) -> Expression:
    words: nft.Words = {nft.LOOKUP_SET: which.value, nft.LOOKUP_SREG: nft.REGISTER_1}
    return _expression("lookup", {**words, nft.LOOKUP_FLAGS: nft.LOOKUP_INVERTED})


def _verdict(code: int, chain: str = "") -> Expression:
    words: nft.Words = (
        {nft.VERDICT_CODE: code, nft.VERDICT_CHAIN: chain} if chain else {nft.VERDICT_CODE: code}
    )
    verdict = nft.nested(nft.DATA_VERDICT, nft.packed(words))
    data = nft.nested(nft.IMMEDIATE_DATA, verdict)
    return _expression("immediate", {nft.IMMEDIATE_DREG: nft.VERDICT_REGISTER}, data)


# -- matches ----------------------------------------------------------------------------------------------------------


def _version(version: int) -> Expressions:
    return _meta(nft.META_NFPROTO), _is(bytes((AF_INET if version == 4 else AF_INET6,)))


def _protocol(number: int) -> Expressions:
    return _meta(nft.META_L4PROTO), _is(bytes((number,)))


def _address(offsets: dict[int, int], version: int, register: int = nft.REGISTER_1) -> Expression:
    return _payload(nft.NETWORK_HEADER, offsets[version], LENGTH[version], register)


def _port(register: int = nft.REGISTER_1) -> Expression:
    """The destination port of TCP or UDP."""
    return _payload(nft.TRANSPORT_HEADER, 2, 2, register)


def _bound(version: int, which: FilterSet) -> Expressions:
    """The interface and the source are in a set together."""
    source = _address(SOURCE, version, nft.REGISTER_2)
    return *_version(version), _meta(nft.META_IIFNAME), source, _in(which)


def _icmpv6(kind: int) -> Expressions:
    return *_protocol(ICMPV6), _payload(nft.TRANSPORT_HEADER, 0, 1), _is(bytes((kind,)))


def _to_speaker(version: int, which: FilterSet) -> Expressions:
    """The address and port of a BGP speaker."""
    second = nft.REGISTER32_1 if version == 4 else nft.REGISTER_2
    return *_version(version), _address(DESTINATION, version), _port(second), _in(which)


def _vxlan(version: int) -> Expressions:
    return *_version(version), *_protocol(UDP), _port()


_NOT_A_PEER = (_meta(nft.META_IIFNAME), _not_in(FilterSet.PEERS))


# -- rules ------------------------------------------------------------------------------------------------------------


def _drop(chain: str, reason: str, *match: Expression) -> FilterRule:
    return FilterRule(chain, reason, (*match, _expression("counter"), _verdict(nft.NF_DROP)), drops=True)


def _accept(chain: str, comment: str, *match: Expression) -> FilterRule:
    return FilterRule(chain, comment, (*match, _verdict(nft.NF_ACCEPT)), drops=False)


def _jump(chain: str, comment: str, target: str, *match: Expression) -> FilterRule:
    return FilterRule(chain, comment, (*match, _verdict(nft.NFT_JUMP, target)), drops=False)


def _others(chain: str) -> FilterRule:
    """What follows is of workloads' packets alone."""
    is_other = _is(WORKLOAD_PREFIX.encode(), nft.CMP_NEQ)
    return _accept(chain, "not from a workload", _meta(nft.META_IIFNAME), is_other)


def _prerouting() -> Iterator[FilterRule]:
    """Sources, and what route_localnet would let in.

    A link-local or unspecified IPv6 source is what neighbour discovery needs; the kernel forwards neither, and takes no
    packet to ::1 from outside (RFC 4291).
    """
    yield _others(PREROUTING)
    first_octet = _payload(nft.NETWORK_HEADER, DESTINATION[4], 1)
    yield _drop(PREROUTING, "loopback", *_version(4), first_octet, _is(b"\x7f"))
    yield _accept(PREROUTING, "its own IPv4 address", *_bound(4, FilterSet.SOURCES_4))
    yield _drop(PREROUTING, "router-advertisement", *_icmpv6(ROUTER_ADVERTISEMENT))
    yield _drop(PREROUTING, "router-advertisement", *_icmpv6(REDIRECT))
    yield _accept(PREROUTING, "its own IPv6 address", *_bound(6, FilterSet.SOURCES_6))
    link_local = _payload(nft.NETWORK_HEADER, SOURCE[6], 2), _masked(b"\xff\xc0"), _is(b"\xfe\x80")
    discovery = *_version(6), *_protocol(ICMPV6)
    yield _accept(PREROUTING, "neighbour discovery", *discovery, *link_local)
    yield _accept(PREROUTING, "address detection", *discovery, _address(SOURCE, 6), _is(ANY_6))
    yield _accept(PREROUTING, "its own IPv4 prefix", *_bound(4, FilterSet.SOURCE_PREFIXES_4))
    yield _accept(PREROUTING, "its own IPv6 prefix", *_bound(6, FilterSet.SOURCE_PREFIXES_6))
    yield _accept(PREROUTING, "a router", _meta(nft.META_IIFNAME), _in(FilterSet.ROUTERS))
    yield _drop(PREROUTING, "spoofed-source")


def _input() -> Iterator[FilterRule]:
    """Tunnels' packets that no node sent, from anywhere; what workloads send to this node's own addresses.

    Here and not in prerouting, so that a packet that only passes, to another machine's port, is not ours to judge.
    """
    nodes = {4: FilterSet.NODES_4, 6: FilterSet.NODES_6}
    for version, ports in ((4, FilterSet.VXLAN_PORTS_4), (6, FilterSet.VXLAN_PORTS_6)):
        of_no_node = _address(SOURCE, version), _not_in(nodes[version])
        yield _drop(INPUT, "vxlan-of-no-node", *_vxlan(version), _in(ports), *of_no_node)
    tunnelled = *_version(4), _meta(nft.META_L4PROTO), _in(FilterSet.TUNNEL_PROTOCOLS)
    yield _drop(INPUT, "ipip-of-no-node", *tunnelled, _address(SOURCE, 4), _not_in(FilterSet.NODES_4))
    yield _others(INPUT)
    yield _drop(INPUT, "bgp", *_protocol(TCP), _port(), _in(FilterSet.BGP_PORTS), *_NOT_A_PEER)
    yield _drop(INPUT, "vxlan", *_protocol(UDP), _port(), _is(VXLAN_PORT.to_bytes(2, "big")))
    yield _drop(INPUT, "ipip", *_version(4), *_protocol(IPIP))


def _forward() -> Iterator[FilterRule]:
    """What workloads send to other nodes: the translation of natOutgoing would make it this node's own.

    A packet to any other port is done with three comparisons.
    """
    yield _others(FORWARD)
    to_a_port = *_protocol(TCP), _port(), _in(FilterSet.SPEAKER_PORTS)
    yield _jump(FORWARD, "to a speaker's port", TO_SPEAKERS, *to_a_port)
    to_vxlan = *_protocol(UDP), _port(), _is(VXLAN_PORT.to_bytes(2, "big"))
    yield _jump(FORWARD, "to VXLAN's port", TO_VXLAN, *to_vxlan)
    to_a_node = _address(DESTINATION, 4), _in(FilterSet.NODES_4)
    yield _drop(FORWARD, "ipip", *_protocol(IPIP), *_version(4), *to_a_node)
    for version, which in ((4, FilterSet.SPEAKERS_4), (6, FilterSet.SPEAKERS_6)):
        yield _drop(TO_SPEAKERS, "bgp", *_to_speaker(version, which), *_NOT_A_PEER)
    for version, which in ((4, FilterSet.NODES_4), (6, FilterSet.NODES_6)):
        yield _drop(TO_VXLAN, "vxlan", *_version(version), _address(DESTINATION, version), _in(which))


RULES = (*_prerouting(), *_input(), *_forward())
"""In the order in which a chain asks them."""
REASONS = tuple(dict.fromkeys(rule.comment for rule in RULES if rule.drops))
"""Why packets are dropped."""
