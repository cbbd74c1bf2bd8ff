"""One bounded turn of work after the other: timers, some bytes, some prefixes, some UPDATEs.

Promises: pure; whatever arrives or changes, a turn does a bounded part of it, so a loop that makes turns is never long
away from its clock and its sockets. A neighbour whose bytes wait here unread is not silent: its hold timer waits, too.
Does not know: sockets, tasks, clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bgp.events import Connection
from bgp.instance import Changed, Instance, ShellAction
from bgp.receive_queue import ReceiveQueue
from bgp.wire.families import Address

WRITTEN_BYTES = 128 << 10
"""UPDATEs of one turn, for all neighbours together."""
CONNECTION_BYTES = 32 << 10
"""And for one of them."""


@dataclass(slots=True)
class Step:
    """What the shell has to do."""

    wire: list[tuple[Address, ShellAction]]
    changed: Changed
    updates: list[tuple[Connection, bytes]] = field(default_factory=list)
    changed_peers: set[Address] = field(default_factory=set)
    """The neighbours to which something happened."""
    reading: Connection | None = None
    """The connection of which some was read; it may be read on when it is not full."""


class Scheduler:
    """A router and what waits for it."""

    def __init__(self, router: Instance) -> None:
        self.instance = router
        self.receive_queue = ReceiveQueue()
        self._full: set[Connection] = set()
        self._served: Connection = 0
        """The last that was written to; those behind it come first."""

    @property
    def is_busy(self) -> bool:
        """Whether another turn has something to do now."""
        return bool(self.receive_queue) or self.instance.is_busy or bool(self._writable())

    def blocked(self, connection: Connection, now: float, *, is_full: bool) -> None:
        """The other end takes no more bytes, or takes them again."""
        if is_full:
            self._full.add(connection)
        else:
            self._full.discard(connection)
        self.instance.blocked(connection, now, is_full=is_full)

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._full.discard(connection)

    def step(self, now: float) -> Step:
        """One turn."""
        self._keep_time(now)
        read = self.receive_queue.next()
        if read is not None:
            connection, data, ended = read
            if data:
                self.instance.received(connection, data, now)
            if ended is not None:
                self.instance.disconnected(connection, ended, now)
        wire, changed = self.instance.flush(now)
        turn = Step(wire, changed, reading=read[0] if read is not None else None)
        self._write(turn)
        turn.changed_peers = self.instance.take_changed_peers()
        return turn

    def _keep_time(self, now: float) -> None:
        due = self.instance.next_deadline()
        if due is None or now < due:
            return
        for connection in self.receive_queue.connections():
            self.instance.extend_hold(connection, now)
        self.instance.handle_timer(now)

    def _writable(self) -> list[Connection]:
        return [connection for connection in self.instance.writable() if connection not in self._full]

    def _write(self, turn: Step) -> None:
        room = WRITTEN_BYTES
        for connection in sorted(self._writable(), key=lambda one: (one <= self._served, one)):
            written = 0
            while written < CONNECTION_BYTES and (data := self.instance.next_update(connection)):
                turn.updates.append((connection, data))
                written += len(data)
            self._served = connection
            room -= written
            if room <= 0:
                return
