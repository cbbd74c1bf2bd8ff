"""One question and one answer over each connection to a UNIX socket of root's, all of it bounded.

Promises: whoever connects costs a descriptor for a bounded time, whether it asks, asks half, asks too much, or does not
read its answer; who comes when too many are there gets a refusal at once. A failure of one answer is logged, and closes
that connection alone. Stopping ends the answers under way, and leaves no descriptor.
Does not know: what is asked.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

PART_BYTES = 1 << 16
REFUSED_TOO = 2
"""Times the connections that are served: so many get an answer at all, the refused ones in words."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection, and all of them together, may take."""

    question_bytes: int
    questions_bytes: int
    """All questions that are being read."""
    connections: int
    read_seconds: float = 5.0
    write_seconds: float = 10.0
    line: bool = False
    """Whether a question ends with its line; else with what is sent."""


class TooMuch(Exception):
    """A question that is larger than the bounds say, alone or with the others."""


def peer_is_root(connection: socket.socket) -> bool:
    """Whether the process at the other end runs as root or as ourselves (SO_PEERCRED, unix(7))."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return uid in (0, os.geteuid())


def private_socket(path: Path, umask: int = 0o177) -> socket.socket:
    """A bound UNIX socket in place of what was at `path`, with the modes that `umask` leaves from its first moment.

    Raises OSError.

    There is no await while the umask is changed: it belongs to the whole process, and two coroutines that changed it at
    once would leave it changed for good.
    """
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(umask)
    try:
        made.bind(str(path))
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


class UnixServer:
    """Serves one socket; a shell."""

    def __init__(
        self,
        path: Path,
        bounds: Bounds,
        answer: Callable[[bytes], Awaitable[bytes]],
        refusal: Callable[[str], bytes],
    ) -> None:
        """`answer` makes the answer to a question; `refusal` one that says why there is none."""
        self._path = path
        self._bounds = bounds
        self._answer = answer
        self._refusal = refusal
        self._connections: set[asyncio.Task[None]] = set()
        self._held = 0
        """Bytes of the questions that are being read."""

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; `ready` is called once the socket listens. Raises OSError when it cannot."""
        server = await asyncio.start_unix_server(
            self._connected, sock=private_socket(self._path), limit=PART_BYTES
        )
        ready()
        try:
            await asyncio.Event().wait()  # `serve_forever` would wait, from Python 3.12 on, for who is silent
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        most, there = self._bounds.connections, len(self._connections)
        if there >= REFUSED_TOO * most:
            writer.transport.abort()
            return
        full = f"{most} calls are under way already" if there >= most else None
        task = asyncio.create_task(self._serve(reader, writer, full))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, full: str | None
    ) -> None:
        writer.transport.set_write_buffer_limits(0)  # so that `drain` waits until the kernel has everything
        try:
            if not peer_is_root(writer.get_extra_info("socket")):
                return
            try:
                if full is not None:
                    raise TooMuch(full)
                writer.write(await self._answer(await self._question(reader)))
                async with asyncio.timeout(self._bounds.write_seconds):
                    await writer.drain()
            except TooMuch as error:
                await self._refuse(reader, writer, str(error))
        except (OSError, TimeoutError) as error:
            log.warning("socket.call_broken", socket=str(self._path), why=str(error) or "too slow")
        except Exception:  # of one call, and no other's business
            log.exception("socket.call_failed", socket=str(self._path))
        finally:
            writer.transport.abort()  # what the kernel has is delivered; what it has not, nobody waits for

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, why: str) -> None:
        """Say why, and take in what is still being sent: the answer would be lost if it were left unread."""
        writer.write(self._refusal(why))
        writer.write_eof()
        async with asyncio.timeout(self._bounds.read_seconds):
            while await reader.read(PART_BYTES):
                pass

    async def _question(self, reader: asyncio.StreamReader) -> bytes:
        """Raises TooMuch, TimeoutError, OSError."""
        data = bytearray()
        try:
            async with asyncio.timeout(self._bounds.read_seconds):
                while part := await reader.read(PART_BYTES):
                    data += part
                    self._held += len(part)
                    if len(data) > self._bounds.question_bytes:
                        raise TooMuch(f"a question of more than {self._bounds.question_bytes} bytes")
                    if self._held > self._bounds.questions_bytes:
                        raise TooMuch(f"questions of more than {self._bounds.questions_bytes} bytes at once")
                    if self._bounds.line and b"\n" in part:
                        break
        finally:
            self._held -= len(data)
        return bytes(data)
