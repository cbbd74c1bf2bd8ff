"""One BFD session without I/O: asynchronous mode, negotiated timers, poll sequences (RFC 5880 section 6).

Promises: pure; packets and time come in, octets to be sent come out, and one deadline. A session that is not up speaks
once a second, or less often if that is wanted (section 6.8.3); each change of its timers is a poll sequence; no timer
counts before both sides know it.
Demand mode is never asked for; a neighbour that asks for it gets no periodic packets (section 6.8.7).
Does not know: addresses, sockets, other sessions, what follows from a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgp.bfd.packet import Check, ControlPacket, Diagnostic, Dropped, State, encode

SLOW = 1_000_000
"""Microseconds: what a session that is not up desires at least between its packets (section 6.8.3)."""
LEAST_PERIOD, JITTER, LATENESS, LATENESS_OF_ONE = 0.75, 0.05, 0.20, 0.10
"""Of an interval. A period is 75 to 100 % of it, with multiplier 1 75 to 90 % (section 6.8.7): JITTER is drawn here,
and as much as LATENESS comes of the shell's rounds, which are not in step with the neighbour's."""
GOODBYES = 3
"""Packets that say AdminDown when a session is given up: one may be lost, and two."""
GOODBYE_SECONDS = 0.05
_MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class Timers:
    """What a session asks for; microseconds."""

    min_tx: int
    min_rx: int
    multiplier: int
    idle: int = SLOW
    """What is desired at least between its packets while it is not up."""

    @property
    def slow(self) -> int:
        """What is desired while it is not up."""
        return max(SLOW, self.idle, self.min_tx)


class Session:
    """The variables of section 6.8.1 and what moves them."""

    def __init__(self, timers: Timers, discriminator: int, random: Callable[[], float], now: float) -> None:
        self.timers = timers
        self.discriminator = discriminator
        self._random = random
        self.state, self.remote_state = State.DOWN, State.DOWN
        self.diagnostic, self.remote_diagnostic = Diagnostic.NONE, 0
        self.last_diagnostic = Diagnostic.NONE
        """Why it went down last; it stays when the session is up again."""
        self.since = now
        """When the state was entered."""
        self.failures = 0
        """How often it was up and went down though nobody had said so: what its clients act on (RFC 5882)."""
        self.remote_discriminator = 0
        self.remote_independent = False
        """The neighbour's C bit; false until it was heard."""
        self._remote_min_rx = 1
        self._remote_min_tx = self._remote_multiplier = 0
        self._remote_demand = False
        self._desired_tx = timers.slow
        """Advertised; that in force may still be shorter, until a poll sequence has ended."""
        self._tx_in_force = self._desired_tx
        self._rx_in_force = timers.min_rx
        self._polling = self._poll_again = False
        self._heard_at: float | None = None
        self._next_tx: float | None = now
        self._goodbyes = 0
        self._octets = b""
        """The periodic packet; empty: something in it has changed."""
        self._detection = self._interval = 0.0
        """Seconds, as they follow from the variables above: they are asked for with each packet."""
        self._is_periodic = True
        self._follow_variables()

    # -- what others read -------------------------------------------------------------------------------------------

    @property
    def tx_interval(self) -> int:
        """Microseconds between our packets, without jitter; 0: none are sent periodically."""
        if not self._remote_min_rx:
            return 0
        return max(self._tx_in_force, self._remote_min_rx)

    @property
    def rx_interval(self) -> int:
        """Microseconds between the neighbour's packets as agreed; 0: it was never heard."""
        return max(self._rx_in_force, self._remote_min_tx) if self._remote_multiplier else 0

    @property
    def detection_time(self) -> float:
        """Seconds of silence after which it is down (section 6.8.4); 0: the neighbour was never heard."""
        return self._detection

    @property
    def next_deadline(self) -> float | None:
        """When `handle_timer` is due; None: after its goodbyes."""
        due, heard = self._next_tx, self._heard_at
        if heard is None:
            return due
        expiry = heard + self._detection
        return due if due is not None and due < expiry else expiry

    @property
    def lateness(self) -> float:
        """Seconds by which the shell may be late for `next_deadline`."""
        shortest = min(self.tx_interval or SLOW, self.rx_interval or SLOW) * _MICRO
        return shortest * (LATENESS_OF_ONE if self.timers.multiplier == 1 else LATENESS)

    @property
    def is_over(self) -> bool:
        """Given up, and the neighbour was told so."""
        return self.state is State.ADMIN_DOWN and not self._goodbyes

    @property
    def is_silent(self) -> bool:
        """Whether nothing of the neighbour's counts: it was never heard, or not within a detection time."""
        return self._heard_at is None

    # -- inputs -----------------------------------------------------------------------------------------------------

    def hear(self, now: float) -> None:
        """The neighbour has sent again exactly what it sent last, and neither bit of a poll sequence is in that."""
        self._heard_at = now

    def receive(self, packet: ControlPacket, now: float) -> list[bytes]:
        """A packet of the neighbour's (section 6.8.6); what is to be sent at once. Raises Dropped."""
        if self.state is State.ADMIN_DOWN:
            raise Dropped(Check.ADMIN_DOWN)
        if packet.my_discriminator != self.remote_discriminator:
            self._octets = b""
        self.remote_discriminator, self.remote_state = packet.my_discriminator, packet.state
        self.remote_diagnostic, self.remote_independent = packet.diagnostic, packet.independent
        self._remote_demand = packet.demand
        self._remote_min_rx, self._remote_min_tx = packet.required_min_rx, packet.desired_min_tx
        self._remote_multiplier = packet.multiplier
        self._heard_at = now
        if packet.final and self._polling:
            self._end_poll()
        before = self.state
        self._follow(packet.state, now)
        self._follow_variables()
        self._bring_forward(now)
        if packet.poll:
            return [self._packet(final=True)]
        return [self._packet()] if self.state is not before else []

    def periodic(self, now: float) -> bytes:
        """The next packet, if nothing but that is due and nothing in it has changed; else empty, for `handle_timer`."""
        due, heard = self._next_tx, self._heard_at
        if due is None or now < due or not self._is_periodic or self._goodbyes:
            return b""
        if heard is not None and now >= heard + self._detection:
            return b""
        if self._octets:
            self._next_tx = now + self._interval * (LEAST_PERIOD + JITTER * self._random())
        return self._octets

    def handle_timer(self, now: float) -> list[bytes]:
        """Do what is due."""
        sent: list[bytes] = []
        if self._heard_at is not None and now >= self._heard_at + self._detection:
            sent = self._expire(now)
        if self._next_tx is not None and now >= self._next_tx:
            if self._goodbyes:
                return [self._goodbye(now)]
            self._next_tx = now + self._period()
            if self._is_periodic and not sent:
                sent.append(self._octets or self._packet())
        return sent

    def change(self, timers: Timers, now: float) -> None:
        """Ask for other timers from now on: they count once the neighbour knows them (section 6.8.3)."""
        if timers == self.timers:
            return
        before, self.timers = self.timers, timers
        self._octets = b""
        if timers.min_rx > before.min_rx or self.state is not State.UP:
            self._rx_in_force = timers.min_rx
        self._desire(timers.slow if self.state is not State.UP else timers.min_tx)
        if (timers.min_tx, timers.min_rx) != (before.min_tx, before.min_rx):
            self._poll()
        self._follow_variables()
        self._bring_forward(now)

    def give_up(self, now: float) -> None:
        """Go down administratively; the neighbour is told so, and takes it for no failure (RFC 5882 section 3.2)."""
        if self.state is State.ADMIN_DOWN:
            return
        self.diagnostic = Diagnostic.ADMINISTRATIVELY_DOWN
        self._enter(State.ADMIN_DOWN, now)
        self._heard_at, self._polling = None, False
        self._goodbyes, self._next_tx = GOODBYES, now

    def fall_silent(self) -> None:
        """Say no more goodbyes."""
        self._goodbyes, self._next_tx = 0, None

    # -- within -----------------------------------------------------------------------------------------------------

    def _follow_variables(self) -> None:
        both_up = self.state is State.UP and self.remote_state is State.UP
        asked_to_be_silent = self._remote_demand and both_up and not self._polling
        self._is_periodic = bool(self._remote_min_rx) and not asked_to_be_silent
        self._interval = (self.tx_interval or SLOW) * _MICRO
        self._detection = self._remote_multiplier * self.rx_interval * _MICRO

    def _goodbye(self, now: float) -> bytes:
        self._goodbyes -= 1
        self._next_tx = now + GOODBYE_SECONDS if self._goodbyes else None
        return self._packet()

    def _follow(self, remote: State, now: float) -> None:
        """The table of section 6.8.6."""
        if remote is State.ADMIN_DOWN:
            if self.state is not State.DOWN:
                self._go_down(Diagnostic.NEIGHBOR_SIGNALED_DOWN, now, is_failure=False)
        elif self.state is State.DOWN:
            if remote in (State.DOWN, State.INIT):
                self._enter(State.INIT if remote is State.DOWN else State.UP, now)
        elif self.state is State.INIT:
            if remote in (State.INIT, State.UP):
                self._enter(State.UP, now)
        elif remote is State.DOWN:
            self._go_down(Diagnostic.NEIGHBOR_SIGNALED_DOWN, now, is_failure=True)

    def _expire(self, now: float) -> list[bytes]:
        """Silence of a detection time: the neighbour's discriminator counts no more (section 6.8.1)."""
        self._heard_at, self.remote_discriminator, self._octets = None, 0, b""
        self.remote_state, self._remote_demand = State.DOWN, False
        if self.state is State.DOWN:
            self._follow_variables()
            return []
        self._go_down(Diagnostic.DETECTION_TIME_EXPIRED, now, is_failure=True)
        return [self._packet()]

    def _go_down(self, why: Diagnostic, now: float, *, is_failure: bool) -> None:
        self.failures += is_failure and self.state is State.UP
        self.diagnostic = self.last_diagnostic = why
        self._enter(State.DOWN, now)

    def _enter(self, state: State, now: float) -> None:
        self.state, self.since, self._octets = state, now, b""
        if state is State.UP:
            self.diagnostic = Diagnostic.NONE
            self._desire(self.timers.min_tx)
            self._poll()  # whatever is desired: the neighbour has to hear it in this state
        else:
            self._polling = self._poll_again = False
            self._rx_in_force = self.timers.min_rx
            self._tx_in_force = self._desired_tx = self.timers.slow
        self._follow_variables()

    def _desire(self, interval: int) -> None:
        if interval == self._desired_tx:
            return
        longer, self._desired_tx, self._octets = interval > self._desired_tx, interval, b""
        if not longer or self.state is not State.UP:
            self._tx_in_force = interval

    def _poll(self) -> None:
        if self.state is State.UP:
            self._poll_again, self._polling, self._octets = self._polling, True, b""

    def _end_poll(self) -> None:
        self._polling, self._poll_again, self._octets = self._poll_again, False, b""
        if not self._polling:
            self._tx_in_force, self._rx_in_force = self._desired_tx, self.timers.min_rx

    def _bring_forward(self, now: float) -> None:
        """The interval may be shorter than it was when the next packet was timed."""
        if self._next_tx is not None and self.state is not State.ADMIN_DOWN:
            self._next_tx = min(self._next_tx, now + self._period())

    def _period(self) -> float:
        """Seconds to the next packet, with jitter."""
        return self._interval * (LEAST_PERIOD + JITTER * self._random())

    def _packet(self, *, final: bool = False) -> bytes:
        if self._octets and not final:
            return self._octets
        octets = encode(
            ControlPacket(
                state=self.state,
                my_discriminator=self.discriminator,
                your_discriminator=self.remote_discriminator,
                desired_min_tx=self._desired_tx,
                required_min_rx=self.timers.min_rx,
                multiplier=self.timers.multiplier,
                diagnostic=self.diagnostic,
                poll=self._polling and not final,
                final=final,
                independent=True,
            )
        )
        if not final:
            self._octets = octets
        return octets
