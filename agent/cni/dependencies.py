"""The outside of the CNI verbs, as Protocols and callables: addresses, datastore, facts, the pod's network.

Does not know: who stands behind them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from agent.cni.attachment import Attachment
from agent.cni.check import PodState
from agent.datastore.resources.resource_types import WorkloadEndpoint
from ipam.allocation.allocator import Companion
from ipam.allocation.release import Guarded, Released
from ipam.etcd.store import Store
from ipam.model import Address, AddressRequest, Assignment, HandleId, NodeName


class Addresses(Protocol):
    """The allocator, as far as attachments need it."""

    async def assign(
        self, request: AddressRequest, companion: Callable[[tuple[Assignment, ...]], Companion] | None = None
    ) -> tuple[Assignment, ...]:
        """See ipam.allocation.allocator."""
        ...

    async def assigned(self, handle: HandleId) -> tuple[Assignment, ...]:
        """See ipam.allocation.allocator."""
        ...

    async def release_handle(self, handle: HandleId, companion: Companion = ...) -> tuple[Address, ...]:
        """See ipam.allocation.allocator."""
        ...

    async def release_addresses(self, wanted: Iterable[Guarded]) -> Released:
        """See ipam.allocation.allocator."""
        ...


class PodNetwork(Protocol):
    """Who makes, removes and looks at the veth pair."""

    async def make_pair(self, attachment: Attachment) -> None:
        """Make the pair, in place of one of the same name; nothing is left when it raises NoNamespace, KernelError."""
        ...

    async def configure_pod(self, attachment: Attachment) -> None:
        """Give the pod's end its addresses and its ways; nothing is left when it raises NoNamespace, KernelError."""
        ...

    async def detach(self, host_interface: str) -> None:
        """Remove it; nothing to remove is success. Raises KernelError."""
        ...

    def exists(self, host_interface: str) -> bool:
        """Whether it is there."""
        ...

    async def owner(self, host_interface: str) -> str | None:
        """The container id written on it; empty when nothing is written, None when there is no such device.

        Raises KernelError.
        """
        ...

    async def state(self, netns: str, interface: str, host_interface: str) -> PodState:
        """What is there now. Raises NoNamespace, KernelError."""
        ...


def _nothing() -> str | None:
    return None


def _uncounted(verb: str, code: int, seconds: float) -> None:
    """Nobody counts."""


@contextmanager
def _openly(key: str) -> Iterator[None]:
    """Nobody watches."""
    yield


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Everything outside that the verbs speak to."""

    allocator: Addresses
    store: Store
    node: NodeName
    labels: Callable[[], tuple[tuple[str, str], ...]]
    mtu: Callable[[], int]
    not_ready: Callable[[], str | None]
    """None, or why no pod can be attached now."""
    cached_endpoint: Callable[[str], WorkloadEndpoint | None]
    """The endpoint of this node stored under an etcd key, as the facts have it."""
    add_endpoint: Callable[[WorkloadEndpoint], None]
    remove_endpoint: Callable[[WorkloadEndpoint], None]
    """Like `add_endpoint`, at once."""
    wait_for_routes: Callable[[Iterable[Address], float], Awaitable[None]]
    """Wait until the host's routes to these addresses are in the kernel."""
    pods: PodNetwork
    boot_id: str
    """The machine's boot: recorded with every allocation, so that a power loss can be told later."""
    cached_endpoints: Callable[[], Iterable[WorkloadEndpoint]] = tuple
    """All endpoints of this node, as the facts have them."""
    ignore_watch: Callable[[str], AbstractContextManager[None]] = _openly
    """While an endpoint is made, what the watch tells of its etcd key is no news."""
    count_call: Callable[[str, int, float], None] = _uncounted
    """Told of every answer: verb, code (0 is success), seconds."""
    limited: Callable[[], str | None] = _nothing
    """None, or why pods that exist already may be cut off from others."""
