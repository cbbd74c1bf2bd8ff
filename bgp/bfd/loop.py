"""The process's loop: sockets, the clock and the engine, in rounds; an agent's door beside them.

Promises: what has arrived is read before any timer is looked at, so that a process that was kept from running takes its
own silence for nobody's failure. Rounds keep a distance (LONGEST_ROUND): however much is received, the process wakes up
so often and no more. Nothing received ends it. Its end by a signal tells all neighbours.
Does not know: what the sessions are for. Not asyncio's loop: that costs three times as much for each packet.
"""

from __future__ import annotations

import random
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from bgp.bfd.agent_connections import AgentConnections
from bgp.bfd.door import SessionKey
from bgp.bfd.engine import Engine, Running
from bgp.bfd.sockets import MULTIHOP, SINGLE_HOP, Listener, Receiver, arrival_of, listen, speak

LONGEST_ROUND, SHORTEST_ROUND = 0.020, 0.001
"""Seconds from one round to the next at least: what the sessions allow (`Session.lateness`), within these."""
MOST_FAULTS_LOGGED = 20
ERROR = 3
"""Of syslog(3)."""
RETRY_SECONDS = 1.0
"""Between two tries to open a socket that could not be opened."""
REPORT_SECONDS = 2.0
"""Between two whole reports, for their counters."""
LARGEST_DISCRIMINATOR = 0xFFFFFFFF


