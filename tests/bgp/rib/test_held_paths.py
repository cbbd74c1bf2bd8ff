"""However a peer fills our memory, a limit ends it: told before it is reached, and the memory is free again."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.path import Path, Source
from bgp.peer_config import MAXIMUM_OCTETS, MAXIMUM_PREFIXES, MAXIMUM_TOTAL_OCTETS, PeerConfig, SpeakerConfig
from bgp.peer_status import peer_status
from bgp.policy.origination import Origination
from bgp.rib.held_paths import PREFIX_OCTETS, SET_OCTETS, HeldPaths, cost_of
from bgp.rib.limits import held_octets
from bgp.session.connect_retry import HOLD_DOWN_AFTER_LIMIT_SECONDS
from bgp.session.fsm import State
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Family
from tests.fakes.add_path_peer import PEER, AddPathPeer, attributes
from tests.fakes.wire import Node, Wire

HOP = IPv4Address("10.0.0.2")
SOURCE = Source(1, PEER, PEER, internal=True)


def filled(config: dict[str, Any], *many: PathAttributes, prefixes: int = 1) -> AddPathPeer:
    """A peer that announces a prefix or some with each of these sets of attributes, until it may no longer."""
    one = AddPathPeer(**config)
    one.router.disconnected(one.connection, "again, without path identifiers", 0.0)
    one.connect(ids=False)
    for number, each in enumerate(many):
        if one.router.peers[PEER].connection is None:
            break
        some = [nlri.pack(ip_network((number << 16 | last << 8, 24))) for last in range(prefixes)]
        one.say(*some, attributes=each)
    return one


FILLINGS: dict[str, list[PathAttributes]] = {
    "many prefixes": [attributes(5)] * 2000,
    "many sets": [PathAttributes(next_hop=HOP, local_pref=1, med=number) for number in range(2000)],
    "communities": [
        PathAttributes(next_hop=HOP, local_pref=1, communities=tuple(range(number, number + 900)))
        for number in range(0, 100_000, 900)
    ],
    "long AS paths": [
        PathAttributes(next_hop=HOP, local_pref=number, as_path=((2, (65001,) * 255),) * 3)
        for number in range(200)
    ],
    "large communities": [
        PathAttributes(
            next_hop=HOP,
            local_pref=1,
            large_communities=tuple((number * 300 + item).to_bytes(12, "big") for item in range(300)),
        )
        for number in range(200)
    ],
    "attributes that nobody knows": [
        PathAttributes(next_hop=HOP, local_pref=number, unknown=((0xE0, 99, bytes(3900)),))
        for number in range(400)
    ],
}


@pytest.mark.parametrize("kind", FILLINGS)
def test_whatever_fills_the_memory_ends_at_the_limit_and_the_memory_is_free_again(kind: str) -> None:
    one = filled({"maximum_octets": 256 << 10}, *FILLINGS[kind])
    peer = one.router.peers[PEER]
    assert peer.exceeded == peer.last_error == "its paths need more than 0 MiB of memory"
    assert peer.last_down is not None
    assert peer.last_down.sent is not None
    assert (peer.last_down.sent.code, peer.last_down.sent.subcode) == (6, 8)
    assert (held_octets(peer.adj_ribs_in), one.router.next_hops, len(one.router.ribs[Family.IPV4])) == (
        0,
        frozenset(),
        0,
    )
    assert one.router._index.held_octets == 0


@pytest.mark.parametrize("kind", FILLINGS)
def test_without_a_limit_all_of_it_is_held_and_freed_by_a_withdrawal(kind: str) -> None:
    one = filled({"maximum_octets": 0, "maximum_prefixes": 0}, *FILLINGS[kind])
    rib = one.router.peers[PEER].adj_ribs_in[Family.IPV4]
    distinct = {id(path): path for path in rib.pre_policy.values()}
    costs = sum(cost_of(path.attributes) for path in distinct.values())
    assert len(distinct) == (1 if kind == "many prefixes" else len(FILLINGS[kind]))
    assert rib.held.octets == costs + PREFIX_OCTETS * len(rib.pre_policy) == one.router._index.held_octets
    for key in list(rib.pre_policy):
        one.say(gone=key)
    assert rib.held.octets == one.router._index.held_octets == 0


def test_there_are_limits_by_default_with_room_for_what_is_meant_to_be() -> None:
    config = PeerConfig(PEER, 64512)
    assert (config.maximum_prefixes, config.maximum_octets) == (MAXIMUM_PREFIXES, MAXIMUM_OCTETS)
    assert SpeakerConfig(64512, HOP, HOP).maximum_octets == MAXIMUM_TOTAL_OCTETS
    largest_cluster = 5000 * 20
    assert largest_cluster < MAXIMUM_PREFIXES * 0.75, "not even a warning"
    assert (PREFIX_OCTETS + SET_OCTETS) * MAXIMUM_PREFIXES < MAXIMUM_OCTETS, (
        "each prefix with its own attributes"
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=30))
def test_what_is_held_is_the_sum_of_what_was_added_and_not_removed(
    steps: list[tuple[int, int, bool]],
) -> None:
    held, paths = HeldPaths(), [Path(PathAttributes(med=number), SOURCE) for number in range(4)]
    uses = dict.fromkeys(range(4), 0)
    for number, many, is_added in steps:
        if is_added:
            held.add(paths[number], many)
            uses[number] += many
        else:
            gone = min(many, uses[number])
            held.remove([paths[number]] * gone)
            uses[number] -= gone
        expected = sum(PREFIX_OCTETS * count + SET_OCTETS * (count > 0) for count in uses.values())
        assert held.octets == expected
        shared = held.shared(paths[number].attributes, SOURCE, None)
        assert (shared is paths[number]) == (uses[number] > 0)
    held.clear()
    assert held.octets == 0


# -- told before, and what follows ------------------------------------------------------------------------------------


def pair(**limits: int) -> tuple[Wire, Node, Node]:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.peer(two, 1, passive=True, **limits)
    wire.announce(two)
    wire.announce(one, "10.0.0.0/24")
    wire.until(lambda: len(two.learned()) == 1)
    return wire, one, two


def announce(wire: Wire, node: Node, count: int) -> None:
    node.router.announce({ip_network((10 << 24 | number << 8, 24)): Origination() for number in range(count)})
    wire.settle(node)
    wire.run(0.1)


def test_a_limit_is_told_once_before_it_is_reached_and_again_when_it_was_left() -> None:
    wire, one, two = pair(maximum_prefixes=100)
    counts = (75, 76, 90, 100, 50, 80)
    for count in counts:
        announce(wire, one, count)
        assert len(two.learned()) == count
    assert two.log == [f"announces {count} IPv4 prefixes of at most 100" for count in (76, 80)]
    shown = peer_status(two.router.peers[one.own], two.state(one), None)
    assert (shown.near_limit, shown.exceeded) == ("announces 80 IPv4 prefixes of at most 100", "")
    announce(wire, one, 101)
    shown = peer_status(two.router.peers[one.own], two.state(one), None)
    assert (shown.near_limit, shown.exceeded) == ("", "more than 100 prefixes")
    assert two.learned() == {}


def test_a_peer_that_exceeds_again_and_again_is_left_alone_ever_longer() -> None:
    wire, one, two = pair(maximum_prefixes=3)
    announce(wire, one, 4)
    began, sessions = wire.now, [two.router.peers[one.own].sessions]
    wire.run(4 * 3600)
    assert two.learned() == {}
    sessions.append(two.router.peers[one.own].sessions)
    assert 4 < sessions[1] - sessions[0] < 8, "after 5, 10, 20, 40, 60 … minutes"
    assert wire.now == began + 4 * 3600
    announce(wire, one, 2)
    wire.until(lambda: len(two.learned()) == 2, seconds=HOLD_DOWN_AFTER_LIMIT_SECONDS[1] + 60)
    assert two.router.peers[one.own].exceeded == ""


def test_a_limit_that_is_raised_lets_the_peer_in_at_once() -> None:
    wire, one, two = pair(maximum_prefixes=3)
    announce(wire, one, 4)
    assert two.router.peers[one.own].exceeded != ""
    wire.peer(two, 1, passive=True, maximum_prefixes=4)
    wire.until(lambda: len(two.learned()) == 4, seconds=40)
    assert two.state(one) is State.ESTABLISHED


def test_where_all_need_too_much_the_one_that_needs_most_goes_and_who_has_little_stays() -> None:
    wire = Wire()
    nodes = [wire.node(last) for last in (1, 2, 3, 4)]
    middle, *others = nodes
    middle.router.config = SpeakerConfig(
        64512, IPv4Address("10.0.0.1"), IPv4Address("10.0.0.1"), maximum_octets=90 << 10
    )
    wire.peer(middle, 2, 3, 4)
    for node in others:
        wire.peer(node, 1, passive=True)
    for last, node in enumerate(others, 2):
        node.router.announce(
            {ip_network((last << 24 | number << 8, 24)): Origination() for number in range(80)}
        )
        wire.settle(node)
    wire.until(lambda: len(middle.learned()) == 240)
    greedy, late = others[0], others[2]
    greedy.router.announce({ip_network((2 << 24 | number << 8, 24)): Origination() for number in range(150)})
    wire.settle(greedy)
    wire.run(1)
    assert len(middle.learned()) == 310
    late.router.announce({ip_network((4 << 24 | number << 8, 24)): Origination() for number in range(140)})
    wire.settle(late)
    wire.run(1)
    assert [middle.router.peers[node.own].exceeded for node in others] == [
        "the paths of all peers need more than 0 MiB of memory, and its most of it",
        "",
        "",
    ]
    assert len(middle.learned()) == 80 + 140
    assert middle.state(greedy) is State.ACTIVE
