"""The bytes of rtnetlink for links, addresses, neighbours and VXLAN forwarding entries (linux/if_link.h, neighbour.h).

Promises: pure; decoders raise only BadMessage. Does not know: sockets; how a device is made (devices.py does).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from agent.netlink import rtnetlink
from agent.netlink.objects import Address, AddressFlag, FdbEntry, Link, Neighbour
from agent.netlink.rtnetlink import (
    FAMILY_OF,
    BadMessage,
    address,
    attribute,
    attributes,
    dump_request,
    number,
    request,
)

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO, IFLA_EXT_MASK = 1, 3, 4, 5, 18, 29
IFLA_IFALIAS, IFLA_STATS64, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 20, 23, 27, 28, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT = 1, 3, 4, 7, 15
IFLA_VXLAN_LOCAL6 = 17
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
"""Nobody else can have the address: it is in use at once, without looking for a duplicate (RFC 4862)."""
NDA_DST, NDA_LLADDR, NDA_IFINDEX = 1, 2, 8
NUD_INCOMPLETE, NUD_STALE, NUD_FAILED, NUD_NOARP, NUD_PERMANENT = 0x01, 0x04, 0x20, 0x40, 0x80
NTF_SELF, NTF_EXT_LEARNED, NTF_ROUTER = 0x02, 0x10, 0x80
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
RT_SCOPE_UNIVERSE = 0
RTEXT_FILTER_SKIP_STATS = 0x8

IFINFOMSG = struct.Struct("=BxHiII")
"""ifinfomsg: family, device type, index, flags, change mask."""
IFADDRMSG = struct.Struct("=BBBBI")
"""ifaddrmsg: family, prefix length, flags, scope, index."""
NDMSG = struct.Struct("=BxxxiHBB")
"""ndmsg: family, index, state, flags, type."""
_U32 = struct.Struct("=I")
NO_FLAGS = AddressFlag(0)


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One RTM_NEWLINK or RTM_DELLINK; addresses come from another dump."""

    index: int
    name: str
    up: bool
    mtu: int
    mac: str | None
    kind: str | None
    lower: int | None
    """Index of the device below (IFLA_LINK)."""
    data: bytes
    """IFLA_INFO_DATA: attributes of the kind."""
    carrier: bool

    def link(self, rows: Iterable[AddressRow]) -> Link:
        """As a fact, with these addresses, which are its own."""
        own = list(rows)
        addresses = tuple((row.address, row.length) for row in own)
        flagged = tuple((row.address, row.flags) for row in own if row.flags)
        return Link(
            self.index, self.name, self.kind, self.mtu, self.up, self.mac, addresses, flagged, self.carrier
        )


@dataclass(frozen=True, slots=True)
class AddressRow:
    """One address of a link."""

    index: int
    address: Address
    length: int
    flags: AddressFlag = NO_FLAGS


@dataclass(frozen=True, slots=True)
class NeighbourRow:
    """One neighbour or forwarding entry of any state."""

    family: int
    index: int
    state: int
    mac: str | None
    destination: Address | None
    is_router: bool = False
    """It says so in its advertisements (RFC 4861 section 4.4, the R flag)."""

    @property
    def is_known(self) -> bool:
        """Whether it has answered, or been heard; a group's address is nobody's."""
        return self.mac is not None and not self.state & (NUD_INCOMPLETE | NUD_FAILED | NUD_NOARP)


def mac_bytes(text: str) -> bytes:
    """The six octets. Raises ValueError."""
    value = bytes.fromhex(text.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"{text} is not a MAC address of six octets")
    return value


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def link_dump_request() -> bytes:
    """RTM_GETLINK of all links without their counters."""
    words = attribute(IFLA_EXT_MASK, _U32.pack(RTEXT_FILTER_SKIP_STATS))
    return dump_request(rtnetlink.RTM_GETLINK, link_body(words))


def link_request(name: str, *, counters: bool = False) -> bytes:
    """RTM_GETLINK of the link that bears a name; the acknowledgement ends the answer."""
    mask = 0 if counters else RTEXT_FILTER_SKIP_STATS
    words = text_attribute(IFLA_IFNAME, name) + attribute(IFLA_EXT_MASK, _U32.pack(mask))
    return request(rtnetlink.RTM_GETLINK, link_body(words), rtnetlink.NLM_F_ACK)


