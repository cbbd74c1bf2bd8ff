"""ARP on one interface (RFC 826): who else says that an IPv4 address is its own (RFC 5227).

Promises: the kernel delivers only packets that name the address as their sender's, however many others there are. What
is sent is a probe, which claims nothing (RFC 5227 section 2.1.1).
Does not know: whose address it is, what follows.
"""

from __future__ import annotations

import socket
import struct
from array import array
from ipaddress import IPv4Address

ETH_P_ARP, ETHERNET, ETH_P_IP = 0x0806, 1, 0x0800
REQUEST = 1
BROADCAST = b"\xff" * 6
PACKET = struct.Struct("!HHBBH6s4s6s4s")
"""Hardware and protocol type, lengths of both addresses, operation; the sender's two addresses, the target's."""
SO_ATTACH_FILTER = 26
"""asm-generic/socket.h."""
_INSTRUCTION = struct.Struct("=HBBI")
"""sock_filter of linux/filter.h: code, how far to jump if it holds and if not, operand."""
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
SENDER_OFFSET = 14
MOST_BYTES = 64
"""A packet has 28; what follows pads the frame."""


def probe(mac: str, address: IPv4Address) -> bytes:
    """A request for whoever has an address, sent by nobody."""
    own = bytes.fromhex(mac.replace(":", ""))
    return PACKET.pack(ETHERNET, ETH_P_IP, 6, 4, REQUEST, own, bytes(4), bytes(6), address.packed)


def claimant(packet: bytes, address: IPv4Address) -> str | None:
    """The MAC of who says in an ARP packet that an address is its own; None if nobody does."""
    if len(packet) < PACKET.size:
        return None
    kind, protocol, lengths, octets, _, mac, sender, _, _ = PACKET.unpack_from(packet)
    is_ethernet = (kind, protocol, lengths, octets) == (ETHERNET, ETH_P_IP, 6, 4)
    return mac.hex(":") if is_ethernet and sender == address.packed else None


def sender_filter(address: IPv4Address) -> bytes:
    """A filter of packets: those whose sender has this address."""
    steps = (
        (LOAD_WORD, 0, 0, SENDER_OFFSET),
        (JUMP_IF_EQUAL, 0, 1, int(address)),
        (RETURN, 0, 0, MOST_BYTES),
        (RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


class ArpSocket:
    """The ARP packets on an interface that name one address as their sender's."""

    def __init__(self, interface: str, address: IPv4Address) -> None:
        """Raises OSError, of which PermissionError without CAP_NET_RAW."""
        self._interface = interface
        self._address = address
        # Of protocol 0, so that nothing arrives before the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            program = array("B", sender_filter(address))
            where, octets = program.buffer_info()
            count = octets // _INSTRUCTION.size
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", count, where))
            self._socket.bind((interface, ETH_P_ARP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def send_probe(self, mac: str) -> None:
        """Ask who has the address. Raises OSError."""
        target = (self._interface, ETH_P_ARP, 0, 0, BROADCAST)
        self._socket.sendto(probe(mac, self._address), target)

    def read(self) -> str | None:
        """The MAC of one that says it has the address; None: nothing waits. Raises OSError when the interface went."""
        try:
            while True:
                found = claimant(self._socket.recv(MOST_BYTES), self._address)
                if found is not None:
                    return found
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close it."""
        self._socket.close()
