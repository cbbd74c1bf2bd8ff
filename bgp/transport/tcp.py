"""One TCP connection under asyncio: octets both ways, and a limit on what waits to be written.

Promises: at most `HIGH_WATER_BYTES` and one message wait in the transport, so a keepalive is never behind a whole
table; a connection that is closed but takes no more bytes is cut after a while. TCP MD5 (RFC 2385) and TTL security
(RFC 5082) as Linux has them: an OSError where the kernel refuses, so no session comes up unprotected. Everybody may
demand TTL 255 of us: we send nothing with less.
Does not know: BGP.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from bgp.peer_config import PeerConfig
from bgp.transport.socket_addresses import address_of, socket_address, socket_family
from bgp.transport.tcp_info import OpeningPacket, Socket, is_acknowledged, opening_packet, written_octets
from bgp.wire.families import Address, Prefix

HIGH_WATER_BYTES = 64 << 10
CLOSING_SECONDS = 5.0
"""How long a last NOTIFICATION may take to leave."""
TCP_MD5SIG = 14
"""Socket option of linux/tcp.h; the socket module does not name it."""
TCP_MD5SIG_EXT = 32
"""The same of Linux 4.14: with a flag the key is for a prefix."""
TCP_MD5SIG_FLAG_PREFIX = 1
IP_MINTTL = 21
"""Socket option of linux/in.h; the socket module does not name it."""
IPV6_MINHOPCOUNT = 73
"""Socket option of linux/in6.h; the socket module does not name it."""
LARGEST_TTL = 255


class ConnectionOwner(Protocol):
    """The owner of a connection, to which it reports what happens."""

    def opened(self, tcp: Tcp) -> None:
        """The connection is up."""

    def arrived(self, tcp: Tcp, data: bytes) -> None:
        """Octets arrived."""

    def ended(self, tcp: Tcp, why: str) -> None:
        """The connection is down."""

    def flow_changed(self, tcp: Tcp) -> None:
        """`is_full` of the connection has changed."""


class Tcp(asyncio.Protocol):
    """One TCP connection; its owner names it."""

    def __init__(self, owner: ConnectionOwner, connection: int | None) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self.connection = connection
        """None: the other side opened it, and it has no name yet."""
        self.outgoing = connection is not None
        self.is_full = False

    @property
    def local(self) -> Address:
        """The address of our end."""
        return self._address("sockname")

    @property
    def remote(self) -> Address:
        """The address of the other end."""
        return self._address("peername")

    def _address(self, name: str) -> Address:
        found = self._transport.get_extra_info(name) if self._transport is not None else None
        if not found:
            return IPv4Address(0)
        return address_of(found)

    def write(self, data: bytes) -> None:
        """Queue octets behind what waits."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Stop reading the socket."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the socket again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def secure(self, peer: PeerConfig) -> None:
        """Demand of all further packets what is configured: TTL (RFC 5082), signature (RFC 2385). Raises OSError."""
        self.set_gtsm(peer.ttl_security_hops)
        if (sock := self._socket) is not None and peer.password:
            set_md5_key(sock, peer.address, peer.password)

    def look(self) -> tuple[bool, bool]:
        """Whether octets or the end wait to be read, and whether the kernel takes octets; nothing is read or written.

        The loop does not say it: after the process was stopped it may run a timer before it looks at its sockets.
        """
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.fileno() < 0:
            return False, False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN | select.POLLOUT)
        found = dict(poll.poll(0)).get(sock.fileno(), 0)
        return bool(found & ~select.POLLOUT), bool(found & select.POLLOUT)

    def set_gtsm(self, hops: int) -> None:
        """Demand a TTL of all further packets (GTSM, RFC 5082). Raises OSError."""
        if (sock := self._socket) is not None:
            set_gtsm(sock, hops)

    def opening_packet(self) -> OpeningPacket | None:
        """How a connection that the other side opened began; answered once."""
        return opening_packet(self._socket) if self._socket is not None else None

    def written_octets(self) -> int | None:
        """What `is_acknowledged` is asked about all that is written by now; None: the connection is gone."""
        try:
            return written_octets(self._socket) if self._socket is not None else None
        except OSError:
            return None

    def is_acknowledged(self, written: int) -> bool:
        """Whether the other end's kernel has acknowledged the octets up to `written`."""
        try:
            return self._socket is not None and is_acknowledged(self._socket, written)
        except OSError:
            return False

    @property
    def _socket(self) -> Socket | None:
        sock: Socket | None = (
            self._transport.get_extra_info("socket") if self._transport is not None else None
        )
        return sock if sock is not None and sock.fileno() >= 0 else None

    def close(self) -> None:
        """Close once what was written has left, or after a while."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.close()
            asyncio.get_running_loop().call_later(CLOSING_SECONDS, transport.abort)

    def abort(self) -> None:
        """Close at once, whatever still waits to be written."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is up."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: octets arrived."""
        self._owner.arrived(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is down."""
        self._owner.ended(
            self, (getattr(exc, "strerror", None) or str(exc)) if exc else "the peer closed TCP"
        )

    def pause_writing(self) -> None:
        """asyncio: HIGH_WATER_BYTES wait to be written."""
        self.is_full = True
        self._owner.flow_changed(self)

    def resume_writing(self) -> None:
        """asyncio: little waits to be written."""
        self.is_full = False
        self._owner.flow_changed(self)


def set_md5_key(sock: Socket, peers: Address | Prefix, password: str) -> None:
    """Set the TCP MD5 key for a peer, or for all in a prefix (RFC 2385), also on a listening socket.

    An empty password removes it. Raises OSError.
    """
    network = _network_of(peers)
    key, length = password.encode(), network.prefixlen
    if network.version == 4:
        address = struct.pack("=HH4s120x", socket.AF_INET, 0, network.network_address.packed)
    else:
        address = struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, network.network_address.packed, 0)
    whole = length == network.max_prefixlen
    option, flags = (TCP_MD5SIG, 0) if whole else (TCP_MD5SIG_EXT, TCP_MD5SIG_FLAG_PREFIX)
    value = struct.pack("=BBHi80s", flags, 0 if whole else length, len(key), 0, key)
    sock.setsockopt(socket.IPPROTO_TCP, option, address + value)


def _network_of(peers: Address | Prefix) -> Prefix:
    """Without a zone: the kernel keeps keys by octets, whatever the link (net/ipv6/tcp_ipv6.c)."""
    if isinstance(peers, IPv4Address):
        return IPv4Network(peers)
    return IPv6Network(int(peers)) if isinstance(peers, IPv6Address) else peers


def set_max_ttl(sock: Socket) -> None:
    """Send with the largest TTL."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, LARGEST_TTL)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, LARGEST_TTL)


def least_ttl(hops: int) -> int:
    """The least TTL of a packet from at most `hops` away; 0: from anywhere."""
    return LARGEST_TTL + 1 - hops if hops else 0


def set_gtsm(sock: Socket, hops: int) -> None:
    """GTSM (RFC 5082): take packets only from at most `hops` away; 0: from anywhere."""
    nearest = least_ttl(hops)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, nearest)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, nearest)


def outgoing_socket(config: PeerConfig, source: Address | None) -> socket.socket:
    """A socket to connect to a peer with, bound to `source` and secured as configured. Raises OSError."""
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    sock = socket.socket(socket_family(config.address), kind)
    try:
        if config.password:
            set_md5_key(sock, config.address, config.password)
        set_max_ttl(sock)
        set_gtsm(sock, config.ttl_security_hops)
        if source is not None:
            sock.bind(socket_address(source, 0))
    except BaseException:
        sock.close()
        raise
    return sock
