"""The two kernels of the contract, and somebody else who works on each of them."""

from __future__ import annotations

import socket
import subprocess
from typing import Protocol

from agent.dataplane import procfs
from agent.dataplane.kernel import Kernel
from agent.dataplane.netlink import NetlinkKernel
from agent.dataplane.objects import Address, Route
from tests.fakes.kernel import FakeKernel
from tests.fixtures.namespace import ip


def connect(source: Address, destination: Address) -> None:
    """Have the kernel track a datagram between two addresses of the loopback."""
    # A rule about connections is what makes a namespace track them.
    chain = "chain c { type filter hook output priority 0; ct state new accept; }"
    subprocess.run(["nft", f"table inet t {{ {chain}; }}"], check=True)
    family = socket.AF_INET
    if source.version == 6:
        family = socket.AF_INET6
        for one in (source, destination):
            ip(f"address replace {one}/128 dev lo nodad")
    with socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.bind((str(source), 0))
        asker.sendto(b"?", (str(destination), 5000))


class World(Protocol):
    """The kernel, and somebody else who works on it. eth0 has 172.26.0.1/24, eth1 no address; both are up."""

    kernel: Kernel

    def delete_link(self, name: str) -> None: ...
    def set_link(self, name: str, *, up: bool) -> None: ...
    def foreign_put(self, route: Route) -> None: ...
    def foreign_sysctl(self, name: str, value: str) -> None: ...
    def connect(self, source: Address, destination: Address) -> None: ...


class FakeWorld:
    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.kernel.add_link("eth0", "172.26.0.1/24")
        self.kernel.add_link("eth1")
        self.delete_link = self.kernel.delete_link
        self.set_link = self.kernel.set_link
        self.foreign_put = self.kernel.foreign_put
        self.foreign_sysctl = self.kernel.foreign_sysctl

    def connect(self, source: Address, destination: Address) -> None:
        self.kernel.connections.append((source, destination))


class RealWorld:
    def __init__(self, *, nexthop_objects: bool = False) -> None:
        self.kernel = NetlinkKernel(nexthop_objects=nexthop_objects)
        for name in ("eth0", "eth1"):
            ip(f"link add {name} type veth peer name {name}-far")
            ip(f"link set {name}-far up")
            ip(f"link set {name} up")
        ip("address add 172.26.0.1/24 dev eth0")

    def delete_link(self, name: str) -> None:
        ip(f"link delete {name}")

    def set_link(self, name: str, *, up: bool) -> None:
        ip(f"link set {name} {'up' if up else 'down'}")

    def foreign_put(self, route: Route) -> None:
        ip(f"route replace {route}")

    def foreign_sysctl(self, name: str, value: str) -> None:
        (procfs.ROOT / name).write_text(value)

    def connect(self, source: Address, destination: Address) -> None:
        connect(source, destination)
