"""The door: agents connect to a UNIX socket, say which sessions they want, and hear how these are.

Promises: root's alone, by the socket's mode and the peer's credentials. Who sends too much, no message, or does not
read, loses the connection, and nobody else notices. The sessions are those of the last message, whoever sent it; once
its connection has ended they are kept (`Engine.abandoned`). Who sends nothing only listens. Does not know: UDP, what
a session does."""

from __future__ import annotations

import os
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bgp.bfd.door import LONGEST_LINE, BadMessage, Report, SessionReport, counted, encode, read_desired
from bgp.bfd.engine import Engine

MOST_CONNECTIONS = 8
MOST_WAITING = 4 * LONGEST_LINE
"""Octets that a connection may leave unread."""
PART_BYTES = 1 << 16


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    waiting: bytearray = field(default_factory=bytearray)


class AgentConnections:
    """The socket and what is connected to it."""

    def __init__(self, path: Path, poller: select.epoll, engine: Engine) -> None:
        self._path, self._poller, self._engine = path, poller, engine
        self._server: socket.socket | None = None
        self._connections: dict[int, _Connection] = {}
        self._asking: _Connection | None = None
        """Whose sessions they are."""
        self._version = 0

    def open(self) -> None:
        """Raises OSError; one of them when another process serves this socket."""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
            suppress(FileNotFoundError, ConnectionRefusedError),
        ):
            other.connect(str(self._path))
            raise OSError(f"{self._path}: another BFD process serves it")
        self._path.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            made.bind(str(self._path))
        finally:
            os.umask(before)
        made.listen(MOST_CONNECTIONS)
        self._server = made
        self._poller.register(made, select.EPOLLIN)

    def close(self) -> None:
        """The process ends."""
        for connection in list(self._connections.values()):
            self._end(connection, None)
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    @property
    def are_there(self) -> bool:
        """Whether anybody listens."""
        return bool(self._connections)

    def handle(self, descriptor: int, now: float) -> bool:
        """Something happened to a descriptor; whether other sessions are wanted since."""
        if self._server is not None and descriptor == self._server.fileno():
            self._accept(now)
            return False
        connection = self._connections.get(descriptor)
        if connection is None:
            return False
        self._flush(connection, now)
        return self._read(connection, now)

    def report(self, sessions: list[SessionReport], now: float, *, whole: bool) -> None:
        """Say to all how these sessions are."""
        line = encode(self._said(sessions, whole=whole))
        for connection in list(self._connections.values()):
            self._say(connection, line, now)

    def _said(self, sessions: list[SessionReport], *, whole: bool, error: str = "") -> Report:
        counters = counted(self._engine.counters) if whole else {}
        return Report(self._version, whole, tuple(sessions), counters, error)

    def _accept(self, now: float) -> None:
        assert self._server is not None
        try:
            made, _ = self._server.accept()
        except OSError:
            return
        size = struct.calcsize("3i")
        _, user, _ = struct.unpack("3i", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        if user not in (0, os.geteuid()) or len(self._connections) >= MOST_CONNECTIONS:
            made.close()
            return
        made.setblocking(False)
        connection = self._connections[made.fileno()] = _Connection(made)
        self._poller.register(made, select.EPOLLIN)
        self._say(connection, encode(self._said(self._engine.all_reports(now), whole=True)), now)

    def _read(self, connection: _Connection, now: float) -> bool:
        try:
            part = connection.socket.recv(PART_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            part = b""
        if not part:
            self._end(connection, now)
            return False
        connection.received += part
        *lines, rest = connection.received.split(b"\n")
        connection.received = bytearray(rest)
        for line in lines:
            if not self._take(connection, bytes(line), now):
                return False
        if len(rest) > LONGEST_LINE:
            self._refuse(connection, f"a message of more than {LONGEST_LINE} bytes", now)
        return bool(lines)

    def _take(self, connection: _Connection, line: bytes, now: float) -> bool:
        try:
            desired = read_desired(line)
        except BadMessage as error:
            self._refuse(connection, str(error), now)
            return False
        self._asking, self._version = connection, desired.version
        self._engine.configure(desired.sessions, now)
        self._say(connection, encode(self._said(self._engine.all_reports(now), whole=True)), now)
        return True

    def _refuse(self, connection: _Connection, why: str, now: float) -> None:
        self._say(connection, encode(self._said([], whole=False, error=why[:400])), now)
        self._end(connection, now)

    def _say(self, connection: _Connection, line: bytes, now: float) -> None:
        if self._connections.get(connection.socket.fileno()) is not connection:
            return
        if len(connection.waiting) + len(line) > MOST_WAITING:
            self._end(connection, now)
            return
        connection.waiting += line
        self._flush(connection, now)

    def _flush(self, connection: _Connection, now: float) -> None:
        was_waiting = bool(connection.waiting)
        try:
            while connection.waiting:
                del connection.waiting[: connection.socket.send(connection.waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._end(connection, now)
            return
        if was_waiting:
            writing = select.EPOLLOUT if connection.waiting else 0
            self._poller.modify(connection.socket, select.EPOLLIN | writing)

    def _end(self, connection: _Connection, now: float | None) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        connection.socket.close()
        if connection is self._asking:
            self._asking = None
            if now is not None:
                self._engine.abandoned(now)
