"""An IPPool resource as the pool that allocation and routing work with.

Promises: `pool(…)` of a valid resource never fails; every error names its field.
Does not know: other resources than IPPool, files, etcd.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from agent.datastore.resources.resource_types import IPPool, IPPoolSpec
from agent.datastore.resources.validation import validate_pool
from ipam.allocation.transaction import MOST_BLOCK_BYTES
from ipam.model import (
    DEFAULT_BLOCK_LENGTH,
    DEFAULT_BLOCKS_PER_NODE,
    AssignmentMode,
    EncapsulationMode,
    IpamConfig,
    Pool,
    Use,
)

BYTES_OF_AN_ALLOCATION = 430
"""What a pod of Kubernetes takes in its block, names of some 30 letters: measured, docs/etcd.md."""
USUAL_PODS = 110
"""kubelet's default of --max-pods: a node that may have fewer addresses is told."""


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
        namespace_selector=spec.namespace_selector or "",
        disabled=spec.disabled,
        disable_bgp_export=spec.disable_bgp_export,
        assignment_mode=AssignmentMode(spec.assignment_mode),
        allowed_uses=uses or frozenset({Use.WORKLOAD, Use.TUNNEL}),
    )


def block_size_warnings(pool: Pool, rules: IpamConfig) -> list[str]:
    """What a pool's block size will cost its nodes, a sentence each, field first."""
    size = 1 << (pool.cidr.max_prefixlen - pool.block_length)
    most = rules.blocks_per_node or DEFAULT_BLOCKS_PER_NODE
    found = []
    if size * BYTES_OF_AN_ALLOCATION > MOST_BLOCK_BYTES:
        room = MOST_BLOCK_BYTES // BYTES_OF_AN_ALLOCATION
        found.append(
            f"spec.blockSize: etcd takes some {room} of the {size} addresses of a block /{pool.block_length} as one "
            f"value, and each pod writes all of them anew; smaller blocks hold more (docs/etcd.md)"
        )
    if most * size < min(USUAL_PODS, pool.cidr.num_addresses):
        count = f"{most} blocks of /{pool.block_length} are {most * size} addresses for each node"
        strict = "" if rules.strict_affinity else " --strictaffinity true"
        found.append(
            f"spec.blockSize: {count}, tunnels included; make larger blocks, or let nodes have more: "
            f"tortie ipam configure{strict} --max-blocks-per-host {-(-USUAL_PODS // size)}"
        )
    return found


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
