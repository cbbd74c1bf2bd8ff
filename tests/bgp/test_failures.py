"""An exception of ours, wherever it comes out, costs the session of the peer that it was about, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

import bgp.instance
from bgp.peer import Peer
from bgp.policy.policy import Action, Policy, Rule
from bgp.rib.adj_rib_in import AdjRibIn
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.session.connect_retry import HOLD_DOWN_AFTER_FAILURE_SECONDS
from bgp.session.fsm import State
from bgp.session.session import Session
from bgp.wire import nlri
from bgp.wire.messages import Decoder
from tests.fakes.wire import Node, Wire, address

MINE, THEIRS, OTHERS, MORE = (f"192.168.{number}.0/26" for number in range(4))
POISON = "192.168.66.0/26"


class Broken(Exception):
    """Not one that anything expects."""


def trio(hold_seconds: int = 90) -> tuple[Wire, Node, Node, Node]:
    """The one under test, a peer of it that something will be wrong with, and a bystander, each of another AS."""
    wire = Wire()
    wire.may_fail = True
    one, two, three = wire.node(1), wire.node(2, 65002), wire.node(3, 65003)
    wire.peer(one, (2, 65002), (3, 65003), hold_seconds=hold_seconds)
    for other in (two, three):
        wire.peer(other, (1, 64512), passive=True, hold_seconds=hold_seconds)
    for node, prefix in ((one, MINE), (two, THEIRS), (three, OTHERS)):
        wire.announce(node, prefix)
    wire.until(lambda: three.learned().keys() == {MINE, THEIRS} and one.router.converged)
    return wire, one, two, three


def spoil(monkeypatch: pytest.MonkeyPatch, kind: Any, method: str, applies: Callable[..., bool]) -> list[int]:
    """Have a method raise where it applies, as long as the answer's first number says."""
    right, left = getattr(kind, method), [1]

    def spoilt(self: Any, *args: Any, **more: Any) -> Any:
        if left[0] and applies(self, *args):
            left[0] -= 1
            raise Broken(method)
        return right(self, *args, **more)

    monkeypatch.setattr(kind, method, spoilt)
    return left


def is_two(peer: Any, *_: Any) -> bool:
    return bool(peer.config.address == address(2))


