"""Everything outside that the CNI server and the collector speak to, as Protocols and one value.

Promises nothing by itself. Does not know: who stands behind a Protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from agent.cni.attachment import Attachment
from agent.datastore.resources import WorkloadEndpoint
from ipam.allocator import Companion
from ipam.model import Address, AddressRequest, Assignment, HandleId, NodeName
from ipam.store import Store


class Addresses(Protocol):
    """The allocator, as far as attachments need it."""

    async def assign(
        self, request: AddressRequest, companion: Callable[[tuple[Assignment, ...]], Companion] | None = None
    ) -> tuple[Assignment, ...]:
        """See ipam.allocator."""
        ...

    async def release_handle(self, handle: HandleId, companion: Companion = ...) -> tuple[Address, ...]:
        """See ipam.allocator."""
        ...


class PodNetwork(Protocol):
    """Who makes and removes the veth pair."""

    async def attach(self, wish: Attachment) -> None:
        """Make it; nothing is left when it raises KernelError."""
        ...

    async def detach(self, host_interface: str) -> None:
        """Remove it; nothing to remove is success. Raises KernelError."""
        ...

    def exists(self, host_interface: str) -> bool:
        """Whether it is there."""
        ...


@dataclass(frozen=True, slots=True)
class ServerPorts:
    """Everything outside that the server speaks to."""

    allocator: Addresses
    store: Store
    node: NodeName
    labels: Callable[[], tuple[tuple[str, str], ...]]
    mtu: Callable[[], int]
    not_ready: Callable[[], str | None]
    """None, or why no pod can be attached now."""
    known: Callable[[str], WorkloadEndpoint | None]
    """The endpoint of this node stored under an etcd key, as the facts have it."""
    adopt: Callable[[WorkloadEndpoint], None]
    forget: Callable[[WorkloadEndpoint], None]
    settled: Callable[[Iterable[IPv4Address], float], Awaitable[None]]
    """Wait until the host's routes to these addresses are in the kernel."""
    pods: PodNetwork
    boot_id: str
    """This boot of the machine (/proc/sys/kernel/random/boot_id)."""
