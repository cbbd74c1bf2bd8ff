"""The agent's local socket for the command line: ask with one line, get one JSON object.

Promises: the socket is root's only (mode 0600 and peer credentials); a question is bounded in size and time. A question
is a word, and for some words a text behind it. Does not know: what is in the answers.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

MOST_QUESTION_BYTES = 4096
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WithText:
    """An answer that depends on the text behind the word."""

    answer: Callable[[str], Any]


Answers = Mapping[str, Callable[[], Any] | WithText]
"""Word -> the function of its answer, plain or awaitable. A ValueError or OSError becomes the answer's `error`."""


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


async def serve(path: Path, answers: Answers, ready: Callable[[], None] = lambda: None) -> None:
    """Answer until cancelled; `ready` is called once the socket listens."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError, ValueError):
            async with asyncio.timeout(ANSWER_SECONDS):
                if peer_is_root(writer.get_extra_info("socket")):
                    question = (await reader.readline()).decode(errors="replace").strip()
                    writer.write(msgspec.json.encode(await _answer(answers, question), enc_hook=str))
                    await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, sock=private_socket(path), limit=MOST_QUESTION_BYTES)
    ready()
    async with server:
        await server.serve_forever()


async def _answer(answers: Answers, question: str) -> Any:
    word, _, text = question.partition(" ")
    found = answers.get(word)
    if found is None or (text and not isinstance(found, WithText)):
        return {"error": f"unknown question {question!r}; known are {', '.join(answers)}"}
    try:
        given = found.answer(text) if isinstance(found, WithText) else found()
        return await given if inspect.isawaitable(given) else given
    except (ValueError, OSError) as error:
        return {"error": str(error)}


class NotRunning(Exception):
    """No agent answers at the socket; the sentence names it."""


def ask(path: Path, question: str) -> Any:
    """The answer of the agent behind `path`. Blocking; for the command line. Raises NotRunning."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(str(path))
            connection.sendall(f"{question}\n".encode())
            received = b""
            while data := connection.recv(1 << 16):
                received += data
            return msgspec.json.decode(received)
        except (OSError, msgspec.DecodeError) as error:
            raise NotRunning(f"no agent answers at {path}: {error}") from error
