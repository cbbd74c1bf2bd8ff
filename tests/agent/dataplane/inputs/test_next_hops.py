"""How a next hop is reached by the kernel's routes: a table of cases, and properties against a plain oracle."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.cooperative import run_now
from agent.dataplane.inputs import foreign_routes, next_hops
from agent.dataplane.inputs.foreign_routes import ForeignRoutes
from agent.dataplane.inputs.next_hops import NextHopResolver, Resolution, Resolutions, resolve
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Address, Link, NextHop, Prefix, Route, RouteKey, RouteType


def link(index: int, name: str, *addresses: str, up: bool = True, carrier: bool = True) -> Link:
    given = tuple((ip_address(one.split("/")[0]), int(one.split("/")[1])) for one in addresses)
    return Link(index, name, "veth", 1500, up, addresses=given, carrier=carrier)


LINKS = {
    one.name: one
    for one in (
        link(2, "eth0", "172.26.0.11/20", "fd26::b/64"),
        link(3, "eth1", "172.27.0.11/20", "fd27::b/64"),
        link(4, "down0", "172.28.0.11/20", up=False),
        link(5, "dark0", "172.29.0.11/20", carrier=False),
    )
}


def route(line: str, **more: object) -> Route:
    """`10.0.0.0/8 via 172.26.0.1 dev eth0 metric 100 proto 4`, `blackhole 10.9.0.0/16`."""
    words = line.split()
    kind = RouteType[words.pop(0).upper()] if words[0].isalpha() else RouteType.UNICAST
    fields = dict(zip(words[1::2], words[2::2], strict=True))
    return Route(
        RouteKey(ip_network(words[0]), metric=int(fields.get("metric", 0))),
        type=kind,
        gateway=ip_address(fields["via"]) if "via" in fields else None,
        device=fields.get("dev"),
        protocol=int(fields.get("proto", 4)),
        **more,  # type: ignore[arg-type]
    )


def several(prefix: str, *hops: NextHop) -> Route:
    return Route(RouteKey(ip_network(prefix)), protocol=4, hops=tuple(sorted(hops)))


def hop(gateway: str, device: str, weight: int = 1, *, onlink: bool = False) -> NextHop:
    return NextHop(ip_address(gateway), device, onlink, weight)


CONNECTED = (
    route("172.26.0.0/20 dev eth0 proto 2"),
    route("172.27.0.0/20 dev eth1 proto 2"),
    route("172.29.0.0/20 dev dark0 proto 2"),
    route("fd26::/64 dev eth0 proto 2 metric 256"),
    route("fd27::/64 dev eth1 proto 2 metric 256"),
)
DEFAULT = route("0.0.0.0/0 via 172.26.0.1 dev eth0 metric 100 proto 16")
RA = route("::/0 via fe80::1 dev eth1 proto 9")


def resolution_of(address: str, *routes: Route) -> Resolution:
    return resolve(ip_address(address), ForeignRoutes.of([*CONNECTED, *routes]), LINKS)


@pytest.mark.parametrize(
    ("address", "routes", "hops"),
    [
        pytest.param("172.26.0.12", (), (hop("172.26.0.12", "eth0"),), id="on a link"),
        pytest.param("fd26::c", (), (hop("fd26::c", "eth0"),), id="on a link, IPv6"),
        pytest.param("10.9.9.9", (DEFAULT,), (hop("172.26.0.1", "eth0"),), id="the default route, by DHCP"),
        pytest.param("2001:db8::9", (RA,), (hop("fe80::1", "eth1"),), id="a router advertisement's"),
        pytest.param(
            "10.9.9.9",
            (DEFAULT, route("10.9.0.0/16 via 172.27.0.1 dev eth1")),
            (hop("172.27.0.1", "eth1"),),
            id="a static route is longer",
        ),
        pytest.param(
            "10.9.9.9",
            (DEFAULT, route("0.0.0.0/0 via 172.27.0.1 dev eth1 metric 50")),
            (hop("172.27.0.1", "eth1"),),
            id="the lower metric",
        ),
        pytest.param(
            "fd99::9",
            (route("fd99::/64 via fd26::1 dev eth0"), route("fd99::/64 via fd27::1 dev eth1 metric 512")),
            (hop("fd27::1", "eth1"),),
            id="no metric is 1024 of IPv6",
        ),
        pytest.param(
            "10.9.9.9",
            (route("10.9.9.9/32 dev eth1"), route("10.9.0.0/16 via 172.26.0.1 dev eth0")),
            (hop("10.9.9.9", "eth1"),),
            id="a host's link route",
        ),
        pytest.param(
            "172.26.0.12",
            (route("172.26.0.12/32 via 172.27.0.1 dev eth1"),),
            (hop("172.27.0.1", "eth1"),),
            id="a host's route above the subnet",
        ),
        pytest.param(
            "10.9.9.9",
            (route("10.9.0.0/16 via 10.1.1.1 dev eth0", onlink=True),),
            (hop("10.1.1.1", "eth0", onlink=True),),
            id="a gateway that is said to be on the link",
        ),
        pytest.param(
            "10.9.9.9",
            (several("10.9.0.0/16", hop("172.26.0.1", "eth0", 2), hop("172.27.0.1", "eth1")),),
            (hop("172.26.0.1", "eth0", 2), hop("172.27.0.1", "eth1")),
            id="several",
        ),
        pytest.param(
            "10.9.9.9",
            (several("10.9.0.0/16", NextHop(None, "eth0"), NextHop(None, "eth1")),),
            (hop("10.9.9.9", "eth0"), hop("10.9.9.9", "eth1")),
            id="several links",
        ),
        pytest.param(
            "10.9.9.9",
            (several("10.9.0.0/16", hop("172.26.0.1", "eth0", 2), hop("172.28.0.1", "down0")),),
            (hop("172.26.0.1", "eth0"),),
            id="of several one is down",
        ),
        pytest.param(
            "10.9.9.9",
            (DEFAULT, route("10.9.0.0/16 via 172.29.0.1 dev dark0")),
            (hop("172.26.0.1", "eth0"),),
            id="no carrier there",
        ),
        pytest.param(
            "10.9.9.9",
            (route("0.0.0.0/0 via fe80::1 dev eth0"),),
            (hop("fe80::1", "eth0"),),
            id="IPv4 by a gateway of IPv6",
        ),
        pytest.param("fe80::7%eth1", (), (hop("fe80::7", "eth1"),), id="link-local with its zone"),
        pytest.param(
            "10.9.9.9",
            (DEFAULT, route("10.9.9.0/24 via 172.26.0.77 dev eth0 proto 12")),
            (hop("172.26.0.1", "eth0"),),
            id="not by what BGP learned",
        ),
        pytest.param(
            "10.9.9.9",
            (DEFAULT, route("10.9.9.9/32 via 10.9.9.9 dev eth0 proto 12")),
            (hop("172.26.0.1", "eth0"),),
            id="not through itself",
        ),
    ],
)
def test_a_next_hop_is_reached_as_the_longest_route_says(
    address: str, routes: Collection[Route], hops: tuple[NextHop, ...]
) -> None:
    found = resolution_of(address, *routes)
    assert (found.hops, found.why) == (hops, "")


@pytest.mark.parametrize(
    ("address", "routes", "why"),
    [
        ("10.9.9.9", (), "no route of this host leads there"),
        ("172.26.0.11", (DEFAULT,), "it is this host's own address"),
        (
            "10.9.9.9",
            (DEFAULT, route("blackhole 10.9.0.0/16")),
            "by the route `blackhole 10.9.0.0/16 proto static` of this host packets go nowhere",
        ),
        (
            "10.9.9.9",
            (DEFAULT, route("unreachable 10.9.0.0/16 metric 5")),
            "by the route `unreachable 10.9.0.0/16 proto static metric 5` of this host packets go nowhere",
        ),
        (
            "fd99::1",
            (RA, route("prohibit fd99::/64")),
            "by the route `prohibit fd99::/64 proto static metric 1024` of this host packets go nowhere",
        ),
        (
            "172.29.0.9",
            (),
            "the route `172.29.0.0/20 dev dark0 proto kernel` of this host leads there, and dark0 is without a carrier",
        ),
        (
            "10.9.9.9",
            (route("10.9.0.0/16 via 172.30.0.1 dev gone0"),),
            "the route `10.9.0.0/16 via 172.30.0.1 dev gone0 proto static` of this host leads there, and gone0 is not "
            "there",
        ),
        ("fe80::7", (RA,), "it is link-local, and nothing says on which interface"),
        ("fe80::7%down0", (RA,), "down0 is down"),
        (
            "::ffff:10.9.0.2",
            (RA,),
            "it is an address of IPv4 in the form of IPv6, and no route of IPv6 is one to it",
        ),
    ],
)
def test_what_is_not_reached_has_a_reason(address: str, routes: Collection[Route], why: str) -> None:
    found = resolution_of(address, *routes)
    assert (found.hops, found.why) == ((), why)


# -- properties ---------------------------------------------------------------------------------------------------

GATEWAYS = [ip_address(text) for text in ("172.26.0.1", "172.26.0.2", "172.27.0.1")]
BASES = [IPv4Network((0x0A000000 + (number << 12), 20)) for number in range(3)]
PREFIXES = [IPv4Network("0.0.0.0/0"), IPv4Network("10.0.0.0/8")]
PREFIXES += [sub for base in BASES for sub in (base, *base.subnets(prefixlen_diff=2))]
PREFIXES += [IPv4Network((int(base.network_address) + 5, 32)) for base in BASES]
TARGETS = [IPv4Address(int(base.network_address) + offset) for base in BASES for offset in (1, 5, 1025, 4000)]


@st.composite
def foreign(draw: st.DrawFn) -> Route:
    key = RouteKey(draw(st.sampled_from(PREFIXES)), metric=draw(st.sampled_from([0, 50, 100])))
    kind = draw(st.sampled_from([RouteType.UNICAST] * 4 + [RouteType.BLACKHOLE, RouteType.UNREACHABLE]))
    if kind is not RouteType.UNICAST:
        return Route(key, type=kind, protocol=4)
    gateway = draw(st.sampled_from([None, *GATEWAYS]))
    device = draw(st.sampled_from(["eth0", "eth1", "down0", "dark0"]))
    return Route(key, gateway=gateway, device=device, protocol=draw(st.sampled_from([3, 4, 12, 16])))


def oracle(address: Address, table: Iterable[Route]) -> tuple[NextHop, ...]:
    """The plain rule: sort what holds the address, take the first that can be used."""
    inside: list[tuple[int, int, Route]] = []
    for one in table:
        destination: Prefix = one.key.destination
        if one.protocol != 12 and address in destination:
            inside.append((-one.key.length, one.key.metric, one))
    for _, _, one in sorted(inside, key=lambda each: each[:2]):
        if one.type is not RouteType.UNICAST:
            return ()
        if one.device in ("eth0", "eth1"):
            return (NextHop(one.gateway or address, one.device),)
    return ()


@settings(max_examples=60)
@given(st.lists(foreign(), max_size=12))
def test_the_way_is_the_oracles(routes: list[Route]) -> None:
    table = {one.key: one for one in routes}
    held = ForeignRoutes.of(table.values())
    for target in TARGETS:
        assert resolve(target, held, LINKS).hops == oracle(target, table.values())


def test_a_route_of_ours_in_the_place_of_anothers_has_replaced_it() -> None:
    key = RouteKey(ip_network("10.9.0.0/16"))
    other = Route(key, gateway=ip_address("10.0.0.254"), device="eth0", protocol=4)
    resolver, target = NextHopResolver(Ownership()), ip_address("10.9.1.1")
    resolver.set_links(LINKS)
    run_now(resolver.adopt({key: other}))
    resolver.track([target])
    assert resolver.resolutions.of(target).by == other
    resolver.change(other.with_(protocol=12), gone=False, appended=False)
    assert resolver.resolutions.of(target).by != other


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[Route, bool]]:
    return draw(st.lists(st.tuples(foreign(), st.booleans()), max_size=20))


@settings(max_examples=60)
@given(st.lists(foreign(), max_size=8), steps(), st.integers(0, 20))
def test_after_any_changes_and_a_reading_in_between_the_ways_are_those_of_the_table(
    start: list[Route], changes: list[tuple[Route, bool]], reading: int
) -> None:
    resolver, table = NextHopResolver(Ownership()), {one.key: one for one in start}
    resolver.set_links(LINKS)
    run_now(resolver.adopt(dict(table)))
    resolver.track(TARGETS)
    seen: list[Resolutions] = []
    resolver.changed = lambda: seen.append(resolver.resolutions)
    read: dict[RouteKey, Route] | None = None
    for number, (one, gone) in enumerate(changes):
        if number == reading:
            resolver.begin_reading()
            read = dict(table)
        before = {target: resolver.resolutions.of(target) for target in TARGETS}
        if gone and (known := table.pop(one.key, None)) is not None:
            resolver.change(known, gone=True, appended=False)
        elif not gone:
            table[one.key] = one
            resolver.change(one, gone=False, appended=False)
        differs = before != {target: resolver.resolutions.of(target) for target in TARGETS}
        assert differs <= bool(seen)
        seen.clear()
    if read is not None:
        run_now(resolver.adopt(read))  # older than what came meanwhile
    for target in TARGETS:
        way = resolver.resolutions.of(target)
        expected = oracle(target, table.values())
        assert way.hops == expected or (not expected and way.why), target


# -- what is remembered ---------------------------------------------------------------------------------------------


def read(resolver: NextHopResolver, *routes: Route) -> None:
    run_now(resolver.adopt({one.key: one for one in (*CONNECTED, *routes)}))


def resolver_of(*routes: Route) -> NextHopResolver:
    made = NextHopResolver(Ownership())
    made.set_links(LINKS)
    read(made, *routes)
    return made


def test_the_ways_are_the_same_object_until_one_of_them_is_another() -> None:
    resolver = resolver_of(DEFAULT)
    far, before = ip_address("10.9.9.9"), resolver.resolutions
    before.of(far)
    resolver.change(route("10.8.0.0/16 via 172.27.0.1 dev eth1"), gone=False, appended=False)
    read(resolver, DEFAULT)
    assert resolver.resolutions is before
    assert resolver.change(route("10.9.0.0/16 via 172.27.0.1 dev eth1"), gone=False, appended=False) == (
        False,
        True,
    )
    assert resolver.resolutions is not before
    assert before.of(far).hops == (hop("172.26.0.1", "eth0"),)
    assert resolver.resolutions.of(far).hops == (hop("172.27.0.1", "eth1"),)


FIRST, SECOND, THIRD = (hop(f"172.26.0.{last}", "eth0") for last in (1, 2, 3))


def by(prefix: str, gateway: NextHop) -> Route:
    return Route(RouteKey(ip_network(prefix)), gateway=gateway.gateway, device=gateway.device, protocol=4)


def put(resolver: NextHopResolver, *routes: Route) -> None:
    for one in routes:
        resolver.change(one, gone=False, appended=False)


def test_what_all_next_hops_leave_together_for_one_way_is_a_move() -> None:
    far, farther = ip_address("10.1.0.9"), ip_address("10.2.0.9")
    resolver = resolver_of(by("10.1.0.0/16", FIRST), by("10.2.0.0/16", FIRST))
    resolver.track([far, farther])
    assert resolver.take_moves() == ()
    put(resolver, by("10.1.0.0/16", SECOND))
    assert resolver.take_moves() == ()  # one stays
    put(resolver, by("10.2.0.0/16", SECOND))
    assert resolver.take_moves() == (((FIRST,), (SECOND,)),)
    assert resolver.take_moves() == ()
    put(resolver, by("10.1.0.0/16", FIRST), by("10.2.0.0/16", THIRD))
    assert resolver.take_moves() == ()  # they go apart


def test_where_one_way_follows_on_another_nothing_is_a_move() -> None:
    far, farther = ip_address("10.1.0.9"), ip_address("10.2.0.9")
    resolver = resolver_of(by("10.1.0.0/16", FIRST), by("10.2.0.0/16", SECOND))
    resolver.track([far, farther])
    resolver.take_moves()
    put(resolver, by("10.1.0.0/16", SECOND), by("10.2.0.0/16", THIRD))
    assert resolver.take_moves() == ()


def test_a_way_that_is_lost_is_no_move() -> None:
    resolver = resolver_of(by("10.1.0.0/16", FIRST))
    resolver.track([ip_address("10.1.0.9")])
    resolver.take_moves()
    resolver.set_links({**LINKS, "eth0": link(2, "eth0", "172.26.0.11/20", up=False)})
    assert resolver.take_moves() == ()


def test_what_resolves_no_more_keeps_its_way_with_the_reason_as_long_as_the_interface_is_up() -> None:
    resolver, far = resolver_of(DEFAULT), ip_address("10.9.9.9")
    resolver.resolutions.of(far)
    resolver.change(DEFAULT, gone=True, appended=False)
    assert resolver.resolutions.of(far) == Resolution(
        (hop("172.26.0.1", "eth0"),), "no route of this host leads there"
    )
    resolver.set_links({**LINKS, "eth0": link(2, "eth0", "172.26.0.11/20", carrier=False)})
    assert resolver.resolutions.of(far).hops == (hop("172.26.0.1", "eth0"),)
    resolver.set_links({**LINKS, "eth0": link(2, "eth0", "172.26.0.11/20", up=False)})
    assert resolver.resolutions.of(far) == Resolution((), "no route of this host leads there")
    resolver.set_links(LINKS)
    resolver.change(DEFAULT, gone=False, appended=False)
    assert resolver.resolutions.of(far) == Resolution((hop("172.26.0.1", "eth0"),))


def test_a_change_that_leaves_open_what_there_is_asks_for_a_reading() -> None:
    resolver, far = resolver_of(DEFAULT), ip_address("10.9.9.9")
    resolver.resolutions.of(far)
    second = DEFAULT.with_(gateway=ip_address("172.26.0.2"))
    assert resolver.change(second, gone=False, appended=True) == (False, False)
    assert resolver.resolutions.of(far).hops == (hop("172.26.0.1", "eth0"),)  # the first stays in force
    assert resolver.change(DEFAULT, gone=True, appended=False) == (True, False)


def test_before_the_first_reading_the_subnets_of_links_are_known() -> None:
    resolver = NextHopResolver(Ownership())
    resolver.set_links(LINKS)
    assert resolver.resolutions.of(ip_address("172.26.0.12")).hops == (hop("172.26.0.12", "eth0"),)
    assert resolver.change(DEFAULT, gone=False, appended=False) == (False, False)


def test_of_a_table_of_the_internet_only_what_is_around_known_addresses_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(foreign_routes, "MOST_ROUTES", 50)
    far, later = ip_address("10.0.3.9"), ip_address("10.0.4.9")
    many = [route(f"10.0.{number}.0/24 via 172.27.0.1 dev eth1") for number in range(200)]
    resolver = NextHopResolver(Ownership())
    resolver.set_links(LINKS)
    resolver.resolutions.of(far)
    read(resolver, DEFAULT, *many)
    assert len(resolver._routes) == 2  # 10.0.3.0/24 and the default route
    assert resolver.resolutions.of(far).hops == (hop("172.27.0.1", "eth1"),)
    assert resolver.change(many[7], gone=True, appended=False) == (False, False)
    assert len(resolver._routes) == 2
    assert not resolver.track([far])
    assert resolver.track([far, later])  # what is around it must be read
    read(resolver, DEFAULT, *many)
    assert resolver.resolutions.of(later).hops == (hop("172.27.0.1", "eth1"),)


def test_addresses_beyond_the_bound_are_resolved_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_hops, "MOST_NEXT_HOPS", 3)
    resolver = resolver_of(DEFAULT)
    for number in range(10):
        assert resolver.resolutions.of(IPv4Address((10 << 24) + number)).hops
    assert len(resolver.resolutions.known) == 3
    assert len(resolver._good) == 3


def test_what_is_tracked_no_more_is_forgotten() -> None:
    resolver = resolver_of(DEFAULT)
    many = [IPv4Address((10 << 24) + number) for number in range(200)]
    resolver.track(many)
    resolver.track(many[:3])
    assert set(resolver.resolutions.known) == set(many[:3])


def test_more_changes_during_a_reading_than_are_kept_ask_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_routes, "MOST_WAITING", 5)
    held = ForeignRoutes(Ownership())
    held.begin_reading()
    for number in range(9):
        held.change(route(f"10.{number}.0.0/16 via 172.26.0.1 dev eth0"))
    assert not run_now(held.adopt({}))
    held.begin_reading()
    assert run_now(held.adopt({}))


def test_a_link_local_address_has_the_kernels_form_in_a_route() -> None:
    (only,) = resolution_of("fe80::7%eth1").hops
    assert only.gateway == IPv6Address("fe80::7")
