"""One BGP session over one TCP connection, without the TCP: octets and time in; octets, events and a deadline out.

Promises: never waits, opens or sleeps. The peer's mistakes become a NOTIFICATION and a `Down`; any exception is a bug.
After `Down` nothing more comes out. Which action follows which event in which state is the table's (`fsm`); an action
gets the message, the end or the time that it needs as its argument.
Does not know: RIBs, other connections to the same peer, when to dial.
RFC 4271 sections 6 and 8, 4486, 4724, 5492, 6286, 6608, 6793, 8538, 8654, 8950.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from ipaddress import IPv4Address

from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session import fsm
from bgp.session.fsm import Action, State, advance
from bgp.session.notification_text import describe_notification, words
from bgp.wire import messages
from bgp.wire.attributes import Context
from bgp.wire.capabilities import Capabilities, GracefulRestart, LongLived, family_at, multiprotocol
from bgp.wire.errors import NotificationError
from bgp.wire.families import Address, Family
from bgp.wire.framing import LARGEST_EXTENDED, TYPE_AT
from bgp.wire.iana import Cease, Error, FsmError, MessageType, OpenError
from bgp.wire.messages import Decoder, Keepalive, Message, Notification, Open, RouteRefresh, Subtype, Update

OPEN_SENT_HOLD_SECONDS = 30.0
"""RFC 4271 section 8.2.2 suggests four minutes; a half-open connection must not stop a good one that long."""
SEND_HOLDS = 2
"""Hold times that a peer may refuse to take bytes."""
READ_FIRST_SECONDS = 1.0
"""What the end of a hold timer waits for octets that are there and were not read yet."""
KEEPALIVES_PER_HOLD = 3
SHORTEST_KEEPALIVE_SECONDS = 1.0
"""No two KEEPALIVEs come sooner one after the other (RFC 4271 section 4.4)."""
SHORTEST_JITTER = 0.75
"""RFC 4271 section 10: a jittered timer runs 75 to 100 percent of its time."""


class Timer(Enum):
    """What a deadline of a session is for (RFC 4271 section 8.1.3)."""

    HOLD = auto()
    KEEPALIVE = auto()
    SEND_HOLD = auto()
    """The other end takes no bytes (RFC 9687)."""


def jittered(seconds: float, random: Callable[[], float]) -> float:
    """A time shortened at random; `random` answers from 0 to 1. Never for the hold timer, which must not end early."""
    return seconds * (SHORTEST_JITTER + (1 - SHORTEST_JITTER) * random())


@dataclass(frozen=True, slots=True)
class LocalParameters:
    """What we bring into a session: what our OPEN says, our address, and our keepalive time."""

    asn: int
    router_id: IPv4Address
    hold_seconds: int
    offer: Capabilities
    address: Address
    """The address of our end of the connection."""
    keepalive_seconds: float = 0
    """The most between our keepalives; 0: a third of the hold time."""

    @classmethod
    def configured(
        cls, us: SpeakerConfig, peer: PeerConfig, address: Address, *, restarting: bool, was_up: bool
    ) -> LocalParameters:
        """Our side of a new connection to a peer, as configured; `address` is our end's.

        `restarting` sets the R bit. `was_up`: the peer had a session with this process, so its F bits are set: whatever
        breaks a session of ours, the kernel goes on forwarding.
        """
        asn = peer.local_as or us.asn
        restart = GracefulRestart(
            us.restart_seconds if peer.restart_seconds is None else peer.restart_seconds,
            restarting=restarting,
            notification=True,
            families=peer.families,
            forwarding_preserved=(kept := peer.families if us.restarting or was_up else frozenset()),
        )
        seconds = peer.long_lived_stale_seconds
        asked = sorted(peer.families) if seconds else ()
        offer = Capabilities(
            families=peer.families,
            four_octet_as=asn,
            route_refresh=True,
            enhanced_refresh=True,
            add_path_receive=peer.families,
            add_path_send=peer.families if peer.paths_sent > 1 else frozenset(),
            graceful_restart=restart,
            extended_message=True,
            # Empty where nothing is asked for: it also says that we keep what the peer asks for.
            long_lived=tuple(LongLived(one, seconds, one in kept) for one in asked),
            # What a peer with an IPv6 address says of IPv4 has its next hop there, too, above all on a link without
            # any other address.
            ipv6_next_hops=peer.families & {Family.IPV4} if peer.address.version == 6 else frozenset(),
        )
        return cls(asn, us.router_id, peer.hold_seconds, offer, address, peer.keepalive_seconds)


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer's OPEN was accepted: its BGP identifier is known, and a collision can be decided."""


