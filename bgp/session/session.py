"""One BGP conversation over one TCP connection, without the TCP: bytes and time in; bytes, events and a deadline out.

Promises: never waits, opens or sleeps. The peer's mistakes become a NOTIFICATION and a `Down`; any exception is a bug.
After `Down` nothing more comes out.
Does not know: RIBs, other connections to the same peer, when to dial.
RFC 4271 sections 6 and 8, 4486, 6286, 6608, 6793, 8538, 8654.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from bgp.session import fsm
from bgp.session.fsm import Action, State, advance
from bgp.session.notification_text import describe, describe_notification
from bgp.session.timers import Timer, Timers, jittered
from bgp.wire import messages
from bgp.wire.attribute_codec import Decoded
from bgp.wire.attributes import Context
from bgp.wire.capabilities import Capabilities, family_at, multiprotocol
from bgp.wire.errors import NotificationError
from bgp.wire.families import Address, Family
from bgp.wire.framing import LARGEST_EXTENDED, TYPE_AT, Framing
from bgp.wire.iana import Cease, Error, FsmError, MessageType, OpenError
from bgp.wire.messages import Keepalive, Message, Notification, Open, RouteRefresh, Subtype, Update

OPEN_SENT_HOLD_SECONDS = 30.0
"""RFC 4271 section 8.2.2 suggests four minutes; a half-open connection must not stop a good one that long."""
SEND_HOLDS = 2
"""Hold times that a peer may refuse to take bytes."""
KEEPALIVES_PER_HOLD = 3
SHORTEST_KEEPALIVE_SECONDS = 1.0
"""RFC 4271 section 4.4."""
MOST_INTERNED = 8_192
"""Attribute blocks remembered per session; with more the memory starts anew."""


@dataclass(frozen=True, slots=True)
class LocalParameters:
    """Our side of the conversation."""

    asn: int
    router_id: IPv4Address
    hold_seconds: int
    offer: Capabilities
    address: Address
    """Of our end of the connection."""
    keepalive_seconds: float = 0
    """The most between our keepalives; 0: a third of the hold time."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer's OPEN was accepted: now it is known who it is, and a collision can be settled."""

    message: Open


@dataclass(frozen=True, slots=True)
class Up:
    """The session is established."""


@dataclass(frozen=True, slots=True)
class Received:
    """An UPDATE."""

    update: Update


@dataclass(frozen=True, slots=True)
class Refresh:
    """The peer wants everything of a family again (RFC 2918), or marks where it repeats all of it (RFC 7313)."""

    family: Family
    kind: Subtype


@dataclass(frozen=True, slots=True)
class Down:
    """The session is over; its TCP connection is to be closed after what is still to be sent."""

    why: str
    sent: Notification | None = None
    received: Notification | None = None
    soft: bool = False
    """Both sides offered RFC 8538, so a NOTIFICATION, too, starts a graceful restart."""


Event = Opened | Up | Received | Refresh | Down


def is_hard(down: Down) -> bool:
    """Whether the peer's paths go with the session: RFC 4724 keeps them only when TCP broke without a NOTIFICATION.

    RFC 8538 section 4 keeps them after a NOTIFICATION as well, unless it is a Cease/Hard Reset. A lost collision keeps
    them in any case: nobody left, another connection between the same two stays. An established session can lose one,
    since each side comes to Established at a moment of its own (RFC 4271 section 6.8; BIRD's router that restarts).
    """
    said = down.sent or down.received
    if said is None or (said.code, said.subcode) == (Error.CEASE, Cease.COLLISION_RESOLUTION):
        return False
    return not down.soft or (said.code, said.subcode) == (Error.CEASE, Cease.HARD_RESET)