def text_attribute(kind: int, text: str) -> bytes:
    """An attribute that holds a name, ended by a zero."""
    return attribute(kind, text.encode() + b"\0")


def link_body(words: bytes = b"", *, index: int = 0, up: bool = False) -> bytes:
    """A link as messages have it: ifinfomsg, then its attributes; it is named by index or by IFLA_IFNAME."""
    flags = IFF_UP if up else 0
    return IFINFOMSG.pack(rtnetlink.AF_UNSPEC, 0, index, flags, flags) + words


def link_change(kind: int, words: bytes = b"", *, index: int = 0, up: bool = False) -> bytes:
    """RTM_NEWLINK, RTM_SETLINK or RTM_DELLINK of a link that is there, named as in `link_body`."""
    return request(kind, link_body(words, index=index, up=up))


def host_address_request(address: Address, interface: int) -> bytes:
    """RTM_NEWADDR of one address with the prefix of a host.

    Nobody else can have it: an IPv6 address is used at once, without a second's look for a duplicate (RFC 4862).
    """
    flags = IFA_F_NODAD if address.version == 6 else 0
    body = IFADDRMSG.pack(
        FAMILY_OF[address.version], address.max_prefixlen, flags, RT_SCOPE_UNIVERSE, interface
    )
    body += attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    return request(rtnetlink.RTM_NEWADDR, body, _PUT)


def address_dump_request(interface: int = 0) -> bytes:
    """RTM_GETADDR of all families; of one link alone where the kernel checks requests strictly, else of all."""
    return dump_request(rtnetlink.RTM_GETADDR, IFADDRMSG.pack(rtnetlink.AF_UNSPEC, 0, 0, 0, interface))


def decode_link(data: bytes, start: int, end: int) -> LinkRow | None:
    """A link; None for messages about a bridge port or another family's view of it. Raises BadMessage."""
    if end - start < IFINFOMSG.size:
        raise BadMessage(f"ifinfomsg of {end - start} bytes")
    family, _, index, flags, _ = IFINFOMSG.unpack_from(data, start)
    if family != rtnetlink.AF_UNSPEC:
        return None
    words = attributes(data, start + IFINFOMSG.size, end)
    info = words.get(IFLA_LINKINFO, b"")
    inner = attributes(info, 0, len(info))
    return LinkRow(
        index=index,
        name=_text(words.get(IFLA_IFNAME, b"")),
        up=bool(flags & IFF_UP),
        mtu=number(words[IFLA_MTU]) if IFLA_MTU in words else 0,
        mac=words[IFLA_ADDRESS].hex(":") if len(words.get(IFLA_ADDRESS, b"")) == 6 else None,
        kind=_text(inner[IFLA_INFO_KIND]) if IFLA_INFO_KIND in inner else None,
        lower=number(words[IFLA_LINK]) if IFLA_LINK in words else None,
        data=inner.get(IFLA_INFO_DATA, b""),
        carrier=bool(flags & IFF_LOWER_UP),
    )


def decode_received(data: bytes, start: int, end: int) -> int | None:
    """Packets that a link has received since it was made (rtnl_link_stats64.rx_packets). Raises BadMessage."""
    counters = attributes(data, start + IFINFOMSG.size, end).get(IFLA_STATS64, b"")
    return int.from_bytes(counters[:8], sys.byteorder) if counters else None


def decode_address(data: bytes, start: int, end: int) -> AddressRow | None:
    """An address; None for families other than the two of IP. Raises BadMessage."""
    if end - start < IFADDRMSG.size:
        raise BadMessage(f"ifaddrmsg of {end - start} bytes")
    _, length, short_flags, _, index = IFADDRMSG.unpack_from(data, start)
    words = attributes(data, start + IFADDRMSG.size, end)
    # IFA_ADDRESS is the other end of a point-to-point link; IPv6 has only that one.
    value = words.get(IFA_LOCAL, words.get(IFA_ADDRESS, b""))
    if len(value) not in {4, 16}:
        return None
    # ifa_flags has eight bits; the attribute has all, and newer kernels send it always.
    flags = number(words[IFA_FLAGS]) if IFA_FLAGS in words else short_flags
    return AddressRow(index, address(value), length, _known_flags(flags) if len(value) == 16 else NO_FLAGS)


