"""The two kernels of the contract, and somebody else who works on each of them."""

from __future__ import annotations

import socket
import struct
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from agent.dataplane.kernel.calico_names import VXLAN6_DEVICE, VXLAN_DEVICE
from agent.dataplane.kernel.dataplane_objects import ForwardChain
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kernel.protocol import Kernel
from agent.lab.lab_processes import wait_for
from agent.netlink import sysctl
from agent.netlink.objects import (
    Address,
    FdbEntry,
    Neighbour,
    NextHop,
    Route,
    RouteKey,
    RouteType,
    Scope,
    Tunnel,
    TunnelKind,
)
from tests.fakes.kernel import FakeKernel
from tests.fixtures.namespace import ip


def nft(words: str) -> str:
    """Run nft(8) in the present namespace as somebody else would."""
    return subprocess.run(["nft", words], capture_output=True, text=True, check=True).stdout


VXLAN_FLAGS, ETHERTYPE_IPV4, IPPROTO_IPV4 = 0x08, 0x0800, 4


def inner_packet(source: Address, destination: Address) -> bytes:
    """The smallest IPv4 packet: a header of protocol 253 (RFC 3692) with its checksum (RFC 791 section 3.1)."""
    pair = source.packed + destination.packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20, 0, 0, 64, 253, 0) + pair
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]


def arrive(tunnel: Tunnel, near: Address) -> None:
    """Have a packet come through a tunnel whose own end is `near`, over the loopback."""
    packet = inner_packet(IPv4Address("10.1.1.7"), IPv4Address("10.1.0.7"))
    if tunnel.kind is TunnelKind.IPIP:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_IPV4) as sender:
            sender.sendto(packet, (str(near), 0))
        return
    assert tunnel.mac is not None
    frame = bytes.fromhex(tunnel.mac.replace(":", "") + "662dbf44a68b") + struct.pack("!H", ETHERTYPE_IPV4)
    head = struct.pack("!BxxxI", VXLAN_FLAGS, (tunnel.vni or 0) << 8)
    family = socket.AF_INET6 if near.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(head + frame + packet, (str(near), tunnel.port or 0))


@dataclass(frozen=True)
class Values:
    """One of everything in one version of IP; the world's eth0 is on the subnet of `near` and `far`."""

    block: RouteKey
    pod: Route
    near: Address
    far: Address
    vxlan: Tunnel
    vtep: Neighbour

    @property
    def direct(self) -> Route:
        return Route(self.block, gateway=self.far, device="eth0")

    @property
    def onlink(self) -> Route:
        return Route(self.block, gateway=self.vtep.address, device="eth0", onlink=True)

    @property
    def several(self) -> Route:
        """Three of four packets by eth0, the others by eth1, which has no network of its own."""
        other = self.vtep.address if self.block.version == 4 else IPv6Address("fe80::2")
        hops = NextHop(self.far, "eth0", weight=3), NextHop(other, "eth1", self.block.version == 4)
        return Route(self.block, hops=tuple(sorted(hops)))

    @property
    def blackhole(self) -> Route:
        return Route(self.block, RouteType.BLACKHOLE)

    @property
    def foreign(self) -> Route:
        return self.direct.with_(protocol=11)

    @property
    def forwarding(self) -> FdbEntry:
        return FdbEntry(self.vxlan.name, self.vtep.mac, self.far)


V4 = Values(
    RouteKey(IPv4Network("10.1.0.0/26")),
    Route(RouteKey(IPv4Network("10.1.0.7/32")), device="eth1", protocol=3, scope=Scope.LINK),
    IPv4Address("172.26.0.1"),
    IPv4Address("172.26.0.2"),
    Tunnel(
        VXLAN_DEVICE,
        TunnelKind.VXLAN,
        1450,
        IPv4Address("10.1.0.0"),
        vni=4096,
        port=4789,
        parent="eth0",
        local=IPv4Address("172.26.0.1"),
        mac="66:f9:37:c3:7e:94",
    ),
    Neighbour(VXLAN_DEVICE, IPv4Address("10.1.1.0"), "66:2d:bf:44:a6:8b"),
)
V6 = Values(
    RouteKey(IPv6Network("fd10:1::/122")),
    Route(RouteKey(IPv6Network("fd10:1::7/128")), device="eth1", protocol=3),
    IPv6Address("fd26::1"),
    IPv6Address("fd26::2"),
    replace(
        V4.vxlan,
        name=VXLAN6_DEVICE,
        mtu=1430,
        address=IPv6Address("fd10:1::"),
        local=IPv6Address("fd26::1"),
        mac="66:0f:35:f2:60:df",
    ),
    Neighbour(VXLAN6_DEVICE, IPv6Address("fd10:2::"), "66:2d:bf:44:a6:8b"),
)


