"""What speaks against a new pool, or against deleting one: networks that others have, and pods that have its addresses.

Promises: pure; a sentence names a few and counts the rest, however many there are.
Does not know: how it is decided; a person may insist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network

from agent.datastore.resources.resource_types import BGPConfiguration, Node, WorkloadEndpoint
from ipam.address_text import text_of
from ipam.model import Pool, Prefix, Use

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
        for word, cidr in _service_ranges(pool, configuration):
            if cidr.version == pool.cidr.version and cidr.overlaps(pool.cidr):
                name = configuration.metadata.name
                yield (
                    f"spec.cidr: {text_of(pool.cidr)} overlaps {text_of(cidr)}, "
                    f"a range of services ({word} of BGPConfiguration {name})"
                )


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


def users_error(cidr: Prefix, endpoints: Iterable[WorkloadEndpoint], unreadable: Sequence[str]) -> str | None:
    """Why a pool cannot go: how many pods have addresses of it, or may have, as their endpoints cannot be read."""
    names = [
        f"{one.metadata.namespace or 'default'}/{one.spec.pod or one.spec.workload or one.metadata.name}"
        for one in endpoints
        if any(address.version == cidr.version and address in cidr for address in one.addresses)
    ]
    parts = []
    if names:
        has = "has" if len(names) == 1 else "have"
        parts.append(f"{_some('pod', names)} {has} addresses of it")
    if unreadable:
        parts.append(f"{_some('endpoint', unreadable)} cannot be read, and may have some")
    return " and ".join(parts) or None


def _some(what: str, names: Sequence[str]) -> str:
    """`node a`, or `5 nodes (a, b, c …)`."""
    if len(names) == 1:
        return f"{what} {names[0]}"
    rest = " …" if len(names) > MOST_NAMED else ""
    return f"{len(names)} {what}s ({', '.join(names[:MOST_NAMED])}{rest})"
