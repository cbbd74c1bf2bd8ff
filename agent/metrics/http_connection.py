"""The adapter of h11: one HTTP connection, octets into requests and answers into octets, without I/O.

Promises: a head has at most MOST_HEAD_BYTES and what one more reading brought, a request has no body, a connection
carries MOST_REQUESTS; whatever octets come, the outcome is a request, a refusal or the end, and no other exception.
Does not know: sockets, time, what the pages say.
Reference: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

import h11

MOST_HEAD_BYTES = 8192
MOST_REQUESTS = 100
"""Answered on one connection; then it is closed, and who keeps it alive connects anew."""
METHODS = ("GET", "HEAD")
VERSIONS = (b"1.0", b"1.1")
ABSOLUTE = re.compile(r"https?://[^/]*", re.IGNORECASE)
"""What stands before the path when a client asks as if we were a proxy (RFC 9112 section 3.2.2)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for."""

    path: str
    """Without the query."""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    body: bytes
    content_type: str = "text/plain"
    status: HTTPStatus = HTTPStatus.OK


class Refused(Exception):
    """What came is not answered by a page; after `response` the connection ends."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.response = Response(f"{why}\n".encode(), status=status)


class HttpConnection:
    """One connection of a client."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
        self._answered = 0
        self._pending: Request | None = None
        """The request whose end is still to come."""
        self._without_body = False
        """Whether the present request is a HEAD."""
        self.ended = False
        """Nothing more can be asked or answered: close it."""

    def receive(self, data: bytes) -> None:
        """Octets came; none: the client sends no more."""
        self._h11.receive_data(data)

    def next_request(self) -> Request | None:
        """The next one that is whole; None while octets are missing, or for good once `ended`. Raises Refused.

        Not to be called between a request and its `answer`.
        """
        while True:
            try:
                event = self._h11.next_event()
            except (h11.RemoteProtocolError, ValueError) as error:
                hint = getattr(error, "error_status_hint", HTTPStatus.BAD_REQUEST)
                raise Refused(HTTPStatus(hint), f"not HTTP as it is read here: {error}") from None
            if isinstance(event, h11.Request):
                self._pending = self._request(event)
            elif isinstance(event, h11.EndOfMessage):
                request, self._pending = self._pending, None
                return request
            elif isinstance(event, h11.ConnectionClosed):
                self.ended = True
                return None
            elif self._pending is not None:  # h11 wants what the head has promised, or has it
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a request here has no body")
            else:
                return None

    def _request(self, event: h11.Request) -> Request:
        method = event.method.decode("latin-1")
        self._without_body = method == "HEAD"
        if event.http_version not in VERSIONS:
            raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here")
        if method not in METHODS:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered")
        target = event.target.decode("latin-1")
        return Request(ABSOLUTE.sub("", target, count=1).partition("?")[0] or "/")

    def answer(self, response: Response, *, last: bool = False) -> bytes:
        """The octets of an answer; `last`: the connection ends with it."""
        self._answered += 1
        ends = last or self._answered >= MOST_REQUESTS
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        if response.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", ", ".join(METHODS)))
        if ends:
            headers.append(("Connection", "close"))
        status = response.status
        sent = self._sent(h11.Response(status_code=status, reason=status.phrase, headers=headers))
        if response.body and not self._without_body:
            sent += self._sent(h11.Data(data=response.body))
        sent += self._sent(h11.EndOfMessage())
        if (self._h11.our_state, self._h11.their_state) == (h11.DONE, h11.DONE):
            self._h11.start_next_cycle()
        else:
            self.ended = True
        return sent

    def _sent(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""
