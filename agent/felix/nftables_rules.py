"""Chains and rules of any nftables table, from the kernel's octets (linux/netfilter/nf_tables.h).

Promises: pure; an expression that is not known makes its rule a conditional one, so it is never taken to drop.
Does not know: sockets, what is Calico's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.felix.felix_rules import Action, FilterRule
from agent.netlink import nftables as nft
from agent.netlink import rtnetlink
from agent.netlink.rtnetlink import attributes

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
NUMBERS = {name: number for number, name in FAMILIES.items()}
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
"""enum nf_inet_hooks."""
VERDICT_CHAIN = 2
"""NFTA_VERDICT_CHAIN."""
NFT_RETURN, NFT_GOTO, NFT_JUMP, NF_DROP = -5, -4, -3, 0
META_SREG = 3
LOOKUP_DREG = 3
XT_NAME, XT_INFO = 1, 3
"""Of the expressions `match` and `target`, in which iptables-nft wraps its own."""
UDATA_COMMENT = 0
HARMLESS = frozenset(
    {
        "counter",
        "log",
        "immediate",
        "bitwise",
        "byteorder",
        "meta",
        "payload",
        "ct",
        "rt",
        "exthdr",
        "notrack",
    }
)
"""Expressions that load, change or note something and let the packet go on; what they load is asked for by `cmp`."""


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """A chain of the kernel's list, without its rules."""

    family: str
    table: str
    name: str
    hook: str
    drops: bool


def chains_request() -> bytes:
    """NFT_MSG_GETCHAIN of all tables."""
    return nft.request(nft.GETCHAIN, rtnetlink.AF_UNSPEC, rtnetlink.NLM_F_DUMP)


def tables_request() -> bytes:
    """NFT_MSG_GETTABLE of all families."""
    return nft.request(nft.NEWTABLE + 1, rtnetlink.AF_UNSPEC, rtnetlink.NLM_F_DUMP)


def rules_request(family: str, table: str, chain: str) -> bytes:
    """NFT_MSG_GETRULE of one chain."""
    words = nft.packed({nft.RULE_TABLE: table, nft.RULE_CHAIN: chain})
    return nft.request(nft.GETRULE, NUMBERS[family], rtnetlink.NLM_F_DUMP, words)


def decode_table(data: bytes, start: int, end: int) -> tuple[str, str] | None:
    """Family and name. Raises BadMessage."""
    family = FAMILIES.get(data[start]) if start < end else None
    return None if family is None else (family, nft.text_of(nft.decoded(data, start, end), nft.TABLE_NAME))


def decode_chain(data: bytes, start: int, end: int) -> ChainEntry | None:
    """A chain; None in a family that is not known. Raises BadMessage."""
    family = FAMILIES.get(data[start]) if start < end else None
    if family is None:
        return None
    words = nft.decoded(data, start, end)
    hook = words.get(nft.CHAIN_HOOK, b"")
    number = int.from_bytes(attributes(hook, 0, len(hook)).get(nft.HOOK_NUMBER, b""), "big")
    return ChainEntry(
        family,
        nft.text_of(words, nft.CHAIN_TABLE),
        nft.text_of(words, nft.CHAIN_NAME),
        HOOKS[number] if hook and family in ("ip", "ip6", "inet") and number < len(HOOKS) else "",
        words.get(nft.CHAIN_POLICY) == nft.octets(nft.POLICY_DROP),
    )


def decode_rule(data: bytes, start: int, end: int) -> FilterRule:
    """A rule. Raises BadMessage."""
    words = nft.decoded(data, start, end)
    reading = _Reading(comment=_user_comment(words.get(nft.RULE_USERDATA, b"")))
    for item in nft.items(words.get(nft.RULE_EXPRESSIONS, b"")):
        expression = attributes(item, 0, len(item))
        body = expression.get(nft.EXPR_DATA, b"")
        reading.take(nft.text_of(expression, nft.EXPR_NAME), attributes(body, 0, len(body)))
    return reading.rule()


def _user_comment(data: bytes) -> str:
    """The comment that nft(8) keeps beside a rule: type, length, text."""
    offset = 0
    while offset + 2 <= len(data):
        kind, length = data[offset], data[offset + 1]
        if kind == UDATA_COMMENT:
            return data[offset + 2 : offset + 2 + length].split(b"\0")[0].decode(errors="replace")
        offset += 2 + length
    return ""


@dataclass(slots=True)
class _Reading:
    """A rule's expressions, one after the other; `loaded` is what the last one put into a register."""

    comment: str
    incoming: str = ""
    outgoing: str = ""
    conditional: bool = False
    action: Action = Action.NONE
    target: str = ""
    loaded: int | None = None

    def rule(self) -> FilterRule:
        return FilterRule(
            self.action, self.target, self.incoming, self.outgoing, self.conditional, self.comment
        )

    def take(self, name: str, words: Mapping[int, bytes]) -> None:
        if name == "meta" and nft.META_KEY in words and META_SREG not in words:
            self.loaded = int.from_bytes(words[nft.META_KEY], "big")
            return
        if name == "cmp":
            self._compare(words)
        elif name == "immediate":
            self._verdict(words)
        elif name in ("match", "target"):
            self._extension(name, words)
        elif name == "reject":
            self.action = Action.REJECT
        elif name == "lookup":
            # A map of verdicts by interface sends those it names elsewhere, and a new pod's is not among them.
            self.conditional |= LOOKUP_DREG not in words
        elif name not in HARMLESS:
            self.conditional = True
        self.loaded = None

    def _compare(self, words: Mapping[int, bytes]) -> None:
        data = words.get(nft.CMP_DATA, b"")
        value = attributes(data, 0, len(data)).get(nft.DATA_VALUE, b"")
        equal = words.get(nft.CMP_OP) == nft.octets(nft.CMP_EQ)
        text = value.split(b"\0")[0].decode(errors="replace") + ("" if b"\0" in value else "*")
        if equal and self.loaded == nft.META_IIFNAME:
            self.incoming = text
        elif equal and self.loaded == nft.META_OIFNAME:
            self.outgoing = text
        else:
            self.conditional = True

    def _verdict(self, words: Mapping[int, bytes]) -> None:
        data = words.get(nft.IMMEDIATE_DATA, b"")
        verdict = attributes(data, 0, len(data)).get(nft.DATA_VERDICT)
        if verdict is None:
            return
        inner = attributes(verdict, 0, len(verdict))
        code = int.from_bytes(inner.get(nft.VERDICT_CODE, b""), "big", signed=True)
        known = {
            NF_DROP: Action.DROP,
            nft.NF_ACCEPT: Action.ACCEPT,
            NFT_RETURN: Action.RETURN,
            NFT_GOTO: Action.GOTO,
            NFT_JUMP: Action.JUMP,
        }
        self.action, self.target = known.get(code, Action.NONE), nft.text_of(inner, VERDICT_CHAIN)

    def _extension(self, kind: str, words: Mapping[int, bytes]) -> None:
        """iptables' own matches and targets; several comments may follow each other."""
        name = nft.text_of(words, XT_NAME)
        if name == "comment":
            text = words.get(XT_INFO, b"").split(b"\0")[0].decode(errors="replace")
            self.comment = "; ".join(filter(None, (self.comment, text)))
        elif kind == "match":
            self.conditional = True
        elif name == "REJECT":
            self.action = Action.REJECT
