"""The listening sockets: opened together, and secured as the configured peers ask.

Promises: a peer with a password meets only sockets that have its key (RFC 2385), and where all peers are near,
packets from afar are not even answered (RFC 5082). What is demanded of a connection was so when it began, whatever has
come on it before it is accepted: the kernel keeps its SYN, whose TTL and signature are looked at. Without it (SYN
cookies, while somebody floods the port) a peer with such demands is turned away. Does not know: BGP.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable

from bgp.peer_config import PeerConfig
from bgp.transport.tcp import Tcp, least_ttl, set_gtsm, set_max_ttl, set_md5_key, socket_family
from bgp.transport.tcp_info import keep_opening_packets
from bgp.wire.errors import ListenFailed
from bgp.wire.families import Address

BACKLOG = 128


class Listeners:
    """The listening sockets of one speaker; none is open before `open`."""

    def __init__(self, protocol_factory: Callable[[], Tcp]) -> None:
        self._protocol_factory = protocol_factory
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._passwords: dict[Address, str] = {}
        """Peer -> the password that is its key on all sockets."""

    def bind(self, addresses: Iterable[Address], port: int) -> None:
        """Have a socket for each of them, which takes no connection before `listen`. Raises ListenFailed."""
        for address in addresses:
            sock = socket.socket(socket_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._sockets.append(sock)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if address.version == 6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                set_max_ttl(sock)  # the SYN+ACK comes from this socket, and connections inherit it
                keep_opening_packets(sock)
                at = socket.getaddrinfo(str(address), port, type=sock.type, flags=socket.AI_NUMERICHOST)
                sock.bind(at[0][4])
            except OSError as error:
                raise _listen_failed(sock, address, port, error) from error

    async def listen(self) -> None:
        """Take connections. Raises ListenFailed."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            address, port, *_ = sock.getsockname()
            try:
                server = await loop.create_server(self._protocol_factory, sock=sock, backlog=BACKLOG)
            except OSError as error:
                raise _listen_failed(sock, address, port, error) from error
            self._servers.append(server)

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            sock.close()
        self._servers, self._sockets, self._passwords = [], [], {}

    def why_not(self, tcp: Tcp, peer: PeerConfig) -> str | None:
        """None, or why a connection from the peer's address does not fulfil what is demanded of the peer.

        Demands the same of all that comes on it from now on.
        """
        if peer.password != self._passwords.get(peer.address, ""):
            return "its password is not in force"
        least = least_ttl(peer.ttl_security_hops)
        if least or peer.password:
            began = tcp.opening_packet()
            if began is None:
                return "nothing is known of its first packet"
            if began.ttl < least:
                return f"its first packet has come with TTL {began.ttl}, and {least} is demanded"
            if peer.password and not began.is_signed:
                return "its first packet was not signed"
        try:
            tcp.secure(peer)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def apply_security(self, peers: Iterable[PeerConfig]) -> list[tuple[Address, str]]:
        """Require the passwords and hops of these peers, and no others; answers for which peers MD5 failed, and why."""
        known = list(peers)
        failed = self._set_md5_keys({peer.address: peer.password for peer in known if peer.password})
        hops = [peer.ttl_security_hops for peer in known]
        for sock in self._sockets:
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
                wanted.pop(address, None)  # so `why_not` refuses it
        self._passwords = wanted if self._sockets else {}
        return failed


def _listen_failed(sock: socket.socket, address: object, port: int, error: OSError) -> ListenFailed:
    sock.close()
    reason = "another process has it" if error.errno == errno.EADDRINUSE else error.strerror
    return ListenFailed(f"cannot listen for BGP on {address} port {port}: {reason}")
