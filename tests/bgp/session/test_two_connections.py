"""Two connections to a neighbour: one stays, whatever it and we have seen when, and no session that lives is lost."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_network
from itertools import count

import pytest

from bgp.events import Close, Dial, Learned, Output, Probe, Refused, Send, StaleChanged, Withdrawn
from bgp.peer import Peer
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.rib.graceful_restart import RestartDeferral
from bgp.session.collision import PATIENCE_SECONDS, PROBE_SECONDS, REFUSAL_SECONDS, SILENT_SECONDS
from bgp.session.fsm import State
from bgp.wire import messages
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.families import Family
from bgp.wire.iana import Cease, Error
from bgp.wire.messages import Keepalive, Notification, Open, Update
from bgp.wire.nlri import pack
from tests.fakes.wire import address

ASN = 64512
FAMILIES = frozenset({Family.IPV4})
IN = 100
"""The connection that the neighbour opened."""
BLOCK, OTHER = (
    Update((), PathAttributes(next_hop=address(2)), (pack(ip_network(prefix)),))
    for prefix in ("192.168.2.0/26", "192.168.3.0/26")
)
COLLISION = Notification(Error.CEASE, Cease.COLLISION_RESOLUTION)


class Neighbour:
    """A neighbour played by hand, 10.0.0.2, and our side of it, 10.0.0.1 or 10.0.0.3."""

    def __init__(self, ours: int = 1, *, restarts: bool = True) -> None:
        restart = GracefulRestart(120, restarting=True, families=FAMILIES, forwarding_preserved=FAMILIES)
        offer = Capabilities(four_octet_as=ASN, graceful_restart=restart if restarts else None)
        self._open = Open(ASN, 90, address(2), offer)
        self.now = 0.0
        self.outputs: list[Output] = []
        speaker, numbers = SpeakerConfig(ASN, address(ours), address(ours)), count(1)
        deferral = RestartDeferral(speaker.deferral_seconds, is_restart=False, now=0.0)
        config = PeerConfig(address(2), ASN)
        self.peer = Peer(config, speaker, deferral, lambda: next(numbers), lambda: 0.5, 0.0)
        self.out = self._call()
        """The connection that we opened."""
        self._take(self.peer.connected(self.out, address(ours), self.now, outgoing=True))
        self._ours: IPv4Address = address(ours)

    def _call(self) -> int:
        self.now = 30.0
        (call,) = (one for one in self.peer.handle_timer(self.now) if isinstance(one, Dial))
        return call.connection

    def _take(self, outputs: list[Output]) -> None:
        self.outputs += outputs

    def calls(self, connection: int = IN) -> None:
        self._take(self.peer.connected(connection, self._ours, self.now, outgoing=False))

    def breaks(self, connection: int) -> None:
        self._take(self.peer.disconnected(connection, "Connection reset by peer", self.now))

    def acknowledges(self) -> None:
        self.peer.collisions.lives(self.out, self.now)

    def says(self, connection: int, message: messages.Message) -> None:
        self.bytes(connection, messages.encode(message, Context(four_octet_as=True, internal=True)))

    def bytes(self, connection: int, data: bytes) -> None:
        self._take(self.peer.received(connection, data, self.now))

    def opens(self, connection: int) -> None:
        self.says(connection, self._open)

    def confirms(self, connection: int) -> None:
        self.says(connection, Keepalive())

    def ends(self, connection: int) -> None:
        self.says(connection, COLLISION)

    def waits(self, seconds: float) -> None:
        self.now += seconds
        self._take(self.peer.handle_timer(self.now))

    @property
    def closed(self) -> set[int]:
        return {one.connection for one in self.outputs if isinstance(one, Close)}

    def was_told(self, connection: int, message: messages.Message) -> bool:
        data = messages.encode(message, Context(four_octet_as=True, internal=True))
        sent = b"".join(
            one.data for one in self.outputs if isinstance(one, Send) and one.connection == connection
        )
        return sent.endswith(data)


def both_open(neighbour: Neighbour) -> None:
    neighbour.calls()
    neighbour.opens(neighbour.out)
    neighbour.opens(IN)


@pytest.mark.parametrize("ours", [1, 3], ids=["its identifier is greater", "ours is greater"])
@pytest.mark.parametrize("stays", ["out", "in"])
def test_the_peers_decision_is_ours_whatever_the_identifiers_say(ours: int, stays: str) -> None:
    neighbour = Neighbour(ours)
    both_open(neighbour)
    winner, loser = (neighbour.out, IN) if stays == "out" else (IN, neighbour.out)
    assert neighbour.closed == set()
    neighbour.ends(loser)
    neighbour.confirms(winner)
    neighbour.waits(PATIENCE_SECONDS * 2)
    assert neighbour.closed == {loser}
    assert neighbour.peer.connection == winner


def test_an_open_that_was_under_way_when_we_came_up_ends_nothing() -> None:
    neighbour = Neighbour()
    neighbour.calls()
    neighbour.opens(neighbour.out)
    neighbour.confirms(neighbour.out)
    neighbour.opens(IN)
    assert neighbour.closed == set()
    neighbour.ends(IN)
    assert (neighbour.closed, neighbour.peer.connection) == ({IN}, neighbour.out)


def test_a_call_that_was_under_way_when_we_came_up_is_no_restart_of_the_peer() -> None:
    neighbour = Neighbour()
    neighbour.opens(neighbour.out)
    neighbour.confirms(neighbour.out)
    neighbour.waits(PATIENCE_SECONDS / 2)
    neighbour.calls()
    neighbour.opens(IN)
    neighbour.ends(IN)
    assert (neighbour.closed, neighbour.peer.connection) == ({IN}, neighbour.out)


def established(neighbour: Neighbour) -> Neighbour:
    """We called, long ago; it has announced a block."""
    neighbour.opens(neighbour.out)
    neighbour.confirms(neighbour.out)
    neighbour.says(neighbour.out, BLOCK)
    neighbour.waits(PATIENCE_SECONDS * 2)
    neighbour.outputs.clear()
    return neighbour


def withdrawn(neighbour: Neighbour) -> bool:
    return any(isinstance(one, Withdrawn) and one.prefixes for one in neighbour.outputs)


@pytest.mark.parametrize("restarts", [True, False], ids=["with graceful restart", "without"])
def test_a_call_beside_a_session_that_lives_is_refused_and_counted_and_never_confirmed(
    restarts: bool,
) -> None:
    neighbour = established(Neighbour(restarts=restarts))
    neighbour.calls()
    neighbour.opens(IN)
    neighbour.confirms(IN)
    assert Probe(neighbour.out) in neighbour.outputs
    assert neighbour.was_told(neighbour.out, Keepalive())
    neighbour.acknowledges()
    neighbour.waits(REFUSAL_SECONDS * 0.9)
    assert (neighbour.closed, neighbour.was_told(IN, Keepalive())) == (set(), False)
    neighbour.waits(REFUSAL_SECONDS * 0.2)
    assert (neighbour.closed, neighbour.was_told(IN, COLLISION)) == ({IN}, True)
    assert (neighbour.peer.connection, neighbour.peer.collisions.refused) == (neighbour.out, 1)
    assert [one.why for one in neighbour.outputs if isinstance(one, Refused)] == [
        "another connection to this peer stays"
    ]
    assert (neighbour.peer.last_error, neighbour.peer.last_down) == ("", None)
    assert not withdrawn(neighbour)


def test_a_call_beside_a_session_that_its_kernel_resets_takes_its_place_as_a_graceful_restart() -> None:
    neighbour = established(Neighbour())
    neighbour.calls()
    neighbour.opens(IN)
    neighbour.confirms(IN)
    neighbour.breaks(neighbour.out)
    assert neighbour.peer.connection == IN
    assert neighbour.was_told(IN, Keepalive())
    assert any(isinstance(one, StaleChanged) for one in neighbour.outputs)
    assert not withdrawn(neighbour)
    assert not neighbour.peer.collisions.refused


def test_a_session_that_acknowledges_nothing_is_dead_after_a_while_and_not_before() -> None:
    neighbour = established(Neighbour())
    neighbour.calls()
    neighbour.opens(IN)
    neighbour.confirms(IN)
    while neighbour.now < 30 + PROBE_SECONDS:
        assert neighbour.peer.connection == neighbour.out
        neighbour.waits(PATIENCE_SECONDS)
    neighbour.waits(2 * PATIENCE_SECONDS)
    assert neighbour.peer.connection == IN
    assert not withdrawn(neighbour)


FURTHER: list[tuple[str, Callable[[Neighbour], None]]] = [
    ("silence", lambda neighbour: neighbour.waits(31)),
    ("garbage", lambda neighbour: neighbour.bytes(IN, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
    ("another AS", lambda neighbour: neighbour.says(IN, Open(64999, 90, address(2), Capabilities()))),
    ("our identifier", lambda neighbour: neighbour.says(IN, Open(ASN, 90, address(1), Capabilities()))),
    ("a NOTIFICATION", lambda neighbour: neighbour.ends(IN)),
    ("a break", lambda neighbour: neighbour.breaks(IN)),
    ("OPEN and UPDATE", lambda neighbour: (neighbour.opens(IN), neighbour.says(IN, OTHER))[-1]),
    (
        "OPEN, KEEPALIVE and UPDATE",
        lambda neighbour: (neighbour.opens(IN), neighbour.confirms(IN), neighbour.says(IN, OTHER))[-1],
    ),
    ("OPEN and a NOTIFICATION", lambda neighbour: (neighbour.opens(IN), neighbour.ends(IN))[-1]),
    ("OPEN twice", lambda neighbour: (neighbour.opens(IN), neighbour.opens(IN))[-1]),
]


@pytest.mark.parametrize("said", [pytest.param(row, id=name) for name, row in FURTHER])
def test_whatever_a_further_connection_says_the_session_and_what_is_shown_of_it_stay(
    said: Callable[[Neighbour], None],
) -> None:
    neighbour = established(Neighbour())
    neighbour.calls()
    said(neighbour)
    assert (neighbour.closed, neighbour.peer.connection) == ({IN}, neighbour.out)
    assert neighbour.peer.collisions.refused == 1
    assert (neighbour.peer.last_error, neighbour.peer.last_down) == ("", None)
    assert not any(isinstance(one, (Learned, Withdrawn, StaleChanged)) for one in neighbour.outputs)


def test_a_second_further_connection_is_refused_until_the_first_has_been_silent_for_a_while() -> None:
    neighbour = established(Neighbour())
    neighbour.calls()
    neighbour.calls(IN + 1)
    assert neighbour.closed == {IN + 1}
    neighbour.waits(SILENT_SECONDS)
    neighbour.calls(IN + 2)
    assert neighbour.closed == {IN + 1, IN}
    neighbour.opens(IN + 2)
    neighbour.waits(SILENT_SECONDS)
    neighbour.calls(IN + 3)
    assert neighbour.closed == {IN + 1, IN, IN + 3}
    assert neighbour.peer.connection == neighbour.out
    assert len(neighbour.peer._sessions) == 2


def test_a_session_that_is_just_up_is_known_to_live() -> None:
    neighbour = Neighbour()
    both_open(neighbour)
    neighbour.confirms(neighbour.out)
    neighbour.confirms(IN)
    neighbour.waits(PATIENCE_SECONDS * 2)
    assert neighbour.closed == set()  # the peer may still choose the other one
    neighbour.waits(REFUSAL_SECONDS)
    assert (neighbour.closed, neighbour.peer.connection) == ({IN}, neighbour.out)
    assert not neighbour.peer.collisions.refused  # both were under way


def test_a_connection_that_the_peer_has_not_confirmed_decides_nothing() -> None:
    neighbour = Neighbour()
    both_open(neighbour)
    for _ in range(4):
        neighbour.waits(PATIENCE_SECONDS)
    assert neighbour.closed == set()
    neighbour.confirms(neighbour.out)
    assert neighbour.peer.connection == neighbour.out


@pytest.mark.parametrize("ours", [1, 3], ids=["its identifier is greater", "ours is greater"])
def test_where_each_side_holds_another_one_the_identifiers_decide_after_a_moment(ours: int) -> None:
    neighbour = Neighbour(ours)
    both_open(neighbour)
    neighbour.confirms(IN)
    neighbour.waits(PATIENCE_SECONDS * 0.9)
    assert neighbour.closed == set()
    assert neighbour.peer.next_deadline == pytest.approx(30.0 + PATIENCE_SECONDS)
    neighbour.waits(PATIENCE_SECONDS * 0.2)
    loser = neighbour.out if ours == 1 else IN
    assert neighbour.closed == {loser}
    assert neighbour.was_told(loser, COLLISION)
    if loser == IN:
        neighbour.confirms(neighbour.out)
    assert neighbour.peer.state is State.ESTABLISHED


@pytest.mark.parametrize("how", ["ends", "breaks"])
def test_the_session_that_the_peer_closes_for_the_other_one_costs_no_path(how: str) -> None:
    neighbour = Neighbour()
    both_open(neighbour)
    neighbour.confirms(neighbour.out)
    neighbour.says(neighbour.out, BLOCK)
    assert any(isinstance(one, Learned) for one in neighbour.outputs)
    neighbour.confirms(IN)
    getattr(neighbour, how)(neighbour.out)
    assert (neighbour.closed, neighbour.peer.connection) == ({neighbour.out}, IN)
    assert not withdrawn(neighbour)
    assert len(neighbour.peer.adj_ribs_in[Family.IPV4].pre_policy) == 1


def test_however_many_calls_come_no_more_than_one_keepalive_a_second_is_sent_for_them() -> None:
    neighbour = established(Neighbour())
    sent = 0
    for number in range(100):
        neighbour.calls(IN + number)
        neighbour.opens(IN + number)
        sent += neighbour.outputs.count(Probe(neighbour.out))
        neighbour.acknowledges()
        neighbour.breaks(IN + number)
        neighbour.outputs.clear()
        neighbour.waits(0.05)
    assert sent == 5
    assert neighbour.peer.collisions.refused == 100
