"""The bytes that all of rtnetlink shares: message framing, attributes, numbers (rtnetlink(7), linux/rtnetlink.h).

Promises: pure; a decoder raises only BadMessage, and nothing it is given makes it read outside its message. Encoded
messages carry sequence number 0: the socket numbers a batch.
Does not know: sockets, what a message is about.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, overload

from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_GETRULE = 32, 34
RTM_NEWNETCONF = 80
RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE = 1, 3, 5, 7
RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE = 9, 11
RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF, RTNLGRP_NEXTHOP = 24, 25, 32

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_ACK_TLVS = 0x200
NLM_F_CAPPED = 0x100
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
FAMILY_OF = {4: AF_INET, 6: AF_INET6}
"""Version of IP -> address family."""
RTNH_F_ONLINK = 0x4
NLMSGERR_ATTR_MSG = 1
ATTRIBUTE_TYPE = 0x3FFF
"""NLA_TYPE_MASK: without the nested and byte order flags."""

HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")


class BadMessage(KernelError):
    """Bytes that are no netlink message of the kind they claim to be (EBADMSG)."""


class Message(NamedTuple):
    """One message inside a datagram; `start` and `end` delimit what follows the header."""

    type: int
    flags: int
    sequence: int
    port: int
    start: int
    end: int


def messages(data: bytes) -> Iterator[Message]:
    """Cut a datagram into messages. Raises BadMessage."""
    offset, size = 0, len(data)
    while offset < size:
        if offset + HEADER.size > size:
            raise BadMessage(f"netlink header cut off after {size - offset} bytes")
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > size:
            raise BadMessage(f"netlink message of {length} bytes in {size - offset}")
        yield Message(kind, flags, sequence, port, offset + HEADER.size, offset + length)
        offset += (length + 3) & ~3


def attributes(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """The attributes between two offsets by type; a repeated one counts with its last value. Raises BadMessage."""
    found: dict[int, bytes] = {}
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            raise BadMessage(f"attribute {kind} of {length} bytes in {end - start}")
        found[kind & ATTRIBUTE_TYPE] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def request(kind: int, body: bytes, flags: int = 0) -> bytes:
    """One request, numbered later, with NLM_F_REQUEST besides `flags`."""
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body


class EqualRequests(Sequence[bytes]):
    """Requests of one size, end to end: very many are numbered, cut and sent without an object for each."""

    __slots__ = ("octets", "size")

    def __init__(self, octets: bytearray, size: int) -> None:
        """`octets` are a multiple of `size`, which is at least a header's."""
        self.octets, self.size = octets, size

    def __len__(self) -> int:
        return len(self.octets) // self.size

    @overload
    def __getitem__(self, at: int) -> bytes: ...

    @overload
    def __getitem__(self, at: slice) -> EqualRequests: ...

    def __getitem__(self, at: int | slice) -> bytes | EqualRequests:
        """One, or some in a row as a copy. Raises IndexError, ValueError of a slice with a step."""
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                raise ValueError("requests are cut in a row")
            return EqualRequests(self.octets[start * self.size : stop * self.size], self.size)
        start = range(len(self))[at] * self.size
        return bytes(self.octets[start : start + self.size])


def dump_request(kind: int, body: bytes) -> bytes:
    """A request of everything (NLM_F_DUMP)."""
    return request(kind, body, NLM_F_DUMP)


def number(value: bytes) -> int:
    """An unsigned 32-bit attribute in host order. Raises BadMessage."""
    if len(value) != 4:
        raise BadMessage(f"a number of {len(value)} bytes")
    result: int = _U32.unpack(value)[0]
    return result


def address(value: bytes) -> Address:
    """An address attribute of either version of IP. Raises BadMessage."""
    if len(value) == 4:
        return IPv4Address(value)
    if len(value) == 16:
        return IPv6Address(value)
    raise BadMessage(f"an IP address of {len(value)} bytes")


def error_of(data: bytes, found: Message) -> tuple[int, str]:
    """The errno of an NLMSG_ERROR or NLMSG_DONE (0 is success) and any words of the kernel. Raises BadMessage."""
    if found.end - found.start < 4:
        return 0, ""
    code = -_I32.unpack_from(data, found.start)[0]
    if not code or not found.flags & NLM_F_ACK_TLVS:
        return code, ""
    if found.type == NLMSG_DONE:
        words = attributes(data, found.start + 4, found.end)
    else:
        # The refused request follows its errno: only its header when capped, all of it otherwise.
        inner: int = _U32.unpack_from(data, found.start + 4)[0]
        skipped = HEADER.size if found.flags & NLM_F_CAPPED else (inner + 3) & ~3
        words = attributes(data, found.start + 4 + skipped, found.end)
    return code, words.get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
