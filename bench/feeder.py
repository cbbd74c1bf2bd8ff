"""A BGP peer that only announces: `python -m bench.feeder ADDRESS PORT SOURCE`.

It opens one session as AS 64512 and takes commands on standard input, a line each: `send FILE` sends the file's bytes
and answers `began SECONDS` (the monotonic clock just before the first byte) and `sent SECONDS`. `up` is printed when
the session is established. It keeps the session alive and discards what the other side sends.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from pathlib import Path

from bench.feeds import END_OF_RIB, FEEDER, message

OPEN, KEEPALIVE, NOTIFICATION = 1, 4, 3
HOLD_SECONDS = 90
KEEPALIVE_SECONDS = 20.0
DIAL_SECONDS = 60.0
AS_NUMBER = 64512
ATTEMPTS = 50
CAPABILITIES = b"\x01\x04\x00\x01\x00\x01" + b"\x41\x04" + struct.pack(">I", AS_NUMBER)
"""Multiprotocol IPv4 unicast (RFC 4760), four-octet AS (RFC 6793)."""


class Ended(Exception):
    """The session is over."""


def opening(identifier: int = FEEDER) -> bytes:
    """The OPEN of a feeder with that BGP identifier."""
    options = b"\x02" + bytes([len(CAPABILITIES)]) + CAPABILITIES
    body = struct.pack(">BHHI", 4, AS_NUMBER, HOLD_SECONDS, identifier) + bytes([len(options)]) + options
    return message(OPEN, body)


def dial(address: str, port: int, source: str) -> socket.socket:
    """A TCP connection, as soon as somebody listens. Raises OSError after DIAL_SECONDS."""
    deadline = time.monotonic() + DIAL_SECONDS
    while True:
        try:
            return socket.create_connection((address, port), 1.0, (source, 0))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Session:
    """One BGP session, with no more of RFC 4271 than a feed needs. Raises Ended when it is over."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        connection.settimeout(None)

    def message(self) -> tuple[int, bytes]:
        """The next message received: its type and its body. Raises Ended."""
        while len(self._buffer) < 19 or len(self._buffer) < int.from_bytes(self._buffer[16:18], "big"):
            data = self._connection.recv(65536)
            if not data:
                raise Ended("the peer closed the connection")
            self._buffer += data
        length, kind = int.from_bytes(self._buffer[16:18], "big"), self._buffer[18]
        body, self._buffer = self._buffer[19:length], self._buffer[length:]
        if kind == NOTIFICATION:
            raise Ended(f"NOTIFICATION {body[0]}/{body[1]}")
        return kind, body

    def establish(self) -> None:
        """OPEN and KEEPALIVE, both ways."""
        own = int.from_bytes(socket.inet_aton(self._connection.getsockname()[0]), "big")
        self._connection.sendall(opening(own))
        while self.message()[0] != OPEN:
            pass
        self._connection.sendall(message(KEEPALIVE, b""))
        while self.message()[0] != KEEPALIVE:
            pass
        self._connection.sendall(END_OF_RIB)

    def serve(self) -> None:
        """Commands from standard input until it ends."""
        due = time.monotonic() + KEEPALIVE_SECONDS
        while True:
            ready, _, _ = select.select(
                [sys.stdin, self._connection], [], [], max(0.0, due - time.monotonic())
            )
            if sys.stdin in ready:
                line = sys.stdin.readline().split()
                if not line:
                    return
                self._send(Path(line[1]).read_bytes())
            if self._connection in ready:
                self.message()
            if time.monotonic() >= due:
                self._connection.sendall(message(KEEPALIVE, b""))
                due = time.monotonic() + KEEPALIVE_SECONDS

    def _send(self, data: bytes) -> None:
        print("began", time.monotonic(), flush=True)
        self._connection.sendall(data)
        print("sent", time.monotonic(), flush=True)


def main() -> None:
    """Dial, establish, serve."""
    for attempt in range(ATTEMPTS):
        session = Session(dial(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
        try:
            session.establish()
            break
        except Ended:
            # A speaker that connects to us at the same moment may close ours (RFC 4271 section 6.8).
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.2)
    print("up", flush=True)
    session.serve()


if __name__ == "__main__":
    main()
