"""The bytes of routes in rtnetlink: one or very many at a time, both ways (rtnetlink(7), linux/rtnetlink.h).

Promises: pure; a decoder raises only BadMessage; what is encoded here decodes to the same value.
Does not know: sockets, who owns a route, how an interface's number is looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import NamedTuple

from agent.netlink.objects import (
    ADDRESS_OCTETS,
    IPV6_METRIC,
    MAIN_TABLE,
    Address,
    NextHop,
    Route,
    RouteKey,
    RouteTarget,
    RouteType,
    Scope,
)
from agent.netlink.rtnetlink import (
    AF_INET,
    AF_INET6,
    FAMILY_OF,
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTNH_F_ONLINK,
    BadMessage,
    EqualRequests,
    address,
    attribute,
    attributes,
    dump_request,
    number,
    request,
)

RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 2, 3, 4, 5, 6, 7
RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE, RTA_VIA, RTA_PREF, RTA_NH_ID = 9, 12, 15, 18, 20, 30
PLAIN_ATTRIBUTES = frozenset(
    {RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE, RTA_CACHEINFO, RTA_PREF, RTA_NH_ID}
    | {RTA_MULTIPATH, RTA_VIA, RTA_PREFSRC}
)
"""What a route of ours can bear when the kernel shows it; any other attribute makes it odd."""
HOP_ATTRIBUTES = frozenset({RTA_GATEWAY, RTA_VIA})
"""The same of one of several next hops."""
RTNH_F_DEAD = 0x1
"""Of one of several next hops: its interface is down, nothing goes there (fib_sync_down_dev)."""
RTM_F_CLONED = 0x200

_ROUTE = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags."""
DESTINATION_OFFSET = HEADER.size + _ROUTE.size + 4
"""Of the destination's address in a route's request: behind header, rtmsg and the head of RTA_DST."""
_U32 = struct.Struct("=I")
_NUMBER_ATTRIBUTE = struct.Struct("=HHI")
_HOP = struct.Struct("=HBBi")
"""rtnexthop: length, flags, weight less one, interface."""
_FAMILY = struct.Struct("=H")
"""The head of an rtvia."""
_TYPES = {int(kind): kind for kind in RouteType}
_SCOPES = {int(scope): scope for scope in Scope}
_NOWHERE = frozenset({RouteType.BLACKHOLE, RouteType.UNREACHABLE, RouteType.PROHIBIT, RouteType.THROW})
_ZERO_4, _ZERO_6 = bytes(4), bytes(16)


def route_request(
    route: Route,
    interface: int | None,
    *,
    replace: bool = True,
    nexthop: int | None = None,
    interfaces: Sequence[int | None] = (),
) -> bytes:
    """RTM_NEWROUTE for a route; `interface` is the index of its device, `interfaces` those of its several next hops.

    With `nexthop`, the number of an object that holds gateways, devices and flags, the route only refers to it.

    Replacing is one step in the kernel (fib_table_insert): no packet meets a moment without the route. Of IPv6 the
    first of several next hops replaces all that were there and the others join it (ip6_route_multipath_add).
    """
    flags, bits, where = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), 0, b""
    version, hops = route.key.version, route.target.hops
    if nexthop is not None:
        where = _NUMBER_ATTRIBUTE.pack(8, RTA_NH_ID, nexthop)
    elif hops:
        where = attribute(
            RTA_MULTIPATH,
            b"".join(_hop(hop, version, index) for hop, index in zip(hops, interfaces, strict=True)),
        )
    else:
        bits = RTNH_F_ONLINK if route.target.onlink else 0
        where = _gateway(route.gateway, version)
        if interface is not None:
            where += _NUMBER_ATTRIBUTE.pack(8, RTA_OIF, interface)
    if route.target.source is not None:
        where += attribute(RTA_PREFSRC, route.target.source.packed)
    return _route_message(RTM_NEWROUTE, flags, route, route.target.scope, bits, where)


def _gateway(gateway: Address | None, version: int) -> bytes:
    """RTA_GATEWAY; of the other version of IP RTA_VIA (since Linux 5.2: fib_gw_from_via)."""
    if gateway is None:
        return b""
    if gateway.version == version:
        return attribute(RTA_GATEWAY, gateway.packed)
    return attribute(RTA_VIA, _FAMILY.pack(FAMILY_OF[gateway.version]) + gateway.packed)


def _hop(hop: NextHop, version: int, interface: int | None) -> bytes:
    """One rtnexthop."""
    where, bits = _gateway(hop.gateway, version), RTNH_F_ONLINK if hop.onlink else 0
    return _HOP.pack(_HOP.size + len(where), bits, hop.weight - 1, interface or 0) + where


