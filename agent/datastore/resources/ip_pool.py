"""An IPPool resource as the pool that allocation and routing work with, and everything that can be wrong with one.

Promises: `pool(…)` of a valid resource never fails; every error names its field.
Does not know: other resources than IPPool, files, etcd.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network, ip_network

from agent.datastore.resources.field_checks import one_of, readable
from agent.datastore.resources.resource_types import IPPool, IPPoolSpec
from ipam.address_text import MAPPED, text_of
from ipam.model import (
    BLOCK_LENGTHS,
    DEFAULT_BLOCK_LENGTH,
    AssignmentMode,
    EncapsulationMode,
    Pool,
    Prefix,
    Use,
)
from ipam.selector import parse

LINK_LOCAL = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"))


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


def validate_pool(spec: IPPoolSpec) -> list[str]:
    """Everything wrong with a pool by itself, a sentence each, field first."""
    found = [
        *one_of("spec.ipipMode", spec.ipip_mode, EncapsulationMode),
        *one_of("spec.vxlanMode", spec.vxlan_mode, EncapsulationMode),
        *one_of("spec.assignmentMode", spec.assignment_mode, AssignmentMode),
    ]
    if spec.ipip_mode != "Never" and spec.vxlan_mode != "Never":
        found.append("spec.ipipMode: exclude each other with vxlanMode; set one of them to Never")
    unknown = [text for use in spec.allowed_uses or () for text in one_of("spec.allowedUses", use, Use)]
    found += unknown[:1]
    found += _cidr_errors(spec)
    return [*found, *readable("spec.nodeSelector", spec.node_selector or "all()", parse)]


def _cidr_errors(spec: IPPoolSpec) -> list[str]:
    try:
        cidr = ip_network(spec.cidr)
    except ValueError:
        try:
            masked = ip_network(spec.cidr, strict=False)
        except ValueError:
            return [f"spec.cidr: {spec.cidr!r} is not a network in CIDR form, such as 192.168.0.0/16"]
        return [f"spec.cidr: {spec.cidr} has host bits set; the network is {text_of(masked)}"]
    if isinstance(cidr, IPv6Network) and cidr.subnet_of(MAPPED):
        return [f"spec.cidr: {spec.cidr} is IPv4 written as IPv6; write {_as_ipv4(cidr)}"]
    found = []
    if spec.cidr != text_of(cidr):
        found.append(f"spec.cidr: write {spec.cidr} in its canonical form, {text_of(cidr)}")
    if any(cidr.version == other.version and cidr.overlaps(other) for other in LINK_LOCAL):
        found.append(f"spec.cidr: {cidr} overlaps the link-local range")
    if cidr.version == 6 and spec.ipip_mode != "Never":
        found.append("spec.ipipMode: IPIP carries IPv4 only; use vxlanMode or Never for an IPv6 pool")
    return found + _length_errors(spec, cidr)


def _as_ipv4(mapped: IPv6Network) -> str:
    return f"{mapped.network_address.ipv4_mapped}/{mapped.prefixlen - MAPPED.prefixlen}"


def _length_errors(spec: IPPoolSpec, cidr: Prefix) -> list[str]:
    length = DEFAULT_BLOCK_LENGTH[cidr.version] if spec.block_size is None else spec.block_size
    allowed = BLOCK_LENGTHS[cidr.version]
    if length not in allowed:
        return [
            f"spec.blockSize: {length} is outside {allowed.start} to {allowed.stop - 1} for IPv{cidr.version}"
        ]
    if cidr.prefixlen > length and not spec.disabled:
        return [
            f"spec.blockSize: a block of /{length} does not fit into {cidr}; choose {cidr.prefixlen} or more"
        ]
    return []


def overlap(new: Pool, others: Iterable[Pool]) -> Pool | None:
    """The first other pool that shares an address with this one; a pool of the same name is the same pool."""
    for other in others:
        if (
            other.name != new.name
            and other.cidr.version == new.cidr.version
            and other.cidr.overlaps(new.cidr)
        ):
            return other
    return None
