"""The bytes of nexthop objects (linux/nexthop.h, since Linux 5.3): a gateway, device and flag, and groups of them.

Promises: pure; ours are known by their numbers, which lie in a range of their own. A decoder raises only BadMessage.
Does not know: sockets, which routes there are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
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
NHA_ID, NHA_GROUP, NHA_GROUP_TYPE, NHA_OIF, NHA_GATEWAY, NHA_RES_GROUP = 1, 2, 3, 5, 6, 12
NHA_RES_GROUP_BUCKETS, NHA_RES_GROUP_IDLE_TIMER, NHA_RES_GROUP_UNBALANCED_TIMER = 1, 2, 3
NEXTHOP_GRP_TYPE_MPATH, NEXTHOP_GRP_TYPE_RES = 0, 1
NLA_F_NESTED = 0x8000
USER_HZ = 100
"""The kernel's timers are told in these parts of a second (clock_t_to_jiffies)."""
OURS = range(0x54000000, 0x54FFFFFF)
"""The numbers this agent gives; routing daemons count from 1."""

_NHMSG = struct.Struct("=BBBBI")
"""nhmsg: family, scope, protocol, reserved, flags."""
_U32, _U16 = struct.Struct("=I"), struct.Struct("=H")
_MEMBER = struct.Struct("=IBBH")
"""nexthop_grp: number, weight less one, its high octet (since Linux 6.12; 0 before), reserved."""


@dataclass(frozen=True, slots=True)
class Nexthop:
    """Where to: one object. It is never changed."""

    gateway: Address
    interface: int
    onlink: bool


Hops = frozenset[tuple[Nexthop, int]]
"""What a group leads to: (object, weight); of a single one the weight is 1."""


@dataclass(frozen=True, slots=True)
class Resilience:
    """How a resilient group spreads flows (since Linux 5.13; Documentation/networking/nexthop-group-resilient.rst).

    Flows are hashed to buckets, and those of next hops that stay keep theirs when another one comes or goes.
    """

    buckets: int = 128
    """1..65535; more spread weights more exactly, each takes some 50 octets."""
    idle_seconds: int = 120
    """A bucket without packets for so long may be given to another next hop."""
    unbalanced_seconds: int = 0
    """After so long out of balance, buckets in use are given away too; 0: never."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group as the kernel has it: what our routes refer to, a single next hop's too."""

    members: tuple[tuple[int, int], ...]
    """(number of an object, weight)."""
    is_resilient: bool = False

    def hops(self, singles: Mapping[int, Nexthop]) -> Hops | None:
        """What it leads to; None: a member is not of ours."""
        if any(member not in singles for member, _ in self.members):
            return None
        return unweighted(frozenset((singles[member], weight) for member, weight in self.members))


def unweighted(hops: Hops) -> Hops:
    """The same, a single next hop's weight as 1."""
    return frozenset((hop, 1) for hop, _ in hops) if len(hops) == 1 else hops


def nexthop_request(identity: int, hop: Nexthop) -> bytes:
    """RTM_NEWNEXTHOP of a new object."""
    family = rtnetlink.FAMILY_OF[hop.gateway.version]
    body = _NHMSG.pack(family, 0, RTPROT_BIRD, 0, rtnetlink.RTNH_F_ONLINK if hop.onlink else 0)
    body += attribute(NHA_ID, _U32.pack(identity)) + attribute(NHA_OIF, _U32.pack(hop.interface))
    flags = rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL
    return request(RTM_NEWNEXTHOP, body + attribute(NHA_GATEWAY, hop.gateway.packed), flags)


