"""The adapter of h11 as a client: one question and its answer over one connection, with bounds and deadlines.

Promises: an answer's head and body have at most so many octets, everything ends within its time; whatever comes or does
not come is ApiAway or BadAnswer. A connection carries one question: there are few, and a rotated certificate is in use
with the next one. Does not know: Kubernetes' objects, who asks.
Reference: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import h11

from agent.kubernetes.api_errors import ApiAway, BadAnswer
from agent.kubernetes.api_server import ApiServer

MOST_HEAD_BYTES = 64 << 10
READ_BYTES = 64 << 10
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    target: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


async def ask(server: ApiServer, question: Question, most: int, seconds: float) -> tuple[int, bytes]:
    """The status and the body of the answer. Raises ApiAway, BadAnswer."""
    try:
        async with asyncio.timeout(seconds):
            return await _ask(server, question, most)
    except TimeoutError:
        raise ApiAway(f"{server.host} port {server.port}: no answer within {seconds:g} s") from None
    except (
        OSError,
        UnicodeError,
    ) as error:  # TLS's errors are OSErrors; of names that are none, UnicodeError
        errno = getattr(error, "errno", None)
        is_kernels = (
            isinstance(errno, int) and errno > 0 and not isinstance(error, ssl.SSLError | socket.gaierror)
        )
        why = os.strerror(errno) if is_kernels and errno else str(error)
        raise ApiAway(f"{server.host} port {server.port}: {why}") from error
    except h11.LocalProtocolError as error:
        raise ApiAway(f"{server.host} port {server.port}: cannot be asked: {error}") from error
    except h11.RemoteProtocolError as error:
        raise BadAnswer(f"{server.host} port {server.port}: not HTTP: {error}") from error


async def _ask(server: ApiServer, question: Question, most: int) -> tuple[int, bytes]:
    name = server.host
    context = server.context()
    reader, writer = await asyncio.open_connection(
        name,
        server.port,
        ssl=context,
        server_hostname=(server.server_name or name) if context is not None else None,
        limit=READ_BYTES,
    )
    try:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
        writer.write(_sent(connection, server, question))
        await writer.drain()
        return await _answer(connection, reader, most)
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await writer.wait_closed()


def _sent(connection: h11.Connection, server: ApiServer, question: Question) -> bytes:
    host = f"[{server.host}]" if ":" in server.host else server.host
    headers = [("Host", f"{host}:{server.port}"), ("Connection", "close"), *question.headers.items()]
    if question.body:
        headers.append(("Content-Length", str(len(question.body))))
    if token := server.bearer_token():
        headers.append(("Authorization", f"Bearer {token}"))
    request = h11.Request(method=question.method, target=server.path + question.target, headers=headers)
    sent = connection.send(request) or b""
    if question.body:
        sent += connection.send(h11.Data(data=question.body)) or b""
    return sent + (connection.send(h11.EndOfMessage()) or b"")


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader, most: int) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > most:
                raise BadAnswer(f"the answer has more than {most} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise BadAnswer("the connection ended before the answer")