def route_deletion(route: Route) -> bytes:
    """RTM_DELROUTE of the route with this destination, metric, protocol and type, whatever its next hop is now."""
    return _route_message(RTM_DELROUTE, 0, route, Scope.NOWHERE)


def _route_message(
    kind: int, flags: int, route: Route, scope: int, bits: int = 0, where: bytes = b""
) -> bytes:
    """Header, rtmsg with its flags `bits`, destination and metric, then the attributes `where`."""
    key = route.key
    rtmsg = _ROUTE.pack(
        FAMILY_OF[key.version], key.length, 0, 0, key.table, route.protocol, scope, route.type, bits
    )
    body = rtmsg + attribute(RTA_DST, key.octets)
    # Left out, a deletion of an IPv6 route would take one of any metric.
    metric = key.metric or (IPV6_METRIC if key.version == 6 else 0)
    if metric:
        body += _NUMBER_ATTRIBUTE.pack(8, RTA_PRIORITY, metric)
    return request(kind, body + where, flags)


def route_dump_request(table: int = MAIN_TABLE, family: int = AF_INET) -> bytes:
    """RTM_GETROUTE of one table; a kernel without strict checking (before 4.20) sends every table."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + _NUMBER_ATTRIBUTE.pack(8, RTA_TABLE, table)
    return dump_request(RTM_GETROUTE, body)


def decode_route(
    data: bytes, start: int, end: int, name_of: Callable[[int], str], table: int = MAIN_TABLE
) -> Route | None:
    """A route of `table` from an RTM_NEWROUTE or RTM_DELROUTE body; None for other families, tables and caches.

    A route with a TOS is left out: it has a key of its own and never competes with ours. For IPv6 a metric of 1024 is
    0, as it was asked for. Of several next hops those are left out whose interface is down. Raises BadMessage.
    """
    if end - start < _ROUTE.size:
        raise BadMessage(f"rtmsg of {end - start} bytes")
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
    key = RouteKey.of_packed(
        6 if family == AF_INET6 else 4,
        _packed(family, words.get(RTA_DST), length),
        table,
        _metric(family, words),
    )
    odd = not known or not words.keys() <= PLAIN_ATTRIBUTES or words.get(RTA_PREF, b"\0") != b"\0"
    gateway, device = _gateway_of(words), name_of(interface) if interface is not None else None
    onlink = bool(bits & RTNH_F_ONLINK)
    hops: tuple[NextHop, ...] = ()
    if RTA_MULTIPATH in words:
        hops, is_odd = _hops_of(words[RTA_MULTIPATH], name_of)
        odd = odd or is_odd
        if len(hops) == 1:
            gateway, device, onlink = hops[0].gateway, hops[0].device, hops[0].onlink
            hops = ()
    return Route(
        key,
        type=_TYPES.get(kind, RouteType.UNICAST),
        gateway=gateway,
        device=device,
        protocol=protocol,
        scope=_SCOPES.get(scope, Scope.UNIVERSE),
        onlink=onlink,
        odd=odd,
        hops=hops,
        source=address(words[RTA_PREFSRC]) if RTA_PREFSRC in words else None,
    )


def _gateway_of(words: dict[int, bytes]) -> Address | None:
    """Of RTA_GATEWAY or RTA_VIA. Raises BadMessage."""
    if RTA_GATEWAY in words:
        return address(words[RTA_GATEWAY])
    return address(words[RTA_VIA][_FAMILY.size :]) if RTA_VIA in words else None


def _hops_of(data: bytes, name_of: Callable[[int], str]) -> tuple[tuple[NextHop, ...], bool]:
    """Several next hops, sorted, without those whose interface is down; whether one bears what we never set.

    Raises BadMessage.
    """
    start, found, odd = 0, [], False
    while start + _HOP.size <= len(data):
        length, bits, weight, interface = _HOP.unpack_from(data, start)
        if length < _HOP.size or start + length > len(data):
            raise BadMessage(f"a next hop of {length} bytes in {len(data) - start}")
        words = attributes(data, start + _HOP.size, start + length)
        odd = odd or not words.keys() <= HOP_ATTRIBUTES
        if not bits & RTNH_F_DEAD:
            onlink = bool(bits & RTNH_F_ONLINK)
            found.append(NextHop(_gateway_of(words), name_of(interface), onlink, weight + 1))
        start += (length + 3) & ~3
    return tuple(sorted(found)), odd


class PathRow(NamedTuple):
    """The kernel's answer to a look-up."""

    interface: int
    source: Address
    gateway: Address | None


