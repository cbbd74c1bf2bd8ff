"""The bytes of nf_tables that every table shares: messages, batches, attributes, expressions (linux/nf_tables.h).

Messages and attributes are those of all nfnetlink, so ctnetlink takes them from here.
Promises: pure; a batch is one transaction. Does not know: sockets, which tables there are.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence

from agent.netlink import rtnetlink
from agent.netlink.rtnetlink import (
    AF_UNSPEC,
    NLM_F_ACK,
    Message,
    attribute,
    attributes,
)

NFNLGRP_NFTABLES = 7
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFNL_SUBSYS_NFTABLES = 10
_MESSAGES = range(NFNL_SUBSYS_NFTABLES << 8, NFNL_SUBSYS_NFTABLES + 1 << 8)
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = (
    _MESSAGES[number] for number in range(9)
)
NEWSET, NEWSETELEM, GETSETELEM, DELSETELEM, NEWGEN = (_MESSAGES[number] for number in (9, 12, 13, 14, 15))
NFPROTO_INET = 1
"""The family of tables that see both versions of IP (linux/netfilter.h)."""
NLM_F_APPEND = 0x800
NESTED = 0x8000

GEN_PROCESS_NAME = 3
LIST_ELEM = 1
TABLE_NAME, TABLE_FLAGS = 1, 2
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 1, 3, 4, 5, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
HOOK_PREROUTING, HOOK_INPUT, HOOK_FORWARD, HOOK_POSTROUTING = 0, 1, 2, 4
PRIORITY_RAW, PRIORITY_FILTER, PRIORITY_SRCNAT = -300, 0, 100
POLICY_DROP, POLICY_ACCEPT = 0, 1
RULE_TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS, RULE_USERDATA = 1, 2, 3, 4, 7
SET_TABLE, SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH, SET_DESCRIPTION, SET_ID = 1, 2, 3, 4, 5, 9, 10
SET_INTERVAL, SET_CONCATENATION = 0x4, 0x80
DESCRIPTION_CONCATENATION, FIELD_LENGTH = 2, 1
ELEM_LIST_TABLE, ELEM_LIST_SET, ELEM_LIST_ELEMENTS, ELEM_LIST_SET_ID = 1, 2, 3, 4
ELEM_KEY, ELEM_FLAGS, ELEM_KEY_END, INTERVAL_END = 1, 3, 10, 0x1
EXPR_NAME, EXPR_DATA = 1, 2
DATA_VALUE, DATA_VERDICT, VERDICT_CODE, VERDICT_CHAIN = 1, 2, 1, 2
REGISTER_1, REGISTER_2, REGISTER32_1, VERDICT_REGISTER = 1, 2, 9, 0
"""Registers of 16 bytes, and the second 4 bytes of the first."""
NF_DROP, NF_ACCEPT, NFT_JUMP = 0, 1, 0xFFFFFFFD
PAYLOAD_DREG, PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LEN = 1, 2, 3, 4
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
LOOKUP_SET, LOOKUP_SREG, LOOKUP_SET_ID, LOOKUP_FLAGS, LOOKUP_INVERTED = 1, 2, 4, 5, 1
META_DREG, META_KEY = 1, 2
META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 6, 7, 15, 16
CMP_SREG, CMP_OP, CMP_DATA, CMP_EQ, CMP_NEQ = 1, 2, 3, 0, 1
BITWISE_SREG, BITWISE_DREG, BITWISE_LEN, BITWISE_MASK, BITWISE_XOR = 1, 2, 3, 4, 5
COUNTER_PACKETS = 2
IMMEDIATE_DREG, IMMEDIATE_DATA = 1, 2

Words = Mapping[int, str | int | bytes]
"""Attributes by type, in order: a text as a name, a number of 32 bits in network order, octets as they are."""
_GENERIC = struct.Struct(">BBH")
"""nfgenmsg: family, version, resource."""


def octets(value: str | int | bytes) -> bytes:
    """The content of an attribute; see Words."""
    if isinstance(value, int):
        return value.to_bytes(4, "big")
    return value.encode() + b"\0" if isinstance(value, str) else value


def packed(words: Words) -> bytes:
    """Attributes behind each other."""
    return b"".join(attribute(kind, octets(value)) for kind, value in words.items())


def nested(kind: int, *inner: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NESTED, b"".join(inner))


def request(kind: int, family: int, flags: int = 0, *body: bytes) -> bytes:
    """One message about objects of a family."""
    return rtnetlink.request(kind, _GENERIC.pack(family, 0, 0) + b"".join(body), flags)


def batch(requests: Sequence[bytes]) -> list[bytes]:
    """One transaction. Only its last message is answered: its ACK comes after the commit."""
    edge = _GENERIC.pack(AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES)
    begin = rtnetlink.request(NFNL_MSG_BATCH_BEGIN, edge)
    return [begin, *requests, rtnetlink.request(NFNL_MSG_BATCH_END, edge, NLM_F_ACK)]


def expression(kind: str, words: Words | None = None, *nests: bytes) -> bytes:
    """One expression of a rule's list."""
    data = nested(EXPR_DATA, packed(words or {}), *nests)
    return nested(LIST_ELEM, attribute(EXPR_NAME, octets(kind)), data)


def comment(text: str) -> bytes:
    """The userdata of a rule that nft(8) shows as its comment (NFTNL_UDATA_RULE_COMMENT)."""
    return bytes((0, len(text) + 1)) + octets(text)


def comment_of(userdata: bytes) -> str:
    """The reverse of `comment`; empty when the userdata begins with something else."""
    return userdata[2:-1].decode(errors="replace") if userdata[:1] == b"\0" else ""


def decoded(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """The attributes behind a message's nfgenmsg. Raises BadMessage."""
    return attributes(data, start + _GENERIC.size, end)


def text_of(words: Mapping[int, bytes], kind: int) -> str:
    """An attribute that is a name; empty when it is not there."""
    return words.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def items(data: bytes) -> Sequence[bytes]:
    """The entries of a list attribute: unlike other attributes they repeat one type."""
    found, offset = [], 0
    while offset + 4 <= len(data):
        length = int.from_bytes(data[offset : offset + 2], sys.byteorder)
        if length < 4 or offset + length > len(data):
            break
        found.append(data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return found


def is_about_objects(found: Message) -> bool:
    """Whether a notification is about an object of nf_tables, each of which names its table first."""
    about = found.type in _MESSAGES and found.type != NEWGEN
    return about and found.end - found.start >= _GENERIC.size


def author(data: bytes, found: Message) -> str | None:
    """The program behind a new generation of the ruleset (NEWGEN). Raises BadMessage."""
    return text_of(decoded(data, found.start, found.end), GEN_PROCESS_NAME) or None
