"""The UDP sockets of BFD: one to listen on for each port and version of IP, one to speak by for each session.

Promises: what is sent has TTL 255 (RFC 5881 section 5), a source port of its own of 49152 or more (section 4), and
leaves by the session's interface; what is received comes with its TTL, its destination and its interface. Listening
is begun with the first session that needs it: a machine without sessions holds no port. No call waits. Does not know:
packets' contents, sessions' states."""

from __future__ import annotations

import ctypes
import errno
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from bgp.bfd.door import SessionKey
from bgp.bfd.engine import Arrival

SINGLE_HOP, MULTIHOP = 3784, 4784
"""RFC 5881 section 4, RFC 5883 section 5."""
FIRST_SOURCE, LAST_SOURCE = 49152, 65535
SOURCE_TRIES = 64
LARGEST_TTL = 255
INTERNETWORK_CONTROL = 0xC0
"""DSCP CS6."""
LARGEST_DATAGRAM = 128
"""Octets read of one: a longer one is read in part, and is dropped by its Length or never looked at behind it."""
MOST_IN_A_ROUND = 2048
"""Datagrams read from one socket before timers are looked at again."""
RECEIVE_BUFFER = 1 << 20
_IP_PKTINFO, _IP_RECVTTL, _IPV6_HOPLIMIT = 8, 12, socket.IPV6_HOPLIMIT
_CONTROL = struct.Struct("@Nii")
_NAME, _ANCILLARY = 32, socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
"""Room for the sender's address and for TTL and destination."""
_BEFORE = _NAME + _ANCILLARY
_SLOT = _BEFORE + LARGEST_DATAGRAM
BATCH = 64
"""Datagrams that one call takes."""


class _Part(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2))."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that receives for all sessions of one version of IP and one port."""

    socket: socket.socket
    version: int
    multihop: bool


def listen(version: int, *, multihop: bool) -> Listener:
    """Raises OSError: another BFD daemon has the port."""
    made = _udp(version)
    try:
        if version == 4:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        made.bind(("0.0.0.0" if version == 4 else "::", MULTIHOP if multihop else SINGLE_HOP))
    except OSError:
        made.close()
        raise
    return Listener(made, version, multihop)


def speak(key: SessionKey) -> socket.socket:
    """The socket that a session's packets leave by. Raises OSError."""
    version = ip_address(key.peer).version
    made = _udp(version)
    try:
        if version == 4:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, LARGEST_TTL)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, INTERNETWORK_CONTROL)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, LARGEST_TTL)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, INTERNETWORK_CONTROL)
        if key.interface:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, key.interface.encode())
        scope = socket.if_nametoindex(key.interface) if key.interface else 0
        _bind(made, version, key.local, scope)
        port = MULTIHOP if key.multihop else SINGLE_HOP
        made.connect((key.peer, port) if version == 4 else (key.peer, port, 0, scope))
        own = ip_address(made.getsockname()[0].partition("%")[0])
        if ip_address(key.peer).is_link_local and not own.is_link_local:
            # Duplicate detection is under way (RFC 4862): the kernel took another source, for as long as this lives.
            raise OSError(errno.EADDRNOTAVAIL, "the interface has no link-local address yet")
    except OSError:
        made.close()
        raise
    return made


def _udp(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if version == 6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _bind(made: socket.socket, version: int, local: str, scope: int) -> None:
    """To a free source port. Raises OSError."""
    for tried in range(SOURCE_TRIES):
        port = random.randint(FIRST_SOURCE, LAST_SOURCE)
        try:
            if version == 4:
                made.bind((local, port))
            else:
                own_scope = scope if local and ip_address(local).is_link_local else 0
                made.bind((local or "::", port, 0, own_scope))
        except OSError:
            if tried == SOURCE_TRIES - 1:
                raise
        else:
            return


class Receiver:
    """Reads datagrams, and says of each whether it is the very same again from the very same origin.

    recvmmsg(2) through the C library: one call for all that has arrived, and one comparison for each. Python's own
    `recvmsg` makes ten objects of a datagram, and needs eight times as long.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._buffer = ctypes.create_string_buffer(BATCH * _SLOT)
        self._headers = (_Message * BATCH)()
        self._parts = (_Part * BATCH)()
        start = ctypes.addressof(self._buffer)
        for number in range(BATCH):
            at, part = start + number * _SLOT, self._parts[number]
            part.base, part.length = at + _NAME + _ANCILLARY, LARGEST_DATAGRAM
            header = self._headers[number].header
            header.name, header.control = at, at + _NAME
            header.parts, header.part_count = ctypes.addressof(part), 1
            header.name_length, header.control_length = _NAME, _ANCILLARY
        self._fresh = bytes(self._headers)
        """The headers before a call: the kernel writes lengths into them."""

    def received(self, listener: Listener) -> list[bytes]:
        """What has come, as far as one round reads it, each with its origin before it: see `arrival_of`.

        Equal ones are the same datagram from the same origin by the same way.
        """
        found: list[bytes] = []
        descriptor, size = listener.socket.fileno(), len(self._fresh)
        for _ in range(MOST_IN_A_ROUND // BATCH):
            ctypes.memmove(self._headers, self._fresh, size)
            got = self._library.recvmmsg(descriptor, self._headers, BATCH, socket.MSG_DONTWAIT, None)
            if got <= 0:
                break
            octets, headers = self._buffer.raw, self._headers
            found += [
                octets[number * _SLOT : number * _SLOT + _BEFORE + headers[number].length]
                for number in range(got)
            ]
            ctypes.memset(self._buffer, 0, got * _SLOT)
            if got < BATCH:
                break
        return found


def arrival_of(slot: bytes, listener: Listener) -> tuple[Arrival, bytes]:
    """Where a datagram came from, and its octets."""
    name, control, data = slot[:_NAME], slot[_NAME:_BEFORE], slot[_BEFORE:]
    source = ip_address(name[4:8] if listener.version == 4 else name[8:24])
    return _arrival(str(source), list(_ancillary(control)), multihop=listener.multihop), data


def _ancillary(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages of cmsg(3)."""
    at = 0
    while at + _CONTROL.size <= len(control):
        length, level, kind = _CONTROL.unpack_from(control, at)
        if length < _CONTROL.size:
            return
        yield level, kind, control[at + _CONTROL.size : at + length]
        at += (length + 7) & ~7


def _arrival(source: str, ancillary: list[tuple[int, int, bytes]], *, multihop: bool) -> Arrival:
    ttl, local, index = 0, "", 0
    for level, kind, data in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT)):
            ttl = struct.unpack("i", data[:4])[0]
        elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            index, destination = struct.unpack("i4x4s", data[:12])
            local = str(ip_address(destination))
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            destination, index = struct.unpack("16si", data[:20])
            local = str(ip_address(destination))
    interface = ""
    with suppress(OSError, OverflowError):
        interface = socket.if_indextoname(index)
    return Arrival(source, local, interface, ttl, multihop)
