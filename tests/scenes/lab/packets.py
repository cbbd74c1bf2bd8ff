"""Packets as nobody's kernel would make them: whole frames from a pod's interface, with any source and protocol."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from agent.lab.icmp import checksum
from agent.netlink.namespaces import entered

Address = IPv4Address | IPv6Address
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
GATEWAY_MAC = bytes.fromhex("eeeeeeeeeeee")
"""Of the host's side of every pod's interface."""
POD_MAC = bytes.fromhex("020000000001")
UDP, ICMPV6, IPIP = 17, 58, 4
VXLAN_PORT, VXLAN_I_FLAG = 4789, 0x08
TTL, FRAMES_PER_LOOK = 64, 20


def _summed(source: Address, destination: Address, protocol: int, packet: bytes) -> int:
    """The checksum with the pseudo header (RFC 768, RFC 8200 section 8.1)."""
    pseudo = source.packed + destination.packed + struct.pack("!II", len(packet), protocol)
    return checksum(pseudo + packet + b"\0" * (len(packet) % 2)) or 0xFFFF


def udp(source: Address, destination: Address, port: int, payload: bytes, source_port: int = 40000) -> bytes:
    """An IP packet with a UDP datagram."""
    head = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0)
    total = _summed(source, destination, UDP, head + payload)
    return ip(source, destination, UDP, head[:6] + struct.pack("!H", total) + payload)


def router_advertisement(source: IPv6Address) -> bytes:
    """To all nodes, with no lifetime (RFC 4861 section 4.2)."""
    to_all = IPv6Address("ff02::1")
    body = struct.pack("!BBHBBHII", 134, 0, 0, 255, 0, 0, 0, 0)
    total = _summed(source, to_all, ICMPV6, body)
    return ip(source, to_all, ICMPV6, body[:2] + struct.pack("!H", total) + body[4:], ttl=255)


def ip(source: Address, destination: Address, protocol: int, payload: bytes, ttl: int = TTL) -> bytes:
    """An IP packet of the addresses' version."""
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, ttl)
        return head + source.packed + destination.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, ttl, protocol, 0)
    head += source.packed + destination.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def vxlan(vni: int, mac: str, inner: bytes) -> bytes:
    """What a VXLAN device takes from a datagram to its port (RFC 7348 section 5)."""
    ethernet = bytes.fromhex(mac.replace(":", "")) + POD_MAC + struct.pack("!H", ETH_P_IP)
    return struct.pack("!BxxxI", VXLAN_I_FLAG, vni << 8) + ethernet + inner


@contextmanager
def wire(space: Path, device: str = "eth0") -> Iterator[socket.socket]:
    """A socket on a device of a namespace, before and behind which there is no filter."""
    with entered(space):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with made:
        made.bind((device, ETH_P_ALL))
        made.setblocking(False)
        yield made


def send(space: Path, packet: bytes, count: int = 1) -> None:
    """Packets from a pod's interface to its gateway."""
    with wire(space) as out:
        for _ in range(count):
            out.send(_frame(packet))


def _frame(packet: bytes) -> bytes:
    kind = ETH_P_IPV6 if packet[0] >> 4 == 6 else ETH_P_IP
    return GATEWAY_MAC + POD_MAC + struct.pack("!H", kind) + packet


def main() -> None:
    """Send a frame from `eth0` of a namespace without a pause until the input ends; print how many went out."""
    frame, sent = bytes.fromhex(sys.argv[2]), 0
    with entered(sys.argv[1]):
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(FRAMES_PER_LOOK):
            with suppress(OSError):  # no interface yet, or not up, or its queue is full
                out.sendto(frame, ("eth0", 0))
                sent += 1
    print(sent, flush=True)


@contextmanager
def flooding(space: Path, packet: bytes, most_seconds: float = 20.0) -> Iterator[None]:
    """Send from `eth0` of a namespace without a pause from the moment on at which there is one, until the block ends.

    By then something was sent.
    """
    words = [sys.executable, "-m", "tests.scenes.lab.packets", str(space), _frame(packet).hex()]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flood:
        assert flood.stdin is not None
        assert flood.stdout is not None
        try:
            assert flood.stdout.readline() == "ready\n"
            yield
        finally:
            flood.stdin.close()
            flood.wait(most_seconds)
        assert int(flood.stdout.readline()) > 0


def arrived(wires: list[socket.socket], marker: bytes) -> int:
    """How many of the frames that came by bear a marker."""
    count = 0
    for one in wires:
        with suppress(BlockingIOError):
            while True:
                count += marker in one.recv(1 << 16)
    return count


if __name__ == "__main__":
    main()
