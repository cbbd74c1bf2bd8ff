"""What speaks against a new pool, or against deleting one: networks that others have, and pods that have its addresses.

Promises: pure; a sentence names a few and counts the rest, however many there are.
Does not know: how it is decided; a person may insist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network

from agent.datastore.resources.resource_types import BGPConfiguration, Node, WorkloadEndpoint
from ipam.address_text import text_of
from ipam.allocation.sticky import is_retained
from ipam.block import address_of, allocated
from ipam.model import Attributes, Block, Pool, Prefix, Use

MOST_NAMED = 3
"""Nodes or pods in one sentence."""


def network_conflicts(
    pool: Pool, nodes: Iterable[Node], configurations: Iterable[BGPConfiguration]
) -> Iterator[str]:
    """A sentence for each network of nodes, and each range of services, that shares addresses with a pool.

    Pods there would be unreachable, or hosts and services: one of two routes goes before the other.
    """
    found: dict[Prefix, list[str]] = {}
    for node in nodes:
        underlay = node.underlay(pool.cidr.version)
        if underlay is not None and underlay.network.overlaps(pool.cidr):
            found.setdefault(underlay.network, []).append(node.metadata.name)
    for network, names in found.items():
        yield f"spec.cidr: {text_of(pool.cidr)} overlaps {text_of(network)}, the network of {_some('node', names)}"
    for configuration in configurations:
        for word, cidr in _overlapping_ranges(pool, configuration):
            yield (
                f"spec.cidr: {text_of(pool.cidr)} overlaps {text_of(cidr)}, "
                f"a range of services ({word} of BGPConfiguration {configuration.metadata.name})"
            )


def range_conflicts(configuration: BGPConfiguration, pools: Iterable[Pool]) -> Iterator[str]:
    """A sentence for each range of services that shares addresses with a pool."""
    for pool in pools:
        for word, cidr in _overlapping_ranges(pool, configuration):
            yield f"spec.{word}: {text_of(cidr)} overlaps pool {pool.name} ({text_of(pool.cidr)})"


def _overlapping_ranges(pool: Pool, configuration: BGPConfiguration) -> Iterator[tuple[str, Prefix]]:
    for word, cidr in _service_ranges(pool, configuration):
        if cidr.version == pool.cidr.version and cidr.overlaps(pool.cidr):
            yield word, cidr


def _service_ranges(pool: Pool, configuration: BGPConfiguration) -> Iterator[tuple[str, Prefix]]:
    spec = configuration.spec
    lists = [
        ("serviceClusterIPs", spec.service_cluster_ips),
        ("serviceExternalIPs", spec.service_external_ips),
    ]
    if Use.LOAD_BALANCER not in pool.allowed_uses:  # such a pool is where these addresses come from
        lists.append(("serviceLoadBalancerIPs", spec.service_load_balancer_ips))
    for word, cidrs in lists:
        for one in cidrs or ():
            yield word, ip_network(one.cidr)


def users_error(
    cidr: Prefix,
    endpoints: Iterable[WorkloadEndpoint],
    blocks: Iterable[Block],
    unreadable: Sequence[str],
) -> str | None:
    """Why a pool cannot go: how many pods have addresses of it, or may have, as something cannot be read.

    A pod has an endpoint, or only an allocation: what another plugin attached, or a Service. Tunnels are no pods.
    """
    names, known = [], set()
    for one in endpoints:
        held = {address for address in one.addresses if address.version == cidr.version and address in cidr}
        known |= held
        if held:
            pod = one.spec.pod or one.spec.workload or one.metadata.name
            names.append(f"{one.metadata.namespace or 'default'}/{pod}")
    others = [
        text_of(address)
        for block in blocks
        for ordinal, attributes in allocated(block)
        if (address := address_of(block, ordinal)) in cidr and address not in known and _is_in_use(attributes)
    ]
    parts = [f"{_some('pod', names)} {'has' if len(names) == 1 else 'have'} addresses of it"] if names else []
    if others:
        parts.append(
            f"{_some('address', others)} {'is' if len(others) == 1 else 'are'} allocated without an endpoint"
        )
    if unreadable:
        parts.append(f"{_some('value', unreadable)} cannot be read, and may say that some are in use")
    return " and ".join(parts) or None


def _is_in_use(attributes: Attributes) -> bool:
    return "type" not in dict(attributes.secondary) and not is_retained(attributes)


def _some(what: str, names: Sequence[str]) -> str:
    """`node a`, or `5 nodes (a, b, c …)`."""
    if len(names) == 1:
        return f"{what} {names[0]}"
    rest = " …" if len(names) > MOST_NAMED else ""
    return f"{len(names)} {what}{'es' if what.endswith('s') else 's'} ({', '.join(names[:MOST_NAMED])}{rest})"
