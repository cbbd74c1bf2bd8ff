"""Both sides call at once, in all orders: exactly one session stands, and it stays (RFC 4271 section 6.8)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bgp.session.fsm import State
from bgp.wire.families import Family
from tests.fakes.wire import Wire

SETTLE_SECONDS = 40
ANSWER_SECONDS = 0.1
"""From a call to the refusal, after which the next pause begins."""


@pytest.mark.parametrize("slow", [0.0, 0.05, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(40))
def test_two_speakers_that_call_each_other_end_with_one_session(seed: int, slow: float) -> None:
    wire = Wire(seed, slow_accept_seconds=slow)
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.announce(one, "192.168.1.0/26")
    wire.run(wire.random.choice([0.0, 0.0, 0.3]))
    wire.peer(two, 1)
    wire.announce(two, "192.168.2.0/26")
    wire.run(SETTLE_SECONDS)
    assert one.state(two) is State.ESTABLISHED
    assert two.state(one) is State.ESTABLISHED
    assert len(one.ends) == len(two.ends) == 1
    assert one.learned() == {"192.168.2.0/26": "10.0.0.2"}
    assert two.learned() == {"192.168.1.0/26": "10.0.0.1"}
    before = list(one.ends)
    wire.run(300)
    assert list(one.ends) == before


@pytest.mark.parametrize("seed", range(10))
def test_a_mesh_of_five_comes_up_whole_and_advertises_only_what_each_originates(seed: int) -> None:
    wire = Wire(seed)
    lasts = range(1, 6)
    nodes = [wire.node(last) for last in lasts]
    for last, node in zip(lasts, nodes, strict=True):
        wire.peer(node, *[other for other in lasts if other != last])
        wire.announce(node, f"192.168.{last}.0/26")
    wire.until(lambda: all(len(node.learned()) == 4 and node.router.converged for node in nodes))
    for node in nodes:
        assert [len(peer.adj_ribs_in[Family.IPV4].pre_policy) for peer in node.router.peers.values()] == [
            1,
            1,
            1,
            1,
        ]


def test_a_peer_that_is_away_is_tried_again_within_seconds_of_its_return() -> None:
    wire = Wire()
    one = wire.node(1)
    wire.peer(one, 2)
    wire.announce(one)
    wire.run(600)
    two = wire.node(2)
    wire.peer(two, 1, passive=True)
    wire.announce(two)
    wire.until(lambda: one.router.peers[two.own].state is State.ESTABLISHED, seconds=6)


def test_an_unconfigured_caller_is_turned_away_and_accepted_once_it_is_known() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.announce(one, "192.168.1.0/26")
    wire.run(30)
    assert len(wire.calls) > 5
    assert one.router.peers[two.own].last_error == "the peer closed TCP"
    wire.peer(two, 1, passive=True)
    wire.announce(two)
    wire.until(lambda: bool(two.learned()), seconds=10)


def test_a_wrong_as_is_answered_and_tried_ever_more_rarely() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2, asn=64999)
    wire.peer(one, 2)
    wire.peer(two, (1, 64512), passive=True)
    wire.run(600)
    tried = [at for at, caller, _ in wire.calls if caller == one.own]
    assert len(tried) > 20
    longest = [1, 2, 4, 8, 16, *[30] * (len(tried) - 6)]
    for (before, after), most in zip(pairwise(tried), longest, strict=True):
        assert 0.75 * most <= after - before < most + ANSWER_SECONDS
    assert one.router.peers[two.own].last_error == "peer is AS 64999, configured is AS 64512 (2/2)"
    assert two.router.peers[one.own].last_error == "peer said: open message, bad peer as (2/2)"


def test_silence_ends_a_session_after_the_negotiated_hold_time() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, hold_seconds=9)
    wire.peer(two, 1, hold_seconds=90, passive=True)
    wire.until(lambda: two.state(one) is State.ESTABLISHED)
    wire.run(100)
    assert two.state(one) is State.ESTABLISHED
    wire.vanish(one)
    wire.run(5)
    assert two.state(one) is State.ESTABLISHED
    wire.run(5)
    assert two.state(one) is not State.ESTABLISHED
    assert two.router.peers[one.own].last_error == "hold timer expired: nothing was heard"


def test_a_hold_time_of_zero_sends_no_keepalives_and_expires_never() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, hold_seconds=0)
    wire.peer(two, 1, passive=True)
    wire.until(lambda: two.state(one) is State.ESTABLISHED)
    wire.vanish(one)
    wire.run(100_000)
    assert two.state(one) is State.ESTABLISHED
