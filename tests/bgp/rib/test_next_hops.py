"""Next hops that lead nowhere: their paths are known, shown, and not used (RFC 4271 section 9.1.2.1)."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.path import Path, Source
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.rib.adj_rib_in import AdjRibIn
from bgp.rib.decision import best_path, why_not
from bgp.rib.loc_rib import LocRib
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Address, Family
from tests.fakes.paths import lost_by, paths_of
from tests.fakes.wire import Node, Wire, address, address6

BLOCK, BLOCK6 = "192.168.1.0/26", "fd10:1::/64"
BOTH = frozenset(Family)


def star(wire: Wire) -> tuple[Node, Node, Node]:
    """Nodes 1 and 2 have the same prefixes, 3 hears both and tells 4 of another AS."""
    one, two, three, four = (wire.node(last, 65004 if last == 4 else 64512) for last in (1, 2, 3, 4))
    for node in (one, two):
        wire.peer(node, 3, families=BOTH)
        wire.announce(node, BLOCK, BLOCK6)
    wire.peer(three, 1, 2, (4, 65004), families=BOTH, passive=True)
    wire.peer(four, (3, 64512), families=BOTH)
    wire.announce(three)
    wire.announce(four)
    wire.until(lambda: len(four.learned()) == 2 and len(three.router.next_hops) == 4)
    wire.run(1)
    return one, three, four


def cannot_reach(wire: Wire, node: Node, *hops: Address) -> None:
    node.router.set_unreachable_nexthops(frozenset(hops))
    wire.settle(node)
    wire.run(1)


def test_a_path_whose_next_hop_leads_nowhere_gives_way_and_comes_back() -> None:
    wire = Wire()
    _, three, _ = star(wire)
    assert three.learned() == {BLOCK: "10.0.0.1", BLOCK6: "fd00::1"}
    cannot_reach(wire, three, address(1))
    assert three.learned() == {BLOCK: "10.0.0.2", BLOCK6: "fd00::1"}
    shown = paths_of(three.router, ip_network(BLOCK))
    assert [(str(path.path.source.address), lost_by(path)) for path in shown] == [
        ("10.0.0.2", ""),
        ("10.0.0.1", "next hop not reachable"),
    ]
    cannot_reach(wire, three)
    assert three.learned() == {BLOCK: "10.0.0.1", BLOCK6: "fd00::1"}


def test_where_nothing_leads_anywhere_there_is_no_route_and_no_peer_gets_one() -> None:
    wire = Wire()
    _, three, four = star(wire)
    cannot_reach(wire, three, address(1), address(2), address6(1), address6(2))
    assert three.learned() == four.learned() == {}
    reasons = [lost_by(path) for path in paths_of(three.router, ip_network(BLOCK6))]
    assert reasons == ["next hop not reachable"] * 2
    cannot_reach(wire, three, address(1), address(2))
    assert four.learned() == {BLOCK6: "fd00::3"}


def test_what_is_learned_later_over_such_a_next_hop_is_not_used_either() -> None:
    wire = Wire()
    one, three, _ = star(wire)
    cannot_reach(wire, three, address(1))
    wire.announce(one, BLOCK, BLOCK6, "192.168.9.0/26")
    wire.run(1)
    assert "192.168.9.0/26" not in three.learned()
    cannot_reach(wire, three)
    assert three.learned()["192.168.9.0/26"] == "10.0.0.1"


def test_the_next_hops_to_look_up_are_those_of_what_is_known_used_or_not() -> None:
    wire = Wire()
    one, three, _ = star(wire)
    hops = {address(1), address(2), address6(1), address6(2)}
    assert three.router.next_hops == hops
    cannot_reach(wire, three, address(1))
    assert three.router.next_hops == hops
    wire.announce(one, BLOCK6)
    wire.run(1)
    assert three.router.next_hops == hops - {address(1)}
    wire.configure(three, {})
    assert three.router.next_hops == frozenset()


def test_our_own_prefixes_need_no_next_hop() -> None:
    wire = Wire()
    one, _, _ = star(wire)
    cannot_reach(wire, one, address(1), address6(1), address(3))
    assert [lost_by(path) for path in paths_of(one.router, ip_network(BLOCK))] == [""]


HOPS = [IPv4Address(f"10.0.0.{last}") for last in range(1, 5)]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4), st.integers(0, 3), st.sampled_from([1, 2])),
        st.tuples(st.just("drop"), st.integers(1, 4), st.just(0), st.sampled_from([1, 2])),
        st.tuples(st.just("lost"), st.integers(0, 15), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(steps)
def test_a_rib_always_holds_what_the_decision_says_of_what_it_was_given(
    steps: list[tuple[str, int, int, int]],
) -> None:
    rib, told = LocRib(), {}
    for kind, number, hop, length in steps:
        prefix = bytes([8, length])
        if kind == "lost":
            gone = frozenset(one for bit, one in enumerate(HOPS) if number >> bit & 1)
            changed = gone ^ rib.unreachable
            rib.unreachable = gone
            for one in [one for one in rib.prefixes if rib.uses_nexthop(one, changed)]:
                # Before it is chosen again it leads somewhere, if anything does, although perhaps by a worse way.
                before = rib.best(one)
                assert before is None or before.attributes.next_hop not in gone
                rib.reselect([one])
        elif kind == "put":
            source = Source(number, IPv4Address(number), IPv4Address(number), internal=True)
            path = told[number, prefix] = Path(PathAttributes(next_hop=HOPS[hop]), source)
            rib.put([prefix], path)
        else:
            told.pop((number, prefix), None)
            rib.drop([prefix], number)
        for prefix in (bytes([8, 1]), bytes([8, 2])):
            paths = [path for (_, one), path in told.items() if one == prefix]
            usable = [path for path in paths if path.attributes.next_hop not in rib.unreachable]
            assert rib.best(prefix) == (best_path(usable) if usable else None)
            assert sorted(rib.candidates(prefix), key=str) == sorted(paths, key=str)
            used = [path for path in paths if not why_not(path, paths, rib.unreachable)]
            assert used == ([rib.best(prefix)] if usable else [])
        assert set(rib.next_hops) == {path.attributes.next_hop for path in told.values()}


@pytest.mark.parametrize("hop", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    ("peer", "why"),
    [
        ("10.0.0.1", "is a loopback address"),
        ("fd00::1", "is a loopback address"),
        ("127.0.0.2", ""),
        ("::1", ""),
    ],
)
def test_a_loopback_address_however_it_is_written_is_no_next_hop_but_from_a_peer_on_one(
    hop: str, peer: str, why: str
) -> None:
    attributes = PathAttributes(next_hop=ip_address(hop))
    us = SpeakerConfig(64512, IPv4Address("10.0.0.9"), ip_address("10.0.0.9"))
    rib = AdjRibIn(Family.IPV4, PeerConfig(ip_address(peer), 64512), us)
    said = rib.reject_reason(attributes)
    assert said.partition(" is ")[2] == why.partition("is ")[2]
