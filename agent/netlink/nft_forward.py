"""The bytes of nf_tables for the two rules that let pods' packets through somebody else's forward chain.

    iifname "cali*" counter accept comment "tortie"
    oifname "cali*" counter accept comment "tortie"

They are what `iptables -i cali+ -j ACCEPT` makes of them, so iptables-nft(8) can still list its tables. An accept in a
base chain of our own would not do: the kernel asks every base chain of a hook, and one that drops decides.
Promises: pure; our rules are told by their comment. Does not know: sockets, which chains to open.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.netlink.nft_masquerade import (
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TABLE,
    CHAIN_TYPE,
    DATA_VALUE,
    GETRULE,
    HOOK_NUMBER,
    NESTED,
    NEWCHAIN,
    NEWRULE,
    NFT,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_TABLE,
    edge,
    expression,
    generic,
    name,
)
from agent.netlink.objects import WORKLOAD_PREFIX, ForwardChain
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

GETCHAIN, DELCHAIN, DELRULE = (NFT | number for number in (4, 5, 8))
NFPROTO_INET = 1
FAMILIES = {NFPROTO_INET: "inet", AF_INET: "ip", AF_INET6: "ip6"}
NUMBERS = {name: number for number, name in FAMILIES.items()}
HOOK_FORWARD, POLICY_DROP = 2, 0
RULE_HANDLE, RULE_USERDATA = 3, 7
META_DREG, META_KEY, META_IIFNAME, META_OIFNAME = 1, 2, 6, 7
CMP_SREG, CMP_OP, CMP_DATA, CMP_EQ = 1, 2, 3, 0
IMMEDIATE_DREG, IMMEDIATE_DATA, VERDICT_REGISTER, DATA_VERDICT, VERDICT_CODE, NF_ACCEPT = 1, 2, 0, 2, 1, 1
REGISTER_1 = 1
COMMENT = b"\x00\x07tortie\x00"
"""NFTNL_UDATA_RULE_COMMENT: what nft(8) shows as the rule's comment."""
REJECTS = frozenset({("inet", "firewalld", "filter_FORWARD")})
"""Chains whose policy is to accept and whose last rule rejects."""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule of a chain."""

    handle: bytes
    is_ours: bool


def chains_request() -> bytes:
    """NFT_MSG_GETCHAIN of all tables."""
    return message(GETCHAIN, NLM_F_REQUEST | NLM_F_DUMP, generic(AF_UNSPEC))


def rules_request(chain: ForwardChain) -> bytes:
    """NFT_MSG_GETRULE of one chain."""
    return _about(chain, GETRULE, NLM_F_DUMP)


def _about(chain: ForwardChain, kind: int, flags: int, more: bytes = b"") -> bytes:
    body = attribute(RULE_TABLE, name(chain.table)) + attribute(RULE_CHAIN, name(chain.name))
    return message(kind, NLM_F_REQUEST | flags, generic(NUMBERS[chain.family]) + body + more)


def opening(chain: ForwardChain) -> list[bytes]:
    """One batch that puts our rules first."""
    rules = [_about(chain, NEWRULE, NLM_F_CREATE, _rule_body(key)) for key in (META_OIFNAME, META_IIFNAME)]
    return [edge(begin=True), *rules, edge(begin=False, flags=NLM_F_ACK)]


def closing(chain: ForwardChain, handles: list[bytes]) -> list[bytes]:
    """One batch that takes our rules out."""
    rules = [_about(chain, DELRULE, 0, attribute(RULE_HANDLE, handle)) for handle in handles]
    return [edge(begin=True), *rules, edge(begin=False, flags=NLM_F_ACK)]


def _rule_body(key: int) -> bytes:
    expressions = (
        expression("meta", attribute(META_KEY, _be(key)), attribute(META_DREG, _be(REGISTER_1))),
        expression(
            "cmp",
            attribute(CMP_SREG, _be(REGISTER_1)),
            attribute(CMP_OP, _be(CMP_EQ)),
            attribute(CMP_DATA | NESTED, attribute(DATA_VALUE, WORKLOAD_PREFIX.encode())),
        ),
        expression("counter"),
        expression(
            "immediate",
            attribute(IMMEDIATE_DREG, _be(VERDICT_REGISTER)),
            attribute(
                IMMEDIATE_DATA | NESTED,
                attribute(DATA_VERDICT | NESTED, attribute(VERDICT_CODE, _be(NF_ACCEPT))),
            ),
        ),
    )
    return attribute(RULE_EXPRESSIONS | NESTED, b"".join(expressions)) + attribute(RULE_USERDATA, COMMENT)


def _be(value: int) -> bytes:
    return value.to_bytes(4, "big")


def decode_chain(data: bytes, start: int, end: int) -> ForwardChain | None:
    """A base chain at the forward hook that can drop a packet; None for others. Raises Malformed."""
    family = FAMILIES.get(data[start]) if end > start else None
    words = attributes(data, start + 4, end)
    hook = attributes(words.get(CHAIN_HOOK, b""), 0, len(words.get(CHAIN_HOOK, b"")))
    if family is None or hook.get(HOOK_NUMBER) != _be(HOOK_FORWARD) or _text(words, CHAIN_TYPE) != "filter":
        return None
    table, chain = _text(words, CHAIN_TABLE), _text(words, CHAIN_NAME)
    drops = words.get(CHAIN_POLICY) == _be(POLICY_DROP) or (family, table, chain) in REJECTS
    return ForwardChain(family, table, chain, drops)


def _text(words: dict[int, bytes], kind: int) -> str:
    return words.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def decode_rule(data: bytes, start: int, end: int) -> RuleRow:
    """A rule, as far as it takes to know ours. Raises Malformed."""
    words = attributes(data, start + 4, end)
    return RuleRow(words.get(RULE_HANDLE, b""), words.get(RULE_USERDATA) == COMMENT)


def concerns_forwarding(data: bytes, found: Message) -> bool:
    """Whether a notification may change who drops pods' packets: base chains come and go, and rules of ours go."""
    if found.type in (NEWCHAIN, DELCHAIN):
        words = attributes(data, found.start + 4, found.end)
        return CHAIN_HOOK in words
    if found.type == DELRULE:
        return attributes(data, found.start + 4, found.end).get(RULE_USERDATA) == COMMENT
    return False
