"""Somebody calls from a peer's address while the peer is there, frozen, dead or restarting: in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bgp.events import Close, Dial
from bgp.session.collision import PATIENCE_SECONDS, REFUSAL_SECONDS
from bgp.session.fsm import State
from tests.fakes.wire import Node, Wire

BLOCK, OTHER, STOLEN = "192.168.1.0/26", "192.168.2.0/26", "0.0.0.0/1"
CALLS = 100


def pair(wire: Wire, *, passive: bool = True, hold_seconds: int = 90) -> tuple[Node, Node]:
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, hold_seconds=hold_seconds)
    wire.announce(one, BLOCK)
    wire.peer(two, 1, passive=passive, hold_seconds=hold_seconds)
    wire.announce(two, OTHER)
    wire.until(lambda: bool(one.learned()) and bool(two.learned()) and two.router.converged)
    wire.run(PATIENCE_SECONDS)
    one.changes.clear()
    two.changes.clear()
    return one, two


def call(wire: Wire, impostor: Node) -> None:
    """Begin one call to node 2, and end those of before."""
    for connection in list(impostor.ends):
        wire.perform(impostor, Close(connection))
    impostor.router.configure({}, wire.now)
    wire.peer(impostor, 2)
    wire.announce(impostor, STOLEN)
    wire.run(1.5)


@pytest.mark.parametrize("asn", [64512, 64999], ids=["valid", "another AS"])
@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_calls_from_a_living_peers_address_cost_nothing_and_are_counted(
    seed: int, asn: int
) -> None:
    wire = Wire(seed)
    one, two = pair(wire)
    before, impostor, most = list(one.ends), wire.impostor(one, asn), 0
    for _ in range(CALLS):
        call(wire, impostor)
        most = max(most, len(two.ends))
    impostor.down = True
    wire.run(60)
    assert (list(one.ends), one.changes, two.changes) == (before, [], [])
    assert two.learned() == {BLOCK: "10.0.0.1"}
    assert impostor.learned() == {}
    assert most <= 2
    peer = two.router.peers[one.own]
    assert CALLS / 2 < peer.collisions.refused == len(two.refused) <= 2 * CALLS
    assert (peer.sessions, peer.last_error) == (1, "")
    assert len(two.ends) == 1


def dies(wire: Wire, one: Node) -> None:
    wire.kill(one)


def loses_power(wire: Wire, one: Node) -> None:
    wire.power_off(one)


@pytest.mark.parametrize("ends", [dies, loses_power])
@pytest.mark.parametrize("passive", [True, False], ids=["it calls", "both call"])
@pytest.mark.parametrize("impostor", [False, True], ids=["alone", "beside an impostor"])
@pytest.mark.parametrize("seed", range(10))
def test_a_peer_that_restarts_loses_no_path(
    seed: int, ends: Callable[[Wire, Node], None], passive: bool, impostor: bool
) -> None:
    wire = Wire(seed)
    one, two = pair(wire, passive=passive)
    if impostor:
        call(wire, wire.impostor(one))
    ends(wire, one)
    for other in wire.impostors:
        other.down = True  # its connection stays; what it could do beside no session at all is another matter
    wire.run(wire.random.random())
    for other in wire.impostors:
        for connection in list(other.ends):
            wire.perform(other, Close(connection))
    again = wire.node(1, restarting=True)
    wire.peer(again, 2)
    wire.announce(again, BLOCK)
    wire.until(lambda: again.state(two) is two.state(one) is State.ESTABLISHED and not two.stale(), 12)
    wire.run(10)
    assert {hop for _, hop in two.changes} <= {"10.0.0.1"}
    assert again.learned() == {OTHER: "10.0.0.2"}
    assert len(two.ends) == 1


def test_a_frozen_peer_keeps_its_session_until_the_hold_timer_says_otherwise() -> None:
    wire = Wire()
    one, two = pair(wire, hold_seconds=30)
    one.frozen = True
    impostor = wire.impostor(one)
    wire.peer(impostor, 2, hold_seconds=30)
    wire.announce(impostor, STOLEN)
    wire.run(20)
    assert two.router.peers[one.own].collisions.refused
    assert two.learned() == {BLOCK: "10.0.0.1"}
    assert not two.stale()
    impostor.down = True
    wire.run(11)
    assert two.stale() == {BLOCK}


@pytest.mark.parametrize("seed", range(40))
def test_two_that_call_each_other_at_once_are_up_within_a_second_and_tell_nobody(seed: int) -> None:
    wire = Wire(seed)
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.peer(two, 1)
    wire.announce(one, BLOCK)
    wire.announce(two, OTHER)
    for node in (one, two):
        node.router.handle_timer(wire.now + 1.0)
        wire.settle(node)
    assert len(wire.calls) == 2
    wire.until(lambda: bool(one.learned()) and bool(two.learned()), PATIENCE_SECONDS + 0.1)
    wire.run(REFUSAL_SECONDS + 1)
    assert len(one.ends) == len(two.ends) == 1
    assert one.refused == two.refused == []
    assert None not in {hop for node in (one, two) for _, hop in node.changes}


def test_what_is_refused_calls_again_no_sooner_than_after_the_pause_of_its_own() -> None:
    wire = Wire()
    one, two = pair(wire)
    impostor = wire.impostor(one)
    wire.peer(impostor, 2)
    wire.run(120)
    assert 15 < len([at for at, caller, _ in wire.calls if caller == impostor.own]) < 60
    assert two.learned() == {BLOCK: "10.0.0.1"}
    assert not any(isinstance(action, Dial) for _, action in two.router.flush(wire.now)[0])