PLACES: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "octets": (Peer, "received", is_two),
    "a timer": (Peer, "handle_timer", is_two),
    "the end of TCP": (Peer, "disconnected", is_two),
    "an UPDATE to it": (Peer, "next_update", is_two),
    "what it is advertised": (bgp.instance, "advertise", is_two),
    "a change of its settings": (Peer, "reconfigure", is_two),
    "decoding": (Decoder, "receive", lambda *_: True),
    "its Adj-RIB-In": (AdjRibIn, "receive", lambda rib, *_: rib._config.address == address(2)),
    "its Adj-RIB-Out": (AdjRibOut, "set", lambda *_: True),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_peer_begins_anew_and_nobody_else_notices(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire, one, two, three = trio()
    before = one.router.peers[three.own].sessions
    kind, method, applies = PLACES[place]
    left = spoil(monkeypatch, kind, method, applies)
    if place == "a change of its settings":
        wire.peer(one, (2, 65002), (3, 65003), keepalive_seconds=7)
    if place == "the end of TCP":
        wire.cut(two, one)
    if place == "a timer":
        wire.until(lambda: not left[0], 120)
    wire.announce(two, THEIRS, MORE)
    wire.announce(one, MINE, POISON)
    wire.announce(three, OTHERS)
    wire.run(5)
    assert not left[0], "the fault did not come to pass"
    assert sum("Broken" in line for node in (one, two, three) for line in node.log) == 1
    failed = next(node for node in (one, two, three) if any("Broken" in line for line in node.log))
    if failed is one:
        assert one.router.peers[three.own].sessions == before
        assert one.router.peers[two.own].counts.failures == 1
    wire.run(10)
    assert one.learned().keys() == {THEIRS, MORE, OTHERS}
    assert two.learned().keys() == {MINE, POISON, OTHERS}
    assert three.learned().keys() == {MINE, POISON, THEIRS, MORE}
    assert all(peer.failure == "" for node in (one, two, three) for peer in node.router.peers.values())


def test_the_peer_is_told_with_a_cease_and_keeps_our_paths_and_we_its(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, one, two, _ = trio()
    spoil(monkeypatch, AdjRibIn, "receive", lambda rib, *_: rib._config.address == two.own)
    wire.announce(two, THEIRS, MORE)
    wire.until(lambda: one.state(two) is not State.ESTABLISHED)
    assert one.router.peers[two.own].last_error == "internal error: Broken: receive"
    assert one.router.peers[two.own].failure == "Broken: receive"
    assert one.learned()[THEIRS] == "10.0.0.2"
    wire.run(0.1)
    assert "cease (6/0)" in two.router.peers[one.own].last_error
    assert two.learned()[MINE] == "10.0.0.1"
    assert two.stale() == {MINE, OTHERS}
    assert [change for change in one.changes if change == (THEIRS, None)] == []


def test_what_breaks_us_again_and_again_does_so_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, one, two, three = trio()
    poison = nlri.pack(ip_network(POISON))
    left = spoil(
        monkeypatch,
        AdjRibIn,
        "receive",
        lambda rib, update, *_: rib._config.address == two.own and poison in update.announced,
    )
    left[0] = 1000
    wire.announce(two, THEIRS, POISON)
    wire.run(3600)
    failures = one.router.peers[two.own].counts.failures
    assert 8 < failures < 25
    assert one.router.peers[three.own].sessions == 1
    wire.announce(two, THEIRS)
    wire.run(HOLD_DOWN_AFTER_FAILURE_SECONDS[1] + 30)
    assert one.state(two) is State.ESTABLISHED
    assert one.learned().keys() == {THEIRS, OTHERS}


def test_a_policy_that_raises_when_it_is_applied_anew_costs_one_session_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, one, two, three = trio()
    left = spoil(monkeypatch, AdjRibIn, "reapply_policy", lambda rib, *_: rib._config.address == two.own)
    wire.peer(one, (2, 65002), (3, 65003), policy=Policy(import_rules=(Rule(Action.ACCEPT, "all"),)))
    wire.run(10)
    assert not left[0]
    assert [one.router.peers[node.own].counts.failures for node in (two, three)] == [1, 0]
    assert one.learned().keys() == {THEIRS, OTHERS}


def test_a_timer_that_always_raises_ends_in_a_fresh_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the same deadline would be due for ever."""
    wire, one, two, three = trio()
    left = spoil(monkeypatch, AdjRibIn, "expire", lambda rib, *_: rib._config.address == two.own)
    left[0] = 5
    wire.cut(one, two)
    wire.run(600)
    assert one.router.peers[three.own].sessions == 1
    assert one.learned().keys() == {THEIRS, OTHERS}


def test_a_reset_that_raises_itself_ends_in_a_fresh_peer_and_leaves_no_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, one, two, three = trio()
    spoil(monkeypatch, AdjRibIn, "receive", lambda rib, *_: rib._config.address == two.own)
    spoil(monkeypatch, Peer, "fail", lambda *_: True)
    wire.announce(two, MORE)
    wire.until(lambda: one.learned().keys() == {OTHERS})
    assert one.router.next_hops == {three.own}
    wire.run(0.1)
    assert "cease (6/0)" in two.router.peers[one.own].last_error
    wire.run(10)
    assert one.learned().keys() == {MORE, OTHERS}
    assert (one.router.peers[two.own].counts.failures, one.router.peers[three.own].sessions) == (1, 1)


def test_a_peer_that_cannot_be_made_is_reported_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.may_fail = True
    one = wire.node(1)
    left = spoil(monkeypatch, Peer, "_compile_export_policy", is_two)
    wire.peer(one, 2, 3)
    assert not left[0]
    assert (set(one.router.peers), one.log) == ({address(3)}, ["Broken: _compile_export_policy"])
    wire.peer(one, 2, 3)
    assert set(one.router.peers) == {address(2), address(3)}


def test_a_peer_that_is_removed_goes_whatever_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, one, two, three = trio()
    spoil(monkeypatch, Session, "cease", lambda *_: True)
    wire.peer(one, (3, 65003))
    wire.run(1)
    assert one.learned().keys() == {OTHERS}
    assert set(one.router.peers) == {three.own}
    assert one.ends.keys() == {one.router.peers[three.own].connection}
    assert two.state(one) is not State.ESTABLISHED
