"""The bytes of ctnetlink: finding and deleting the connections of an address (nfnetlink_conntrack.h).

Promises: pure; a connection is found by what its first packet came from, or by what answers it, which is the pod also
behind a service's address; deleting names the connection itself, so one that took its place stays.
Does not know: sockets, which addresses left.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.netlink.nftables import decoded, nested, request
from agent.netlink.objects import Address
from agent.netlink.rtnetlink import FAMILY_OF, NLM_F_DUMP, address, attribute, attributes

NFNL_SUBSYS_CTNETLINK = 1
CT_NEW, CT_GET, CT_DELETE = (NFNL_SUBSYS_CTNETLINK << 8 | number for number in (0, 1, 2))
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP = 1
CTA_IP_V4_SRC, CTA_IP_V6_SRC = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_IP_SRC = 0x1

_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Connection:
    """An entry of the table, as far as it takes to choose and delete it."""

    source: Address
    """Of the first packet."""
    answerer: Address
    """Who answers, after address translation."""
    identity: bytes
    """The attributes that name it in a deletion."""


def connections_request(
    version: int = 4, *, source: IPv4Address | None = None, answerer: IPv4Address | None = None
) -> bytes:
    """IPCTNL_MSG_CT_GET of all connections of a version of IP, or those of one IPv4 address on one side.

    A kernel before 5.8 does not know the filter and sends them all.
    """
    words = b""
    sides = (
        (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, source),
        (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, answerer),
    )
    for tuple_kind, flags_kind, wanted in sides:
        if wanted is not None:
            words += nested(tuple_kind, nested(CTA_TUPLE_IP, attribute(CTA_IP_V4_SRC, wanted.packed)))
            words += nested(CTA_FILTER, attribute(flags_kind, _U32.pack(FILTER_IP_SRC)))
    return request(CT_GET, FAMILY_OF[version], NLM_F_DUMP, words)


def decode_connection(data: bytes, start: int, end: int) -> Connection | None:
    """A connection of either version of IP; None for others. Raises BadMessage."""
    words = decoded(data, start, end)
    sides = [_source(words.get(kind, b"")) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)]
    if sides[0] is None or sides[1] is None:
        return None
    identity = nested(CTA_TUPLE_ORIG, words[CTA_TUPLE_ORIG])
    for kind in (CTA_ID, CTA_ZONE):
        if kind in words:
            identity += attribute(kind, words[kind])
    return Connection(sides[0], sides[1], identity)


def _source(tuple_: bytes) -> Address | None:
    ip = attributes(tuple_, 0, len(tuple_)).get(CTA_TUPLE_IP, b"")
    words = attributes(ip, 0, len(ip))
    source = words.get(CTA_IP_V4_SRC) or words.get(CTA_IP_V6_SRC, b"")
    return address(source) if len(source) in {4, 16} else None


def connection_deletion(connection: Connection) -> bytes:
    """IPCTNL_MSG_CT_DELETE of one connection."""
    return request(CT_DELETE, FAMILY_OF[connection.source.version], 0, connection.identity)
