"""A pod network in memory, with faults that a test names."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from agent.cni.attachment import GATEWAY, GATEWAY_6, HOST_MAC, Attachment, NoNamespace
from agent.cni.differences import Device, PodState
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Route, RouteKey


class PodFault(Enum):
    """What goes wrong with the next call."""

    MAKE_REFUSED = "the kernel takes no veth"
    CONFIGURE_REFUSED = "the kernel takes no address"
    DETACH_REFUSED = "the kernel lets no veth go"
    NO_NAMESPACE = "the pod's namespace is gone"


class FakePods:
    """Host interface -> what is attached there."""

    def __init__(self) -> None:
        self.attached: dict[str, Attachment] = {}
        self.faults: set[PodFault] = set()
        self.sysctls: dict[str, str] = {}
        """Sysctls that stand otherwise than a pod needs."""
        self.paths: dict[str, str] = {}
        """Other paths of namespaces."""
        self.namespaces: set[str] | None = None
        """Those that there are, each with one interface of a name; None: every path is one, for any number of pods."""

    def remove_namespace(self, netns: str) -> None:
        """A namespace goes, and with it the pairs that end there."""
        assert self.namespaces is not None
        self.namespaces.discard(netns)
        self.attached = {host: made for host, made in self.attached.items() if self._of(made.netns) != netns}

    def _of(self, path: str) -> str:
        return self.paths.get(path, path)

    def _require(self, path: str) -> None:
        self._fault(PodFault.NO_NAMESPACE)
        if self.namespaces is not None and self._of(path) not in self.namespaces:
            raise NoNamespace(f"the pod's namespace {path}: No such file or directory")

    def inside(self, netns: str, interface: str) -> str | None:
        """The host side of the interface that a pod has under this name."""
        found = (host for host, made in self.attached.items() if made.interface == interface)
        return next((host for host in found if self._of(self.attached[host].netns) == self._of(netns)), None)

    def _fault(self, fault: PodFault) -> None:
        if fault in self.faults:
            self.faults.discard(fault)
            raise (NoNamespace if fault is PodFault.NO_NAMESPACE else KernelError)(fault.value)

    async def make_pair(self, attachment: Attachment) -> None:
        """See PodNetwork."""
        self._require(attachment.netns)
        self._fault(PodFault.MAKE_REFUSED)
        self.attached.pop(attachment.host_interface, None)
        if self.namespaces is not None and self.inside(attachment.netns, attachment.interface) is not None:
            raise KernelError("a veth pair: File exists")
        self.attached[attachment.host_interface] = attachment

    async def configure_pod(self, attachment: Attachment) -> None:
        """See PodNetwork."""
        if PodFault.CONFIGURE_REFUSED in self.faults:
            self.attached.pop(attachment.host_interface, None)
        self._fault(PodFault.CONFIGURE_REFUSED)
        self.attached[attachment.host_interface] = attachment

    async def detach(self, host_interface: str) -> None:
        """See PodNetwork."""
        self._fault(PodFault.DETACH_REFUSED)
        self.attached.pop(host_interface, None)

    def exists(self, host_interface: str) -> bool:
        """See PodNetwork."""
        return host_interface in self.attached

    async def owner(self, host_interface: str) -> str | None:
        """See PodNetwork."""
        attachment = self.attached.get(host_interface)
        return None if attachment is None else attachment.container_id

    async def devices_of(self, container_id: str, interface: str) -> tuple[str, ...]:
        """See PodNetwork."""
        written = container_id, interface
        return tuple(
            host for host, made in self.attached.items() if (made.container_id, made.interface) == written
        )

    async def state(self, netns: str, interface: str, host_interface: str) -> PodState:
        """See PodNetwork."""
        self._require(netns)
        attachment = self.attached.get(host_interface)
        host = Device(HOST_MAC, attachment.mtu, up=True) if attachment is not None else None
        there = attachment is not None and self._of(attachment.netns) == self._of(netns)
        if attachment is None or attachment.interface != interface or not there:
            other = self.attached.get(self.inside(netns, interface) or "")
            inside = Device(other.mac, other.mtu, up=True) if other is not None and self.namespaces else None
            return PodState(host=host, inside=inside)
        routes = (
            Route(RouteKey(IPv4Network(GATEWAY)), device=interface),
            Route(RouteKey(IPv4Network("0.0.0.0/0")), gateway=GATEWAY, device=interface),
            Route(RouteKey(IPv6Network("::/0")), gateway=GATEWAY_6, device=interface),
        )
        return PodState(
            inside=Device(attachment.mac, attachment.mtu, up=True),
            host=host,
            paired=True,
            addresses=frozenset(attachment.addresses),
            routes=routes,
            gateway_macs={GATEWAY: HOST_MAC, GATEWAY_6: HOST_MAC},
            sysctls=self.sysctls,
        )
