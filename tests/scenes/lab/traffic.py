"""Traffic between the namespaces of a lab, from one process: connections, bulk transfers, single datagrams.

Sockets are opened inside a namespace and used from outside it, so nothing has to be started there.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from agent.lab import lab_processes
from agent.lab.fabric import NAMESPACES
from agent.lab.lifecycle import Lab
from agent.netlink.namespaces import entered

Address = IPv4Address | IPv6Address
PATIENCE_SECONDS = 20.0
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 23, 2
CHUNK = 1 << 16


@dataclass(frozen=True)
class Transfer:
    """What came of a bulk transfer both ways."""

    peer: Address
    """Whom the listener saw."""
    segment: int
    """Bytes of payload in a full segment (TCP_MAXSEG)."""
    intact: bool


def pod(lab: Lab, name: str) -> Path:
    return NAMESPACES / lab.plan.pod_namespace(name)


def host(lab: Lab, name: str) -> Path:
    return NAMESPACES / lab.plan.node(name).namespace


def fabric(lab: Lab) -> Path:
    return NAMESPACES / lab.plan.fabric


def device_address(lab: Lab, node: str, device: str, version: int = 4) -> Address:
    """The address that a device of a node bears."""
    words = lab_processes.inside(
        lab.plan.node(node).namespace, ["ip", "-o", f"-{version}", "addr", "show", "dev", device]
    )
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    (text,) = [line.split()[3] for line in lines if "fe80" not in line]
    return ip_address(text.partition("/")[0])


def opened(space: Path, version: int, kind: socket.SocketKind) -> socket.socket:
    """A socket of a namespace that never lets a packet be fragmented."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with entered(space):
        made = socket.socket(family, kind)
    if version == 4:
        made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
    made.settimeout(PATIENCE_SECONDS)
    return made


@contextmanager
def connected(source: Path, target: Path, address: Address) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the caller's end and the other's."""
    listener = opened(target, address.version, socket.SOCK_STREAM)
    caller = opened(source, address.version, socket.SOCK_STREAM)
    try:
        listener.bind((str(address), 0))
        listener.listen()
        caller.connect(listener.getsockname()[:2])
        other, _ = listener.accept()
        with other:
            yield caller, other
    finally:
        caller.close()
        listener.close()


def transfer(source: Path, target: Path, address: Address, size: int) -> Transfer:
    """`size` bytes each way over one connection, at once."""
    with connected(source, target, address) as (caller, other):
        sent = os.urandom(size)
        received = _exchange(caller, other, sent)
        digest = hashlib.sha256(sent).digest()
        return Transfer(
            ip_address(other.getpeername()[0]),
            caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
            all(hashlib.sha256(data).digest() == digest for data in received),
        )


def _exchange(one: socket.socket, two: socket.socket, data: bytes) -> list[bytes]:
    """Each end sends all of the data; what each received."""
    left = {one: memoryview(data), two: memoryview(data)}
    got: dict[socket.socket, bytearray] = {one: bytearray(), two: bytearray()}
    until = time.monotonic() + PATIENCE_SECONDS
    with selectors.DefaultSelector() as selector:
        for end in (one, two):
            end.setblocking(False)
            selector.register(end, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while any(len(found) < len(data) for found in got.values()) and time.monotonic() < until:
            for key, events in selector.select(1.0):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if events & selectors.EVENT_READ:
                    got[end] += end.recv(CHUNK)
                if events & selectors.EVENT_WRITE and left[end]:
                    left[end] = left[end][end.send(left[end][:CHUNK]) :]
                if not left[end]:
                    selector.modify(end, selectors.EVENT_READ)
    return [bytes(found) for found in got.values()]


def datagram(source: Path, target: Path, address: Address, payload: int) -> Address:
    """One datagram that must not be fragmented; whom the receiver saw. Raises OSError, TimeoutError."""
    receiver = opened(target, address.version, socket.SOCK_DGRAM)
    sender = opened(source, address.version, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((str(address), 0))
        sender.sendto(b"\0" * payload, receiver.getsockname()[:2])
        data, whom = receiver.recvfrom(CHUNK)
        assert len(data) == payload
        return ip_address(whom[0])
