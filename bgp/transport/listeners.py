"""The listening sockets: opened together, and secured as the configured peers ask.

Promises: a peer with a password meets only sockets that have its key (RFC 2385; one for a prefix of peers that share
a password), and where all peers are near, packets from afar are not even answered (RFC 5082). What is demanded of a
connection was so when it began, whatever has come on it before it is accepted: the kernel keeps its SYN, whose TTL and
signature are looked at. Without it (SYN cookies, while somebody floods the port) a peer with such demands is turned
away. A link on which there is a peer with a link-local address has sockets of its own, which take what comes from
that link alone, and only the keys of the peers there: of two that have fe80::1 each meets its own. Does not know: BGP.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bgp.peer_config import PeerConfig
from bgp.transport.md5_keys import key_prefixes
from bgp.transport.socket_addresses import (
    SocketAddress,
    address_of,
    own_addresses,
    socket_address,
    socket_family,
)
from bgp.transport.tcp import Tcp, least_ttl, set_gtsm, set_max_ttl, set_md5_key
from bgp.transport.tcp_info import keep_opening_packets
from bgp.wire.errors import ListenFailed
from bgp.wire.families import Address, Prefix, without_zone, zone_of

BACKLOG = 128


@dataclass(slots=True)
class _Group:
    """Sockets that meet the same peers: those of all links, or those of a link with link-local peers."""

    zone: str = ""
    at: tuple[SocketAddress, ...] = ()
    """Where the sockets of a link are bound; another interface of its name, or another address, makes others."""
    sockets: list[socket.socket] = field(default_factory=list)
    waiting: list[socket.socket] = field(default_factory=list)
    """Those of them that take no connection yet."""
    servers: list[asyncio.Server] = field(default_factory=list)
    keys: dict[Prefix, str] = field(default_factory=dict)
    """What has a key on all sockets of its family."""

    def close(self) -> None:
        """Listen no more."""
        for server in self.servers:
            server.close()
        for sock in self.sockets:
            sock.close()
        self.sockets, self.waiting, self.servers, self.keys = [], [], [], {}


class Listeners:
    """The listening sockets of one speaker; none is open before `open`."""

    def __init__(self, protocol_factory: Callable[[], Tcp]) -> None:
        self._protocol_factory = protocol_factory
        self._groups = {"": _Group()}
        """By zone; empty: of all links."""
        self._port = 0
        self._passwords: dict[Address, str] = {}
        """Peer -> the password that is its key on all sockets."""
        self.keys = 0
        """How many keys one socket should have."""
        self.refused: Mapping[Address, str] = {}
        """Peer with a password for which the kernel took no key -> why."""
        self.no_links: Mapping[str, str] = {}
        """Interface with link-local peers that there is no socket for -> why."""

    def bind(self, addresses: Iterable[Address], port: int) -> None:
        """Have a socket for each of them, which takes no connection before `listen`. Raises ListenFailed."""
        self._port = port
        for address in addresses:
            _bind(self._groups[""], address, port)

    def follow(self, zones: Iterable[str]) -> None:
        """Have a socket on each of these links, and on no others: `no_links` says where it is not so, and why."""
        if not self._port:
            return
        wanted, failed = set(zones) - {""}, dict[str, str]()
        for zone in self._groups.keys() - wanted - {""}:
            self._groups.pop(zone).close()
        for zone in sorted(wanted):
            known = self._groups.get(zone)
            try:
                own = own_addresses(zone)
                at = tuple(socket_address(one, self._port) for one in own)
                if known is not None and known.at == at:
                    continue
                if known is not None:
                    self._groups.pop(zone).close()
                group = _Group(zone, at)
                self._groups[zone] = group
                for one in own:
                    _bind(group, one, self._port)
            except (OSError, ListenFailed) as error:
                failed[zone] = getattr(error, "strerror", None) or str(error)
                if (broken := self._groups.pop(zone, None)) is not None:
                    broken.close()
        self.no_links = failed

    @property
    def is_waiting(self) -> bool:
        """Whether `listen` has something to do."""
        return any(group.waiting for group in self._groups.values())

    async def listen(self) -> None:
        """Take connections, on all sockets that do not yet. Raises ListenFailed."""
        loop = asyncio.get_running_loop()
        for group in list(self._groups.values()):
            while group.waiting:
                sock = group.waiting.pop()
                address, port = address_of(sock.getsockname()), self._port
                try:
                    server = await loop.create_server(self._protocol_factory, sock=sock, backlog=BACKLOG)
                except OSError as error:
                    raise _listen_failed(sock, address, port, error) from error
                if group is self._groups.get(group.zone):
                    group.servers.append(server)
                else:
                    server.close()

    def close(self) -> None:
        """Listen no more."""
        for group in self._groups.values():
            group.close()
        self._groups, self._passwords, self.refused, self.no_links, self._port = {"": _Group()}, {}, {}, {}, 0

    @property
    def _sockets(self) -> Iterator[socket.socket]:
        return (sock for group in self._groups.values() for sock in group.sockets)

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
        by_zone: dict[str, list[PeerConfig]] = {}
        for peer in peers:
            by_zone.setdefault(zone_of(peer.address), []).append(peer)
        self.keys, refused, self._passwords = 0, dict[Address, str](), {}
        for zone, group in self._groups.items():
            some = by_zone.get(zone, [])
            refused |= self._set_md5_keys(group, {peer.address: peer.password for peer in some})
            hops = [peer.ttl_security_hops for peer in some]
            for sock in group.sockets:
                set_gtsm(sock, max(hops) if hops and all(hops) else 0)  # each connection gets its own limit
        self.refused = refused

    def _set_md5_keys(self, group: _Group, passwords: dict[Address, str]) -> dict[Address, str]:
        """Give one group its keys; answers for which peers the kernel refused one, and why."""
        wanted = key_prefixes(passwords) if group.sockets else {}
        self.keys = max(self.keys, *(sum(one.version == version for one in wanted) for version in (4, 6)))
        new = [one for one, password in wanted.items() if group.keys.get(one) != password]
        failed = self._set_keys(group, new, wanted)
        self._set_keys(group, [one for one in group.keys if one not in wanted], {})
        if failed:  # those that were still there may have had the memory
            failed = self._set_keys(group, list(failed), wanted)
        group.keys = {one: password for one, password in wanted.items() if one not in failed}
        secured = {peer: password for peer, password in passwords.items() if password}
        lacking = {peer: _reason(failed, peer) for peer in secured} if failed else {}
        refused = {peer: why for peer, why in lacking.items() if why is not None}
        self._passwords |= {
            peer: password for peer, password in secured.items() if peer not in refused and group.sockets
        }
        return refused

    def _set_keys(
        self, group: _Group, prefixes: Iterable[Prefix], wanted: Mapping[Prefix, str]
    ) -> dict[Prefix, str]:
        """Set or, if they are not wanted, remove keys; answers for which the kernel refused it, and why."""
        failed: dict[Prefix, str] = {}
        for prefix in prefixes:
            password = wanted.get(prefix, "")
            try:
                for sock in group.sockets:
                    if sock.family == socket_family(prefix.network_address):
                        set_md5_key(sock, prefix, password)
            except OSError as error:
                failed[prefix] = error.strerror or str(error)
        return failed


def _bind(group: _Group, address: Address, port: int) -> None:
    """Give a group a socket that takes no connection yet, on its link if it has one. Raises ListenFailed."""
    sock = socket.socket(socket_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    group.sockets.append(sock)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if group.zone or (address.version == 6 and address.is_unspecified):
            # A link's socket stands beside one for all addresses; the kernel lets nobody but us have both (one user),
            # and looks for the one with the address first (net/ipv6/inet6_hashtables.c, inet6_lookup_listener).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        set_max_ttl(sock)  # the SYN+ACK comes from this socket, and connections inherit it
        keep_opening_packets(sock)
        sock.bind(socket_address(address, port))
    except OSError as error:
        group.sockets.remove(sock)
        raise _listen_failed(sock, address, port, error) from error
    group.waiting.append(sock)


def _reason(failed: Mapping[Prefix, str], peer: Address) -> str | None:
    bare = without_zone(peer)
    return next((why for prefix, why in failed.items() if bare in prefix), None)


def _listen_failed(sock: socket.socket, address: object, port: int, error: OSError) -> ListenFailed:
    sock.close()
    reason = "another process has it" if error.errno == errno.EADDRINUSE else error.strerror
    return ListenFailed(f"cannot listen for BGP on {address} port {port}: {reason}")