@dataclass(frozen=True, slots=True)
class Up:
    """The session is established."""


@dataclass(frozen=True, slots=True)
class Received:
    """An UPDATE arrived, or the part of one that is about one family."""

    update: Update


@dataclass(frozen=True, slots=True)
class Refresh:
    """A ROUTE-REFRESH arrived: a request (RFC 2918), or the begin or end of the peer's own refresh (RFC 7313)."""

    family: Family
    kind: Subtype


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message, or a part of one, was of a family that was not negotiated; it changed nothing."""

    why: str


@dataclass(frozen=True, slots=True)
class Down:
    """The session is over; its TCP connection is to be closed after what is still to be sent."""

    why: str
    sent: Notification | None = None
    received: Notification | None = None
    soft: bool = False
    """Both sides offered RFC 8538, so a NOTIFICATION, too, starts a graceful restart."""


Event = Opened | Up | Received | Refresh | Ignored | Down


def is_hard(down: Down) -> bool:
    """Whether the peer's paths go with the session: RFC 4724 keeps them only when TCP broke without a NOTIFICATION.

    RFC 8538 section 4 keeps them after a NOTIFICATION as well, unless it is a Cease/Hard Reset. A lost collision keeps
    them in any case: nobody left, another connection between the same two stays. An established session can lose one,
    since each side comes to Established at a moment of its own (RFC 4271 section 6.8; BIRD's router that restarts).
    """
    notification = down.sent or down.received
    if notification is None:
        return False
    code = notification.code, notification.subcode
    if code == (Error.CEASE, Cease.COLLISION_RESOLUTION):
        return False
    return not down.soft or code == (Error.CEASE, Cease.HARD_RESET)


class Session:
    """One connection's life from TCP up to close; it is not used again."""

    def __init__(
        self, local: LocalParameters, remote_as: int | None, random: Callable[[], float], now: float
    ) -> None:
        self.peer: Open | None = None
        """The peer's OPEN once it was accepted."""
        self.state = State.ACTIVE
        self.internal = local.asn == remote_as
        self.hold_seconds = 0
        """As negotiated; 0: no keepalives."""
        self.local = local
        self.is_beside = False
        """Set by the owner before octets come: another connection to the peer has its OPEN accepted."""
        self.began = now
        self.sent: dict[str, int] = {}
        """Messages sent, by kind; `received` counts the others."""
        self._remote_as = remote_as
        """None: any but ours."""
        self._random = random
        self._deadlines: dict[Timer, float] = {}
        """The timers that run, and when each expires."""
        self._patient_until: float | None = None
        """After the hold timer's end: how long it may wait for octets to be read; None: a message came since."""
        self._decoder = Decoder(Context(four_octet_as=False, internal=self.internal))
        self._out = bytearray()
        self._events: list[Event] = []
        self._step(fsm.Event.TCP_UP, now)

    # -- inputs -------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take in octets of the peer, cut anywhere."""
        if not self.is_over():
            try:
                for message in self._decoder.receive(data):
                    self._receive(message, now)
                    if self.is_over():
                        break
            except NotificationError as error:
                fault = Notification(error.code, error.subcode, error.data)
                self._events.append(self._end(fsm.Event.FAULT, Down(str(error), sent=fault)))
        return self._take_events()

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due."""
        due = sorted((at, timer.value, timer) for timer, at in self._deadlines.items() if at <= now)
        for *_, timer in due:
            self._deadlines.pop(timer, None)
            if timer is Timer.KEEPALIVE:
                self._step(fsm.Event.KEEPALIVE_DUE, now)
            else:
                event, code, why = _EXPIRED[timer]
                self._events.append(self._end(event, Down(why, sent=Notification(code, 0))))
        return self._take_events()

    def overdue(self, now: float) -> bool:
        """Whether a timer that judges the other end is due: is it silent, or does it take no octets."""
        return any(now >= self._deadlines.get(timer, now + 1) for timer in _EXPIRED)

    def extend_hold(self, now: float, *, unread: bool, writable: bool) -> None:
        """Read first, then judge: octets of the peer wait to be read (`unread`), or it takes some again (`writable`).

        What is due then waits a moment. What the octets say decides: a message starts the hold timer anew. Without one
        it waits no longer than another hold time, or octets of a message that never ends would do.
        """
        if self._patient_until is None:
            self._patient_until = now + max(self.hold_seconds, READ_FIRST_SECONDS)
        is_patient = unread and now < self._patient_until
        for timer, holds in ((Timer.HOLD, is_patient), (Timer.SEND_HOLD, writable)):
            if holds and now >= self._deadlines.get(timer, now + 1):
                self._deadlines[timer] = now + READ_FIRST_SECONDS

    def blocked(self, now: float, *, is_full: bool) -> None:
        """The other end takes no more octets (`is_full`), or takes them again (RFC 9687)."""
        if is_full and self.hold_seconds:
            self._deadlines[Timer.SEND_HOLD] = now + SEND_HOLDS * self.hold_seconds
        else:
            self._deadlines.pop(Timer.SEND_HOLD, None)

    def send(self, message: Update | RouteRefresh) -> None:
        """Queue a message behind what is queued."""
        if self.state is State.ESTABLISHED:
            self._send(message)

    def probe(self, now: float) -> None:
        """Send a KEEPALIVE now: a kernel that has this connection acknowledges it, one that does not resets it."""
        if self.state in (State.OPEN_CONFIRM, State.ESTABLISHED):
            self._step(fsm.Event.KEEPALIVE_DUE, now)

    def release(self, now: float) -> list[Event]:
        """Go on with a connection that was held; it is established at once if the peer has confirmed it."""
        if self.state is State.OPEN_HELD:
            is_confirmed = self.is_confirmed
            self._step(fsm.Event.RELEASED, now)
            if is_confirmed:
                self._step(fsm.Event.KEEPALIVE, now)
        return self._take_events()

    def set_keepalive(self, keepalive_seconds: float) -> None:
        """Change the time between our keepalives, from the next one on."""
        self.local = replace(self.local, keepalive_seconds=keepalive_seconds)

    def close(self, notification: Notification, why: str) -> Down:
        """End the session from our side with a NOTIFICATION."""
        return self._end(fsm.Event.STOP, Down(why, sent=notification))

    def cease(self, subcode: Cease, why: str, data: bytes = b"") -> Down:
        """End the session so that the peer removes our paths: RFC 8538 asks for a Hard Reset around the Cease then."""
        if self.is_soft:
            inside = bytes([Error.CEASE, subcode]) + data
            return self.close(Notification(Error.CEASE, Cease.HARD_RESET, inside), why)
        return self.close(Notification(Error.CEASE, subcode, data), why)

    def lost(self, why: str) -> Down:
        """TCP broke, or is to be dropped without a NOTIFICATION."""
        return self._end(fsm.Event.TCP_DOWN, Down(why))

    def is_over(self) -> bool:
        """Whether the session has ended."""
        return self.state is State.IDLE

    # -- outputs ------------------------------------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """What was negotiated, as far as the meaning of messages depends on it."""
        return self._decoder.context

    @property
    def received(self) -> dict[str, int]:
        """Messages received, by kind."""
        return self._decoder.received

    @property
    def is_confirmed(self) -> bool:
        """Whether the peer answered our OPEN with a KEEPALIVE: it does not hold this connection itself."""
        return MessageType.KEEPALIVE.name in self.received

    @property
    def next_deadline(self) -> float | None:
        """When `handle_timer` is due."""
        return min(self._deadlines.values(), default=None)

    @property
    def largest_message(self) -> int:
        """How many octets an UPDATE may have (RFC 8654)."""
        return self._decoder.framing.largest

    @property
    def enhanced_refresh(self) -> bool:
        """Whether both sides mark the beginning and the end of a refresh (RFC 7313)."""
        return (
            self.peer is not None and self.peer.offer.enhanced_refresh and self.local.offer.enhanced_refresh
        )

    @property
    def path_ids_sent(self) -> frozenset[Family]:
        """The families in which we put an identifier before each prefix (RFC 7911), as both sides want it."""
        theirs = self.peer.offer.add_path_receive if self.peer is not None else frozenset()
        return self.context.families & self.local.offer.add_path_send & theirs

    @property
    def is_soft(self) -> bool:
        """Whether a NOTIFICATION, too, starts a graceful restart (RFC 8538)."""
        ours = self.local.offer.graceful_restart
        theirs = self.peer.offer.graceful_restart if self.peer is not None else None
        return bool(ours and theirs and ours.notification and theirs.notification)

    def data_to_send(self) -> bytes:
        """Octets to write; each is answered once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # -- events of the table ------------------------------------------------------------------------------------------

    def _receive(self, message: Message, now: float) -> None:
        match message:
            case Update():
                self._step(fsm.Event.UPDATE, now, message)
            case Keepalive():
                self._step(fsm.Event.KEEPALIVE, now)
            case Open():
                if self.state is State.OPEN_SENT:
                    self._check(message)
                self._step(fsm.Event.OPEN_BESIDE if self.is_beside else fsm.Event.OPEN, now, message)
            case RouteRefresh():
                self._step(fsm.Event.ROUTE_REFRESH, now, message)
            case Notification():
                down = Down(f"peer said: {describe_notification(message)}", received=message)
                self._events.append(self._end(fsm.Event.NOTIFICATION, down))

    def _step(self, event: fsm.Event, now: float, message: Message | None = None) -> None:
        """An event that the session lives on with, unless the table says that it must not come in this state."""
        before = self.state
        self.state, actions = advance(before, event)
        for action in actions:
            match action:
                case Action.RESTART_HOLD:
                    self._restart_hold(now)
                case Action.DELIVER:
                    self._deliver(message)
                case Action.SEND_KEEPALIVE:
                    self._send_keepalive(now)
                case Action.SEND_OPEN:
                    self._send_open(now)
                case Action.ADOPT_OPEN if isinstance(message, Open):
                    self._adopt_open(message)
                case Action.REPORT_UP:
                    self._events.append(Up())
                case Action.SEND_FSM_ERROR:
                    error = Notification(Error.FINITE_STATE_MACHINE, _FSM_SUBCODES[before])
                    self._send(error)
                    self._events.append(
                        self._closed(Down(f"{words(event.name)} in state {before.value}", error))
                    )
                case _:
                    pass  # what ends a session is `_end`'s

    def _end(self, event: fsm.Event, down: Down) -> Down:
        """An event that ends the session in any state; answers how it ended."""
        self.state, actions = advance(self.state, event)
        if not actions:
            return Down(down.why)  # it was over before
        if Action.SEND_NOTIFICATION in actions and down.sent is not None:
            self._send(down.sent)
        return self._closed(down)

    def _closed(self, down: Down) -> Down:
        self._deadlines.clear()
        return replace(down, soft=self.is_soft)

    # -- actions of the table -----------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        data = messages.encode(message, self.context)
        kind = MessageType(data[TYPE_AT]).name
        self.sent[kind] = self.sent.get(kind, 0) + 1
        self._out += data

    def _send_open(self, now: float) -> None:
        ours = self.local
        self._send(Open(ours.asn, ours.hold_seconds, ours.router_id, ours.offer))
        self._deadlines[Timer.HOLD] = now + OPEN_SENT_HOLD_SECONDS

    def _send_keepalive(self, now: float) -> None:
        self._send(Keepalive())
        if self.hold_seconds:
            every = max(SHORTEST_KEEPALIVE_SECONDS, self.hold_seconds / KEEPALIVES_PER_HOLD)
            if self.local.keepalive_seconds:
                every = min(every, max(SHORTEST_KEEPALIVE_SECONDS, self.local.keepalive_seconds))
            self._deadlines[Timer.KEEPALIVE] = now + jittered(every, self._random)

    def _restart_hold(self, now: float) -> None:
        # RFC 4271 section 4.2: zero on either side means no keepalives and no hold timer.
        self._patient_until = None
        if self.hold_seconds:
            self._deadlines[Timer.HOLD] = now + self.hold_seconds
        else:
            self._deadlines.pop(Timer.HOLD, None)

    def _deliver(self, message: Message | None) -> None:
        if isinstance(message, Update):
            self._events.append(Received(message))
            if message.beside is not None:
                self._events.append(Received(message.beside))
        elif isinstance(message, RouteRefresh):
            # What was not negotiated is ignored, and so is an unknown subtype (RFC 2918 section 4, RFC 7313).
            family = family_at(message.afi, message.safi)
            kind = message.subtype if self.enhanced_refresh else Subtype.REQUEST
            if family not in self.context.families:
                why = f"ROUTE-REFRESH of family ({message.afi}, {message.safi}), which was not agreed"
                self._events.append(Ignored(why))
            elif kind in Subtype.__members__.values():
                self._events.append(Refresh(family, Subtype(kind)))

    def _check(self, theirs: Open) -> None:
        """RFC 4271 section 6.2. Raises NotificationError."""
        if self._remote_as is None and theirs.asn == self.local.asn:
            why = f"peer is of our own AS {theirs.asn}, and one of another AS is wanted"
            raise NotificationError(OpenError.BAD_PEER_AS, why)
        if self._remote_as not in (None, theirs.asn):
            why = f"peer is AS {theirs.asn}, configured is AS {self._remote_as}"
            raise NotificationError(OpenError.BAD_PEER_AS, why)
        if theirs.router_id == self.local.router_id and self.internal:
            # RFC 6286 section 2.3: the identifier is unique within an AS.
            why = f"peer has our own BGP identifier {theirs.router_id}"
            raise NotificationError(OpenError.BAD_BGP_IDENTIFIER, why)
        ours = self.local.offer.families
        if not theirs.offer.families & ours:
            names = " or ".join(f"{'IPv4' if one is Family.IPV4 else 'IPv6'} unicast" for one in sorted(ours))
            why = f"peer does not do {names}"
            wanted = b"".join(map(multiprotocol, sorted(ours)))
            raise NotificationError(OpenError.UNSUPPORTED_CAPABILITY, why, wanted)

    def _adopt_open(self, theirs: Open) -> None:
        ours = self.local.offer
        self.peer = theirs
        four = theirs.offer.four_octet_as is not None and ours.four_octet_as is not None
        families = theirs.offer.families & ours.families
        path_ids = families & theirs.offer.add_path_send & ours.add_path_receive
        ipv6_next_hops = families & theirs.offer.ipv6_next_hops & ours.ipv6_next_hops
        self._decoder.context = Context(four, self.internal, families, path_ids, ipv6_next_hops)
        if theirs.offer.extended_message and ours.extended_message:
            self._decoder.framing.largest = LARGEST_EXTENDED
        self.hold_seconds = min(self.local.hold_seconds, theirs.hold_seconds)
        self._events.append(Opened())


_FSM_SUBCODES = {
    State.OPEN_SENT: FsmError.UNEXPECTED_IN_OPEN_SENT,
    State.OPEN_HELD: FsmError.UNEXPECTED_IN_OPEN_CONFIRM,
    State.OPEN_CONFIRM: FsmError.UNEXPECTED_IN_OPEN_CONFIRM,
    State.ESTABLISHED: FsmError.UNEXPECTED_IN_ESTABLISHED,
}
"""The subcode of a message that must not come in a state (RFC 6608)."""
_EXPIRED = {
    Timer.HOLD: (fsm.Event.HOLD_EXPIRED, Error.HOLD_TIMER_EXPIRED, "hold timer expired: nothing was heard"),
    Timer.SEND_HOLD: (
        *(fsm.Event.SEND_HOLD_EXPIRED, Error.SEND_HOLD_TIMER_EXPIRED),
        "send hold timer expired: the peer takes no bytes",
    ),
}
"""What the end of a timer is to the state machine, and to the peer."""
