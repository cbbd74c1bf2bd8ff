"""Leaving without loss: asked for with GRACEFUL_SHUTDOWN (RFC 8326), and what other well-known communities mean."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from bgp.policy.origination import Origination
from bgp.session.fsm import State
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Family
from bgp.wire.iana import WellKnown
from tests.fakes.wire import Node, Wire

BLOCK = "192.168.1.0/26"
NETWORK = IPv4Network(BLOCK)
LEAVING = int(WellKnown.GRACEFUL_SHUTDOWN)


def attributes_at(node: Node) -> PathAttributes:
    best = node.router.ribs[Family.IPV4].best(nlri.pack(NETWORK))
    assert best is not None
    return best.attributes


def star(wire: Wire, *asns: int) -> list[Node]:
    """Two ways to one prefix: nodes 1 and 2 have it, and 3 hears both."""
    nodes = [wire.node(last, asn) for last, asn in enumerate(asns, 1)]
    one, two, three = nodes
    wire.peer(one, (3, asns[2]))
    wire.peer(two, (3, asns[2]))
    wire.peer(three, (1, asns[0]), (2, asns[1]), passive=True)
    wire.announce(one, BLOCK)
    wire.announce(two, BLOCK)
    wire.announce(three)
    wire.until(lambda: len(three.router.ribs[Family.IPV4].candidates(nlri.pack(NETWORK))) == 2)
    return nodes


@pytest.mark.parametrize("asns", [(64512, 64512, 64512), (65001, 65001, 64512)], ids=["iBGP", "eBGP"])
def test_who_is_about_to_leave_is_the_last_resort_and_is_left_before_it_goes(
    asns: tuple[int, int, int],
) -> None:
    wire = Wire()
    one, _, three = star(wire, *asns)
    assert three.learned() == {BLOCK: "10.0.0.1"}
    three.changes.clear()
    one.router.graceful_shutdown()
    wire.settle(one)
    wire.run(0.1)
    assert three.learned() == {BLOCK: "10.0.0.2"}
    wire.shutdown(one, "maintenance")
    wire.run(0.1)
    assert three.changes == [(BLOCK, "10.0.0.2")], "no moment without a route"


def test_who_has_no_other_way_keeps_the_one_through_him_that_leaves() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.peer(two, 1, passive=True)
    wire.announce(one, BLOCK)
    wire.announce(two)
    wire.until(lambda: bool(two.learned()))
    one.router.graceful_shutdown()
    wire.settle(one)
    wire.run(0.1)
    assert two.learned() == {BLOCK: "10.0.0.1"}
    assert (attributes_at(two).local_pref, attributes_at(two).communities) == (0, (LEAVING,))
    wire.announce(one, BLOCK, "192.168.9.0/26")
    wire.cut(one, two)
    wire.run(10)
    assert two.state(one) is State.ESTABLISHED
    assert attributes_at(two).local_pref == 0, "a new session, too, hears that we leave"


def test_what_only_passes_through_a_reflector_that_leaves_is_advertised_as_before() -> None:
    wire = Wire()
    one, two, three = wire.node(1), wire.node(2), wire.node(3)
    wire.peer(one, 2)
    wire.peer(two, 1, 3, route_reflector_client=True)
    wire.peer(three, 2)
    for node in (two, three):
        wire.announce(node)
    wire.announce(one, BLOCK)
    wire.until(lambda: bool(three.learned()))
    two.router.graceful_shutdown()
    wire.settle(two)
    wire.run(0.1)
    assert (attributes_at(three).local_pref, attributes_at(three).communities) == (100, ())


def told_with(community: int, *, external: bool) -> tuple[Node, Node]:
    """What a neighbour, and one behind it, make of a path with this community."""
    wire = Wire()
    far_as = 65009 if external else 64512
    one, two, three = wire.node(1), wire.node(2), wire.node(3, far_as)
    wire.peer(one, 2)
    wire.peer(two, 1, (3, far_as), route_reflector_client=True)
    wire.peer(three, (2, 64512))
    for node in (two, three):
        wire.announce(node)
    one.router.announce({NETWORK: Origination(communities=(community,))})
    wire.settle(one)
    wire.run(5)
    return two, three


COMMUNITIES = [
    # community, reaches a reflector's client, reaches another AS
    (WellKnown.NO_EXPORT, True, False),
    (WellKnown.NO_EXPORT_SUBCONFED, True, False),
    (WellKnown.BLACKHOLE, True, True),
    (WellKnown.GRACEFUL_SHUTDOWN, True, True),
]


@pytest.mark.parametrize(("community", "inside", "outside"), COMMUNITIES)
def test_a_well_known_community_goes_as_far_as_it_says_and_is_kept(
    community: WellKnown, inside: bool, outside: bool
) -> None:
    for external, reached in ((False, inside), (True, outside)):
        two, three = told_with(community, external=external)
        assert attributes_at(two).communities == (community,)
        assert bool(three.learned()) is reached
        if reached:
            assert attributes_at(three).communities == (community,)
            assert three.learned() == {BLOCK: "10.0.0.2" if external else "10.0.0.1"}


def test_no_advertise_is_advertised_to_nobody_at_all() -> None:
    two, three = told_with(WellKnown.NO_ADVERTISE, external=False)
    assert two.learned() == three.learned() == {}


def test_an_extended_message_is_used_where_both_can() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.peer(two, 1)
    wire.announce(two)
    wire.announce(one, *[f"10.{high}.{low}.0/24" for high in range(20) for low in range(256)])
    wire.until(lambda: one.router.converged and len(two.learned()) == 5120)
    session = one.router.peers[two.own].session
    assert session is not None
    assert session.largest_message == 65535


def test_who_was_left_with_a_word_calls_again_every_few_seconds_however_often_it_was_left() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(two, 1)
    for _ in range(6):
        wire.peer(one, 2, passive=True)
        wire.until(lambda: two.state(one) is State.ESTABLISHED, 5.5)
        wire.shutdown(one, "maintenance")
        wire.run(1.0)
