"""The bytes of rtnetlink: message framing, attributes, and routes both ways (rtnetlink(7), linux/rtnetlink.h).

Promises: pure; a decoder raises only Malformed, and nothing it is given makes it read outside its message; what is
encoded here decodes to the same value. Encoded messages carry sequence number 0: the socket numbers a batch.
Does not know: sockets, who owns a route.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import IPV6_METRIC, Address, Route, RouteKey, RouteType, Scope

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNETCONF = 80

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_ACK_TLVS = 0x200
NLM_F_CAPPED = 0x100
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE, RTA_CACHEINFO = 1, 4, 5, 6, 15, 12
RTA_PREF, RTA_NH_ID = 20, 30
PLAIN_ATTRIBUTES = frozenset(
    {RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE, RTA_CACHEINFO, RTA_PREF, RTA_NH_ID}
)
"""What a route of ours can bear when the kernel shows it; any other attribute makes it odd."""
RTNH_F_ONLINK = 0x4
RTM_F_CLONED = 0x200
MAIN_TABLE = 254
NLMSGERR_ATTR_MSG = 1
ATTRIBUTE_TYPE = 0x3FFF
"""NLA_TYPE_MASK: without the nested and byte order flags."""

HEADER = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags."""
_FIXED = struct.Struct("=IHHIIBBBBBBBBI")
DESTINATION_OFFSET = _FIXED.size + 4
"""Of the destination's address in a route's request: behind header, rtmsg and the head of RTA_DST."""
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")
_NUMBER_ATTRIBUTE = struct.Struct("=HHI")


class Malformed(KernelError):
    """Bytes that are no netlink message of the kind they claim to be."""


class Message(NamedTuple):
    """One message inside a datagram; `start` and `end` delimit what follows the header."""

    type: int
    flags: int
    sequence: int
    port: int
    start: int
    end: int


def messages(data: bytes) -> Iterator[Message]:
    """Cut a datagram into messages. Raises Malformed."""
    offset, size = 0, len(data)
    while offset < size:
        if offset + HEADER.size > size:
            raise Malformed(f"netlink header cut off after {size - offset} bytes")
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > size:
            raise Malformed(f"netlink message of {length} bytes in {size - offset}")
        yield Message(kind, flags, sequence, port, offset + HEADER.size, offset + length)
        offset += (length + 3) & ~3


