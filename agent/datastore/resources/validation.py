"""Everything that can be wrong with a resource by itself, a sentence each, field first, whatever its kind.

Promises: pure. Does not know: other resources, files, etcd.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.datastore.resources import ip_pool, ipam_types
from agent.datastore.resources.bgp_types import LARGEST_AS
from agent.datastore.resources.bgp_validation import validate_bgp
from agent.datastore.resources.field_checks import address_of, readable
from agent.datastore.resources.resource_types import (
    IPAMConfiguration,
    IPPool,
    IPReservation,
    Node,
    NodeBGPSpec,
    Resource,
)

NAME = re.compile(r"[!-~]{1,253}")
"""Wider than Calico's rule, because a node's name is what its machine is called."""


def validate(resource: Resource) -> list[str]:
    """Everything wrong with a resource of any kind."""
    name = resource.metadata.name
    found = (
        [] if NAME.fullmatch(name) else ["metadata.name: must be 1 to 253 characters, none of them a space"]
    )
    found += validate_bgp(resource)
    match resource:
        case IPPool():
            found += ip_pool.validate_pool(resource.spec)
        case Node():
            found += _node_errors(resource)
        case IPReservation():
            found += ipam_types.validate_reservation(resource.spec)
        case IPAMConfiguration():
            found += ipam_types.validate_ipam_configuration(resource.metadata.name, resource.spec)
            found += [
                f"metadata.{field}: Calico keeps none for the rules of allocation"
                for field, value in (
                    ("labels", resource.metadata.labels),
                    ("annotations", resource.metadata.annotations),
                )
                if value
            ]
        case _:
            pass
    return found


def _node_errors(node: Node) -> Iterator[str]:
    spec, bgp = node.spec, node.spec.bgp or NodeBGPSpec()
    for version, text, read in ((4, bgp.ipv4_address, node.ipv4), (6, bgp.ipv6_address, node.ipv6)):
        if text and read is None:
            yield f"spec.bgp.ipv{version}Address: {text!r} is not an IPv{version} address with a length"
    if bgp.as_number is not None and not 1 <= bgp.as_number <= LARGEST_AS:
        yield f"spec.bgp.asNumber: {bgp.as_number} is outside 1 to {LARGEST_AS}"
    for field, text, version in (
        ("spec.bgp.ipv4IPIPTunnelAddr", bgp.ipv4_ipip_tunnel_addr, 4),
        ("spec.bgp.routeReflectorClusterID", bgp.route_reflector_cluster_id, 4),
        ("spec.ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr, 4),
        ("spec.ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr, 6),
    ):
        yield from readable(field, text or None, address_of(version))
