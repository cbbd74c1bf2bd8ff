"""What was received and not yet read, cut into slices: a neighbour that tells a whole table waits for its turn.

Promises: pure; neighbours take turns, the bytes of each stay in order, and its end comes behind them. A connection of
which much waits is full, and its owner stops reading it until it is not. Does not know: messages, sockets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bgp.events import Connection

SLICE_BYTES = 32 << 10
"""Read at a time: at most some seven thousand prefixes."""
FULL_BYTES = 128 << 10
"""Of one connection; what one read of the socket adds comes on top."""


@dataclass(slots=True)
class _Waiting:
    data: bytearray = field(default_factory=bytearray)
    ended: str | None = None


class ReceiveQueue:
    """Of all connections."""

    def __init__(self) -> None:
        self._waiting: dict[Connection, _Waiting] = {}
        """In the order of their turns."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._waiting

    def put(self, connection: Connection, data: bytes) -> None:
        """Bytes arrived."""
        self._waiting.setdefault(connection, _Waiting()).data += data

    def end(self, connection: Connection, why: str) -> None:
        """Nothing more will come."""
        self._waiting.setdefault(connection, _Waiting()).ended = why

    def is_full(self, connection: Connection) -> bool:
        """Whether to stop reading."""
        waiting = self._waiting.get(connection)
        return waiting is not None and len(waiting.data) >= FULL_BYTES

    def next(self) -> tuple[Connection, bytes, str | None] | None:
        """The next slice, and why it was the last; None when nothing waits."""
        for connection, waiting in self._waiting.items():
            data = bytes(waiting.data[:SLICE_BYTES])
            del waiting.data[:SLICE_BYTES]
            del self._waiting[connection]
            if waiting.data:
                self._waiting[connection] = waiting  # behind the others
                return connection, data, None
            return connection, data, waiting.ended
        return None

    def connections(self) -> list[Connection]:
        """Those of which something waits."""
        return list(self._waiting)
