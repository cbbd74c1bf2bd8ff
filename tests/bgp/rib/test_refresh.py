"""Telling everything again: plain (RFC 2918) and between two marks, behind which the untold goes (RFC 7313)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from bgp.instance import Instance
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.rib.adj_rib_in import LONGEST_REFRESH_SECONDS
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.wire import messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.families import Family
from bgp.wire.framing import LARGEST_MESSAGE, Framing
from bgp.wire.messages import Keepalive, Message, Open, RouteRefresh, Subtype, Update

OWN, PEER = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
WIDE = Context(four_octet_as=True, internal=True)
A, B, C = (nlri.pack(IPv4Network(f"10.{number}.0.0/16")) for number in (1, 2, 3))
BEGIN, END = RouteRefresh(1, 1, Subtype.BEGIN), RouteRefresh(1, 1, Subtype.END)
TOLD = PathAttributes(next_hop=PEER, local_pref=100)


class Neighbour:
    """A router of ours and a peer that is nothing but the messages it is made to say."""

    def __init__(self, *, enhanced: bool = True, restarts: bool = False) -> None:
        self.router = Instance(SpeakerConfig(64512, OWN, OWN), lambda: 0.5, 0.0)
        self.router.configure({PEER: PeerConfig(PEER, 64512, passive=True)}, 0.0)
        self.router.announce([IPv4Network("10.9.0.0/16")])
        connection = self.router.accept(PEER)
        assert connection is not None
        self.connection = connection
        self.router.connected(connection, OWN, 0.0, outgoing=False)
        offer = Capabilities(
            four_octet_as=64512,
            route_refresh=True,
            enhanced_refresh=enhanced,
            graceful_restart=GracefulRestart(120) if restarts else None,
        )
        self.say(Open(64512, 90, PEER, offer), Keepalive())

    def say(self, *said: Message, now: float = 0.0) -> None:
        for message in said:
            self.router.received(self.connection, messages.encode(message, WIDE), now)
        self.router.flush(now)

    def hear(self) -> list[Message]:
        found = []
        while data := self.router.next_update(self.connection):
            ((kind, body),) = Framing().receive(data)
            found.append(messages.decode(kind, body, WIDE))
        return found

    def known(self) -> set[bytes]:
        rib = self.router.ribs[Family.IPV4]
        return {one for one in rib.prefixes if (best := rib.best(one)) is not None and not best.source.is_own}


def told(*prefixes: bytes) -> Update:
    return Update((), TOLD, prefixes)


def test_what_is_not_advertised_between_the_marks_goes_and_nothing_before() -> None:
    one = Neighbour()
    one.say(told(A, B, C), Update())
    one.say(BEGIN, told(B))
    assert one.known() == {A, B, C}
    one.say(told(C), END)
    assert one.known() == {B, C}


def test_what_is_new_or_withdrawn_between_the_marks_is_as_it_was_said_last() -> None:
    one = Neighbour()
    one.say(told(A, B), Update())
    one.say(BEGIN, told(A), Update((A,)), told(C), END)
    assert one.known() == {C}


def test_an_end_without_a_beginning_means_nothing() -> None:
    one = Neighbour()
    one.say(told(A, B), Update(), END)
    assert one.known() == {A, B}
    one.say(BEGIN, told(A), END, END)
    assert one.known() == {A}


def test_a_second_beginning_counts_anew() -> None:
    one = Neighbour()
    one.say(told(A, B), Update())
    one.say(BEGIN, told(A), BEGIN, told(B), END)
    assert one.known() == {B}


def test_an_end_that_never_comes_is_not_waited_for_for_ever() -> None:
    one = Neighbour()
    one.say(told(A, B), Update())
    one.say(BEGIN, told(A))
    for now in range(10, int(LONGEST_REFRESH_SECONDS) + 1, 10):
        one.say(Keepalive(), now=now - 1)
        assert one.known() == ({A, B})
        one.router.handle_timer(now)
        one.router.flush(now)
    assert one.known() == {A}


@pytest.mark.parametrize(("restarts", "kept"), [(True, {A, B}), (False, {A})])
def test_a_beginning_before_the_end_of_rib_of_a_peer_that_sends_one_is_ignored(
    restarts: bool, kept: set[bytes]
) -> None:
    one = Neighbour(restarts=restarts)
    one.say(told(A, B), BEGIN, told(A), END)
    assert one.known() == kept


def test_a_lost_session_ends_what_was_being_repeated() -> None:
    one = Neighbour(restarts=True)
    one.say(told(A, B), Update(), BEGIN, told(A))
    one.router.disconnected(one.connection, "cut", 1.0)
    one.router.handle_timer(119.0)
    one.router.flush(119.0)
    assert one.known() == {A, B}


def test_marks_of_a_peer_that_did_not_offer_them_are_plain_requests() -> None:
    one = Neighbour(enhanced=False)
    one.say(told(A, B), Update())
    one.hear()
    one.say(BEGIN)
    assert [type(message) for message in one.hear()] == [Update]
    assert one.known() == {A, B}


@pytest.mark.parametrize("subtype", [3, 255])
def test_an_unknown_subtype_is_ignored(subtype: int) -> None:
    one = Neighbour()
    one.say(told(A), Update())
    one.hear()
    one.say(RouteRefresh(1, 1, subtype))
    assert one.hear() == []
    assert one.known() == {A}


@pytest.mark.parametrize("family", [(2, 1), (1, 2), (25, 65)])
def test_a_refresh_of_a_family_that_was_not_agreed_is_ignored(family: tuple[int, int]) -> None:
    one = Neighbour()
    one.hear()
    one.say(RouteRefresh(*family))
    assert one.hear() == []


@pytest.mark.parametrize("enhanced", [True, False])
def test_a_request_is_answered_with_everything_marked_where_that_was_agreed(enhanced: bool) -> None:
    one = Neighbour(enhanced=enhanced)
    first = one.hear()
    assert first[-1] == Update()
    one.say(RouteRefresh())
    again = one.hear()
    if enhanced:
        assert (again[0], again[-1]) == (BEGIN, END)
        again = again[1:-1]
    assert again == first[:-1]


def drain(out: AdjRibOut) -> list[object]:
    found: list[object] = []
    while (message := out.next_message(WIDE, LARGEST_MESSAGE)) is not None:
        found.append(message if isinstance(message, RouteRefresh) else message.announced or "end")
    return found


def test_the_first_table_ends_before_a_marked_one_begins() -> None:
    out = AdjRibOut()
    out.set(A, TOLD)
    out.readvertise(marked=True)
    assert out.is_waiting
    out.end_of_rib()
    assert drain(out) == [(A,), "end", BEGIN, (A,), END]


def test_what_changes_while_it_is_repeated_stands_between_the_marks_once() -> None:
    out = AdjRibOut()
    out.set(A, TOLD)
    out.set(B, TOLD)
    out.end_of_rib()
    drain(out)
    out.readvertise(marked=True)
    assert out.next_message(WIDE, LARGEST_MESSAGE) == BEGIN
    other = PathAttributes(next_hop=OWN, local_pref=7)
    out.set(B, other)
    out.set(C, other)
    assert drain(out) == [(B, C), (A,), END]


def test_asking_twice_at_once_is_answered_once() -> None:
    out = AdjRibOut()
    out.set(A, TOLD)
    out.end_of_rib()
    drain(out)
    out.readvertise(marked=True)
    out.readvertise(marked=True)
    assert drain(out) == [BEGIN, (A,), END]
