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

    def _fault(self, fault: PodFault) -> None:
        if fault in self.faults:
            self.faults.discard(fault)
            raise (NoNamespace if fault is PodFault.NO_NAMESPACE else KernelError)(fault.value)

    async def make_pair(self, attachment: Attachment) -> None:
        """See PodNetwork."""
        self._fault(PodFault.NO_NAMESPACE)
        self._fault(PodFault.MAKE_REFUSED)
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

    async def state(self, netns: str, interface: str, host_interface: str) -> PodState:
        """See PodNetwork."""
        attachment = self.attached.get(host_interface)
        if attachment is None or attachment.interface != interface:
            return PodState()
        routes = (
            Route(RouteKey(IPv4Network(GATEWAY)), device=interface),
            Route(RouteKey(IPv4Network("0.0.0.0/0")), gateway=GATEWAY, device=interface),
            Route(RouteKey(IPv6Network("::/0")), gateway=GATEWAY_6, device=interface),
        )
        return PodState(
            inside=Device(attachment.mac, attachment.mtu, up=True),
            host=Device(HOST_MAC, attachment.mtu, up=True),
            addresses=frozenset(attachment.addresses),
            routes=routes,
            gateway_macs={GATEWAY: HOST_MAC, GATEWAY_6: HOST_MAC},
            sysctls=self.sysctls,
        )
