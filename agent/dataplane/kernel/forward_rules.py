"""The two rules that let pods' packets through somebody else's forward chain, as bytes of nf_tables.

    iifname "cali*" counter accept comment "tortie"
    oifname "cali*" counter accept comment "tortie"

They are what `iptables -i cali+ -j ACCEPT` makes of them, so iptables-nft(8) can still list its tables. An accept in a
base chain of our own would not do: the kernel asks every base chain of a hook, and one that drops decides.
Promises: pure; our rules are known by their comment. Does not know: sockets, which chains to open.
"""

from __future__ import annotations

from agent.dataplane.kernel.calico_names import WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import ForwardChain
from agent.netlink import nftables as nft
from agent.netlink import rtnetlink
from agent.netlink.rtnetlink import Message, attribute, attributes

FAMILIES = {nft.NFPROTO_INET: "inet", rtnetlink.AF_INET: "ip", rtnetlink.AF_INET6: "ip6"}
NUMBERS = {name: number for number, name in FAMILIES.items()}
COMMENT = nft.comment("tortie")
OURS = ("inet", "tortie")
"""The workload filter's table."""
REJECTS = frozenset({("inet", "firewalld", "filter_FORWARD")})
"""Chains whose policy is to accept and whose last rule rejects."""


def chains_request() -> bytes:
    """NFT_MSG_GETCHAIN of all tables."""
    return nft.request(nft.GETCHAIN, rtnetlink.AF_UNSPEC, rtnetlink.NLM_F_DUMP)


def rules_request(chain: ForwardChain) -> bytes:
    """NFT_MSG_GETRULE of one chain."""
    return _about(chain, nft.GETRULE, rtnetlink.NLM_F_DUMP)


def _about(chain: ForwardChain, kind: int, flags: int = 0, more: bytes = b"") -> bytes:
    words = nft.packed({nft.RULE_TABLE: chain.table, nft.RULE_CHAIN: chain.name})
    return nft.request(kind, NUMBERS[chain.family], flags, words, more)


def opening(chain: ForwardChain) -> list[bytes]:
    """One batch that puts our rules first."""
    keys = nft.META_OIFNAME, nft.META_IIFNAME
    return nft.batch([_about(chain, nft.NEWRULE, rtnetlink.NLM_F_CREATE, _rule_body(key)) for key in keys])


def closing(chain: ForwardChain, handles: list[bytes]) -> list[bytes]:
    """One batch that takes our rules out."""
    return nft.batch(
        [_about(chain, nft.DELRULE, 0, attribute(nft.RULE_HANDLE, handle)) for handle in handles]
    )


def _rule_body(key: int) -> bytes:
    prefix = nft.nested(nft.CMP_DATA, attribute(nft.DATA_VALUE, WORKLOAD_PREFIX.encode()))
    accept = nft.nested(nft.DATA_VERDICT, nft.packed({nft.VERDICT_CODE: nft.NF_ACCEPT}))
    expressions = (
        nft.expression("meta", {nft.META_KEY: key, nft.META_DREG: nft.REGISTER_1}),
        nft.expression("cmp", {nft.CMP_SREG: nft.REGISTER_1, nft.CMP_OP: nft.CMP_EQ}, prefix),
        nft.expression("counter"),
        nft.expression(
            "immediate",
            {nft.IMMEDIATE_DREG: nft.VERDICT_REGISTER},
            nft.nested(nft.IMMEDIATE_DATA, accept),
        ),
    )
    return nft.nested(nft.RULE_EXPRESSIONS, *expressions) + attribute(nft.RULE_USERDATA, COMMENT)


def decode_chain(data: bytes, start: int, end: int) -> ForwardChain | None:
    """A base chain at the forward hook that can drop a packet; None for others. Raises BadMessage."""
    family = FAMILIES.get(data[start]) if end > start else None
    words = nft.decoded(data, start, end)
    hook = words.get(nft.CHAIN_HOOK, b"")
    number = attributes(hook, 0, len(hook)).get(nft.HOOK_NUMBER)
    is_filter = nft.text_of(words, nft.CHAIN_TYPE) == "filter"
    if family is None or number != nft.octets(nft.HOOK_FORWARD) or not is_filter:
        return None
    table, chain = nft.text_of(words, nft.CHAIN_TABLE), nft.text_of(words, nft.CHAIN_NAME)
    if (family, table) == OURS:
        return None
    drops = words.get(nft.CHAIN_POLICY) == nft.octets(nft.POLICY_DROP)
    return ForwardChain(family, table, chain, drops or (family, table, chain) in REJECTS)


def decode_our_rule(data: bytes, start: int, end: int) -> bytes | None:
    """The handle of a rule that is ours; None for others. Raises BadMessage."""
    words = nft.decoded(data, start, end)
    return words.get(nft.RULE_HANDLE, b"") if words.get(nft.RULE_USERDATA) == COMMENT else None


def concerns_forwarding(data: bytes, found: Message) -> bool:
    """Whether a notification may change who drops pods' packets: base chains come and go, and rules of ours go."""
    if found.type in (nft.NEWCHAIN, nft.DELCHAIN):
        return nft.CHAIN_HOOK in nft.decoded(data, found.start, found.end)
    if found.type == nft.DELRULE:
        return nft.decoded(data, found.start, found.end).get(nft.RULE_USERDATA) == COMMENT
    return False
