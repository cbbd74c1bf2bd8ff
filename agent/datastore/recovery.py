"""What an older, emptied or other datastore does not know any more, and what may be believed of it; a core.

Promises: pure. A living pod of this machine is a fact, whatever a listing lacks or says in its place; whether somebody
deleted its endpoint on purpose is decided by whoever looks at its addresses as well. Does not know: etcd, files, time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from agent.datastore.resources.resource_types import WorkloadEndpoint
from ipam.model import Address, PoolRecord


class LivingEndpoints(Protocol):
    """What this machine itself knows of its pods."""

    def endpoint(self, key: str) -> WorkloadEndpoint | None:
        """The endpoint of the living pod under an etcd key; None if none lives there."""
        ...

    @property
    def endpoints(self) -> Collection[WorkloadEndpoint]:
        """Those of all living pods."""
        ...

    @property
    def count(self) -> int:
        """How many pods there are, as far as was last looked."""
        ...

    def has(self, address: Address) -> bool:
        """Whether a living pod has this address."""
        ...


class Nobody:
    """No pod lives here, as far as is known."""

    endpoints: tuple[WorkloadEndpoint, ...] = ()
    count = 0

    def endpoint(self, key: str) -> WorkloadEndpoint | None:
        """See LivingEndpoints."""
        return None

    def has(self, address: Address) -> bool:
        """See LivingEndpoints."""
        return False


@dataclass(frozen=True, slots=True)
class Loss:
    """A living pod's endpoint that is not in the datastore."""

    revision: int
    """Of what stands in its place; 0: nothing."""
    deleted_at: int | None = None
    """The revision of the deletion that a watch reported; None: a listing lacked it, or had another in its place."""


def is_deliberate(loss: Loss, losses: Iterable[Loss], *, allocated: bool) -> bool:
    """Whether somebody detached this one pod on purpose.

    Endpoint and addresses are written in one transaction, so no backup lacks the one and has the other; and who
    detaches a pod deletes its endpoint, not a range of endpoints at one revision.
    """
    if loss.deleted_at is None or not allocated:
        return False
    return sum(other.deleted_at == loss.deleted_at for other in losses) == 1


def foreign(
    pods: int,
    lost: Collection[WorkloadEndpoint],
    pools: Iterable[PoolRecord],
    missing_pools: Collection[str],
) -> str | None:
    """Why this is not the datastore that the node knew, but an empty one or another cluster's; None if it may be.

    Of the `pods` that live here it does not know the `lost` ones; `missing_pools` are keys of pools that it had.
    """
    if len(lost) < pods:
        return None
    there = [record.pool for record in pools if record.key not in missing_pools]
    if pods:
        if any(address in pool for pod in lost for address in pod.addresses for pool in there):
            return None
        return f"it knows none of this node's {pods} pods, and no pool holds their addresses"
    if missing_pools and not there:
        return f"none of the {len(missing_pools)} pools that it had is there"
    return None