class Session:
    """One connection's life from TCP up to close; it is not used again."""

    def __init__(
        self, local: LocalParameters, remote_as: int, random: Callable[[], float], now: float
    ) -> None:
        self.peer: Open | None = None
        """The peer's OPEN once it was accepted."""
        self.state = State.ACTIVE
        self.internal = local.asn == remote_as
        self.context = Context(four_octet_as=False, internal=self.internal)
        self.hold_seconds = 0
        """As negotiated; 0: no keepalives."""
        self.local = local
        self.sent: dict[str, int] = {}
        self.received: dict[str, int] = {}
        """Messages by kind."""
        self._remote_as = remote_as
        self._random = random
        self._timers = Timers()
        self._framing = Framing()
        self._interned: dict[bytes, Decoded] = {}
        self._out = bytearray()
        self._events: list[Event] = []
        self._notification: Notification | None = None
        self._message: Message | None = None
        self._why = ""
        self._actions: dict[Action, Callable[[float], None]] = {
            Action.SEND_OPEN: self._send_open,
            Action.ADOPT_OPEN: self._adopt_open,
            Action.SEND_KEEPALIVE: self._send_keepalive,
            Action.RESTART_HOLD: self._restart_hold,
            Action.SAY_UP: self._say_up,
            Action.DELIVER: self._deliver,
            Action.SEND_NOTIFICATION: self._send_notification,
        }
        self._step(fsm.Event.TCP_UP, now)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the peer, cut anywhere."""
        if not self.is_over():
            try:
                for kind, body in self._framing.receive(data):
                    self.received[kind.name] = self.received.get(kind.name, 0) + 1
                    self._take(messages.decode(kind, body, self.context, self._interned), now)
                    if self.is_over():
                        break
            except NotificationError as error:
                self._notification = Notification(error.code, error.subcode, error.data)
                self._why = str(error)
                self._step(fsm.Event.FAULT, now)
            if len(self._interned) > MOST_INTERNED:
                self._interned.clear()
        return self._taken()

    def handle_timer(self, now: float) -> list[Event]:
        """Run what is due."""
        for timer in self._timers.expired(now):
            if timer is Timer.HOLD:
                self._notification = Notification(Error.HOLD_TIMER_EXPIRED, 0)
                self._why = "hold timer expired: nothing was heard"
                self._step(fsm.Event.HOLD_EXPIRED, now)
            elif timer is Timer.SEND_HOLD:
                self._notification = Notification(Error.SEND_HOLD_TIMER_EXPIRED, 0)
                self._why = "send hold timer expired: the peer takes no bytes"
                self._step(fsm.Event.SEND_HOLD_EXPIRED, now)
            elif timer is Timer.KEEPALIVE:
                self._step(fsm.Event.KEEPALIVE_DUE, now)
        return self._taken()

    def extend_hold(self, now: float) -> None:
        """Bytes of the peer wait to be read, so it is not silent."""
        if self._timers.running(Timer.HOLD) and self.state in (State.OPEN_CONFIRM, State.ESTABLISHED):
            self._restart_hold(now)

    def blocked(self, now: float, *, is_full: bool) -> None:
        """The other end takes no more bytes, or takes them again (RFC 9687)."""
        if is_full and self.hold_seconds:
            self._timers.start(Timer.SEND_HOLD, SEND_HOLDS * self.hold_seconds, now)
        else:
            self._timers.stop(Timer.SEND_HOLD)

    def send(self, message: Update | RouteRefresh) -> None:
        """Queue a message behind what is queued."""
        if self.state is State.ESTABLISHED:
            self._send(message)

    def set_keepalive(self, keepalive_seconds: float) -> None:
        """From the next keepalive on they come so often."""
        self.local = replace(self.local, keepalive_seconds=keepalive_seconds)

    def close(self, notification: Notification, why: str) -> Down:
        """End it from our side with a word."""
        self._notification, self._why = notification, why
        return self._end(fsm.Event.STOP)

    def cease(self, subcode: Cease, why: str, data: bytes = b"") -> Down:
        """End it so that the peer forgets our paths: with RFC 8538 that takes a Hard Reset around the Cease."""
        if self.is_soft:
            return self.close(
                Notification(Error.CEASE, Cease.HARD_RESET, bytes([Error.CEASE, subcode]) + data), why
            )
        return self.close(Notification(Error.CEASE, subcode, data), why)

    def lost(self, why: str) -> Down:
        """TCP broke, or is to be dropped without a word."""
        self._why = why
        return self._end(fsm.Event.TCP_DOWN)

    def is_over(self) -> bool:
        """Whether `Down` was said."""
        return self.state is State.IDLE

    # -- outputs ------------------------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> float | None:
        """When `handle_timer` must be called."""
        return self._timers.next_deadline

    @property
    def largest_message(self) -> int:
        """How long an UPDATE may be (RFC 8654)."""
        return self._framing.largest

    @property
    def enhanced_refresh(self) -> bool:
        """Whether both sides mark the beginning and the end of what they repeat (RFC 7313)."""
        return (
            self.peer is not None and self.peer.offer.enhanced_refresh and self.local.offer.enhanced_refresh
        )

    def data_to_send(self) -> bytes:
        """Bytes to write; they are handed out once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # -- the table's actions ------------------------------------------------------------------------------------------

    def _take(self, message: Message, now: float) -> None:
        self._message = message
        match message:
            case Open():
                if self.state is State.OPEN_SENT:
                    self._check(message)
                self._step(fsm.Event.OPEN, now)
            case Keepalive():
                self._step(fsm.Event.KEEPALIVE, now)
            case Update():
                self._step(fsm.Event.UPDATE, now)
            case RouteRefresh():
                self._step(fsm.Event.ROUTE_REFRESH, now)
            case Notification():
                self._why = f"peer said: {describe_notification(message)}"
                self._step(fsm.Event.NOTIFICATION, now)

    def _end(self, event: fsm.Event) -> Down:
        self._step(event, 0.0)  # no action that ends a session looks at the time
        ended = [one for one in self._taken() if isinstance(one, Down)]
        return ended[0] if ended else Down(self._why)

    def _step(self, event: fsm.Event, now: float) -> None:
        before = self.state
        self.state, actions = advance(before, event)
        for action in actions:
            if action is Action.CLOSE:
                self._close(event)
            elif action is Action.SEND_FSM_ERROR:
                self._notification = Notification(Error.FINITE_STATE_MACHINE, _FSM_SUBCODES[before])
                self._why = f"{describe(event)} in state {before.value}"
                self._send(self._notification)
            else:
                self._actions[action](now)

    def _send_open(self, now: float) -> None:
        mine = self.local
        self._send(Open(mine.asn, mine.hold_seconds, mine.router_id, mine.offer))
        self._timers.start(Timer.HOLD, OPEN_SENT_HOLD_SECONDS, now)

    def _send_keepalive(self, now: float) -> None:
        self._send(Keepalive())
        if self.hold_seconds:
            every = max(SHORTEST_KEEPALIVE_SECONDS, self.hold_seconds / KEEPALIVES_PER_HOLD)
            if self.local.keepalive_seconds:
                every = min(every, max(SHORTEST_KEEPALIVE_SECONDS, self.local.keepalive_seconds))
            self._timers.start(Timer.KEEPALIVE, jittered(every, self._random), now)

    def _send_notification(self, _: float) -> None:
        assert self._notification is not None
        self._send(self._notification)

    def _say_up(self, _: float) -> None:
        self._events.append(Up())

    def _deliver(self, _: float) -> None:
        message = self._message
        if isinstance(message, Update):
            self._events.append(Received(message))
            if message.beside is not None:
                self._events.append(Received(message.beside))
        elif isinstance(message, RouteRefresh):
            self._deliver_refresh(message)

    def _deliver_refresh(self, message: RouteRefresh) -> None:
        """What was not agreed is ignored, and so is a subtype that is not known (RFC 2918 section 4, RFC 7313)."""
        family = family_at(message.afi, message.safi)
        kind = message.subtype if self.enhanced_refresh else Subtype.REQUEST
        if family is not None and family in self.context.families and kind in Subtype.__members__.values():
            self._events.append(Refresh(family, Subtype(kind)))

    def _send(self, message: Message) -> None:
        data = messages.encode(message, self.context)
        kind = MessageType(data[TYPE_AT]).name
        self.sent[kind] = self.sent.get(kind, 0) + 1
        self._out += data

    def _close(self, event: fsm.Event) -> None:
        self._timers.stop_all()
        received = (
            self._message
            if event is fsm.Event.NOTIFICATION and isinstance(self._message, Notification)
            else None
        )
        sent = None if received is not None or event is fsm.Event.TCP_DOWN else self._notification
        self._events.append(Down(self._why, sent, received, self.is_soft))

    @property
    def is_soft(self) -> bool:
        """Whether a NOTIFICATION, too, starts a graceful restart (RFC 8538)."""
        ours = self.local.offer.graceful_restart
        theirs = self.peer.offer.graceful_restart if self.peer is not None else None
        return bool(ours and theirs and ours.notification and theirs.notification)

    def _check(self, theirs: Open) -> None:
        if theirs.asn != self._remote_as:
            why = f"peer is AS {theirs.asn}, configured is AS {self._remote_as}"
            raise NotificationError(Error.OPEN_MESSAGE, OpenError.BAD_PEER_AS, why)
        if theirs.router_id == self.local.router_id and self.internal:
            # RFC 6286 section 2.3: the identifier is unique within an AS.
            why = f"peer has our own BGP identifier {theirs.router_id}"
            raise NotificationError(Error.OPEN_MESSAGE, OpenError.BAD_BGP_IDENTIFIER, why)
        ours = self.local.offer.families
        if not theirs.offer.families & ours:
            names = " or ".join(f"{'IPv4' if one is Family.IPV4 else 'IPv6'} unicast" for one in sorted(ours))
            why = f"peer does not do {names}"
            wanted = b"".join(map(multiprotocol, sorted(ours)))
            raise NotificationError(Error.OPEN_MESSAGE, OpenError.UNSUPPORTED_CAPABILITY, why, wanted)

    def _adopt_open(self, _: float) -> None:
        theirs, ours = self._message, self.local.offer
        assert isinstance(theirs, Open)
        self.peer = theirs
        four = theirs.offer.four_octet_as is not None and ours.four_octet_as is not None
        families = theirs.offer.families & ours.families
        path_ids = families & theirs.offer.add_path_send & ours.add_path_receive
        self.context = Context(four, self.internal, families, path_ids)
        if theirs.offer.extended_message and ours.extended_message:
            self._framing.largest = LARGEST_EXTENDED
        self.hold_seconds = min(self.local.hold_seconds, theirs.hold_seconds)
        self._events.append(Opened(theirs))

    def _restart_hold(self, now: float) -> None:
        # RFC 4271 section 4.2: zero on either side means no keepalives and no hold timer.
        if self.hold_seconds:
            self._timers.start(Timer.HOLD, self.hold_seconds, now)
        else:
            self._timers.stop(Timer.HOLD)


_FSM_SUBCODES = {
    State.OPEN_SENT: FsmError.UNEXPECTED_IN_OPEN_SENT,
    State.OPEN_CONFIRM: FsmError.UNEXPECTED_IN_OPEN_CONFIRM,
    State.ESTABLISHED: FsmError.UNEXPECTED_IN_ESTABLISHED,
}
