"""Graceful restart in virtual time: who keeps which path, and until when (RFC 4724, RFC 8538)."""

from __future__ import annotations

import pytest

from bgp.session.fsm import State
from bgp.session.session import Down, is_hard
from bgp.wire.iana import Cease, Error
from bgp.wire.messages import Notification
from tests.fakes.wire import Node, Wire

BLOCK, OTHER = "192.168.1.0/26", "192.168.2.0/26"


def pair(wire: Wire) -> tuple[Node, Node]:
    """Node 1 calls node 2; both have told all."""
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.peer(two, 1, passive=True)
    wire.announce(one, BLOCK, OTHER)
    wire.announce(two)
    wire.until(lambda: len(two.learned()) == 2 and one.router.converged)
    two.changes.clear()
    return one, two


def again(wire: Wire, *prefixes: str, restarting: bool = True) -> Node:
    """Node 1 as a new process."""
    node = wire.node(1, restarting=restarting)
    wire.peer(node, 2)
    wire.announce(node, *prefixes)
    return node


def test_a_killed_speaker_costs_its_peer_no_route_and_its_return_changes_none() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.until(lambda: two.stale() == {BLOCK, OTHER})
    wire.run(100)
    again(wire, BLOCK, OTHER)
    wire.until(lambda: not two.stale() and two.state(one) is State.ESTABLISHED)
    assert {hop for _, hop in two.changes} == {"10.0.0.1"}
    assert two.learned() == {BLOCK: "10.0.0.1", OTHER: "10.0.0.1"}


def test_what_a_speaker_does_not_announce_again_goes_at_its_end_of_rib() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(1)
    again(wire, OTHER)
    wire.until(lambda: two.learned() == {OTHER: "10.0.0.1"})
    assert (OTHER, None) not in two.changes


def test_a_speaker_that_stays_away_is_removed_after_its_restart_time_and_not_before() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(119)
    assert len(two.learned()) == 2
    wire.run(2)
    assert two.learned() == {}
    assert not two.stale()


def test_a_speaker_that_lost_its_forwarding_state_is_removed_when_it_comes_back() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(1)
    node = again(wire, OTHER, restarting=False)
    wire.until(lambda: node.state(two) is State.ESTABLISHED and two.learned() == {OTHER: "10.0.0.1"})
    assert {(OTHER, None), (BLOCK, None)} <= set(two.changes)


def test_a_broken_tcp_connection_is_a_restart_that_lost_nothing() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.cut(one, two)
    wire.until(lambda: len(two.stale()) == 2)
    wire.until(lambda: not two.stale())
    assert {hop for _, hop in two.changes} == {"10.0.0.1"}


def test_a_second_death_loses_no_path_and_grants_no_second_restart_time() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(1)
    half = wire.node(1, restarting=True)
    wire.peer(half, 2)  # it never announces, so it never says End-of-RIB
    wire.until(lambda: half.state(two) is State.ESTABLISHED)
    wire.run(1)
    assert len(two.stale()) == 2
    wire.kill(half)
    wire.run(60)
    assert len(two.learned()) == 2  # still within the restart time of the first death
    wire.until(lambda: two.learned() == {}, 65)


def test_a_speaker_that_announces_nothing_after_its_return_loses_its_paths_in_the_end() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(1)
    mute = wire.node(1, restarting=True)
    wire.peer(mute, 2)
    wire.until(lambda: mute.state(two) is State.ESTABLISHED)
    wire.run(350)
    assert len(two.learned()) == 2
    wire.run(15)
    assert two.learned() == {}


def test_a_new_connection_beside_an_established_one_is_adopted_as_a_restart() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.power_off(one)  # it is back before anybody noticed
    again(wire, BLOCK, OTHER)
    wire.run(5)
    assert two.state(one) is State.ESTABLISHED
    assert not two.stale()
    assert {hop for _, hop in two.changes} == {"10.0.0.1"}


