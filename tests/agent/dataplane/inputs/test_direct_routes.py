"""Next hops that resolve through what BGP learned itself: one level, without a circle, whatever is best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.cooperative import run_now
from agent.dataplane.inputs import next_hops
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import Address, Link, NextHop, Route, RouteKey
from bgp.rib.multipath import NextHops, NextHopSet, single_hops

LINKS = {
    f"eth{number}": Link(
        number, f"eth{number}", "veth", 1500, up=True, addresses=((ip_address(f"10.1.{number}.1"), 24),)
    )
    for number in (1, 2, 3)
}
CONNECTED = tuple(
    Route(RouteKey(ip_network(f"10.1.{number}.0/24")), device=f"eth{number}", protocol=2)
    for number in (1, 2, 3)
)
DEFAULT = Route(
    RouteKey(ip_network("0.0.0.0/0")), gateway=ip_address("10.1.3.254"), device="eth3", protocol=16
)
NODE = ip_address("10.255.0.12")
TOR1, TOR2 = ip_address("10.1.1.2"), ip_address("10.1.2.2")
Table = dict[RouteKey, tuple[NextHops, ...]]
"""Key -> what its paths have as next hops, the best first."""


def key(text: str) -> RouteKey:
    return RouteKey(ip_network(text))


def hop(gateway: Address, device: str, weight: int = 1) -> NextHop:
    return NextHop(gateway, device, weight=weight)


class World:
    """A resolver of a host, and what BGP has learned."""

    def __init__(self, *routes: Route, table: Mapping[RouteKey, tuple[NextHops, ...]] | None = None) -> None:
        self.table: Table = dict(table or {})
        self.resolver = NextHopResolver(Ownership())
        self.resolver.set_links(LINKS)
        self.read(*routes)
        self.resolver.set_learned(self.hops_among)

    def read(self, *routes: Route) -> None:
        run_now(self.resolver.adopt({one.key: one for one in (*CONNECTED, *routes)}))

    def hops_among(self, of: RouteKey, passes: Callable[[Address], bool]) -> NextHops | None:
        paths = self.table.get(of, ())
        return next((one for one in paths if all(map(passes, single_hops(one)))), None)

    def learn(self, prefix: str, *paths: NextHops) -> bool:
        self.table[key(prefix)] = paths
        return self.resolver.learned_changed({key(prefix): None})

    def hops(self, address: Address) -> tuple[NextHop, ...]:
        return self.resolver.resolutions.of(address).hops


def test_a_node_is_reached_by_the_route_that_a_switch_announces_and_follows_it() -> None:
    world = World()
    assert world.resolver.resolutions.of(NODE).why == "no route of this host leads there"
    assert world.learn("10.255.0.12/32", TOR1)
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)
    assert world.learn("10.255.0.12/32", TOR2)
    assert world.hops(NODE) == (hop(TOR2, "eth2"),)
    assert not world.learn("10.255.0.13/32", TOR1)
    assert world.learn("10.255.0.12/32")
    assert world.resolver.resolutions.of(NODE).why == "no route of this host leads there"


def test_several_switches_share_what_goes_there_by_their_weights() -> None:
    world = World()
    world.hops(NODE)
    world.learn("10.255.0.0/16", NextHopSet.of({TOR1: 3, TOR2: 1}))
    assert world.hops(NODE) == (hop(TOR1, "eth1", 3), hop(TOR2, "eth2"))


@pytest.mark.parametrize(
    ("learned", "foreign", "device"),
    [
        pytest.param("10.255.0.12/32", "10.255.0.0/16", "eth1", id="the longer one is learned"),
        pytest.param("10.255.0.0/16", "10.255.0.12/32", "eth3", id="the longer one is the host's"),
        pytest.param("10.255.0.0/16", "10.255.0.0/16", "eth3", id="of one prefix the host's"),
        pytest.param("0.0.0.0/0", "10.254.0.0/16", "eth1", id="a learned default"),
    ],
)
def test_of_learned_and_other_routes_the_longest_decides(learned: str, foreign: str, device: str) -> None:
    world = World(
        Route(key(foreign), gateway=ip_address("10.1.3.254"), device="eth3", protocol=4),
        table={key(learned): (TOR1,)},
    )
    assert [one.device for one in world.hops(NODE)] == [device]


def test_what_is_on_a_link_is_reached_there_whatever_anybody_announces() -> None:
    world = World(table={key("10.1.1.2/32"): (TOR2,), key("10.1.2.0/25"): (TOR1,)})
    assert world.hops(TOR1) == (hop(TOR1, "eth1"),)
    assert world.hops(TOR2) == (hop(TOR2, "eth2"),)


def test_a_route_resolves_nothing_through_itself_and_nothing_through_one_that_needs_resolving() -> None:
    other = ip_address("10.255.0.13")
    world = World(table={key("10.255.0.12/32"): (NODE,), key("10.255.0.13/32"): (NODE,)})
    why = "BGP's route to 10.255.0.12/32 leads there, and its own next hop 10.255.0.12 is on no link"
    assert world.resolver.resolutions.of(NODE).why == why
    assert not world.hops(other)
    world.learn("10.255.0.12/32", NODE, TOR1)  # the best path is the one that needs resolving
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)
    assert not world.hops(other)  # two levels are none


def test_a_link_that_goes_takes_what_was_learned_through_it_and_gives_it_back() -> None:
    world = World(DEFAULT, table={key("10.255.0.12/32"): (TOR1,)})
    world.hops(NODE)
    world.resolver.track({NODE, TOR1})
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)
    down = {**LINKS, "eth1": Link(1, "eth1", "veth", 1500, up=True, carrier=False)}
    world.resolver.set_links(down)
    assert world.hops(NODE) == (hop(ip_address("10.1.3.254"), "eth3"),)
    world.resolver.set_links(LINKS)
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)
    world.resolver.change(CONNECTED[0], gone=True, appended=False)
    assert world.hops(NODE) == (hop(ip_address("10.1.3.254"), "eth3"),)
    world.resolver.change(CONNECTED[0], gone=False, appended=False)
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)


def test_an_address_that_was_not_followed_for_a_while_is_reached_as_things_are_now() -> None:
    world = World(table={key("10.255.0.12/32"): (TOR1,)})
    world.resolver.track({NODE})
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)
    others = {ip_address(f"10.9.{high}.{low}") for high in range(2) for low in range(100)}
    world.resolver.track(others | {NODE})
    world.resolver.track({TOR1})  # so few of so many that the others are forgotten
    world.learn("10.255.0.12/32", TOR2)
    world.resolver.track({NODE})
    assert world.hops(NODE) == (hop(TOR2, "eth2"),)


def test_an_address_that_was_on_a_link_for_a_while_is_reached_as_things_are_now() -> None:
    world = World(table={key("10.255.0.12/32"): (TOR1,)})
    world.resolver.track({NODE})
    on_link = Route(key("10.255.0.0/24"), device="eth3", protocol=4)
    world.resolver.change(on_link, gone=False, appended=False)
    assert world.hops(NODE) == (hop(NODE, "eth3"),)
    world.learn("10.255.0.12/32", TOR2)
    world.resolver.change(on_link, gone=True, appended=False)
    assert world.hops(NODE) == (hop(TOR2, "eth2"),)


def test_the_ways_of_addresses_beyond_those_that_are_followed_are_of_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(next_hops, "MOST_NEXT_HOPS", 1)
    world = World(table={key("10.255.0.12/32"): (TOR1,)})
    world.hops(ip_address("10.9.9.9"))
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)
    world.learn("10.255.0.12/32", TOR2)
    assert world.hops(NODE) == (hop(TOR2, "eth2"),)


ADDRESSES = [
    ip_address(f"10.{second}.{third}.{last}") for second in (1, 255) for third in (1, 2) for last in (2, 3)
]
PREFIXES = [key(f"{one}/{length}") for one in ADDRESSES for length in (32,)] + [
    key(text)
    for text in ("10.1.1.0/24", "10.1.0.0/16", "10.255.1.0/24", "10.255.0.0/16", "10.0.0.0/8", "0.0.0.0/0")
]
tables = st.dictionaries(
    st.sampled_from(PREFIXES), st.lists(st.sampled_from(ADDRESSES), max_size=3).map(tuple), max_size=8
)


@settings(max_examples=150)
@given(
    tables,
    st.lists(
        st.tuples(st.sampled_from(PREFIXES), st.lists(st.sampled_from(ADDRESSES), max_size=2).map(tuple)),
        max_size=8,
    ),
)
def test_after_any_changes_the_ways_are_those_of_the_table_and_end_on_a_link(
    table: Table, changes: list[tuple[RouteKey, tuple[NextHops, ...]]]
) -> None:
    world = World(table=table)
    world.resolver.track(ADDRESSES)
    for where, paths in changes:
        world.table[where] = paths
        world.resolver.learned_changed({where: None})
    fresh = World(table=world.table)
    for address in ADDRESSES:
        now = fresh.resolver.resolutions.of(address)
        if now.hops:
            assert world.hops(address) == now.hops
        else:
            assert world.resolver.resolutions.of(address).why == now.why
        assert all(str(one.gateway).startswith(("10.1.1.", "10.1.2.")) for one in world.hops(address))


def test_very_many_changes_are_looked_up_by_the_addresses_that_matter() -> None:
    world = World()
    world.hops(NODE)
    many: Table = {key(f"172.16.{high}.{low}/32"): (TOR1,) for high in range(8) for low in range(256)}
    world.table = {**many, key("10.255.0.0/16"): (TOR1,)}
    assert world.resolver.learned_changed(world.table)
    assert world.hops(NODE) == (hop(TOR1, "eth1"),)
    assert not world.resolver.learned_changed(many)
