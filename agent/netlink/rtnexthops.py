"""The bytes of nexthop objects (linux/nexthop.h, since Linux 5.3): a gateway, device and flag that routes share.

Promises: pure; ours are known by their numbers, which lie in a range of their own. A decoder raises only BadMessage.
Does not know: sockets, which routes there are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agent.netlink import rtnetlink
from agent.netlink.objects import RTPROT_BIRD, Address
from agent.netlink.rtnetlink import (
    BadMessage,
    address,
    attribute,
    attributes,
    dump_request,
    number,
    request,
)

RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
NHA_ID, NHA_OIF, NHA_GATEWAY = 1, 5, 6
OURS = range(0x54000000, 0x54FFFFFF)
"""The numbers this agent gives; routing daemons count from 1."""

_NHMSG = struct.Struct("=BBBBI")
"""nhmsg: family, scope, protocol, reserved, flags."""
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Nexthop:
    """Where to: the key by which routes share one object."""

    gateway: Address
    interface: int
    onlink: bool


def nexthop_request(identity: int, hop: Nexthop, *, replace: bool = False) -> bytes:
    """RTM_NEWNEXTHOP of a new object; with `replace` of one that is there, whose routes all follow in one step."""
    family = rtnetlink.FAMILY_OF[hop.gateway.version]
    body = _NHMSG.pack(family, 0, RTPROT_BIRD, 0, rtnetlink.RTNH_F_ONLINK if hop.onlink else 0)
    body += attribute(NHA_ID, _U32.pack(identity)) + attribute(NHA_OIF, _U32.pack(hop.interface))
    flags = rtnetlink.NLM_F_REPLACE if replace else rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL
    return request(RTM_NEWNEXTHOP, body + attribute(NHA_GATEWAY, hop.gateway.packed), flags)


def nexthop_deletion(identity: int) -> bytes:
    """RTM_DELNEXTHOP; the kernel then drops every route that refers to it, without a word."""
    body = _NHMSG.pack(rtnetlink.AF_UNSPEC, 0, 0, 0, 0) + attribute(NHA_ID, _U32.pack(identity))
    return request(RTM_DELNEXTHOP, body)


def nexthop_dump_request() -> bytes:
    """RTM_GETNEXTHOP of all."""
    return dump_request(RTM_GETNEXTHOP, _NHMSG.pack(rtnetlink.AF_UNSPEC, 0, 0, 0, 0))


def decode_nexthop(data: bytes, start: int, end: int) -> tuple[int, Nexthop | None] | None:
    """An object with a number of ours; its hop is None when it is not of the shape we make. Raises BadMessage."""
    if end - start < _NHMSG.size:
        raise BadMessage(f"nhmsg of {end - start} bytes")
    family, _, _, _, flags = _NHMSG.unpack_from(data, start)
    words = attributes(data, start + _NHMSG.size, end)
    if NHA_ID not in words or number(words[NHA_ID]) not in OURS:
        return None
    identity = number(words[NHA_ID])
    if family not in rtnetlink.FAMILY_OF.values() or not {NHA_GATEWAY, NHA_OIF} <= words.keys():
        return identity, None
    hop = Nexthop(address(words[NHA_GATEWAY]), number(words[NHA_OIF]), bool(flags & rtnetlink.RTNH_F_ONLINK))
    return identity, hop
