"""All BFD sessions of this process without I/O: which packet is whose, what is due next, what changed.

Promises: pure; time and packets come in, packets go out with their session. A session lives as long as an agent wants
it, and ABANDONED_SECONDS after the last agent has gone; it is never touched because another one is. Discriminators
are unique and not guessed from each other. Does not know: sockets, clocks, how an agent says what it wants.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from bgp.bfd.bfd_session import Session
from bgp.bfd.door import DesiredSession, SessionKey, SessionReport
from bgp.bfd.packet import Check, Diagnostic, Dropped, State, decode

ABANDONED_SECONDS = 24 * 3600.0
"""How long sessions are kept that no agent has asked for since: an outage of a day is no failure of the way."""
STATE_NAMES = {State.ADMIN_DOWN: "AdminDown", State.DOWN: "Down", State.INIT: "Init", State.UP: "Up"}
DIAGNOSTIC_NAMES = {one.value: one.name.lower().replace("_", " ") for one in Diagnostic}


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a datagram came from; equal arrivals are treated alike."""

    peer: str
    local: str
    interface: str
    ttl: int
    multihop: bool


@dataclass(slots=True, eq=False)
class Running:
    """A session with what it was asked for."""

    desired: DesiredSession
    session: Session
    error: str = ""
    """Why it cannot speak or listen."""
    number: int = 0
    """The session's discriminator."""
    timed: float = -1.0
    """Its place in the heap of deadlines."""
    last: bytes = b""
    """The last datagram with its origin: the same again needs no second look."""
    seen: tuple[object, ...] = field(default=())
    """What was last reported of it."""

    @property
    def key(self) -> SessionKey:
        """Its name."""
        return self.desired.key


