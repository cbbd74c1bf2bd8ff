"""What a person does with one peer: refresh it, reset it, disable it; and why there is no session with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bgp import renewal
from bgp.peer_config import PeerConfig
from bgp.peer_status import peer_status
from bgp.session.fsm import State
from tests.fakes.wire import Node, Wire, address

MINE, THEIRS, THIRD = "192.168.1.0/26", "192.168.2.0/26", "192.168.3.0/26"


def trio(wire: Wire) -> tuple[Node, Node, Node]:
    """Node 1 has node 2, which calls it, and node 3, which it calls, as peers."""
    one, two, three = (wire.node(number) for number in (1, 2, 3))
    wire.configure(
        one,
        {
            address(2): PeerConfig(address(2), 64512, local_address=one.own, passive=True),
            address(3): PeerConfig(address(3), 64512, local_address=one.own),
        },
    )
    wire.peer(two, 1)
    wire.peer(three, 1, passive=True)
    for node, prefix in ((one, MINE), (two, THEIRS), (three, THIRD)):
        wire.announce(node, prefix)
    wire.until(lambda: set(one.learned()) == {THEIRS, THIRD} and one.router.converged)
    wire.until(lambda: MINE in two.learned() and MINE in three.learned())
    for node in (one, two, three):
        node.changes.clear()
    return one, two, three


def disable(wire: Wire, node: Node, last: int, text: str | None) -> None:
    known = {where: peer.config for where, peer in node.router.peers.items()}
    wire.configure(node, known | {address(last): replace(known[address(last)], shutdown=text)})


def reset(wire: Wire, node: Node, other: Node, *, is_hard: bool) -> None:
    node.router.on_demand(other.own, lambda peer: renewal.reset(peer, wire.now, is_hard=is_hard), wire.now)


def why(node: Node, last: int) -> str:
    peer = node.router.peers[address(last)]
    return peer_status(peer, peer.state, None).last_error


@pytest.mark.parametrize("last", [2, 3], ids=["it calls", "it is called"])
def test_a_disabled_peer_has_no_session_and_no_path_on_either_side_until_it_is_enabled(last: int) -> None:
    wire = Wire()
    one, *others = trio(wire)
    other, spared = others if last == 2 else reversed(others)
    disable(wire, one, last, "loop in the rack")
    wire.run(0.1)
    assert len(one.learned()) == 1
    assert other.learned() == {}
    assert one.state(other) is State.IDLE
    assert why(one, last) == "it is disabled here: loop in the rack"
    assert why(other, 1).endswith("cease, administrative shutdown (6/2): loop in the rack")
    wire.run(600)
    assert one.state(other) is State.IDLE
    assert other.router.peers[one.own].sessions == 1
    assert one.state(spared) is State.ESTABLISHED
    disable(wire, one, last, None)
    wire.until(lambda: set(one.learned()) == {THEIRS, THIRD} and set(other.learned()) >= {MINE}, 60)


def test_a_peer_that_is_disabled_from_the_start_is_not_called_nor_waited_for() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, shutdown="")
    wire.peer(two, 1)
    wire.announce(one)
    assert one.router.converged
    wire.run(60)
    assert (one.state(two), why(one, 2)) == (State.IDLE, "it is disabled here")
    assert not [call for call in wire.calls if call[1] == one.own]


def test_a_disabled_peer_stays_disabled_whatever_else_is_configured() -> None:
    wire = Wire()
    one, two, _ = trio(wire)
    disable(wire, one, 2, "")
    known = {where: peer.config for where, peer in one.router.peers.items()}
    wire.configure(one, known | {two.own: replace(known[two.own], hold_seconds=9, passive=False)})
    wire.run(120)
    assert one.state(two) is State.IDLE
    assert two.router.peers[one.own].sessions == 1


def test_a_refresh_has_both_sides_say_everything_again_and_changes_nothing() -> None:
    wire = Wire()
    one, two, _ = trio(wire)
    before = list(one.ends), list(two.ends)
    sent = len(wire.sent)
    one.router.on_demand(two.own, renewal.refresh, wire.now)
    wire.settle(one)
    wire.run(5)
    kinds = [(str(frm), data[18]) for _, frm, _, data in wire.sent[sent:] if data[18] in (2, 5)]
    assert ("10.0.0.1", 5) in kinds
    assert {frm for frm, kind in kinds if kind == 2 or kind == 5} >= {"10.0.0.1", "10.0.0.2"}
    assert (list(one.ends), list(two.ends)) == before
    assert one.changes == two.changes == []
    assert set(one.learned()) == {THEIRS, THIRD}


def test_a_refresh_without_a_session_is_refused_with_the_reason() -> None:
    wire = Wire()
    one, two, _ = trio(wire)
    disable(wire, one, 2, "")
    with pytest.raises(ValueError, match=r"no session with 10\.0\.0\.2: it is disabled here"):
        one.router.on_demand(two.own, renewal.refresh, wire.now)


def test_a_reset_makes_a_new_session_and_costs_no_path() -> None:
    wire = Wire()
    one, two, three = trio(wire)
    reset(wire, one, three, is_hard=False)
    wire.settle(one)
    wire.run(10)
    assert one.router.peers[three.own].sessions == 2
    assert one.router.peers[two.own].sessions == 1
    assert "administrative reset (6/4)" in str(peer_status(three.router.peers[one.own], State.IDLE, None))
    assert None not in {hop for node in (one, three) for _, hop in node.changes}


def test_a_hard_reset_forgets_the_paths_on_both_sides() -> None:
    wire = Wire()
    one, _, three = trio(wire)
    reset(wire, one, three, is_hard=True)
    wire.settle(one)
    wire.run(10)
    assert one.router.peers[three.own].sessions == 2
    assert (THIRD, None) in one.changes
    assert (MINE, None) in three.changes
    assert set(one.learned()) == {THEIRS, THIRD}


def test_a_reset_without_a_session_calls_at_once() -> None:
    wire = Wire()
    one, _, three = trio(wire)
    wire.kill(three)
    wire.run(300)
    calls = len(wire.calls)
    reset(wire, one, three, is_hard=False)
    wire.settle(one)
    wire.run(1.1)
    assert len(wire.calls) > calls


def test_a_reset_of_a_disabled_peer_is_refused() -> None:
    wire = Wire()
    one, two, _ = trio(wire)
    disable(wire, one, 2, "")
    with pytest.raises(ValueError, match="disabled here"):
        reset(wire, one, two, is_hard=False)


def test_why_there_is_no_session_is_said_from_the_first_moment() -> None:
    wire = Wire()
    one = wire.node(1)
    wire.configure(
        one,
        {
            address(2): PeerConfig(address(2), 64512, local_address=one.own, passive=True),
            address(3): PeerConfig(address(3), 64512, local_address=one.own),
            address(4): PeerConfig(address(4), 64512, local_address=one.own),
        },
    )
    wire.unplugged.add(address(4))
    assert why(one, 2) == "it is to connect to us, and has not yet"
    assert why(one, 3) == "it was not called yet"
    wire.run(30)
    assert why(one, 2) == "it is to connect to us, and has not yet"
    assert why(one, 3) == "Connection refused"
    assert why(one, 4) == "no answer within 10 s"
