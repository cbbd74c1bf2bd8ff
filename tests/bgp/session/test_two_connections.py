"""Two connections to a neighbour that decides by what it sees: one stays, whatever it and we have seen when."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_network
from itertools import count

import pytest

from bgp.events import Close, Dial, Learned, Output, Send, Withdrawn
from bgp.peer import Peer
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.rib.graceful_restart import RestartDeferral
from bgp.session.collision import PATIENCE_SECONDS
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

    def calls(self) -> None:
        self._take(self.peer.connected(IN, self._ours, self.now, outgoing=False))

    def says(self, connection: int, message: messages.Message) -> None:
        data = messages.encode(message, Context(four_octet_as=True, internal=True))
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


@pytest.mark.parametrize("restarts", [True, False])
def test_a_call_beside_an_older_session_is_a_restart_or_refused(restarts: bool) -> None:
    neighbour = Neighbour(restarts=restarts)
    neighbour.opens(neighbour.out)
    neighbour.confirms(neighbour.out)
    neighbour.waits(PATIENCE_SECONDS * 2)
    neighbour.calls()
    neighbour.opens(IN)
    assert neighbour.closed == ({neighbour.out} if restarts else {IN})
    assert neighbour.was_told(IN, COLLISION) is not restarts


@pytest.mark.parametrize("ours", [1, 3], ids=["its identifier is greater", "ours is greater"])
@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda _: None,
        lambda neighbour: neighbour.confirms(neighbour.out),
        lambda neighbour: neighbour.confirms(IN),
    ],
    ids=["nothing", "ours is up", "its is up"],
)
def test_a_peer_that_does_not_decide_has_it_decided_by_the_identifiers_after_a_moment(
    ours: int, meanwhile: Callable[[Neighbour], None]
) -> None:
    neighbour = Neighbour(ours)
    both_open(neighbour)
    meanwhile(neighbour)
    neighbour.waits(PATIENCE_SECONDS * 0.9)
    assert neighbour.closed == set()
    assert neighbour.peer.next_deadline == pytest.approx(30.0 + PATIENCE_SECONDS)
    neighbour.waits(PATIENCE_SECONDS * 0.2)
    loser = neighbour.out if ours == 1 else IN
    assert neighbour.closed == {loser}
    assert neighbour.was_told(loser, COLLISION)


@pytest.mark.parametrize("ours", [1, 3], ids=["its identifier is greater", "ours is greater"])
@pytest.mark.parametrize("first", ["out", "in"])
def test_when_both_are_up_it_is_decided_at_once_and_no_path_goes(ours: int, first: str) -> None:
    neighbour = Neighbour(ours)
    both_open(neighbour)
    order = (neighbour.out, IN) if first == "out" else (IN, neighbour.out)
    neighbour.confirms(order[0])
    neighbour.says(
        order[0], Update((), PathAttributes(next_hop=address(2)), (pack(ip_network("192.168.2.0/26")),))
    )
    assert any(isinstance(one, Learned) for one in neighbour.outputs)
    neighbour.confirms(order[1])
    winner, loser = (IN, neighbour.out) if ours == 1 else (neighbour.out, IN)
    assert neighbour.closed == {loser}
    assert neighbour.peer.connection == winner
    assert neighbour.peer.state is State.ESTABLISHED
    assert not any(isinstance(one, Withdrawn) and one.prefixes for one in neighbour.outputs)
    assert len(neighbour.peer.adj_ribs_in[Family.IPV4].pre_policy) == 1