class Engine:
    """The sessions; `outputs` is taken by the shell after each input."""

    def __init__(self, random: Callable[[], float], new_discriminator: Callable[[], int]) -> None:
        self._random, self._new_discriminator = random, new_discriminator
        self.sessions: dict[SessionKey, Running] = {}
        self._leaving: list[Running] = []
        """Given up, and still saying so."""
        self._by_discriminator: dict[int, Running] = {}
        self._by_source: dict[tuple[str, str, bool], list[Running]] = {}
        self._repeated: dict[bytes, Running] = {}
        """By the last packet of each: at most one."""
        self._heap: list[tuple[float, int, Running]] = []
        self._order = count()
        self.outputs: list[tuple[Running, bytes]] = []
        self.counters: Counter[str] = Counter()
        self._changed: dict[Running, None] = {}
        self._abandoned_at: float | None = None

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def configure(self, desired: Iterable[DesiredSession], now: float) -> None:
        """Have these sessions, and no others; those that go say so to their neighbours."""
        wanted = {one.key: one for one in desired}
        self._abandoned_at = None
        for key, running in list(self.sessions.items()):
            after = wanted.get(key)
            if after is None:
                del self.sessions[key]
                self._changed.pop(running, None)
                running.session.give_up(now)
                self._forget_last(running)
                self._leaving.append(running)
                self._time(running)
            elif after != running.desired:
                running.desired = after
                self._forget_last(running)
                running.session.change(after.timers, now)
                self._touched(running)
        for key, one in wanted.items():
            if key not in self.sessions:
                self._add(one, now)

    def _add(self, desired: DesiredSession, now: float) -> None:
        for leaving in self._leaving:
            if leaving.key == desired.key:
                leaving.session.fall_silent()  # its goodbyes would be taken for the new one's
        number = self._new_discriminator()
        while number in self._by_discriminator or not number:
            number = self._new_discriminator()
        running = Running(desired, Session(desired.timers, number, self._random, now), number=number)
        key = desired.key
        self.sessions[key] = self._by_discriminator[number] = running
        self._by_source.setdefault((key.peer, key.interface, key.multihop), []).append(running)
        self._touched(running)

    def abandoned(self, now: float) -> None:
        """The agent that asked for the sessions has gone; one that comes back adopts them by asking again."""
        self._abandoned_at = now

    def fail(self, running: Running, why: str) -> None:
        """It cannot speak or listen (empty: it can again)."""
        if running.error != why and self.sessions.get(running.key) is running:
            running.error = why
            self._changed[running] = None

    # -- packets and time -------------------------------------------------------------------------------------------

    def hear_again(self, datagram: bytes, now: float) -> bool:
        """Whether a datagram, by its octets with their origin, is the last one of a session again: then it counts."""
        known = self._repeated.get(datagram)
        if known is None:
            return False
        known.session.hear(now)
        return True

    def receive(self, data: bytes, arrival: Arrival, now: float, datagram: bytes = b"") -> None:
        """A datagram; `datagram` is what `hear_again` will be asked if the very same comes again."""
        try:
            self._receive(data, arrival, now, datagram)
        except Dropped as dropped:
            self.counters[f"dropped_{dropped.check}"] += 1

    def _receive(self, data: bytes, arrival: Arrival, now: float, datagram: bytes) -> None:
        packet = decode(data)
        running = self._whose(packet.your_discriminator, arrival)
        if arrival.ttl < running.desired.minimum_ttl:
            raise Dropped(Check.TTL)
        self._send(running, running.session.receive(packet, now))
        self.counters["received"] += 1
        self._forget_last(running)
        if datagram and not packet.poll and not packet.final:
            running.last = datagram
            self._repeated[datagram] = running
        self._touched(running)

    def _whose(self, discriminator: int, arrival: Arrival) -> Running:
        """The session of a packet (RFC 5880 section 6.3). Raises Dropped."""
        if discriminator:
            found = self._by_discriminator.get(discriminator)
            if found is None:
                raise Dropped(Check.NO_SESSION)
            if not _is_from(found, arrival):
                raise Dropped(Check.OTHER_ADDRESS)
            return found
        for interface in dict.fromkeys((arrival.interface, "")):
            for one in self._by_source.get((arrival.peer, interface, arrival.multihop), ()):
                if _is_from(one, arrival) and self.sessions.get(one.key) is one:
                    return one
        raise Dropped(Check.NO_SESSION)

    def handle_timers(self, now: float) -> None:
        """Do what is due."""
        heap, outputs = self._heap, self.outputs
        while heap and heap[0][0] <= now:
            at, order, running = heap[0]
            if at != running.timed:
                heapq.heappop(heap)  # it was timed anew
                continue
            session = running.session
            if octets := session.periodic(now):
                outputs.append((running, octets))
                due = running.timed = session.next_deadline or at
                heapq.heapreplace(heap, (due, order, running))
                continue
            heapq.heappop(heap)
            state = session.state
            self._send(running, session.handle_timer(now))
            if session.is_silent:
                self._forget_last(running)
            if session.state is not state:
                self._touched(running)
            else:
                self._time(running)
        if self._leaving:
            self._forget()
        if self._abandoned_at is not None and now >= self._abandoned_at + ABANDONED_SECONDS:
            self.configure((), now)

    @property
    def next_deadline(self) -> float | None:
        """When `handle_timers` is due."""
        first = self._heap[0][0] if self._heap else None
        if self._abandoned_at is not None and self.sessions:
            end = self._abandoned_at + ABANDONED_SECONDS
            return end if first is None else min(first, end)
        return first

    @property
    def lateness(self) -> float:
        """Seconds by which the shell may be late for any deadline."""
        return min((one.session.lateness for one in self.sessions.values()), default=1.0)

    def leave(self, now: float) -> None:
        """The process ends: all neighbours are told that it is no failure."""
        self.configure((), now)

    @property
    def is_leaving(self) -> bool:
        """Whether some neighbours are still being told."""
        return bool(self._leaving)

    # -- what comes out ---------------------------------------------------------------------------------------------

    def take_changed(self, now: float) -> list[SessionReport]:
        """The sessions of which something changed that people or clients care for, since the last call."""
        changed, self._changed = self._changed, {}
        found = []
        for running in changed:
            if (shown := _shown(running)) != running.seen:
                running.seen = shown
                found.append(report(running, now))
        return found

    def all_reports(self, now: float) -> list[SessionReport]:
        """All sessions."""
        return [report(running, now) for running in self.sessions.values()]

    # -- within -----------------------------------------------------------------------------------------------------

    def _send(self, running: Running, packets: list[bytes]) -> None:
        for packet in packets:
            self.outputs.append((running, packet))

    def _touched(self, running: Running) -> None:
        if self.sessions.get(running.key) is running:
            self._changed[running] = None
        self._time(running)

    def _time(self, running: Running) -> None:
        due = running.session.next_deadline
        if due is not None and due != running.timed:
            running.timed = due
            heapq.heappush(self._heap, (due, next(self._order), running))
            if len(self._heap) > 4 * len(self._by_discriminator) + 64:
                self._heap[:] = [one for one in self._heap if one[0] == one[2].timed]
                heapq.heapify(self._heap)

    def _forget_last(self, running: Running) -> None:
        if running.last:
            self._repeated.pop(running.last, None)
            running.last = b""

    def _forget(self) -> None:
        over = [one for one in self._leaving if one.session.is_over]
        self._leaving = [one for one in self._leaving if not one.session.is_over]
        for running in over:
            key = running.key
            running.timed = -1.0
            del self._by_discriminator[running.number]
            of_source = self._by_source[key.peer, key.interface, key.multihop]
            of_source.remove(running)
            if not of_source:
                del self._by_source[key.peer, key.interface, key.multihop]


def _is_from(running: Running, arrival: Arrival) -> bool:
    key = running.key
    return (
        key.peer == arrival.peer
        and key.multihop == arrival.multihop
        and key.interface in ("", arrival.interface)
        and key.local in ("", arrival.local)
    )


def _shown(running: Running) -> tuple[object, ...]:
    one = running.session
    timers = one.tx_interval, one.rx_interval, one.detection_time
    remote = one.remote_state, one.remote_discriminator, one.remote_independent, one.remote_diagnostic
    return (
        one.state,
        one.since,
        one.failures,
        one.diagnostic,
        remote,
        timers,
        running.error,
        running.desired,
    )


def report(running: Running, now: float) -> SessionReport:
    """A session in words."""
    one = running.session
    return SessionReport(
        key=running.key,
        state=STATE_NAMES[one.state],
        discriminator=one.discriminator,
        failures=one.failures,
        remote_state=STATE_NAMES[one.remote_state],
        remote_discriminator=one.remote_discriminator,
        remote_independent=one.remote_independent,
        diagnostic=_diagnostic(one.last_diagnostic),
        remote_diagnostic=_diagnostic(one.remote_diagnostic),
        seconds=round(now - one.since, 3),
        tx_ms=one.tx_interval / 1000,
        rx_ms=one.rx_interval / 1000,
        detection_ms=round(one.detection_time * 1000, 3),
        multiplier=one.timers.multiplier,
        error=running.error,
    )


def _diagnostic(number: int) -> str:
    return DIAGNOSTIC_NAMES.get(number, f"diagnostic {number}") if number else ""
