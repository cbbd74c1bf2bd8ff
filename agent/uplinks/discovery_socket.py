"""The one ICMPv6 socket of router discovery: what is heard on all links, and what is said on one (RFC 3542).

Promises: the kernel delivers only what `HEARD` names; `read` answers at most MOST_AT_ONCE packets, so that nobody on a
link holds the loop; a packet leaves with hop limit 255, from the link-local address that is given.
Does not know: what a packet means, which link is an uplink.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address

from agent.uplinks.router_discovery import HEARD, LARGEST_HOPS, Heard, heard

ALL_NODES, ALL_ROUTERS = "ff02::1", "ff02::2"
"""RFC 4291 section 2.7.1."""
ICMP6_FILTER = 1
"""Socket option of linux/icmpv6.h; the socket module does not name it."""
MOST_BYTES = 1500
MOST_AT_ONCE = 64
BUFFER_BYTES = 256 << 10
"""Some hundreds of packets; more are lost, and said again by whoever is a router."""
_INFO = struct.Struct("=16sI")
"""in6_pktinfo: our address, the interface's number."""
_HOPS = struct.Struct("=i")


class DiscoverySocket:
    """Open it, join links, read and send; then close it."""

    def __init__(self, echo: int) -> None:
        """`echo`: the identifier of our echo requests. Raises OSError, of which PermissionError without CAP_NET_RAW."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._echo = echo
        self._joined: dict[str, int] = {}
        self._socket = sock = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        try:
            blocked = [0xFFFFFFFF] * 8  # icmp6_filter: a set bit keeps a type out
            for one in HEARD:
                blocked[one >> 5] &= ~(1 << (one & 31))
            sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *blocked))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT):
                sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
            for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
                sock.setsockopt(socket.IPPROTO_IPV6, option, LARGEST_HOPS)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        except OSError:
            sock.close()
            raise

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def join(self, links: Iterable[tuple[str, int]]) -> None:
        """Take what is sent to all routers on these links (name and number): solicitations."""
        wanted = dict(links)
        for name, number in list(self._joined.items()):
            if wanted.get(name) != number:
                with suppress(OSError):
                    self._membership(socket.IPV6_LEAVE_GROUP, number)
                del self._joined[name]
        for name, number in wanted.items():
            if name not in self._joined:
                with suppress(OSError):  # it has just gone, or is not up yet: the next look tries again
                    self._membership(socket.IPV6_JOIN_GROUP, number)
                    self._joined[name] = number

    def _membership(self, option: int, number: int) -> None:
        group = IPv6Address(ALL_ROUTERS).packed
        self._socket.setsockopt(socket.IPPROTO_IPV6, option, group + struct.pack("=I", number))

    def read(self) -> list[Heard]:
        """What came since the last call, as far as it counts. Raises OSError."""
        found: list[Heard] = []
        for _ in range(MOST_AT_ONCE):
            try:
                data, control, flags, source = self._socket.recvmsg(MOST_BYTES, 128)
            except BlockingIOError:
                break
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                continue
            interface, hops = 0, -1
            for level, kind, value in control:
                if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                    interface = _INFO.unpack(value[: _INFO.size])[1]
                elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT:
                    (hops,) = _HOPS.unpack(value[: _HOPS.size])
            address = IPv6Address(str(source[0]).partition("%")[0])
            if (one := heard(data, address, interface, hops, self._echo)) is not None:
                found.append(one)
        return found

    def send(self, data: bytes, to: str, interface: int, source: IPv6Address) -> None:
        """Send on one link. Raises OSError."""
        info = _INFO.pack(IPv6Address(int(source)).packed, interface)
        control = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
        self._socket.sendmsg([data], control, 0, (to, 0, 0, interface))
