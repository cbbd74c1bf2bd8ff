"""The listening sockets: opened together, and secured as the configured peers ask.

Promises: a peer with a password meets only sockets that have its key (RFC 2385; one for a prefix of peers that share
a password), and where all peers are near, packets from afar are not even answered (RFC 5082). What is demanded of a
connection was so when it began, whatever has come on it before it is accepted: the kernel keeps its SYN, whose TTL and
signature are looked at. Without it (SYN cookies, while somebody floods the port) a peer with such demands is turned
away. Does not know: BGP.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address

from bgp.peer_config import PeerConfig
from bgp.transport.md5_keys import key_prefixes
from bgp.transport.tcp import Tcp, least_ttl, set_gtsm, set_max_ttl, set_md5_key, socket_family
from bgp.transport.tcp_info import keep_opening_packets
from bgp.wire.errors import ListenFailed
from bgp.wire.families import Address, Prefix

BACKLOG = 128


class Listeners:
    """The listening sockets of one speaker; none is open before `open`."""

    def __init__(self, protocol_factory: Callable[[], Tcp]) -> None:
        self._protocol_factory = protocol_factory
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._keys: dict[Prefix, str] = {}
        """What has a key on all sockets of its family."""
        self._passwords: dict[Address, str] = {}
        """Peer -> the password that is its key on all sockets."""
        self.keys = 0
        """How many keys one socket should have."""
        self.refused: Mapping[Address, str] = {}
        """Peer with a password for which the kernel took no key -> why."""

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
        self._servers, self._sockets, self._keys, self._passwords, self.refused = [], [], {}, {}, {}

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

    def apply_security(self, peers: Iterable[PeerConfig]) -> None:
        """Require the passwords and hops of these peers, and no others; `refused` says for which peers MD5 failed."""
        known = list(peers)
        self._set_md5_keys({peer.address: peer.password for peer in known})
        hops = [peer.ttl_security_hops for peer in known]
        for sock in self._sockets:
            set_gtsm(sock, max(hops) if hops and all(hops) else 0)  # each connection gets its own limit

    def _set_md5_keys(self, passwords: dict[Address, str]) -> None:
        wanted = key_prefixes(passwords) if self._sockets else {}
        self.keys = max(sum(one.version == version for one in wanted) for version in (4, 6))
        new = [one for one, password in wanted.items() if self._keys.get(one) != password]
        failed = self._set_keys(new, wanted)
        self._set_keys([one for one in self._keys if one not in wanted], {})
        if failed:  # those that were still there may have had the memory
            failed = self._set_keys(list(failed), wanted)
        self._keys = {one: password for one, password in wanted.items() if one not in failed}
        secured = {peer: password for peer, password in passwords.items() if password}
        lacking = {peer: _reason(failed, peer) for peer in secured} if failed else {}
        self.refused = {peer: why for peer, why in lacking.items() if why is not None}
        self._passwords = {
            peer: password for peer, password in secured.items() if peer not in self.refused and self._sockets
        }

    def _set_keys(self, prefixes: Iterable[Prefix], wanted: Mapping[Prefix, str]) -> dict[Prefix, str]:
        """Set or, if they are not wanted, remove keys; answers for which the kernel refused it, and why."""
        failed: dict[Prefix, str] = {}
        for prefix in prefixes:
            password = wanted.get(prefix, "")
            try:
                for sock in self._sockets:
                    if sock.family == socket_family(prefix.network_address):
                        set_md5_key(sock, prefix, password)
            except OSError as error:
                failed[prefix] = error.strerror or str(error)
        return failed


def _reason(failed: Mapping[Prefix, str], peer: Address) -> str | None:
    bare = IPv6Address(int(peer)) if peer.version == 6 else peer  # without its zone
    return next((why for prefix, why in failed.items() if bare in prefix), None)


def _listen_failed(sock: socket.socket, address: object, port: int, error: OSError) -> ListenFailed:
    sock.close()
    reason = "another process has it" if error.errno == errno.EADDRINUSE else error.strerror
    return ListenFailed(f"cannot listen for BGP on {address} port {port}: {reason}")