def _known_flags(flags: int) -> AddressFlag:
    return AddressFlag(flags & (AddressFlag.TEMPORARY | AddressFlag.DUPLICATE | AddressFlag.DEPRECATED))


def neighbour_dump_request(family: int, interface: int) -> bytes:
    """RTM_GETNEIGH of one device: AF_INET or AF_INET6 for neighbours, AF_BRIDGE for forwarding entries."""
    body = NDMSG.pack(family, 0, 0, 0, 0) + attribute(NDA_IFINDEX, _U32.pack(interface))
    return dump_request(rtnetlink.RTM_GETNEIGH, body)


def decode_neighbour(data: bytes, start: int, end: int) -> NeighbourRow | None:
    """A neighbour or forwarding entry; None for other families. Raises BadMessage."""
    if end - start < NDMSG.size:
        raise BadMessage(f"ndmsg of {end - start} bytes")
    family, index, state, flags, _ = NDMSG.unpack_from(data, start)
    if family != rtnetlink.AF_BRIDGE and family not in FAMILY_OF.values():
        return None
    words = attributes(data, start + NDMSG.size, end)
    mac, destination = words.get(NDA_LLADDR, b""), words.get(NDA_DST, b"")
    return NeighbourRow(
        family,
        index,
        state,
        mac.hex(":") if len(mac) == 6 else None,
        address(destination) if len(destination) in {4, 16} else None,
        bool(flags & NTF_ROUTER),
    )


_PUT = rtnetlink.NLM_F_CREATE | rtnetlink.NLM_F_REPLACE


def entry_request(entry: Neighbour | FdbEntry, interface: int) -> bytes:
    """RTM_NEWNEIGH of a permanent neighbour or forwarding entry, replacing what is there."""
    destination = entry.address if isinstance(entry, Neighbour) else entry.remote
    body = _entry_head(entry, interface, NUD_PERMANENT) + _pair(destination, entry.mac)
    return request(rtnetlink.RTM_NEWNEIGH, body, _PUT)


def known_neighbour_request(address: Address, mac: str, interface: int) -> bytes:
    """RTM_NEWNEIGH of a neighbour that we made and the kernel may learn anew (NTF_EXT_LEARNED).

    It does not count for gc_thresh3, the most neighbours that all namespaces of a machine together may have (net/core/
    neighbour.c, neigh_alloc). Unlike a permanent one it is confirmed some 5 s after its first use, so that a MAC that
    somebody changes is found out.
    """
    body = NDMSG.pack(FAMILY_OF[address.version], interface, NUD_STALE, NTF_EXT_LEARNED, 0)
    return request(rtnetlink.RTM_NEWNEIGH, body + _pair(address, mac), _PUT)


def entry_deletion(entry: Neighbour | FdbEntry, interface: int) -> bytes:
    """RTM_DELNEIGH of a neighbour, or of a forwarding entry whatever its destination is now."""
    if isinstance(entry, Neighbour):
        body = _entry_head(entry, interface, 0) + attribute(NDA_DST, entry.address.packed)
    else:
        body = _entry_head(entry, interface, 0) + attribute(NDA_LLADDR, mac_bytes(entry.mac))
    return request(rtnetlink.RTM_DELNEIGH, body)


def _entry_head(entry: Neighbour | FdbEntry, interface: int, state: int) -> bytes:
    """Forwarding entries are in the device's own table (NTF_SELF)."""
    if isinstance(entry, Neighbour):
        return NDMSG.pack(FAMILY_OF[entry.address.version], interface, state, 0, 0)
    return NDMSG.pack(rtnetlink.AF_BRIDGE, interface, state, NTF_SELF, 0)


def _pair(destination: Address, mac: str) -> bytes:
    return attribute(NDA_DST, destination.packed) + attribute(NDA_LLADDR, mac_bytes(mac))
