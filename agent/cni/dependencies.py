"""What the CNI verbs need of others, as Protocols and callables: addresses, datastore, facts, the pod's network.

Promises: an error of the datastore, of IPAM or of the kernel becomes a CNI error with its code (`translated_errors`).
Does not know: who is behind them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from agent.cni.attachment import Attachment, NoNamespace
from agent.cni.differences import PodState
from agent.cni.living_pods import LivingPods
from agent.cni.plugin.options import CniError, Code
from agent.datastore.namespace_labels import NamespaceLabels
from agent.datastore.resources.resource_types import WorkloadEndpoint
from agent.netlink.kernel_errors import KernelError
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Store
from ipam.failures import IpamError, Refused, StoreUnavailable, TakesNoWrites
from ipam.model import Address, NodeName


class PodNetwork(Protocol):
    """Makes, removes and reads the veth pair of an attachment and what is configured in the pod."""

    async def make_pair(self, attachment: Attachment) -> None:
        """Make the pair, in place of one of the same name; nothing is left when it raises NoNamespace, KernelError."""
        ...

    async def configure_pod(self, attachment: Attachment) -> None:
        """Give the pod's end its addresses, routes and neighbour entries.

        Nothing is left of the pair when it raises NoNamespace, KernelError.
        """
        ...

    async def detach(self, host_interface: str) -> None:
        """Remove the pair by its host side; nothing to remove is success. Raises KernelError."""
        ...

    def exists(self, host_interface: str) -> bool:
        """Whether a device of this name is there."""
        ...

    async def owner(self, host_interface: str) -> str | None:
        """The container id written on it; empty when nothing is written, None when there is no such device.

        Raises KernelError.
        """
        ...

    async def devices_of(self, container_id: str, interface: str) -> tuple[str, ...]:
        """The host sides on which this attachment is written, whatever their names. Raises KernelError."""
        ...

    async def state(self, netns: str, interface: str, host_interface: str) -> PodState:
        """Both ends of the pair as the kernel has them. Raises NoNamespace, KernelError."""
        ...


class PodAnnotations(Protocol):
    """Calico's annotations of pods, as Kubernetes has them."""

    async def of(self, namespace: str, pod: str, uid: str) -> Mapping[str, str]:
        """Those of a pod, with what its namespace says where the pod says nothing; within a bounded time.

        `uid` is empty where the runtime does not say it. Raises CniError, try again later.
        """
        ...


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the verbs are given by the daemon."""

    allocator: Allocator
    store: Store
    node: NodeName
    labels: Callable[[], tuple[tuple[str, str], ...]]
    namespaces: NamespaceLabels
    mtu: Callable[[], int]
    not_ready: Callable[[], str | None]
    """None, or why no pod can be attached now."""
    cached_endpoint: Callable[[str], WorkloadEndpoint | None]
    """The endpoint of this node stored under an etcd key, as the facts have it; None when there is none."""
    add_endpoint: Callable[[WorkloadEndpoint], None]
    """Make an endpoint a fact at once, before the watch reports it: the reconciler then programs its routes."""
    remove_endpoint: Callable[[WorkloadEndpoint], None]
    """Take an endpoint from the facts at once, before the watch reports that it is gone."""
    wait_for_routes: Callable[[Iterable[Address], float], Awaitable[None]]
    """Wait until the host's routes to these addresses are in the kernel, up to so many seconds.

    Raises KernelError when the kernel refuses one, TimeoutError.
    """
    pods: PodNetwork
    boot_id: str
    """The machine's boot: recorded with every allocation, so that a power loss can be recognised later."""
    cached_endpoints: Callable[[], Iterable[WorkloadEndpoint]]
    """All endpoints of this node, as the facts have them."""
    ignore_watch: Callable[[str], AbstractContextManager[None]]
    """While an endpoint is made under this etcd key, what the watch reports of it is put off."""
    count_call: Callable[[str, int, float], None]
    """Called with every answer: verb, code (0 is success), seconds that the call took."""
    living: LivingPods
    """What this machine itself knows of its attachments."""
    limited: Callable[[], str | None]
    """None, or why pods that exist already may be cut off from others."""
    dropped: Callable[[], str | None]
    """None, or why this machine would drop the packets of a pod that is made now."""
    annotations: PodAnnotations | None = None
    """Where Kubernetes is asked for a pod's annotations; None: it is not asked."""

    def require_ready(self) -> None:
        """Raises CniError, try again later, unless pods can be attached now."""
        if (why := self.not_ready()) is not None:
            raise CniError(Code.TRY_AGAIN, f"this node cannot attach pods yet: {why}")

    def require_not_dropped(self) -> None:
        """Raises CniError, try again later, while this machine would drop a new pod's packets."""
        if (why := self.dropped()) is not None:
            raise CniError(Code.TRY_AGAIN, f"the pod could not be reached: {why}")


@contextmanager
def translated_errors(what: str = "") -> Iterator[None]:
    """What kernel and datastore raise, as the specification's errors, in a sentence that `what` begins.

    Raises CniError: 8 for a namespace that is none, 5 for what the kernel does not do (in time), 100 for addresses that
    IPAM refuses, 11 (try again) for all else of the datastore.
    """
    try:
        yield
    except NoNamespace as error:
        raise CniError(Code.BAD_NAMESPACE, f"{what}{error}") from error
    except (KernelError, TimeoutError) as error:
        raise CniError(Code.IO_FAILURE, f"{what}{error}") from error
    except TakesNoWrites as error:
        raise CniError(Code.TRY_AGAIN, str(error)) from error
    except StoreUnavailable as error:
        raise CniError(Code.TRY_AGAIN, f"the datastore is away: {error}") from error
    except Refused as error:
        raise CniError(Code.REFUSED, str(error)) from error
    except IpamError as error:
        raise CniError(Code.TRY_AGAIN, str(error)) from error
