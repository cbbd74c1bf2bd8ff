"""The bytes of rtnetlink against golden ones, what iproute2 shows, and whatever hypothesis thinks of."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.netlink import rtlinks, rtnetlink, rtroutes
from agent.netlink.objects import (
    FdbEntry,
    Neighbour,
    NextHop,
    Route,
    RouteKey,
    RouteTarget,
    RouteType,
    Scope,
)
from agent.netlink.rtnetlink import HEADER, BadMessage, EqualRequests, messages
from agent.netlink.rtroutes import RouteDecoder, encoded, route_deletion, route_request

NAMES = {3: "eth0", 7: "tunl0", 9: "cali1"}
INDEXES = {name: index for index, name in NAMES.items()}


def name_of(index: int) -> str:
    return NAMES.get(index, f"#{index}")


def index_of(route: Route) -> int | None:
    return INDEXES[route.device] if route.device is not None else None


def indexes_of(route: Route) -> list[int]:
    return [INDEXES[str(hop.device)] for hop in route.target.hops]


THREE_TIMES = NextHop(IPv4Address("172.26.0.2"), "tunl0", weight=3)
ONLINK = NextHop(IPv4Address("172.27.0.2"), "cali1", onlink=True)
CROSSED = NextHop(IPv6Address("fe80::1"), "cali1")


GOLDEN = {
    Route(
        RouteKey(IPv4Network("192.168.31.64/26")),
        gateway=IPv4Address("172.26.5.10"),
        device="tunl0",
        onlink=True,
    ): (
        "34000000 1800 0105 00000000 00000000 02 1a 00 00 fe 0c 00 01 04000000"
        "0800 0100 c0a81f40 0800 0500 ac1a050a 0800 0400 07000000"
    ),
    Route(RouteKey(IPv4Network("192.168.41.192/26")), RouteType.BLACKHOLE): (
        "24000000 1800 0105 00000000 00000000 02 1a 00 00 fe 0c 00 06 00000000 0800 0100 c0a829c0"
    ),
    Route(RouteKey(IPv4Network("192.168.41.137/32")), device="cali1", protocol=3, scope=Scope.LINK): (
        "2c000000 1800 0105 00000000 00000000 02 20 00 00 fe 03 fd 01 00000000 0800 0100 c0a82989 0800 0400 09000000"
    ),
    Route(
        RouteKey(IPv4Network("10.0.0.0/8"), metric=512),
        gateway=IPv4Address("10.9.9.9"),
        device="eth0",
        protocol=80,
    ): (
        "3c000000 1800 0105 00000000 00000000 02 08 00 00 fe 50 00 01 00000000"
        "0800 0100 0a000000 0800 0600 00020000 0800 0500 0a090909 0800 0400 03000000"
    ),
    Route(
        RouteKey(IPv6Network("fd10:1::40/122")),
        gateway=IPv6Address("fd10:1::40"),
        device="tunl0",
        protocol=3,
        onlink=True,
    ): (
        "54000000 1800 0105 00000000 00000000 0a 7a 00 00 fe 03 00 01 04000000"
        "1400 0100 fd100001000000000000000000000040 0800 0600 00040000"
        "1400 0500 fd100001000000000000000000000040 0800 0400 07000000"
    ),
    Route(RouteKey(IPv4Network("10.1.0.0/26")), gateway=IPv6Address("fe80::1"), device="tunl0"): (
        "44000000 1800 0105 00000000 00000000 02 1a 00 00 fe 0c 00 01 00000000"
        "0800 0100 0a010000 1600 1200 0a00 fe800000000000000000000000000001 0000 0800 0400 07000000"
    ),
    Route(RouteKey(IPv4Network("10.1.0.0/26")), hops=(THREE_TIMES, ONLINK, CROSSED)): (
        "68000000 1800 0105 00000000 00000000 02 1a 00 00 fe 0c 00 01 00000000 0800 0100 0a010000"
        "4400 0900 1000 00 02 07000000 0800 0500 ac1a0002 1000 04 00 09000000 0800 0500 ac1b0002"
        "2000 00 00 09000000 1600 1200 0a00 fe800000000000000000000000000001 0000"
    ),
    Route(RouteKey(IPv6Network("fd10:1::/122")), hops=(CROSSED, replace(CROSSED, device="tunl0"))): (
        "74000000 1800 0105 00000000 00000000 0a 7a 00 00 fe 0c 00 01 00000000"
        "1400 0100 fd100001000000000000000000000000 0800 0600 00040000"
        "3c00 0900 1c00 00 00 09000000 1400 0500 fe800000000000000000000000000001"
        "1c00 00 00 07000000 1400 0500 fe800000000000000000000000000001"
    ),
    Route(
        RouteKey(IPv4Network("10.1.0.0/26")),
        gateway=IPv4Address("172.26.0.2"),
        device="eth0",
        source=IPv4Address("10.255.0.1"),
    ): (
        "3c000000 1800 0105 00000000 00000000 02 1a 00 00 fe 0c 00 01 00000000 0800 0100 0a010000"
        "0800 0500 ac1a0002 0800 0400 03000000 0800 0700 0aff0001"
    ),
    Route(RouteKey(IPv6Network("fd10:1::/122")), RouteType.BLACKHOLE): (
        "38000000 1800 0105 00000000 00000000 0a 7a 00 00 fe 0c 00 06 00000000"
        "1400 0100 fd100001000000000000000000000000 0800 0600 00040000"
    ),
}


@pytest.mark.parametrize(("route", "golden"), GOLDEN.items(), ids=str)
def test_a_route_is_these_bytes_and_these_bytes_are_the_route(route: Route, golden: str) -> None:
    data = rtroutes.route_request(route, index_of(route), interfaces=indexes_of(route))
    assert data == bytes.fromhex(golden)
    (found,) = messages(data)
    assert found.type == rtnetlink.RTM_NEWROUTE
    assert rtroutes.decode_route(data, found.start, found.end, name_of) == route


def test_without_replacing_the_kernel_is_told_to_refuse_what_exists() -> None:
    route = next(iter(GOLDEN))
    flags = HEADER.unpack_from(rtroutes.route_request(route, 7, replace=False))[2]
    assert flags & rtnetlink.NLM_F_EXCL
    assert not flags & rtnetlink.NLM_F_REPLACE


def test_a_deletion_names_protocol_and_type_and_no_next_hop() -> None:
    data = rtroutes.route_deletion(next(iter(GOLDEN)))
    assert data == bytes.fromhex(
        "24000000 1900 0100 00000000 00000000 02 1a 00 00 fe 0c ff 01 00000000 0800 0100 c0a81f40"
    )


def test_a_route_is_decoded_once_and_again_when_its_device_got_another_name() -> None:
    names = {7: "tunl0"}
    decoder = RouteDecoder(lambda index: names.get(index, f"#{index}"))
    data = rtroutes.route_request(next(iter(GOLDEN)), 7)

    def dumped() -> Route | None:
        decoder.begin()
        found = decoder.decode(data, HEADER.size, len(data))
        decoder.end()
        return found

    first = dumped()
    assert first == next(iter(GOLDEN))
    assert dumped() is first
    names[7] = "renamed"
    assert dumped() == next(iter(GOLDEN)).with_(device="renamed")
    names[9] = "new"
    again = dumped()
    assert dumped() is again


def with_attribute(kind: int, value: bytes) -> bytes:
    plain = rtroutes.route_request(next(iter(GOLDEN)), 7)
    return rtnetlink.request(rtnetlink.RTM_NEWROUTE, plain[HEADER.size :] + rtnetlink.attribute(kind, value))


@pytest.mark.parametrize("kind", [8, 22], ids=["metrics", "encapsulation"])
def test_a_route_with_what_we_never_set_is_odd_and_equals_no_desired(kind: int) -> None:
    data = with_attribute(kind, b"\0" * 4)
    decoded = rtroutes.decode_route(data, HEADER.size, len(data), name_of)
    assert decoded is not None
    assert decoded.target.odd
    assert decoded.with_(odd=False) == next(iter(GOLDEN))


def several(*hops: str) -> Route:
    """A route as the kernel tells it, its next hops in hexadecimal."""
    data = rtroutes.route_request(Route(RouteKey(IPv4Network("10.1.0.0/26"))), None)
    where = rtnetlink.attribute(rtroutes.RTA_MULTIPATH, bytes.fromhex("".join(hops)))
    data = rtnetlink.request(rtnetlink.RTM_NEWROUTE, data[HEADER.size :] + where)
    found = rtroutes.decode_route(data, HEADER.size, len(data), name_of)
    assert found is not None
    return found


NEAR, FAR = "1000 00 02 07000000 0800 0500 ac1a0002", "1000 04 00 09000000 0800 0500 ac1b0002"


def test_several_next_hops_are_sorted_and_one_is_a_plain_route() -> None:
    assert several(FAR, NEAR).target.hops == (THREE_TIMES, ONLINK)
    assert several(NEAR) == Route(several(NEAR).key, gateway=THREE_TIMES.gateway, device="tunl0")


def test_a_next_hop_whose_interface_is_down_is_none() -> None:
    dead = FAR.replace("1000 04", "1000 15")
    assert several(NEAR, dead) == several(NEAR)
    assert several(dead).target.next_hops() == ()


def test_next_hops_with_what_we_never_set_are_odd_and_those_cut_off_are_malformed() -> None:
    classified = "1000 00 00 07000000 0800 0b00 05000000"
    assert several(NEAR, classified).target.odd
    assert not several(NEAR, FAR).target.odd
    for wrong in ("1100 00 00 07000000 0800 0500 ac1a0002", "0700 00 00 07000000"):
        with pytest.raises(BadMessage, match="next hop of"):
            several(NEAR, wrong)


def test_several_next_hops_are_shown_as_ip_route_takes_them() -> None:
    route = Route(RouteKey(IPv4Network("10.1.0.0/26")), hops=(THREE_TIMES, ONLINK, CROSSED))
    assert str(route) == (
        "10.1.0.0/26 proto bird nexthop via 172.26.0.2 dev tunl0 weight 3 "
        "nexthop via 172.27.0.2 dev cali1 weight 1 onlink nexthop via inet6 fe80::1 dev cali1 weight 1"
    )
    crossed = Route(route.key, gateway=CROSSED.gateway, device="cali1")
    assert str(crossed) == "10.1.0.0/26 via inet6 fe80::1 dev cali1 proto bird"


def test_a_nexthop_object_is_only_another_way_to_say_the_same() -> None:
    data = with_attribute(rtroutes.RTA_NH_ID, b"\5\0\0\0")
    assert rtroutes.decode_route(data, HEADER.size, len(data), name_of) == next(iter(GOLDEN))


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 7), (3, 8), (4, 255), (9, 2)], ids=["bridge", "TOS", "local table", "cached"]
)
def test_other_families_tables_and_caches_are_left_out(offset: int, value: int) -> None:
    data = bytearray(rtroutes.route_request(next(iter(GOLDEN)), 7))
    data[HEADER.size + offset] = value
    assert rtroutes.decode_route(bytes(data), HEADER.size, len(data), name_of) is None


def test_a_device_that_has_gone_is_named_by_its_number() -> None:
    data = rtroutes.route_request(next(iter(GOLDEN)), 77)
    decoded = rtroutes.decode_route(data, HEADER.size, len(data), name_of)
    assert decoded is not None
    assert decoded.device == "#77"


def test_the_kernels_own_words_are_found_behind_a_capped_request() -> None:
    words = rtnetlink.attribute(1, b"Nexthop has invalid gateway\0")
    body = (-101).to_bytes(4, "little", signed=True) + b"\0" * 16 + words
    data = rtnetlink.request(rtnetlink.NLMSG_ERROR, body, 0x300)
    assert rtnetlink.error_of(data, next(messages(data))) == (101, "Nexthop has invalid gateway")
    whole = body[:4] + (40).to_bytes(4, "little") + b"\0" * 36 + words
    data = rtnetlink.request(rtnetlink.NLMSG_ERROR, whole, 0x200)
    assert rtnetlink.error_of(data, next(messages(data))) == (101, "Nexthop has invalid gateway")


networks = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
routes = st.builds(
    lambda key, **target: Route(key, **target),
    st.builds(lambda prefix, metric: RouteKey(prefix, metric=metric), networks, st.integers(0, 2**32 - 1)),
    type=st.sampled_from(RouteType),
    gateway=st.none() | addresses,
    device=st.none() | st.sampled_from(sorted(INDEXES)),
    protocol=st.integers(0, 255),
    scope=st.sampled_from(Scope),
    onlink=st.booleans(),
)
next_hops = st.builds(
    NextHop,
    gateway=st.none() | addresses | st.integers(0, 2**128 - 1).map(IPv6Address),
    device=st.sampled_from(sorted(INDEXES)),
    onlink=st.booleans(),
    weight=st.integers(1, 256),
)
through_several = st.builds(
    lambda route, hops: Route.from_target(route.key, route.target.through(tuple(sorted(hops)))),
    routes,
    st.lists(next_hops, min_size=1, max_size=5),
)


@given(routes | through_several)
@settings(derandomize=True, max_examples=200)
def test_every_route_survives_the_wire(route: Route) -> None:
    data = rtroutes.route_request(route, index_of(route), interfaces=indexes_of(route))
    assert rtroutes.decode_route(data, HEADER.size, len(data), name_of) == route


def decoded_twice(data: bytes) -> None:
    """Whole, and by its shape."""
    decoder = RouteDecoder(name_of)
    for _ in range(2):
        decoder.decode(data, 0, len(data))


def as_dumped(route: Route) -> bytes:
    """The body as the kernel has it in a dump, the table first."""
    data = rtroutes.route_request(route, index_of(route), interfaces=indexes_of(route))[HEADER.size :]
    return data[:12] + rtnetlink.attribute(rtroutes.RTA_TABLE, (254).to_bytes(4, "little")) + data[12:]


@given(st.lists(routes | through_several, min_size=1, max_size=4), st.lists(networks, min_size=1, max_size=8))
@settings(derandomize=True, max_examples=100)
def test_a_dump_is_read_as_each_of_its_routes_and_equal_targets_are_one_object(
    some: list[Route], prefixes: list[IPv4Network]
) -> None:
    decoder = RouteDecoder(name_of)
    decoder.begin()
    found: list[Route] = []
    for route in some:
        for prefix in prefixes:
            body = as_dumped(Route.from_target(RouteKey(prefix, metric=route.key.metric), route.target))
            alone = rtroutes.decode_route(body, 0, len(body), name_of)
            decoded = decoder.decode(body, 0, len(body))
            assert decoded == alone
            found += [decoded] if decoded is not None else []
    by_shape: dict[tuple[object, ...], set[int]] = {}
    for route in found:
        shape = route.target, route.key.length, route.key.metric
        by_shape.setdefault(shape, set()).add(id(route.target))
    assert all(len(objects) == 1 for objects in by_shape.values())


@given(st.binary(max_size=120))
@settings(derandomize=True, max_examples=300)
def test_garbage_is_malformed_and_nothing_else(data: bytes) -> None:
    for decode in (
        lambda: list(messages(data)),
        lambda: rtroutes.decode_route(data, 0, len(data), name_of),
        lambda: decoded_twice(data),
        lambda: rtlinks.decode_link(data, 0, len(data)),
        lambda: rtlinks.decode_address(data, 0, len(data)),
        lambda: rtlinks.decode_neighbour(data, 0, len(data)),
    ):
        try:
            decode()
        except BadMessage:
            continue


@given(routes | through_several, st.integers(0, 200), st.integers(0, 255))
@settings(derandomize=True, max_examples=300)
def test_a_route_with_one_wrong_byte_is_a_route_or_malformed(route: Route, offset: int, value: int) -> None:
    data = bytearray(rtroutes.route_request(route, index_of(route), interfaces=indexes_of(route)))
    data[offset % len(data)] = value
    try:
        for found in messages(bytes(data)):
            rtroutes.decode_route(bytes(data), found.start, found.end, name_of)
    except BadMessage:
        pass


NEIGHBOUR = Neighbour("vxlan.calico", IPv4Address("10.1.1.0"), "66:2d:bf:44:a6:8b")
FDB = FdbEntry("vxlan.calico", "66:2d:bf:44:a6:8b", IPv4Address("172.26.0.2"))


def test_neighbours_and_forwarding_entries_are_these_bytes() -> None:
    pair = "0a00 0200 662dbf44a68b 0000"
    assert rtlinks.entry_request(NEIGHBOUR, 5) == bytes.fromhex(
        f"30000000 1c00 0105 00000000 00000000 02 000000 05000000 8000 00 00 0800 0100 0a010100 {pair}"
    )
    assert rtlinks.entry_request(FDB, 5) == bytes.fromhex(
        f"30000000 1c00 0105 00000000 00000000 07 000000 05000000 8000 02 00 0800 0100 ac1a0002 {pair}"
    )
    assert rtlinks.entry_deletion(NEIGHBOUR, 5)[:8] == bytes.fromhex("24000000 1d00 0100")
    assert rtlinks.entry_deletion(FDB, 5)[:8] == bytes.fromhex("28000000 1d00 0100")


def test_a_neighbour_is_read_back() -> None:
    data = rtlinks.entry_request(NEIGHBOUR, 5)
    row = rtlinks.decode_neighbour(data, HEADER.size, len(data))
    assert row == rtlinks.NeighbourRow(2, 5, 0x80, NEIGHBOUR.mac, NEIGHBOUR.address)


@pytest.mark.parametrize("text", ["66:2d", "66:2d:bf:44:a6:8b:00", "zz:2d:bf:44:a6:8b", ""])
def test_what_is_no_mac_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        rtlinks.mac_bytes(text)


@given(
    st.integers(0, 32),
    st.sampled_from([None, IPv4Address("172.26.0.2"), IPv4Address("172.26.0.3")]),
    st.sampled_from([None, 3]),
    st.sampled_from(RouteType),
    st.booleans(),
    st.sampled_from([None, 7]),
    st.booleans(),
)
def test_routes_that_share_a_shape_are_encoded_as_alone(
    length: int,
    gateway: IPv4Address | None,
    interface: int | None,
    kind: RouteType,
    onlink: bool,
    nexthop: int | None,
    instead: bool,
) -> None:
    def alone(route: Route) -> bytes:
        return route_request(route, interface, replace=instead, nexthop=nexthop)

    way = RouteTarget(kind, gateway, onlink=onlink)
    routes = [
        Route.from_target(
            RouteKey(IPv4Network((IPv4Address(address), length), strict=False), metric=metric), way
        )
        for address in ("10.1.2.3", "192.168.255.254", "0.0.0.1")
        for metric in (0, 9)
    ]
    assert list(encoded(routes, alone)) == list(map(alone, routes))
    assert list(encoded(routes, route_deletion)) == list(map(route_deletion, routes))


TARGETS = [
    RouteTarget(RouteType.UNICAST, IPv4Address("10.0.0.1"), "eth0"),
    RouteTarget(RouteType.UNICAST, IPv4Address("10.0.0.2"), "eth0"),
    RouteTarget(RouteType.BLACKHOLE),
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(TARGETS),
            st.integers(0, 2**32 - 1),
            st.integers(0, 32),
            st.sampled_from((0, 0, 9)),
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_routes_of_any_lengths_and_targets_are_encoded_as_alone(
    some: list[tuple[RouteTarget, int, int, int]], with_ipv6: bool
) -> None:
    routes = [
        Route.from_target(
            RouteKey(IPv4Network((IPv4Address(octets), length), strict=False), metric=metric), target
        )
        for target, octets, length, metric in some
    ]
    if with_ipv6:
        routes.append(Route(RouteKey(IPv6Network("fd00:7::/48")), RouteType.BLACKHOLE))
    marks = {None: 7, "eth0": 3}

    def alone(route: Route) -> bytes:
        return route_request(route, marks[route.device])

    assert list(encoded(routes, alone)) == list(map(alone, routes))
    by_type = encoded(routes, route_deletion, like=lambda target: (target.protocol, target.type))
    assert list(by_type) == list(map(route_deletion, routes))


def test_requests_of_one_size_are_cut_in_a_row() -> None:
    some = EqualRequests(bytearray(b"aaaabbbbcccc"), 4)
    assert (len(some), list(some), some[-1]) == (3, [b"aaaa", b"bbbb", b"cccc"], b"cccc")
    assert list(some[1:9]) == [b"bbbb", b"cccc"]
    with pytest.raises(ValueError, match="in a row"):
        some[::2]
    with pytest.raises(IndexError):
        some[3]
