"""Serves /metrics, /livez and /readyz over HTTP/1.0 on a local socket, and on TCP where the settings say so.

Promises: the unix socket is for root and its group only; a request is bounded in size and time and changes nothing; a
slow reader holds up nobody. Does not know: what the answers mean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.unix_server import private_socket

MOST_REQUEST_BYTES = 8192
REQUEST_SECONDS = 5.0
SOCKET_UMASK = 0o117
"""Leaves 0660: a scraper's group may be given the file."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a page answers with."""

    body: bytes
    content_type: str = "application/json"
    ok: bool = True


def verdict(why_not: str | None) -> Response:
    """/livez or /readyz: 200, or 503 with the reason."""
    well = why_not is None
    reasons = [] if well else [why_not]
    return Response(json.dumps({"ok": well, "reasons": reasons}).encode() + b"\n", ok=well)


Pages = Mapping[str, Callable[[], Response]]


async def on_socket(path: Path, pages: Pages, ready: Callable[[], None] = lambda: None) -> None:
    """Answer on a unix socket until cancelled; `ready` is called once it listens. Raises OSError."""
    made = private_socket(path, SOCKET_UMASK)
    server = await asyncio.start_unix_server(_answering(pages), sock=made, limit=MOST_REQUEST_BYTES)
    ready()
    async with server:
        await server.serve_forever()


async def on_tcp(listen: str, pages: Pages) -> None:
    """Answer on `address:port` until cancelled. Raises OSError."""
    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(
        _answering(pages), host.strip("[]"), int(port), limit=MOST_REQUEST_BYTES
    )
    async with server:
        await server.serve_forever()


def _answering(pages: Pages) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError, ValueError):
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\n")
                writer.write(_response(head.decode(errors="replace"), pages))
                await writer.drain()
        writer.close()

    return answer


def _response(line: str, pages: Pages) -> bytes:
    words = line.split()
    if len(words) < 2 or words[0] not in ("GET", "HEAD"):
        return _framed("405 Method Not Allowed", Response(b"only GET is answered\n", "text/plain"), body=True)
    found = pages.get(words[1].partition("?")[0])
    if found is None:
        known = f"known pages are {', '.join(pages)}\n".encode()
        return _framed("404 Not Found", Response(known, "text/plain"), body=True)
    page = found()
    return _framed("200 OK" if page.ok else "503 Service Unavailable", page, body=words[0] == "GET")


def _framed(status: str, response: Response, *, body: bool) -> bytes:
    head = (
        f"HTTP/1.0 {status}\r\nContent-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (response.body if body else b"")
