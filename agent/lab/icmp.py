"""Pings between pods from one process: raw ICMP sockets, opened inside each pod's namespace.

Promises: every echo request gets its own sequence number, so a late reply counts for the request it answers; replies
carry the TTL they arrived with. RFC 792.
Does not know: labs, pods.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from agent.netlink.namespaces import entered

ECHO_REQUEST, ECHO_REPLY = 8, 0
HEADER = struct.Struct("!BBHHH")
MOST_REPLY_BYTES = 2048
RECEIVE_BUFFER = 1 << 20


@dataclass(slots=True)
class PingCount:
    """What came of the requests from one source to one destination."""

    sent: int = 0
    received: int = 0
    ttl: int | None = None
    seconds: float | None = None
    """The last reply's round trip."""

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return self.sent - self.received


Pair = tuple[str, str]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of data with an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(identifier: int, sequence: int, sent_at: float) -> bytes:
    """An echo request that carries its own time of sending."""
    payload = struct.pack("!d", sent_at).ljust(56, b"t")
    summed = checksum(HEADER.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + payload)
    return HEADER.pack(ECHO_REQUEST, 0, summed, identifier, sequence) + payload


@dataclass(slots=True)
class Pinger:
    """Sends rounds of requests between all pairs and counts replies."""

    sockets: dict[str, socket.socket]
    addresses: Mapping[str, IPv4Address]
    counts: dict[Pair, PingCount] = field(default_factory=dict)
    _pair_of: dict[tuple[str, int], Pair] = field(default_factory=dict)
    """(source, sequence) -> the pair whose request is under way; at most 65,536 a source, the oldest overwritten."""
    _sequence: int = 0
    _identifier: int = field(default_factory=lambda: os.getpid() & 0xFFFF)

    def send_round(self, pairs: Iterable[Pair]) -> None:
        """One request for each pair."""
        for source, destination in pairs:
            self._sequence = (self._sequence + 1) & 0xFFFF
            count = self.counts.setdefault((source, destination), PingCount())
            count.sent += 1
            self._pair_of[source, self._sequence] = (source, destination)
            packet = request(self._identifier, self._sequence, time.monotonic())
            try:
                self.sockets[source].sendto(packet, (str(self.addresses[destination]), 0))
            except OSError:
                continue  # no route: counts as lost, as for ping(8)

    def receive(self, until: float) -> None:
        """Take in replies until the monotonic moment `until`, or until none is outstanding."""
        source_of = {connection.fileno(): name for name, connection in self.sockets.items()}
        poll = select.poll()
        for number in source_of:
            poll.register(number, select.POLLIN)
        while self._pair_of and (left := until - time.monotonic()) > 0:
            for number, _ in poll.poll(left * 1000):
                self._take(source_of[number])

    def _take(self, source: str) -> None:
        packet = self.sockets[source].recv(MOST_REPLY_BYTES)
        length = (packet[0] & 0x0F) * 4
        kind, _, _, identifier, sequence = HEADER.unpack_from(packet, length)
        pair = self._pair_of.get((source, sequence))
        if kind != ECHO_REPLY or identifier != self._identifier or pair is None:
            return
        del self._pair_of[source, sequence]
        count = self.counts[pair]
        count.received += 1
        count.ttl = packet[8]
        count.seconds = time.monotonic() - struct.unpack_from("!d", packet, length + HEADER.size)[0]


@contextmanager
def pinger(namespaces: Mapping[str, Path], addresses: Mapping[str, IPv4Address]) -> Iterator[Pinger]:
    """A pinger with a socket in every namespace while the block runs; its counts stay."""
    with ExitStack() as stack:
        sockets = {}
        for name, path in namespaces.items():
            with entered(path):
                connection = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            sockets[name] = stack.enter_context(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            connection.setblocking(False)
        yield Pinger(sockets, addresses)
