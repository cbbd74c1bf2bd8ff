"""An IPPool resource as the pool that allocation and routing work with.

Promises: `pool(…)` of a valid resource never fails; every error names its field.
Does not know: other resources than IPPool, files, etcd.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from agent.datastore.resources.resource_types import IPPool, IPPoolSpec
from agent.datastore.resources.validation import validate_pool
from ipam.model import DEFAULT_BLOCK_LENGTH, AssignmentMode, EncapsulationMode, Pool, Use


def pool(resource: IPPool) -> Pool:
    """The pool behind a resource. Raises ValueError with the first error."""
    spec = resource.spec
    if errors := validate_pool(spec):
        raise ValueError(errors[0])
    cidr = ip_network(spec.cidr)
    uses = frozenset(Use(word) for word in spec.allowed_uses) if spec.allowed_uses else None
    return Pool(
        name=resource.metadata.name,
        cidr=cidr,
        block_length=spec.block_size or DEFAULT_BLOCK_LENGTH[cidr.version],
        ipip=EncapsulationMode(spec.ipip_mode),
        vxlan=EncapsulationMode(spec.vxlan_mode),
        nat_outgoing=spec.nat_outgoing,
        node_selector=spec.node_selector or "all()",
        disabled=spec.disabled,
        disable_bgp_export=spec.disable_bgp_export,
        assignment_mode=AssignmentMode(spec.assignment_mode),
        allowed_uses=uses or frozenset({Use.WORKLOAD, Use.TUNNEL}),
    )


def overlap_error(new: Pool, others: Iterable[Pool]) -> str | None:
    """A sentence for the first other pool that shares an address; a pool of the same name is the same pool."""
    cidr = new.cidr
    for other in others:
        if other.name != new.name and other.cidr.version == cidr.version and other.cidr.overlaps(cidr):
            return f"spec.cidr: {cidr} overlaps pool {other.name} ({other.cidr})"
    return None


def warnings(spec: IPPoolSpec) -> Iterator[str]:
    """Sentences about what is taken, and what Calico would want otherwise."""
    if spec.namespace_selector and not spec.allowed_uses:
        yield (
            "spec.namespaceSelector: calicoctl takes it of a pool without tunnel addresses alone; "
            "write allowedUses: [Workload]"
        )
