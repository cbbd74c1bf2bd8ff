"""A pod network in memory, with faults that a test names."""

from __future__ import annotations

from enum import Enum

from agent.cni.attachment import Attachment
from agent.dataplane.kernel import KernelError


class PodFault(Enum):
    """What goes wrong with the next call."""

    ATTACH_REFUSED = "the kernel takes no veth"
    DETACH_REFUSED = "the kernel lets no veth go"


class FakePods:
    """Host interface -> what is attached there."""

    def __init__(self) -> None:
        self.attached: dict[str, Attachment] = {}
        self.faults: set[PodFault] = set()

    def _fault(self, fault: PodFault) -> None:
        if fault in self.faults:
            self.faults.discard(fault)
            raise KernelError(fault.value)

    async def attach(self, wish: Attachment) -> None:
        """See PodNetwork."""
        self._fault(PodFault.ATTACH_REFUSED)
        self.attached[wish.host_interface] = wish

    async def detach(self, host_interface: str) -> None:
        """See PodNetwork."""
        self._fault(PodFault.DETACH_REFUSED)
        self.attached.pop(host_interface, None)

    def exists(self, host_interface: str) -> bool:
        """See PodNetwork."""
        return host_interface in self.attached
