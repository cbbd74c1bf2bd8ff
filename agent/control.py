"""The agent's local socket for the command line: ask with one line, get one JSON object.

Promises: the socket is root's only (mode 0600 and peer credentials); a question is bounded in size and time, and so is
its answer's way. A question is a word, and for some words a text behind it; whatever goes wrong with one is its answer.
Does not know: what is in the answers.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from agent.unix_server import Bounds, UnixServer

MOST_QUESTION_BYTES = 4096
BOUNDS = Bounds(MOST_QUESTION_BYTES, questions_bytes=1 << 20, connections=64, line=True)
ANSWER_SECONDS = 5.0
LONGEST_SHOWN = 200

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WithText:
    """An answer that depends on the text behind the word."""

    answer: Callable[[str], Any]


Answers = Mapping[str, Callable[[], Any] | WithText]
"""Word -> the function of its answer, plain or awaitable. A ValueError or OSError becomes the answer's `error`."""


async def serve(path: Path, answers: Answers, ready: Callable[[], None] = lambda: None) -> None:
    """Answer until cancelled; `ready` is called once the socket listens. Raises OSError when it cannot listen."""

    async def answer(question: bytes) -> bytes:
        line = question.partition(b"\n")[0].decode(errors="replace").strip()
        given = await _answer(answers, line)
        try:
            return _encoded(given)
        except Exception as error:
            log.exception("control.failed", question=line[:LONGEST_SHOWN])
            return _encoded(_fault(error))

    def refusal(why: str) -> bytes:
        return _encoded({"error": f"{why}; try again"})

    await UnixServer(path, BOUNDS, answer, refusal).run(ready)


async def _answer(answers: Answers, question: str) -> Any:
    word, _, text = question.partition(" ")
    found = answers.get(word)
    if found is None or (text and not isinstance(found, WithText)):
        return {"error": f"unknown question {question[:LONGEST_SHOWN]!r}; known are {', '.join(answers)}"}
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            given = found.answer(text) if isinstance(found, WithText) else found()
            return await given if inspect.isawaitable(given) else given
    except TimeoutError:
        return {"error": f"no answer within {ANSWER_SECONDS:g} s"}
    except (ValueError, OSError) as error:
        return {"error": str(error)}
    except Exception as error:
        log.exception("control.failed", question=word)
        return _fault(error)


def _fault(error: Exception) -> dict[str, str]:
    return {"error": f"a fault of tortie's: {type(error).__name__}: {error}"}


def _encoded(answer: Any) -> bytes:
    """JSON; what no UTF-8 can carry (half a surrogate pair in a stored text) has a question mark in its place."""
    try:
        return msgspec.json.encode(answer, enc_hook=str)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(answer, enc_hook=str, str_keys=True)
        return json.dumps(plain, ensure_ascii=False).encode(errors="replace")


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
        except PermissionError as error:
            raise NotRunning(f"the agent at {path} answers root alone: sudo tortie …") from error
        except (OSError, msgspec.DecodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise NotRunning(
                f"no agent answers at {path} ({why.lower()}): systemctl status tortie-agent"
            ) from error
