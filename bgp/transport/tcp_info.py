"""What the kernel knows of a TCP connection: whether the other end's kernel answers, and how the connection began.

Promises: reading changes nothing but `opening_packet`, which the kernel keeps for one reader. Does not know: BGP.
Sources: linux/tcp.h (tcp_info, TCP_SAVE_SYN), net/ipv4/tcp.c.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from asyncio.trsock import TransportSocket
from dataclasses import dataclass

Socket = socket.socket | TransportSocket
"""A socket, or what asyncio shows of one."""
TCP_SAVE_SYN, TCP_SAVED_SYN = 27, 28
"""Socket options of linux/tcp.h; the socket module does not name them."""
UNACKED_AT, BYTES_ACKED_AT = 24, 120
"""Where struct tcp_info has tcpi_unacked (u32, segments) and tcpi_bytes_acked (u64)."""
TCP_INFO_OCTETS = 128
MOST_SYN_OCTETS = 512
IPV4_FIXED, IPV6_FIXED, TCP_FIXED = 20, 40, 20
"""Octets of the headers without options."""
TTL_AT, HOP_LIMIT_AT, NEXT_HEADER_AT, DATA_OFFSET_AT = 8, 7, 6, 12
OPTION_END, OPTION_PADDING, OPTION_MD5 = 0, 1, 19
"""Kinds of TCP options (RFC 9293 section 3.1, RFC 2385)."""


def acknowledged_octets(sock: Socket) -> tuple[int, int]:
    """Octets that the other end's kernel has acknowledged, and segments that it has still to. Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_OCTETS)
    (unacked,) = struct.unpack_from("=I", info, UNACKED_AT)
    (octets,) = struct.unpack_from("=Q", info, BYTES_ACKED_AT)
    return octets, unacked


def written_octets(sock: Socket) -> int:
    """What `acknowledged_octets` will be once all that the kernel has by now is acknowledged. Raises OSError."""
    octets, _ = acknowledged_octets(sock)
    queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return octets + int(struct.unpack("=i", queued)[0])


def is_acknowledged(sock: Socket, written: int) -> bool:
    """Whether the other end's kernel has acknowledged the octets up to `written`. Raises OSError.

    Nothing in flight means the same: what could be sent was acknowledged, and the rest waits for its window.
    """
    octets, unacked = acknowledged_octets(sock)
    return octets >= written or not unacked


@dataclass(frozen=True, slots=True)
class OpeningPacket:
    """The SYN that began a connection which the other side opened."""

    ttl: int
    """As it arrived; of IPv6 the hop limit."""
    is_signed: bool
    """It bore an MD5 signature (RFC 2385), which the kernel has checked: it drops what is signed without a key."""


def keep_opening_packets(sock: Socket) -> None:
    """Let a listening socket keep the SYN of each connection for `opening_packet`."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)


def opening_packet(sock: Socket) -> OpeningPacket | None:
    """How a connection began; None: the kernel did not keep it (SYN cookies), or it was read before."""
    try:
        return parse_opening_packet(sock.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, MOST_SYN_OCTETS))
    except OSError:
        return None


def parse_opening_packet(packet: bytes) -> OpeningPacket | None:
    """A SYN with its IP header; None: it cannot be read, so nothing is known of it."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= IPV4_FIXED:
        ttl, header = packet[TTL_AT], (packet[0] & 0x0F) * 4
    elif version == 6 and len(packet) >= IPV6_FIXED and packet[NEXT_HEADER_AT] == socket.IPPROTO_TCP:
        ttl, header = packet[HOP_LIMIT_AT], IPV6_FIXED
    else:
        return None
    segment = packet[header:]
    if len(segment) < TCP_FIXED:
        return None
    return OpeningPacket(
        ttl, OPTION_MD5 in _option_kinds(segment[TCP_FIXED : (segment[DATA_OFFSET_AT] >> 4) * 4])
    )


def _option_kinds(options: bytes) -> set[int]:
    kinds: set[int] = set()
    at = 0
    while at < len(options) and options[at] != OPTION_END:
        kinds.add(options[at])
        if options[at] == OPTION_PADDING:
            at += 1
        elif at + 1 < len(options) and options[at + 1] >= 2:
            at += options[at + 1]
        else:
            break
    return kinds
