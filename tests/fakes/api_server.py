"""An API server of Kubernetes: a real HTTP server on the loopback, with objects and faults that a test names.

Promises: lists come in pages and by `continue`, what is not there is 404 with a Status, without the token of the moment
everything is 401. Each connection has one request, as ours have.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from agent.kubernetes.api_server import ApiServer


class ApiFault(Enum):
    """What goes wrong with every answer until it is taken back."""

    HANGS = "the connection is taken, and nobody answers"
    ENDS = "the connection ends in the middle of an answer"
    GARBAGE = "what comes is no HTTP"
    NO_JSON = "what comes is no JSON"
    HUGE = "the answer does not end"
    BUSY = "503"
    FORBIDDEN = "403"
    DEEP = "lists in lists in lists"
    BROKEN_ITEM = "one item of a list has a name that is none"


class FakeApiServer:
    """Path -> object, as it is answered."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.faults: set[ApiFault] = set()
        self.token = ""
        """The bearer token that is asked for; empty: none."""
        self.asked: list[tuple[str, str, bytes]] = []
        """(method, target, body) of every request."""
        self.patched = asyncio.Event()
        """Set when something was changed."""
        self.page = 3
        """Items of a page, whatever is asked for."""
        self.port = 0
        self._hanging: set[asyncio.Task[None]] = set()

    def node(self, name: str, **metadata: Any) -> None:
        """A Node is there."""
        self.objects[f"/api/v1/nodes/{name}"] = {"kind": "Node", "metadata": {"name": name, **metadata}}

    def pod(self, namespace: str, name: str, annotations: dict[str, Any], uid: str = "u1") -> None:
        """A pod is there, and its namespace."""
        metadata = {"name": name, "namespace": namespace, "uid": uid, "annotations": annotations}
        self.objects[f"/api/v1/namespaces/{namespace}/pods/{name}"] = {"kind": "Pod", "metadata": metadata}
        self.objects.setdefault(
            f"/api/v1/namespaces/{namespace}", {"kind": "Namespace", "metadata": {"name": namespace}}
        )

    def address(self, token: Path | bytes = b"") -> ApiServer:
        """How it is reached without TLS."""
        return ApiServer("127.0.0.1", self.port, tls=False, token=token)

    def kubeconfig(self) -> str:
        """A kubeconfig that leads here."""
        return (
            "current-context: c\n"
            "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
            f"clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{self.port}'}}}}]\n"
            f"users: [{{name: u, user: {{token: '{self.token}'}}}}]\n"
        )

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeApiServer]:
        """Serve on a port of the kernel's choice, or the one it had before."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._hanging:
                task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._hanging.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.strip().split("\r\n")
            headers = dict(one.lower().split(": ", 1) for one in lines)
            method, target, _ = line.split(" ")
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.asked.append((method, target, body))
            await self._answer(writer, method, target, headers.get("authorization", ""), body)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._hanging.discard(task)
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, target: str, authorization: str, body: bytes
    ) -> None:
        if ApiFault.HANGS in self.faults:
            await asyncio.Event().wait()
        if ApiFault.GARBAGE in self.faults:
            writer.write(b"\0\1\2 SSH-2.0-what\r\n\r\n")
        elif ApiFault.ENDS in self.faults:
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"metadata"')
        elif ApiFault.HUGE in self.faults:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        else:
            status, document = self._document(method, target, authorization, body)
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            writer.write(f"HTTP/1.1 {status} Status\r\nContent-Length: {len(content)}\r\n\r\n".encode())
            writer.write(content)
        await writer.drain()

    def _document(self, method: str, target: str, authorization: str, body: bytes) -> tuple[int, Any]:
        split = urlsplit(target)
        path, query = split.path, parse_qs(split.query)
        if self.token and authorization != f"bearer {self.token}".lower():
            return 401, {"kind": "Status", "message": "Unauthorized"}
        for fault, status in ((ApiFault.BUSY, 503), (ApiFault.FORBIDDEN, 403)):
            if fault in self.faults:
                return status, {"kind": "Status", "message": f"it is {fault.name.lower()}"}
        if ApiFault.NO_JSON in self.faults:
            return 200, b"<html>a proxy's page</html>"
        if ApiFault.DEEP in self.faults:
            return 200, b"[" * 100_000
        if method == "PATCH":
            self.patched.set()
            found = self.objects.get(path.removesuffix("/status"))
            return (200, found) if found is not None else (404, {"message": "not found"})
        if path in self.objects:
            return 200, self.objects[path]
        if path == "/api/v1/nodes":
            return 200, self._page(int(query.get("continue", ["0"])[0]))
        return 404, {"kind": "Status", "message": f"{path} not found"}

    def _page(self, start: int) -> dict[str, Any]:
        nodes = [one for path, one in sorted(self.objects.items()) if path.startswith("/api/v1/nodes/")]
        items = nodes[start : start + self.page]
        if ApiFault.BROKEN_ITEM in self.faults:
            items = [*items, {"metadata": {"name": "../etc"}}]
        following = start + self.page
        return {"metadata": {"continue": str(following) if following < len(nodes) else ""}, "items": items}
