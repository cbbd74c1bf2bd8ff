"""The listening sockets: opened together, and secured as the configured peers ask.

Promises: a peer with a password meets only sockets that have its key (RFC 2385), and where all peers are near,
packets from afar are not even answered (RFC 5082). Does not know: BGP.
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
    """The listening sockets of one speaker; none is open before `open`."""

    def __init__(self, protocol_factory: Callable[[], Tcp]) -> None:
        self._protocol_factory = protocol_factory
        self._servers: list[asyncio.Server] = []
        self._sockets: list[Socket] = []
        self._passwords: dict[Address, str] = {}
        """Peer -> the password that is its key on all sockets."""

    async def open(self, addresses: Iterable[Address], port: int) -> None:
        """Listen on all of them. Raises ListenFailed."""
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                server = await loop.create_server(self._protocol_factory, str(address), port, backlog=BACKLOG)
            except OSError as error:
                reason = "another process has it" if error.errno == errno.EADDRINUSE else error.strerror
                raise ListenFailed(f"cannot listen for BGP on {address} port {port}: {reason}") from error
            self._servers.append(server)
            self._sockets += server.sockets

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        self._servers, self._sockets, self._passwords = [], [], {}

    def requires_md5(self, peer: PeerConfig) -> bool:
        """Whether the kernel has required the peer's present password of a connection that comes in."""
        return peer.password == self._passwords.get(peer.address, "")

    def apply_security(self, peers: Iterable[PeerConfig]) -> list[tuple[Address, str]]:
        """Require the passwords and hops of these peers, and no others; answers for which peers MD5 failed, and why."""
        known = list(peers)
        failed = self._set_md5_keys({peer.address: peer.password for peer in known if peer.password})
        hops = [peer.ttl_security_hops for peer in known]
        for sock in self._sockets:
            if any(hops):
                set_max_ttl(sock)  # the SYN+ACK comes from this socket
            set_gtsm(sock, max(hops) if hops and all(hops) else 0)  # each connection gets its own limit
        return failed

    def _set_md5_keys(self, wanted: dict[Address, str]) -> list[tuple[Address, str]]:
        failed = []
        for address in wanted.keys() | self._passwords.keys():
            if wanted.get(address) == self._passwords.get(address):
                continue
            try:
                for sock in self._sockets:
                    if sock.family == socket_family(address):
                        set_md5_key(sock, address, wanted.get(address, ""))
            except OSError as error:
                failed.append((address, error.strerror or str(error)))
                wanted.pop(address, None)  # so `requires_md5` refuses it
        self._passwords = wanted if self._sockets else {}
        return failed