def attributes(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """The attributes between two offsets by type; a repeated one counts with its last value. Raises Malformed."""
    found: dict[int, bytes] = {}
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            raise Malformed(f"attribute {kind} of {length} bytes in {end - start}")
        found[kind & ATTRIBUTE_TYPE] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One message, numbered later."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body


def number(value: bytes) -> int:
    """An unsigned 32-bit attribute in host order. Raises Malformed."""
    if len(value) != 4:
        raise Malformed(f"a number of {len(value)} bytes")
    result: int = _U32.unpack(value)[0]
    return result


def address(value: bytes) -> Address:
    """An address attribute of either version of IP. Raises Malformed."""
    if len(value) == 4:
        return IPv4Address(value)
    if len(value) == 16:
        return IPv6Address(value)
    raise Malformed(f"an IP address of {len(value)} bytes")


def error_of(data: bytes, found: Message) -> tuple[int, str]:
    """The errno of an NLMSG_ERROR or NLMSG_DONE (0 is success) and the kernel's own words, if any. Raises Malformed."""
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


def route_request(
    route: Route, interface: int | None, *, replace: bool = True, nexthop: int | None = None
) -> bytes:
    """RTM_NEWROUTE for a wished route; `interface` is the index of its device.

    With `nexthop`, the number of an object that holds gateway, device and flag, the route only refers to it.

    Replacing is one step in the kernel (fib_table_insert): no packet meets a moment without the route.
    """
    key = route.key
    flags = NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    body = _route_attributes(key)
    if nexthop is not None:
        body += _NUMBER_ATTRIBUTE.pack(8, RTA_NH_ID, nexthop)
        return _fixed(RTM_NEWROUTE, flags, key, route.protocol, route.scope, route.type, 0, len(body)) + body
    if route.gateway is not None:
        body += attribute(RTA_GATEWAY, route.gateway.packed)
    if interface is not None:
        body += _NUMBER_ATTRIBUTE.pack(8, RTA_OIF, interface)
    onlink = RTNH_F_ONLINK if route.onlink else 0
    return _fixed(RTM_NEWROUTE, flags, key, route.protocol, route.scope, route.type, onlink, len(body)) + body


def route_deletion(route: Route) -> bytes:
    """RTM_DELROUTE of the route with this destination, metric, protocol and type, whatever its next hop is now."""
    body = _route_attributes(route.key)
    return (
        _fixed(
            RTM_DELROUTE, NLM_F_REQUEST, route.key, route.protocol, Scope.NOWHERE, route.type, 0, len(body)
        )
        + body
    )


def _route_attributes(key: RouteKey) -> bytes:
    body = attribute(RTA_DST, key.octets)
    # Left out, a deletion of an IPv6 route would take one of any metric.
    metric = key.metric or (IPV6_METRIC if key.version == 6 else 0)
    if metric:
        body += _NUMBER_ATTRIBUTE.pack(8, RTA_PRIORITY, metric)
    return body


def _fixed(
    kind: int, flags: int, key: RouteKey, protocol: int, scope: int, type_: int, bits: int, rest: int
) -> bytes:
    length, prefix = _FIXED.size + rest, key.length
    family = AF_INET6 if key.version == 6 else AF_INET
    return _FIXED.pack(
        length, kind, flags, 0, 0, family, prefix, 0, 0, key.table, protocol, scope, type_, bits
    )


def route_dump_request(table: int = MAIN_TABLE, family: int = AF_INET) -> bytes:
    """RTM_GETROUTE of one table; a kernel without strict checking (before 4.20) sends every table."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + _NUMBER_ATTRIBUTE.pack(8, RTA_TABLE, table)
    return message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, body)


def decode_route(
    data: bytes, start: int, end: int, name_of: Callable[[int], str], table: int = MAIN_TABLE
) -> Route | None:
    """A route of `table` from an RTM_NEWROUTE or RTM_DELROUTE body; None for other families, tables and caches.

    A route with a TOS is left out: it has a key of its own and never competes with ours. For IPv6 a metric of 1024 is
    0, as it was asked for. Raises Malformed.
    """
    if end - start < _ROUTE.size:
        raise Malformed(f"rtmsg of {end - start} bytes")
    family, length, _, tos, short_table, protocol, scope, kind, bits = _ROUTE.unpack_from(data, start)
    if family not in (AF_INET, AF_INET6) or tos or bits & RTM_F_CLONED:
        return None
    words = attributes(data, start + _ROUTE.size, end)
    if (number(words[RTA_TABLE]) if RTA_TABLE in words else short_table) != table:
        return None
    known = kind in _TYPES and scope in _SCOPES
    interface = number(words[RTA_OIF]) if RTA_OIF in words else None
    if family == AF_INET6 and kind in _NOWHERE:
        interface = None  # the kernel shows lo, which means nothing
    return Route(
        RouteKey.of_packed(
            6 if family == AF_INET6 else 4, _packed(family, words, length), table, _metric(family, words)
        ),
        type=_TYPES.get(kind, RouteType.UNICAST),
        gateway=address(words[RTA_GATEWAY]) if RTA_GATEWAY in words else None,
        device=name_of(interface) if interface is not None else None,
        protocol=protocol,
        scope=_SCOPES.get(scope, Scope.UNIVERSE),
        onlink=bool(bits & RTNH_F_ONLINK),
        odd=not known or not words.keys() <= PLAIN_ATTRIBUTES or words.get(RTA_PREF, b"\0") != b"\0",
    )


def _packed(family: int, words: dict[int, bytes], length: int) -> bytes:
    """The destination as a RouteKey has it."""
    whole = _ZERO_6 if family == AF_INET6 else _ZERO_4
    octets, kept = words.get(RTA_DST, whole), (length + 7) // 8
    if len(octets) != len(whole) or length > 8 * len(whole):
        raise Malformed(f"destination {octets.hex()}/{length} is none of its family")
    spare = octets[kept:]
    if any(spare) or (length % 8 and octets[kept - 1] & (0xFF >> length % 8)):
        raise Malformed(f"destination {octets.hex()}/{length} has host bits set")
    return bytes((length,)) + octets[:kept]


def _metric(family: int, words: dict[int, bytes]) -> int:
    metric = number(words[RTA_PRIORITY]) if RTA_PRIORITY in words else 0
    return 0 if family == AF_INET6 and metric == IPV6_METRIC else metric


_TYPES = {int(kind): kind for kind in RouteType}
_SCOPES = {int(scope): scope for scope in Scope}
_NOWHERE = frozenset({RouteType.BLACKHOLE, RouteType.UNREACHABLE, RouteType.PROHIBIT, RouteType.THROW})
_ZERO_4, _ZERO_6 = bytes(4), bytes(16)