def path_request(host: Address, interface: int = 0) -> bytes:
    """RTM_GETROUTE of the route that a packet to a host would take; the acknowledgement ends the answer.

    With an interface's number: of the route that it would take over that one.
    """
    body = _ROUTE.pack(FAMILY_OF[host.version], host.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    over = _NUMBER_ATTRIBUTE.pack(8, RTA_OIF, interface) if interface else b""
    return request(RTM_GETROUTE, body + attribute(RTA_DST, host.packed) + over, NLM_F_ACK)


def forwarding_request(host: Address, source: Address, arriving: int) -> bytes:
    """RTM_GETROUTE of the route that a packet to a host takes that comes from `source` by an interface's index."""
    body = _ROUTE.pack(FAMILY_OF[host.version], host.max_prefixlen, source.max_prefixlen, 0, 0, 0, 0, 0, 0)
    words = attribute(RTA_DST, host.packed) + attribute(RTA_SRC, source.packed)
    return request(RTM_GETROUTE, body + words + attribute(RTA_IIF, _U32.pack(arriving)), NLM_F_ACK)


def decode_interface(data: bytes, start: int, end: int) -> int:
    """The answer to forwarding_request: the interface's index; 0 without one. Raises BadMessage."""
    words = attributes(data, start + _ROUTE.size, end)
    return number(words[RTA_OIF]) if RTA_OIF in words else 0


def decode_path(data: bytes, start: int, end: int) -> PathRow | None:
    """The answer to path_request; None without an interface and a source. Raises BadMessage."""
    words = attributes(data, start + _ROUTE.size, end)
    if RTA_OIF not in words or RTA_PREFSRC not in words:
        return None
    return PathRow(number(words[RTA_OIF]), address(words[RTA_PREFSRC]), _gateway_of(words))


def _packed(family: int, octets: bytes | None, length: int) -> bytes:
    """The destination as a RouteKey has it; without octets it is everything. Raises BadMessage."""
    whole = _ZERO_6 if family == AF_INET6 else _ZERO_4
    if octets is None:
        octets = whole
    count = (length + 7) // 8
    if len(octets) != len(whole) or length > 8 * len(whole):
        raise BadMessage(f"destination {octets.hex()}/{length} is none of its family")
    spare = octets[count:]
    if any(spare) or (length % 8 and octets[count - 1] & (0xFF >> length % 8)):
        raise BadMessage(f"destination {octets.hex()}/{length} has host bits set")
    return bytes((length,)) + octets[:count]


def _metric(family: int, words: dict[int, bytes]) -> int:
    metric = number(words[RTA_PRIORITY]) if RTA_PRIORITY in words else 0
    return 0 if family == AF_INET6 and metric == IPV6_METRIC else metric


def encoded(
    routes: Sequence[Route], whole: Callable[[Route], bytes], like: Callable[[RouteTarget], Hashable] = id
) -> Sequence[bytes]:
    """A request for each route; `whole` encodes one by its target and its key's version, length, table and metric.

    Targets of which `like` says the same are encoded alike; by identity, for the routes live longer than this. What
    routes share is encoded once, and then the destinations are put in, one octet of all of them at a time.
    """
    if not routes:
        return []
    keys, targets = zip(*routes, strict=True)
    versions, packed, tables, metrics = zip(*keys, strict=True)
    numbers = list(map(id, targets))
    if like is not id:
        alike: dict[Hashable, int] = {}
        of = {
            number: alike.setdefault(like(one), number) for number, one in zip(numbers, targets, strict=True)
        }
        numbers = [of[number] for number in numbers]
    lengths = list(map(itemgetter(0), packed))
    shapes = list(zip(numbers, versions, lengths, tables, metrics, strict=True))
    templates = {shape: whole(route) for shape, route in dict(zip(shapes, routes, strict=True)).items()}
    sizes, (version, *others) = set(map(len, templates.values())), set(versions)
    if others or len(sizes) > 1:
        return list(map(_with_destination, packed, map(templates.__getitem__, shapes), versions))
    (size,) = sizes
    if len(templates) == 1:
        octets = bytearray(templates[shapes[0]] * len(routes))
    else:
        octets = bytearray(b"".join(map(templates.__getitem__, shapes)))
    if lengths.count(lengths[0]) == len(lengths):
        row, destinations = len(packed[0]), b"".join(packed)
    else:
        row = 1 + ADDRESS_OCTETS[version]
        destinations = b"".join([one.ljust(row, b"\0") for one in packed])
    for octet in range(1, row):  # behind the octet of length
        octets[DESTINATION_OFFSET + octet - 1 :: size] = destinations[octet::row]
    return EqualRequests(octets, size)


def _with_destination(packed: bytes, template: bytes, version: int) -> bytes:
    """A template's request for another destination of the same length."""
    width = ADDRESS_OCTETS[version]
    octets = packed[1:].ljust(width, b"\0")
    return template[:DESTINATION_OFFSET] + octets + template[DESTINATION_OFFSET + width :]


def _referred(body: bytes) -> int | None:
    """The nexthop object that a route's message refers to. Raises BadMessage."""
    words = attributes(body, _ROUTE.size, len(body))
    return number(words[RTA_NH_ID]) if RTA_NH_ID in words else None


_DESTINATION_AT = _ROUTE.size + _NUMBER_ATTRIBUTE.size
"""Where the kernel puts RTA_DST in a dump: behind rtmsg and RTA_TABLE (fib_dump_info, rt6_fill_node)."""
_DESTINATION = {
    family: (4 + octets, struct.pack("=HH", 4 + octets, RTA_DST))
    for family, octets in ((AF_INET, 4), (AF_INET6, 16))
}
"""By the family: the attribute's length, and its head."""
_Decoded = tuple[Route | None, int | None]
"""A route and, when asked to look, the nexthop object that it refers to."""


class RouteDecoder:
    """Decodes dump after dump of one routing table, and each route only once: `begin`, `decode` each message, `end`.

    A route that stood in the dump before is found by the bytes of its message, six times as fast as decode_route makes
    it; the memory is as large as one dump. Of routes whose messages differ in the destination alone one is decoded, and
    they share its target. Equal bytes are the same route as long as the interface numbers in them bear the same names,
    so a renamed or renumbered device makes everything be decoded again.
    After a dump that broke off, begin again.
    """

    def __init__(self, name_of: Callable[[int], str], *, references: bool = False) -> None:
        self._look_up = name_of
        self._look_for_references = references
        self._names: dict[int, str] = {}
        self._before: dict[bytes, _Decoded] = {}
        self._known: dict[bytes, _Decoded] = {}
        """What a message says -> what it means."""
        self._shapes: dict[bytes, _Decoded] = {}
        """The same of a message without its destination, with one of the routes of that shape; of one dump."""
        self._plain: set[RouteKey] = set()
        self.nexthops: frozenset[int] = frozenset()
        """The nexthop objects that the last whole dump refers to, when asked to look."""
        self.plain: set[RouteKey] = set()
        """The routes through a gateway that refer to none."""

    def begin(self) -> None:
        """A dump begins."""
        present = {index: self._look_up(index) for index in self._names}
        # A device that has gone (`#7`) took its routes with it: none of them can come again in this dump.
        if any(present[index] not in {name, f"#{index}"} for index, name in self._names.items()):
            self._before = {}
        self._names = {index: name for index, name in present.items() if name == self._names[index]}
        self._known, self._plain, self._shapes = {}, set(), {}

    def decode(self, data: bytes, start: int, end: int) -> Route | None:
        """The route in an RTM_NEWROUTE body, None where decode_route gives none. Raises BadMessage."""
        body = data[start:end]
        found = self._before.get(body)
        if found is None:
            found = self._decoded(body)
        route, identity = found
        if route is not None or identity is not None:
            self._known[body] = found
        if (
            route is not None
            and identity is None
            and self._look_for_references
            and (route[1].gateway is not None or route[1].hops)
        ):
            self._plain.add(route.key)
        return route

    def _decoded(self, body: bytes) -> _Decoded:
        """By its shape, or whole."""
        size, head = _DESTINATION.get(body[0] if body else 0, (0, b""))
        behind = _DESTINATION_AT + size
        if not size or body[_DESTINATION_AT : _DESTINATION_AT + 4] != head or len(body) < behind:
            return self._whole(body)
        shape = body[:_DESTINATION_AT] + body[behind:]
        known = self._shapes.get(shape)
        if known is None:
            known = self._shapes[shape] = self._whole(body)
            return known
        route, identity = known
        if route is None:
            return known
        (version, _, table, metric), target = route
        packed = _packed(body[0], body[_DESTINATION_AT + 4 : behind], body[1])
        return Route.from_target(RouteKey.of_packed(version, packed, table, metric), target), identity

    def _whole(self, body: bytes) -> _Decoded:
        # Of every route, not only of those that are returned: one that is left out needs its object too.
        identity = _referred(body) if self._look_for_references else None
        return decode_route(body, 0, len(body), self._name_of), identity

    def end(self) -> None:
        """The dump is whole."""
        self._before, self._known, self._shapes = self._known, {}, {}
        self.plain, self._plain = self._plain, set()
        self.nexthops = frozenset(one for _, one in self._before.values() if one is not None)

    def _name_of(self, index: int) -> str:
        if index not in self._names:
            self._names[index] = self._look_up(index)
        return self._names[index]
