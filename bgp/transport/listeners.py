"""The listening sockets: opened together, and guarded as the configured neighbours ask.

Promises: a neighbour with a password meets only sockets that know it (RFC 2385), and where all neighbours are near, who
comes from afar is not even answered (RFC 5082). Does not know: BGP.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable

from bgp.peer_config import PeerConfig
from bgp.transport.tcp import Socket, Tcp, set_gtsm, set_max_ttl, set_md5_key, socket_family
from bgp.wire.errors import ListenFailed
from bgp.wire.families import Address

BACKLOG = 128


class Listeners:
    """None is open at first."""

    def __init__(self, welcome: Callable[[], Tcp]) -> None:
        self._welcome = welcome
        self._servers: list[asyncio.Server] = []
        self._sockets: list[Socket] = []
        self._signed: dict[Address, str] = {}
        """Passwords that the sockets know."""

    async def open(self, addresses: Iterable[Address], port: int) -> None:
        """Listen on all of them. Raises ListenFailed."""
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                server = await loop.create_server(self._welcome, str(address), port, backlog=BACKLOG)
            except OSError as error:
                reason = "another process has it" if error.errno == errno.EADDRINUSE else error.strerror
                raise ListenFailed(f"cannot listen for BGP on {address} port {port}: {reason}") from error
            self._servers.append(server)
            self._sockets += server.sockets

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        self._servers, self._sockets, self._signed = [], [], {}

    def requires_md5(self, peer: PeerConfig) -> bool:
        """Whether who comes in as this neighbour had to have its password."""
        return peer.password == self._signed.get(peer.address, "")

    def apply_security(self, peers: Iterable[PeerConfig]) -> list[tuple[Address, str]]:
        """Ask for these neighbours' passwords, and no others; answers whom that failed for, and why."""
        known = list(peers)
        failed = self._sign({peer.address: peer.password for peer in known if peer.password})
        hops = [peer.ttl_security_hops for peer in known]
        for sock in self._sockets:
            if any(hops):
                set_max_ttl(sock)  # the answer to a call comes from this socket
            set_gtsm(sock, max(hops) if hops and all(hops) else 0)  # each connection gets its own limit
        return failed

    def _sign(self, wanted: dict[Address, str]) -> list[tuple[Address, str]]:
        failed = []
        for address in wanted.keys() | self._signed.keys():
            if wanted.get(address) == self._signed.get(address):
                continue
            try:
                for sock in self._sockets:
                    if sock.family == socket_family(address):
                        set_md5_key(sock, address, wanted.get(address, ""))
            except OSError as error:
                failed.append((address, error.strerror or str(error)))
                wanted.pop(address, None)  # so it is not let in
        self._signed = wanted if self._sockets else {}
        return failed
