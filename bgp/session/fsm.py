"""The state machine of one connection, as a table (RFC 4271 section 8.2.2).

Promises: every pair of state and event has an answer; what the table does not hold is an FSM error (section 6.6, with
the subcodes of RFC 6608). Everything that moves a connection from state to state is here.
Does not know: two connections to one peer, when to connect: the peer decides that.

Where it differs from the RFC, on purpose: a connection that fails goes to Idle and is gone, and the peer makes a new
one. An UPDATE in OpenConfirm counts as the KEEPALIVE that some speakers do not send first. A second connection to a
peer is held once its OPEN was accepted (OpenHeld): our KEEPALIVE is withheld until the collision is decided, so neither
side comes to Established on it, and nothing but a KEEPALIVE may come.
"""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """RFC 4271 section 8.2.2, in the words that Calico's status shows."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_HELD = "OpenHeld"
    """Ours: the OPEN was accepted, and the KEEPALIVE that answers it waits for the end of a collision."""
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


class Event(Enum):
    """What can happen to a connection. One exists only while TCP is up: connecting and listening are the peer's."""

    TCP_UP = auto()
    TCP_DOWN = auto()
    OPEN = auto()
    OPEN_BESIDE = auto()
    """OPEN, while another connection to the peer has its own accepted."""
    RELEASED = auto()
    """The collision is decided for this connection."""
    KEEPALIVE = auto()
    UPDATE = auto()
    ROUTE_REFRESH = auto()
    NOTIFICATION = auto()
    FAULT = auto()
    """The peer sent what it must not."""
    HOLD_EXPIRED = auto()
    SEND_HOLD_EXPIRED = auto()
    KEEPALIVE_DUE = auto()
    STOP = auto()


class Action(Enum):
    """What a session does after a transition."""

    SEND_OPEN = auto()
    ADOPT_OPEN = auto()
    SEND_KEEPALIVE = auto()
    RESTART_HOLD = auto()
    REPORT_UP = auto()
    DELIVER = auto()
    SEND_NOTIFICATION = auto()
    """The one that the event brought."""
    SEND_FSM_ERROR = auto()
    CLOSE = auto()


S, E, A = State, Event, Action
END = (S.IDLE, (A.CLOSE,))
NOTIFY = (S.IDLE, (A.SEND_NOTIFICATION, A.CLOSE))
_TALKING = (S.OPEN_SENT, S.OPEN_HELD, S.OPEN_CONFIRM, S.ESTABLISHED)

TRANSITIONS: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (S.CONNECT, E.TCP_UP): (S.OPEN_SENT, (A.SEND_OPEN,)),
    (S.ACTIVE, E.TCP_UP): (S.OPEN_SENT, (A.SEND_OPEN,)),
    (S.OPEN_SENT, E.OPEN): (S.OPEN_CONFIRM, (A.ADOPT_OPEN, A.SEND_KEEPALIVE, A.RESTART_HOLD)),
    # The timer that was set when OPEN was sent goes on: it bounds how long a connection is held.
    (S.OPEN_SENT, E.OPEN_BESIDE): (S.OPEN_HELD, (A.ADOPT_OPEN,)),
    (S.OPEN_HELD, E.KEEPALIVE): (S.OPEN_HELD, ()),
    (S.OPEN_HELD, E.RELEASED): (S.OPEN_CONFIRM, (A.SEND_KEEPALIVE, A.RESTART_HOLD)),
    (S.OPEN_CONFIRM, E.KEEPALIVE): (S.ESTABLISHED, (A.RESTART_HOLD, A.REPORT_UP)),
    (S.OPEN_CONFIRM, E.UPDATE): (S.ESTABLISHED, (A.RESTART_HOLD, A.REPORT_UP, A.DELIVER)),
    (S.OPEN_CONFIRM, E.KEEPALIVE_DUE): (S.OPEN_CONFIRM, (A.SEND_KEEPALIVE,)),
    (S.ESTABLISHED, E.KEEPALIVE): (S.ESTABLISHED, (A.RESTART_HOLD,)),
    (S.ESTABLISHED, E.UPDATE): (S.ESTABLISHED, (A.RESTART_HOLD, A.DELIVER)),
    (S.ESTABLISHED, E.ROUTE_REFRESH): (S.ESTABLISHED, (A.DELIVER,)),
    (S.ESTABLISHED, E.KEEPALIVE_DUE): (S.ESTABLISHED, (A.SEND_KEEPALIVE,)),
    (S.ESTABLISHED, E.SEND_HOLD_EXPIRED): NOTIFY,
    **{(state, event): END for state in _TALKING for event in (E.NOTIFICATION, E.TCP_DOWN)},
    **{(state, event): NOTIFY for state in _TALKING for event in (E.FAULT, E.HOLD_EXPIRED, E.STOP)},
}


def advance(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """The next state and what to do. Before OPEN was sent nothing is owed to the other side: nothing happens."""
    found = TRANSITIONS.get((state, event))
    if found is not None:
        return found
    if state in _TALKING:
        return S.IDLE, (A.SEND_FSM_ERROR, A.CLOSE)
    return state, ()