def connect(source: Address, destination: Address) -> None:
    """Have the kernel track a datagram between two addresses of the loopback."""
    # A rule about connections is what makes a namespace track them.
    chain = "chain c { type filter hook output priority 0; ct state new accept; }"
    subprocess.run(["nft", f"table inet t {{ {chain}; }}"], check=True)
    family = socket.AF_INET
    if source.version == 6:
        family = socket.AF_INET6
        for one in {source, destination}:
            with suppress(OSError):  # it is there
                ip(f"address add {one}/128 dev lo nodad")
            # The kernel makes an IPv6 address usable a moment after it was added.
            wait_for(f"{one}", lambda: f"local {one} " in ip("-6 route show table local"), 5)  # noqa: B023
    with socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.bind((str(source), 0))
        asker.sendto(b"?", (str(destination), 5000))


def set_carrier(name: str, *, carrier: bool) -> None:
    """Have one end of a pair of links lose its carrier, or get it back, until the kernel has drawn its consequences."""
    ip(f"link set {name}-far {'up' if carrier else 'down'}")
    # A kernel thread does that a moment later (net/core/link_watch.c).
    state = "state UP" if carrier else "state LOWERLAYERDOWN"
    wait_for(f"{name} has {state}", lambda: state in ip(f"link show {name}"), 5)


class World(Protocol):
    """The kernel, and somebody else who works on it.

    eth0 has 172.26.0.1/24 and fd26::1/64, eth1 no address; both are up.
    """

    kernel: Kernel

    def delete_link(self, name: str) -> None: ...
    def set_link(self, name: str, *, up: bool) -> None: ...
    def set_carrier(self, name: str, *, carrier: bool) -> None: ...
    def foreign_put(self, route: Route) -> None: ...
    def foreign_sysctl(self, name: str, value: str) -> None: ...
    def connect(self, source: Address, destination: Address) -> None: ...
    def foreign_forward(self, chain: ForwardChain) -> None: ...
    def arrive(self, tunnel: Tunnel, near: Address) -> None: ...


class FakeWorld:
    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.kernel.add_link("eth0", "172.26.0.1/24", "fd26::1/64")
        self.kernel.add_link("eth1")
        self.delete_link = self.kernel.delete_link
        self.set_link = self.kernel.set_link
        self.set_carrier = self.kernel.set_carrier
        self.foreign_put = self.kernel.foreign_put
        self.foreign_sysctl = self.kernel.foreign_sysctl

    def foreign_forward(self, chain: ForwardChain) -> None:
        self.kernel.foreign_forward(chain)

    def connect(self, source: Address, destination: Address) -> None:
        self.kernel.connections.append((source, destination))

    def arrive(self, tunnel: Tunnel, near: Address) -> None:
        self.kernel.received_table[tunnel.name] = self.kernel.received_table.get(tunnel.name, 0) + 1


class RealWorld:
    def __init__(self, *, nexthop_objects: bool = False) -> None:
        self.kernel = NetlinkKernel(nexthop_objects=nexthop_objects)
        for name in ("eth0", "eth1"):
            ip(f"link add {name} type veth peer name {name}-far")
            ip(f"link set {name}-far up")
            ip(f"link set {name} up")
        ip("address add 172.26.0.1/24 dev eth0")
        ip("address add fd26::1/64 dev eth0 nodad")

    def delete_link(self, name: str) -> None:
        ip(f"link delete {name}")

    def set_link(self, name: str, *, up: bool) -> None:
        ip(f"link set {name} {'up' if up else 'down'}")

    def set_carrier(self, name: str, *, carrier: bool) -> None:
        set_carrier(name, carrier=carrier)

    def foreign_put(self, route: Route) -> None:
        ip(f"-{route.key.version} route replace {route}")

    def foreign_sysctl(self, name: str, value: str) -> None:
        (sysctl.ROOT / name).write_text(value)

    def foreign_forward(self, chain: ForwardChain) -> None:
        policy = "drop" if chain.drops else "accept"
        nft(f"add table {chain.family} {chain.table}")
        hook = f"{{ type filter hook forward priority 0; policy {policy}; }}"
        nft(f"add chain {' '.join(chain.key)} {hook}")
        nft(f"flush chain {' '.join(chain.key)}")

    def connect(self, source: Address, destination: Address) -> None:
        connect(source, destination)

    def arrive(self, tunnel: Tunnel, near: Address) -> None:
        arrive(tunnel, near)
