"""Serves pages over HTTP/1.1 on a unix socket and on TCP; one WebServer for each listener.

Strategy. Anybody may connect where the settings name an address, so everything is bounded: connections at once, octets
of a head, requests of a connection, the time for each step, the share of the loop that pages take. One page is made at
a time; others run between two of them. Where all connections are taken, the one that has kept silent longest gives its
place to a newcomer: who opens many and says nothing keeps no scraper out.
Promises: the unix socket is for root and its group only; a request changes nothing; whoever sends nothing, too much,
nonsense or takes no answer is closed, and costs no line in the log. Does not know: HTTP's octets, what the pages mean.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from agent.metrics.http_connection import HttpConnection, Refused, Request, Response
from agent.unix_server import private_socket

MOST_CONNECTIONS = 64
"""Of one listener at once."""
READ_BYTES = 8192
"""Taken from a connection in one reading."""
HEAD_SECONDS = 5.0
"""From a connection's start, or a request's first octet, to the end of its head."""
IDLE_SECONDS = 60.0
"""Between two requests of a connection."""
ANSWER_SECONDS = 10.0
"""For a client to take an answer."""
REST_PER_PAGE = 3.0
"""The loop is left to others for so many times what the last page cost: pages take a quarter of it at most."""
SOCKET_UMASK = 0o117
"""Leaves 0660: a scraper's group may be given the file."""
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Pages = Mapping[str, Callable[[], Response]]


def verdict(why_not: Sequence[str], troubles: Sequence[Mapping[str, Any]] = ()) -> Response:
    """/livez or /readyz: 200, or 503 with the reasons; all that is wrong stands beside it, a reason or not."""
    words = {"ok": not why_not, "reasons": [*why_not], **({"troubles": troubles} if troubles else {})}
    body = json.dumps(words, default=str).encode(errors="replace") + b"\n"
    status = HTTPStatus.SERVICE_UNAVAILABLE if why_not else HTTPStatus.OK
    return Response(body, "application/json", status)


async def on_socket(path: Path, pages: Pages, ready: Callable[[], None] = lambda: None) -> None:
    """Answer on a unix socket until cancelled; `ready` is called once it listens. Raises OSError."""
    web, loop = WebServer(pages), asyncio.get_running_loop()
    await web.serve(loop.create_unix_server(web.connection, sock=private_socket(path, SOCKET_UMASK)), ready)


async def on_tcp(listen: str, pages: Pages, ready: Callable[[], None] = lambda: None) -> None:
    """Answer on `address:port` until cancelled; `ready` is called once it listens. Raises OSError."""
    host, _, port = listen.rpartition(":")
    web, loop = WebServer(pages), asyncio.get_running_loop()
    await web.serve(loop.create_server(web.connection, host.strip("[]"), int(port)), ready)


class WebServer:
    """The connections of one listener, and whose turn it is."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._loop = asyncio.get_running_loop()
        self._open: dict[WebConnection, None] = {}
        """Who was answered longest ago comes first."""
        self._asked: deque[tuple[WebConnection, Request]] = deque()
        """Requests without an answer, one of a connection at most."""
        self._turn: asyncio.TimerHandle | None = None
        self._rest_until = 0.0
        self.buffer = memoryview(bytearray(READ_BYTES))
        """Of whoever is just being read."""

    async def serve(self, listening: Awaitable[asyncio.Server], ready: Callable[[], None]) -> None:
        """Answer until cancelled; then every connection is closed."""
        listener = await listening
        try:
            ready()
            await self._loop.create_future()
        finally:
            listener.close()
            if self._turn is not None:
                self._turn.cancel()
            for connection in tuple(self._open):
                connection.abort()

    def connection(self) -> WebConnection:
        """The protocol of a new connection."""
        return WebConnection(self, self._loop)

    def admit(self, connection: WebConnection) -> bool:
        """Take a new connection in, in the place of a silent one if there must be; False: there is no place."""
        if len(self._open) >= MOST_CONNECTIONS:
            silent = next((one for one in self._open if not one.is_busy), None)
            if silent is None:
                return False
            silent.abort()
            self.gone(silent)
        self._open[connection] = None
        return True

    def answered(self, connection: WebConnection) -> None:
        """It waits from now on."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def gone(self, connection: WebConnection) -> None:
        """It is closed."""
        self._open.pop(connection, None)

    def ask(self, connection: WebConnection, request: Request) -> None:
        """Have the connection answered when it is its turn."""
        self._asked.append((connection, request))
        self._next_turn()

    def _next_turn(self) -> None:
        if self._asked and self._turn is None:
            self._turn = self._loop.call_at(self._rest_until, self._answer_one)

    def _answer_one(self) -> None:
        self._turn = None
        connection, request = self._asked.popleft()
        if connection in self._open:
            began = self._loop.time()
            page = self._page(request.path)
            ended = self._loop.time()
            self._rest_until = ended + (ended - began) * REST_PER_PAGE
            connection.answer(page)
        self._next_turn()

    def _page(self, path: str) -> Response:
        found = self._pages.get(path)
        if found is None:
            known = f"known pages are {', '.join(self._pages)}\n".encode()
            return Response(known, status=HTTPStatus.NOT_FOUND)
        try:
            return found()
        except Exception as error:
            self._loop.call_exception_handler({"message": f"page {path}", "exception": error})
            return Response(b"this page failed; the log says why\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)


class WebConnection(asyncio.BufferedProtocol):
    """One connection: waits for a request, then for its turn, then for its answer to be taken."""

    def __init__(self, server: WebServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._http = HttpConnection()
        self._transport: asyncio.Transport
        self._limit: asyncio.TimerHandle | None = None
        self._between = False
        """Whether the next octet is a request's first, with an answer behind us."""
        self.is_busy = False
        """From a whole request to the answer that was taken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        if self._server.admit(self):
            self._within(HEAD_SECONDS)
        else:
            self._transport.write(BUSY)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's protocol."""
        if self._limit is not None:
            self._limit.cancel()
        self._server.gone(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio's protocol."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio's protocol."""
        if self._between:
            self._between = False
            self._within(HEAD_SECONDS)
        self._http.receive(bytes(self._server.buffer[:nbytes]))
        self._advance()

    def eof_received(self) -> bool:
        """asyncio's protocol. What was asked before is answered still; `_advance` closes."""
        self._http.receive(b"")
        self._advance()
        return True

    def resume_writing(self) -> None:
        """asyncio's protocol: the last octet is with the kernel."""
        if self.is_busy:
            self._taken()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()

    def answer(self, response: Response, *, last: bool = False) -> None:
        """Send it, and go on once it was taken."""
        self.is_busy = True
        self._transport.pause_reading()
        self._within(ANSWER_SECONDS)
        self._transport.write(self._http.answer(response, last=last))
        if self._transport.get_write_buffer_size() == 0:
            self._taken()

    def _advance(self) -> None:
        if self.is_busy or self._transport.is_closing():
            return
        try:
            request = self._http.next_request()
        except Refused as refused:
            self.answer(refused.response, last=True)
            return
        if request is not None:
            self.is_busy = True
            self._transport.pause_reading()
            self._within(ANSWER_SECONDS)
            self._server.ask(self, request)
        elif self._http.ended:
            self._transport.close()

    def _taken(self) -> None:
        self.is_busy = False
        self._server.answered(self)
        if self._http.ended:
            self._transport.close()
            return
        self._between = True
        self._within(IDLE_SECONDS)
        self._transport.resume_reading()
        self._advance()

    def _within(self, seconds: float) -> None:
        """The next step is done within so many seconds, or the connection is closed."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self._loop.call_later(seconds, self.abort)