def group_request(
    identity: int,
    members: Iterable[tuple[int, int]],
    *,
    resilience: Resilience | None = None,
    replaces: Group | None = None,
) -> bytes:
    """RTM_NEWNEXTHOP of a new group of (number, weight), resilient or by thresholds of a hash (multipath.rst).

    One that `replaces` another keeps its type, buckets and timers, which the kernel lets nobody change
    (replace_nexthop_grp); all its routes follow in one step.
    """
    body = _NHMSG.pack(rtnetlink.AF_UNSPEC, 0, RTPROT_BIRD, 0, 0) + attribute(NHA_ID, _U32.pack(identity))
    some = sorted(members)
    body += attribute(NHA_GROUP, b"".join(_MEMBER.pack(member, weight - 1, 0, 0) for member, weight in some))
    if replaces is not None:
        if replaces.is_resilient:
            body += attribute(NHA_GROUP_TYPE, _U16.pack(NEXTHOP_GRP_TYPE_RES))
        return request(RTM_NEWNEXTHOP, body, rtnetlink.NLM_F_REPLACE)
    if resilience is not None:
        words = attribute(NHA_RES_GROUP_BUCKETS, _U16.pack(resilience.buckets))
        words += attribute(NHA_RES_GROUP_IDLE_TIMER, _U32.pack(resilience.idle_seconds * USER_HZ))
        words += attribute(NHA_RES_GROUP_UNBALANCED_TIMER, _U32.pack(resilience.unbalanced_seconds * USER_HZ))
        body += attribute(NHA_GROUP_TYPE, _U16.pack(NEXTHOP_GRP_TYPE_RES))
        body += attribute(NHA_RES_GROUP | NLA_F_NESTED, words)
    return request(RTM_NEWNEXTHOP, body, rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_EXCL)


def nexthop_deletion(identity: int) -> bytes:
    """RTM_DELNEXTHOP; the kernel then drops every route that refers to it, without a word."""
    body = _NHMSG.pack(rtnetlink.AF_UNSPEC, 0, 0, 0, 0) + attribute(NHA_ID, _U32.pack(identity))
    return request(RTM_DELNEXTHOP, body)


def nexthop_dump_request() -> bytes:
    """RTM_GETNEXTHOP of all."""
    return dump_request(RTM_GETNEXTHOP, _NHMSG.pack(rtnetlink.AF_UNSPEC, 0, 0, 0, 0))


def decode_nexthop(data: bytes, start: int, end: int) -> tuple[int, Nexthop | Group | None] | None:
    """An object with a number of ours; None in its place when it is not of a shape we make. Raises BadMessage."""
    if end - start < _NHMSG.size:
        raise BadMessage(f"nhmsg of {end - start} bytes")
    family, _, _, _, flags = _NHMSG.unpack_from(data, start)
    words = attributes(data, start + _NHMSG.size, end)
    if NHA_ID not in words or number(words[NHA_ID]) not in OURS:
        return None
    identity = number(words[NHA_ID])
    if NHA_GROUP in words:
        return identity, _group(words)
    if family not in rtnetlink.FAMILY_OF.values() or not {NHA_GATEWAY, NHA_OIF} <= words.keys():
        return identity, None
    hop = Nexthop(address(words[NHA_GATEWAY]), number(words[NHA_OIF]), bool(flags & rtnetlink.RTNH_F_ONLINK))
    return identity, hop


def _group(words: dict[int, bytes]) -> Group | None:
    """None for a type that we do not make. Raises BadMessage."""
    data, kind = words[NHA_GROUP], words.get(NHA_GROUP_TYPE, bytes(2))
    if len(data) % _MEMBER.size or len(kind) != _U16.size:
        raise BadMessage(f"a group of {len(data)} bytes, of a type of {len(kind)} bytes")
    (known,) = _U16.unpack(kind)
    if known not in (NEXTHOP_GRP_TYPE_MPATH, NEXTHOP_GRP_TYPE_RES):
        return None
    members = ((member, weight + (high << 8) + 1) for member, weight, high, _ in _MEMBER.iter_unpack(data))
    return Group(tuple(sorted(members)), known == NEXTHOP_GRP_TYPE_RES)
