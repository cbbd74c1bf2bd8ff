"""Every state with every event, through a real session (RFC 4271 section 8.2.2, RFC 6608)."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from bgp.session.fsm import TRANSITIONS, Action, Event, State, advance
from bgp.session.session import Down, LocalParameters, Received, Refresh, Session, Up
from bgp.wire import messages
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Family
from bgp.wire.iana import Cease, Error
from bgp.wire.messages import Keepalive, Message, Notification, Open, RouteRefresh, Subtype, Update

NOW = 1000.0
WIDE = Context(four_octet_as=True, internal=True)
OPEN = Open(64512, 90, IPv4Address("10.0.0.2"), Capabilities(four_octet_as=64512))
TALKING = (State.OPEN_SENT, State.OPEN_HELD, State.OPEN_CONFIRM, State.ESTABLISHED)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_has_an_answer_and_no_surprise_leaves_a_session_standing(
    state: State, event: Event
) -> None:
    after, actions = advance(state, event)
    if (state, event) not in TRANSITIONS:
        assert (after, actions) == (
            (State.IDLE, (Action.SEND_FSM_ERROR, Action.CLOSE)) if state in TALKING else (state, ())
        )
    assert (Action.CLOSE in actions) == (after is State.IDLE and state is not State.IDLE)


def in_state(state: State) -> Session:
    local = LocalParameters(
        64512, IPv4Address("10.0.0.1"), 90, Capabilities(four_octet_as=64512), IPv4Address("10.0.0.1")
    )
    session = Session(local, 64512, lambda: 0.0, NOW)
    session.is_beside = state is State.OPEN_HELD
    if state is not State.OPEN_SENT:
        feed(session, OPEN)
    if state is State.ESTABLISHED:
        feed(session, Keepalive())
    session.data_to_send()
    assert session.state is state
    return session


def feed(session: Session, message: Message) -> list[object]:
    return list(session.receive_data(messages.encode(message, WIDE), NOW))


UPDATE = Update((), PathAttributes(next_hop=IPv4Address("10.0.0.2")), (b"\x08\x0a",))
SAYS = {
    (State.OPEN_SENT, Keepalive()): (5, 1),
    (State.OPEN_SENT, Update()): (5, 1),
    (State.OPEN_SENT, RouteRefresh()): (5, 1),
    (State.OPEN_HELD, OPEN): (5, 2),
    (State.OPEN_HELD, Update()): (5, 2),
    (State.OPEN_HELD, RouteRefresh()): (5, 2),
    (State.OPEN_CONFIRM, OPEN): (5, 2),
    (State.OPEN_CONFIRM, RouteRefresh()): (5, 2),
    (State.ESTABLISHED, OPEN): (5, 3),
}


@pytest.mark.parametrize("state", TALKING)
@pytest.mark.parametrize(
    "message", [OPEN, Keepalive(), Update(), RouteRefresh()], ids=lambda one: type(one).__name__
)
def test_a_message_out_of_place_is_answered_with_its_own_subcode(state: State, message: Message) -> None:
    session = in_state(state)
    events = feed(session, message)
    expected = SAYS.get((state, message))
    if expected is None:
        assert not any(isinstance(event, Down) for event in events)
        return
    (down,) = [event for event in events if isinstance(event, Down)]
    assert down.sent is not None
    assert (down.sent.code, down.sent.subcode) == expected
    assert session.data_to_send() == messages.encode(down.sent, WIDE)


@pytest.mark.parametrize("state", TALKING)
def test_a_notification_is_never_answered(state: State) -> None:
    session = in_state(state)
    (down,) = feed(session, Notification(Error.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN, b"\x07reboots"))
    assert down == Down(
        "peer said: cease, administrative shutdown (6/2): reboots",
        received=Notification(Error.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN, b"\x07reboots"),
    )
    assert session.data_to_send() == b""


def test_an_update_before_the_first_keepalive_counts_as_one() -> None:
    assert feed(in_state(State.OPEN_CONFIRM), UPDATE) == [Up(), Received(UPDATE)]


def test_a_refresh_is_passed_on() -> None:
    assert feed(in_state(State.ESTABLISHED), RouteRefresh()) == [Refresh(Family.IPV4, Subtype.REQUEST)]


def test_nothing_comes_out_after_the_end() -> None:
    session = in_state(State.ESTABLISHED)
    session.lost("cut")
    assert feed(session, UPDATE) == []
    assert session.next_deadline is None


def test_what_came_before_a_mistake_in_the_same_bytes_still_counts() -> None:
    session = in_state(State.ESTABLISHED)
    events = session.receive_data(messages.encode(UPDATE, WIDE) + b"\0" * 19, NOW)
    assert [type(event) for event in events] == [Received, Down]


def test_the_hold_timer_runs_its_full_time_and_every_message_restarts_it() -> None:
    session = in_state(State.ESTABLISHED)
    assert session.handle_timer(NOW + 89.9) == []
    session.receive_data(messages.encode(Keepalive(), WIDE), NOW + 89.9)
    assert session.handle_timer(NOW + 179.8) == []
    (down,) = session.handle_timer(NOW + 180)
    assert isinstance(down, Down)
    assert down.sent == Notification(Error.HOLD_TIMER_EXPIRED, 0)


def test_keepalives_come_within_a_third_of_the_hold_time() -> None:
    session = in_state(State.ESTABLISHED)
    due = session.next_deadline
    assert due is not None
    assert 22.5 <= due - NOW <= 30
    session.handle_timer(due)
    assert session.data_to_send() == messages.encode(Keepalive(), WIDE)


def test_a_peer_that_says_nothing_after_tcp_came_up_is_given_up() -> None:
    session = in_state(State.OPEN_SENT)
    (down,) = session.handle_timer(NOW + 30)
    assert isinstance(down, Down)
    assert down.sent == Notification(Error.HOLD_TIMER_EXPIRED, 0)


def test_a_held_connection_says_nothing_until_it_is_released_and_then_goes_on_as_any_other() -> None:
    session = in_state(State.OPEN_HELD)
    assert session.data_to_send() == b""
    assert session.release(NOW) == []
    assert (session.state, session.data_to_send()) == (State.OPEN_CONFIRM, messages.encode(Keepalive(), WIDE))
    assert feed(session, Keepalive()) == [Up()]


def test_a_held_connection_that_the_peer_has_confirmed_is_established_when_it_is_released() -> None:
    session = in_state(State.OPEN_HELD)
    assert feed(session, Keepalive()) == []
    assert session.release(NOW) == [Up()]
    assert (session.state, session.data_to_send()) == (State.ESTABLISHED, messages.encode(Keepalive(), WIDE))


def test_a_connection_is_held_no_longer_than_a_peer_may_take_to_its_open() -> None:
    session = in_state(State.OPEN_HELD)
    session.receive_data(messages.encode(Keepalive(), WIDE), NOW + 29)
    assert session.handle_timer(NOW + 29) == []
    (down,) = session.handle_timer(NOW + 30)
    assert isinstance(down, Down)
