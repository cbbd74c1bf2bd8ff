"""ARP on one interface (RFC 826): who else says that an IPv4 address is its own (RFC 5227), and who asks for it.

Promises: the kernel delivers only packets that name the address as their sender's or target's, however many others
there are. What is sent is a probe, which claims nothing (RFC 5227 section 2.1.1).
Does not know: whose address it is, what follows.
"""

from __future__ import annotations

import socket
import struct
from array import array
from dataclasses import dataclass
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
SENDER_OFFSET, TARGET_OFFSET = 14, 24
MOST_BYTES = 64
"""A packet has 28; what follows pads the frame."""


@dataclass(frozen=True, slots=True)
class ArpNews:
    """What a packet says of an address."""

    claimant: str | None
    """The MAC of who says that it is its own; None: somebody asks all machines on the link whose it is."""


def probe(mac: str, address: IPv4Address) -> bytes:
    """A request for whoever has an address, sent by nobody."""
    own = bytes.fromhex(mac.replace(":", ""))
    return PACKET.pack(ETHERNET, ETH_P_IP, 6, 4, REQUEST, own, bytes(4), bytes(6), address.packed)


def news_of(packet: bytes, address: IPv4Address, *, to_all: bool) -> ArpNews | None:
    """What an ARP packet says of an address; None: nothing. `to_all`: its frame was broadcast."""
    if len(packet) < PACKET.size:
        return None
    kind, protocol, lengths, octets, operation, mac, sender, _, target = PACKET.unpack_from(packet)
    if (kind, protocol, lengths, octets) != (ETHERNET, ETH_P_IP, 6, 4):
        return None
    if sender == address.packed:
        return ArpNews(mac.hex(":"))
    asks = to_all and operation == REQUEST and target == address.packed
    return ArpNews(None) if asks else None


def address_filter(address: IPv4Address) -> bytes:
    """A filter of packets: those whose sender or target has this address."""
    steps = (
        (LOAD_WORD, 0, 0, SENDER_OFFSET),
        (JUMP_IF_EQUAL, 2, 0, int(address)),
        (LOAD_WORD, 0, 0, TARGET_OFFSET),
        (JUMP_IF_EQUAL, 0, 1, int(address)),
        (RETURN, 0, 0, MOST_BYTES),
        (RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


class ArpSocket:
    """The ARP packets on an interface that name one address as their sender's or target's."""

    def __init__(self, interface: str, address: IPv4Address) -> None:
        """Raises OSError, of which PermissionError without CAP_NET_RAW."""
        self._interface = interface
        self._address = address
        # Of protocol 0, so that nothing arrives before the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            program = array("B", address_filter(address))
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

    def read(self) -> ArpNews | None:
        """What came of the address; None: nothing more. Raises OSError when the interface went."""
        try:
            while True:
                packet, sender = self._socket.recvfrom(MOST_BYTES)
                found = news_of(packet, self._address, to_all=sender[2] == socket.PACKET_BROADCAST)
                if found is not None:
                    return found
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close it."""
        self._socket.close()
