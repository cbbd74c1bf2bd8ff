"""One bounded step of work after the other: timers, some octets, some prefixes, some UPDATEs.

Promises: pure; whatever arrives or changes, a step does a bounded part of it, so a loop that makes steps is never long
away from its clock and its sockets. Connections are served in rotation, each in the order of its octets. A peer whose
octets wait unread, here or in the kernel, is not silent: its hold timer waits, too (decision 36).
Does not know: messages, sockets, tasks, clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from bgp.events import Connection
from bgp.instance import Changed, Instance, ShellAction
from bgp.wire.families import Address

READ_BYTES = 32 << 10
"""Read of one connection in one step: at most some seven thousand prefixes."""
FULL_BYTES = 128 << 10
"""Unread octets of one connection from which on its socket is no longer read; one read may add to them."""
WRITTEN_BYTES = 128 << 10
"""UPDATEs of one step, for all peers together."""
CONNECTION_BYTES = 32 << 10
"""UPDATEs of one step for one peer."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at sockets shows, without reading or writing."""

    unread: Collection[Connection] = ()
    """Octets, or the end, wait to be read."""
    writable: Collection[Connection] = ()
    """The other end takes octets."""


Look = Callable[[Collection[Connection]], Seen]
"""Looks at the sockets of some connections, now."""


def _nothing(_: Collection[Connection]) -> Seen:
    return Seen()


@dataclass(slots=True)
class Step:
    """What the shell has to do after one step."""

    actions: list[tuple[Address, ShellAction]]
    changed: Changed
    updates: list[tuple[Connection, bytes]] = field(default_factory=list)
    changed_peers: set[Address] = field(default_factory=set)
    """The peers to which something happened."""
    reading: Connection | None = None
    """The connection of which some was read; its socket may be read again when it is not full."""


class Scheduler:
    """An instance and what waits for it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.receive_queue = ReceiveQueue()
        self._full: set[Connection] = set()
        self._served: Connection = 0
        """The last that was written to; those behind it come first."""

    @property
    def is_busy(self) -> bool:
        """Whether another step has something to do now."""
        return bool(self.receive_queue) or self.instance.is_busy or bool(self._writable())

    def blocked(self, connection: Connection, now: float, *, is_full: bool) -> None:
        """The other end takes no more octets (`is_full`), or takes them again."""
        if is_full:
            self._full.add(connection)
        else:
            self._full.discard(connection)
        self.instance.blocked(connection, now, is_full=is_full)

    def closed(self, connection: Connection) -> None:
        """A connection is closed."""
        self._full.discard(connection)

    def step(self, now: float, look: Look = _nothing) -> Step:
        """Do one step. `look` is asked only of connections that a hold timer would end."""
        self._run_timers(now, look)
        read = self.receive_queue.next()
        if read is not None:
            connection, data, ended = read
            if data:
                self.instance.received(connection, data, now)
            if ended is not None:
                self.instance.disconnected(connection, ended, now)
        step = Step(*self.instance.flush(now), reading=read[0] if read is not None else None)
        self._write(step)
        step.changed_peers = self.instance.take_changed_peers()
        return step

    def _run_timers(self, now: float, look: Look) -> None:
        due = self.instance.next_deadline()
        if due is None or now < due:
            return
        overdue = self.instance.overdue(now)
        seen = look(overdue) if overdue else Seen()
        for connection in overdue:
            unread = connection in seen.unread or connection in self.receive_queue
            writable = connection in seen.writable
            self.instance.extend_hold(connection, now, unread=unread, writable=writable)
        self.instance.handle_timer(now)

    def _writable(self) -> list[Connection]:
        return [connection for connection in self.instance.writable() if connection not in self._full]

    def _write(self, step: Step) -> None:
        room = WRITTEN_BYTES
        for connection in sorted(self._writable(), key=lambda one: (one <= self._served, one)):
            written = 0
            while written < CONNECTION_BYTES and (data := self.instance.next_update(connection)):
                step.updates.append((connection, data))
                written += len(data)
            self._served = connection
            room -= written
            if room <= 0:
                return


@dataclass(slots=True)
class _Unread:
    data: bytearray = field(default_factory=bytearray)
    ended: str | None = None


class ReceiveQueue:
    """What was received and not yet read, of all connections."""

    def __init__(self) -> None:
        self._unread: dict[Connection, _Unread] = {}
        """In the order in which they are read next."""

    def __bool__(self) -> bool:
        return bool(self._unread)

    def put(self, connection: Connection, data: bytes) -> None:
        """Octets arrived."""
        self._unread.setdefault(connection, _Unread()).data += data

    def end(self, connection: Connection, why: str) -> None:
        """No more octets will come."""
        self._unread.setdefault(connection, _Unread()).ended = why

    def is_full(self, connection: Connection) -> bool:
        """Whether to stop reading the socket."""
        unread = self._unread.get(connection)
        return unread is not None and len(unread.data) >= FULL_BYTES

    def next(self) -> tuple[Connection, bytes, str | None] | None:
        """The next slice of a connection, and why it was the last; None when nothing waits."""
        for connection, unread in self._unread.items():
            data = bytes(unread.data[:READ_BYTES])
            del unread.data[:READ_BYTES]
            del self._unread[connection]
            if unread.data:
                self._unread[connection] = unread  # behind the others
                return connection, data, None
            return connection, data, unread.ended
        return None

    def __contains__(self, connection: Connection) -> bool:
        """Whether something of a connection waits."""
        return connection in self._unread