class Loop:
    """One process; a shell."""

    def __init__(self, path: Path) -> None:
        self._chance = random.SystemRandom()
        self.engine = Engine(random.random, lambda: self._chance.randint(1, LARGEST_DISCRIMINATOR))
        self._poller = select.epoll()
        self._receiver = Receiver()
        self._listeners: dict[tuple[int, bool], Listener] = {}
        self._by_descriptor: dict[int, Listener] = {}
        self._speaking: dict[int, socket.socket] = {}
        """By the session's discriminator."""
        self._retry_at: dict[object, float] = {}
        """When a socket that could not be opened is tried again, by the session or by (version, multihop)."""
        self._needed: set[tuple[int, bool]] = set()
        """Version of IP and whether over several hops: what sessions listen by."""
        self._deaf: dict[tuple[int, bool], str] = {}
        """Why one of them cannot be listened by; empty: it can."""
        self._agents = AgentConnections(path, self._poller, self.engine)
        self._wake, self._woken = socket.socketpair()
        self._ending = self._left = False
        self._report_at = 0.0
        self._round_seconds = LONGEST_ROUND

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises OSError when the door cannot be opened."""
        self._agents.open()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._poller.register(self._wake, select.EPOLLIN)
        signal.set_wakeup_fd(self._woken.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        try:
            while not self._left or self.engine.is_leaving:
                self._round()
        finally:
            self._agents.close()

    def _signalled(self, number: int, frame: object) -> None:
        self._ending = True

    def _round(self) -> None:
        now = time.monotonic()
        events = self._poller.poll(self._wait(now))
        now = began = time.monotonic()
        for descriptor, _ in events:
            if (listener := self._by_descriptor.get(descriptor)) is not None:
                self._receive(listener, now)
            elif descriptor == self._wake.fileno():
                with suppress(BlockingIOError):
                    self._wake.recv(64)
            elif self._agents.handle(descriptor, now):
                self._configured()
        if self._ending and not self._left:
            self._left = True
            self.engine.leave(now)
        now = time.monotonic()
        self.engine.handle_timers(now)
        self._send(now)
        self._keep_listeners(now)
        self._report(now)
        left = self._round_seconds - (time.monotonic() - began)
        if left > 0 and not self._ending:
            time.sleep(left)

    def _receive(self, listener: Listener, now: float) -> None:
        hear_again, heard = self.engine.hear_again, 0
        for datagram in self._receiver.received(listener):
            if hear_again(datagram, now):
                heard += 1
                continue
            try:
                arrival, data = arrival_of(datagram, listener)
                self.engine.receive(data, arrival, now, datagram)
            except Exception as error:  # a fault of ours in one packet is no other session's business
                self.engine.counters["faults"] += 1
                if self.engine.counters["faults"] <= MOST_FAULTS_LOGGED:
                    log(ERROR, f"a packet: {type(error).__name__}: {error}: {datagram.hex()}")
        self.engine.counters["received"] += heard

    def _wait(self, now: float) -> float:
        """Seconds until something is due; -1: nothing is."""
        due = [at for at in (self.engine.next_deadline, *self._retry_at.values()) if at is not None]
        if self._agents.are_there:
            due.append(self._report_at)
        return max(0.0, min(due) - now) if due else -1.0

    # -- sockets ----------------------------------------------------------------------------------------------------

    def _configured(self) -> None:
        """Other sessions are wanted."""
        self._needed = {_listener_of(key) for key in self.engine.sessions}
        self._retry_at.clear()

    def _send(self, now: float) -> None:
        outputs, self.engine.outputs = self.engine.outputs, []
        sent, speaking = 0, self._speaking
        for running, data in outputs:
            made = speaking.get(running.number)
            if made is None and (made := self._open(running, now)) is None:
                continue
            try:
                made.send(data)
                sent += 1
            except ConnectionRefusedError:
                pass  # an ICMP error about an earlier one: nobody listens there yet
            except BlockingIOError:
                self.engine.counters["send_full"] += 1
            except OSError as error:
                self.engine.counters["send_failed"] += 1
                self._speaking.pop(running.number).close()
                self._failed(running, f"its packets cannot be sent: {error.strerror or error}", now)
        self.engine.counters["sent"] += sent

    def _open(self, running: Running, now: float) -> socket.socket | None:
        if now < self._retry_at.get(running.key, 0.0):
            return None
        try:
            made = self._speaking[running.number] = speak(running.key)
        except OSError as error:
            self._failed(running, f"its socket cannot be opened: {error.strerror or error}", now)
            return None
        self._retry_at.pop(running.key, None)
        self.engine.fail(running, self._deaf.get(_listener_of(running.key), ""))
        return made

    def _failed(self, running: Running, why: str, now: float) -> None:
        self._retry_at[running.key] = now + RETRY_SECONDS
        self.engine.fail(running, why)

    def _keep_listeners(self, now: float) -> None:
        """Listen where a session needs it, and nowhere else."""
        needed = self._needed
        if len(self._speaking) > len(self.engine.sessions) and not self.engine.is_leaving:
            living = {running.number for running in self.engine.sessions.values()}
            for gone in self._speaking.keys() - living:
                self._speaking.pop(gone).close()
        if needed == self._listeners.keys() and not self._retry_at:
            return
        for which in self._listeners.keys() - needed:
            listener = self._listeners.pop(which)
            del self._by_descriptor[listener.socket.fileno()]
            listener.socket.close()
        for which in needed - self._listeners.keys():
            if now >= self._retry_at.get(which, 0.0):
                self._listen(which, now)
        for one in [one for one, at in self._retry_at.items() if at <= now]:
            del self._retry_at[one]

    def _listen(self, which: tuple[int, bool], now: float) -> None:
        version, multihop = which
        why = ""
        try:
            listener = listen(version, multihop=multihop)
        except OSError as error:
            port = MULTIHOP if multihop else SINGLE_HOP
            why = (
                f"UDP port {port} cannot be listened on: {error.strerror}; does another BFD daemon run here?"
            )
            self._retry_at[which] = now + RETRY_SECONDS
        else:
            self._listeners[which] = self._by_descriptor[listener.socket.fileno()] = listener
            self._poller.register(listener.socket, select.EPOLLIN)
            self._retry_at.pop(which, None)
        self._deaf[which] = why
        for key, running in self.engine.sessions.items():
            if _listener_of(key) == which:
                self.engine.fail(running, why)

    def _report(self, now: float) -> None:
        changed = self.engine.take_changed(now)
        if changed:
            self._round_seconds = min(LONGEST_ROUND, max(SHORTEST_ROUND, self.engine.lateness))
        if not self._agents.are_there:
            return
        if now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            self._agents.report(self.engine.all_reports(now), now, whole=True)
        elif changed:
            self._agents.report(changed, now, whole=False)


def _listener_of(key: SessionKey) -> tuple[int, bool]:
    return 6 if ":" in key.peer else 4, key.multihop


def log(level: int, text: str) -> None:
    """A line for the journal (sd-daemon(3)); of a process that logs what is wrong with itself, and no more."""
    sys.stderr.write(f"<{level}>{text}\n")
    sys.stderr.flush()