def test_an_expired_hold_timer_keeps_the_paths_between_speakers_of_rfc_8538() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.vanish(one)
    wire.run(89)
    assert not two.stale()
    wire.run(32)
    assert len(two.stale()) == 2
    wire.run(120)
    assert two.learned() == {}


def test_a_peer_that_is_deconfigured_goes_on_both_sides_at_once() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.configure(one, {})
    wire.run(0.1)
    assert two.learned() == {}
    assert "hard reset" in two.router.peers[one.own].last_error


def test_a_start_waits_for_a_peer_that_comes_up_and_not_for_one_that_is_dead() -> None:
    wire = Wire()
    one, two, three = wire.node(1, restarting=True), wire.node(2), wire.node(3)
    wire.unplugged.add(three.own)
    wire.peer(two, 1)
    wire.announce(two, BLOCK)
    wire.peer(one, 2, 3)
    wire.announce(one)
    wire.until(lambda: bool(one.learned()))
    wire.run(1)
    assert not one.router.converged
    wire.until(lambda: one.router.converged, seconds=20)


def test_the_whole_wait_after_a_start_is_bounded() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.announce(one)
    wire.peer(two, 1)  # and never announces: no End-of-RIB
    wire.run(59)
    assert not one.router.converged
    wire.run(2)
    assert one.router.converged


def test_without_peers_a_start_is_over_at_once_but_not_before_they_are_known() -> None:
    wire = Wire()
    one = wire.node(1)
    wire.run(100)
    assert not one.router.converged
    wire.peer(one)
    assert one.router.converged


def test_a_peer_that_came_up_early_gets_its_end_of_rib_with_the_first_announcement() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.peer(two, 1)
    wire.announce(one)
    wire.until(lambda: one.state(two) is State.ESTABLISHED)
    wire.run(1)
    assert not one.router.converged
    wire.announce(two, BLOCK)
    wire.run(1)
    assert one.router.converged
    assert one.learned() == {BLOCK: "10.0.0.2"}


@pytest.mark.parametrize("seed", range(20))
def test_two_nodes_that_restart_together_lose_nothing_at_a_third(seed: int) -> None:
    wire = Wire(seed)
    nodes = [wire.node(last) for last in (1, 2, 3)]
    blocks = {last: f"192.168.{last}.0/26" for last in (1, 2, 3)}

    def start(node: Node, last: int) -> None:
        wire.peer(node, *[other for other in (1, 2, 3) if other != last])
        wire.announce(node, blocks[last])

    for last, node in enumerate(nodes, 1):
        start(node, last)
    wire.until(lambda: all(len(node.learned()) == 2 for node in nodes))
    third = nodes[2]
    third.changes.clear()
    for node in nodes[:2]:
        wire.kill(node)
    wire.run(wire.random.random() * 10)
    fresh = [wire.node(last, restarting=True) for last in (1, 2)]
    for last, node in enumerate(fresh, 1):
        start(node, last)
    wire.until(lambda: all(len(node.learned()) == 2 for node in fresh) and not third.stale())
    wire.until(lambda: all(node.router.converged for node in fresh))
    assert None not in {hop for _, hop in third.changes}


@pytest.mark.parametrize(
    ("code", "subcode", "without_8538", "with_8538"),
    [
        (Error.CEASE, Cease.ADMINISTRATIVE_RESET, True, False),
        (Error.CEASE, Cease.HARD_RESET, True, True),
        (Error.CEASE, Cease.COLLISION_RESOLUTION, False, False),
        (Error.HOLD_TIMER_EXPIRED, 0, True, False),
    ],
)
def test_which_notification_takes_the_paths_with_it(
    code: Error, subcode: int, without_8538: bool, with_8538: bool
) -> None:
    said = Notification(code, subcode)
    for soft, hard in ((False, without_8538), (True, with_8538)):
        assert is_hard(Down("", received=said, soft=soft)) is hard
        assert is_hard(Down("", sent=said, soft=soft)) is hard
    assert not is_hard(Down("TCP broke"))
