"""What Calico's tools would refuse of a resource that this program could use.

Promises: pure; a sentence each, field first. These rules hold for what is newly written, so that calicoctl can write
what was written here; a stored value that breaks one is used all the same, and may be changed as long as that does not
break another. They are those of libcalico-go's validator and clients, and of the schemas of its API.
Does not know: what is stored, other resources.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agent.datastore.resources.bgp_parsing import community
from agent.datastore.resources.bgp_types import BGPConfigurationSpec, BGPPeerSpec
from agent.datastore.resources.ipam_types import PERSISTENCE
from agent.datastore.resources.resource_types import (
    READ_ONLY,
    BGPConfiguration,
    BGPPeer,
    IPAMConfiguration,
    IPPool,
    IPPoolSpec,
    Metadata,
    Node,
    NodeSpec,
    Resource,
    kind_of,
)
from agent.datastore.resources.text_forms import LOG_LEVELS
from agent.datastore.resources.validation import address_of, one_of, readable
from ipam.model import Use
from ipam.selector import parse

LONGEST_NAME = 253
MOST_ANNOTATION_BYTES = 256 << 10
"""Of all keys and values together."""
DNS_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
"""RFC 1123's, in lower case."""
IGNORED_INTERFACE = re.compile(r"(?!\*\Z)[A-Za-z0-9_.*-]{1,15}")
ON_OR_OFF = ("Enabled", "Disabled")
ADDRESS_TYPES = ("CalicoNodeIP", "InternalIP", "ExternalIP")


def refused_by_calico(resource: Resource) -> list[str]:
    """Everything that Calico would refuse to write; nothing of kinds that people do not write."""
    if kind_of(resource) in READ_ONLY:
        return []
    found = [*_metadata_errors(resource.metadata)]
    match resource:
        case IPPool():
            found += _pool_errors(resource.spec)
        case Node():
            found += _node_errors(resource.spec)
        case BGPConfiguration():
            found += _configuration_errors(resource.metadata.name, resource.spec)
        case BGPPeer():
            found += _peer_errors(resource.spec)
        case IPAMConfiguration():
            word = resource.spec.kube_virt_vm_address_persistence
            found += one_of(
                f"spec.{PERSISTENCE}", word if isinstance(word, str) and word else None, ON_OR_OFF
            )
        case _:
            pass  # of the others `validation` knows all
    return found


def name_error(field: str, name: str) -> Iterator[str]:
    """A sentence about what is no DNS name."""
    if len(name) > LONGEST_NAME or not DNS_NAME.fullmatch(name):
        yield (
            f"{field}: {name[:LONGEST_NAME]!r} must be a DNS name: lower-case letters, digits, '-' and '.', "
            "each part beginning and ending with a letter or digit"
        )


def _metadata_errors(metadata: Metadata) -> Iterator[str]:
    yield from name_error("metadata.name", metadata.name)
    annotations = metadata.annotations or {}
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > MOST_ANNOTATION_BYTES:
        yield f"metadata.annotations: {size} bytes are more than {MOST_ANNOTATION_BYTES}"


def _pool_errors(spec: IPPoolSpec) -> Iterator[str]:
    uses = spec.allowed_uses or []
    yield from readable("spec.namespaceSelector", spec.namespace_selector, parse)
    if "global(" in (spec.namespace_selector or ""):
        yield "spec.namespaceSelector: global() is for policies, not for pools; use all()"
    if spec.namespace_selector and Use.TUNNEL.value in uses:
        yield "spec.namespaceSelector: tunnel addresses have no namespace; leave Tunnel out of allowedUses"
    if Use.LOAD_BALANCER.value not in uses:
        return
    if set(uses) != {Use.LOAD_BALANCER.value}:
        yield "spec.allowedUses: LoadBalancer excludes every other use"
    for field, mode in (("ipipMode", spec.ipip_mode), ("vxlanMode", spec.vxlan_mode)):
        if mode != "Never":
            yield f"spec.{field}: must be Never in a pool for load balancers"
    if spec.disable_bgp_export:
        yield "spec.disableBGPExport: must be false in a pool for load balancers"
    if (spec.node_selector or "all()") != "all()":
        yield "spec.nodeSelector: must be all() in a pool for load balancers"


def _node_errors(spec: NodeSpec) -> Iterator[str]:
    for index, one in enumerate(spec.addresses or ()):
        yield from one_of(f"spec.addresses[{index}].type", one.type, ADDRESS_TYPES)
    for field, version in (("interfaceIPv4Address", 4), ("interfaceIPv6Address", 6)):
        text = (spec.wireguard or {}).get(field)
        yield from readable(f"spec.wireguard.{field}", text or None, address_of(version))


def _configuration_errors(name: str, spec: BGPConfigurationSpec) -> Iterator[str]:
    yield from one_of("spec.logSeverityScreen", spec.log_severity_screen or None, LOG_LEVELS)
    yield from one_of(
        "spec.serviceLoadBalancerAggregation", spec.service_load_balancer_aggregation, ON_OR_OFF
    )
    yield from one_of("spec.programClusterRoutes", spec.program_cluster_routes, ON_OR_OFF)
    for index, pattern in enumerate(spec.ignored_interfaces or ()):
        if not IGNORED_INTERFACE.fullmatch(pattern):
            yield (
                f"spec.ignoredInterfaces[{index}]: {pattern!r} must be 1 to 15 letters, digits, '.', '-', '_' "
                "or '*', and not '*' alone"
            )
    for version, text in ((4, spec.local_workload_peering_ipv4), (6, spec.local_workload_peering_ipv6)):
        yield from readable(f"spec.localWorkloadPeeringIPV{version}", text, address_of(version))
    yield from _community_errors(spec)
    if name != "default":
        yield from _errors_of_a_nodes_own(spec)


def _community_errors(spec: BGPConfigurationSpec) -> Iterator[str]:
    named = spec.communities or ()
    for index, one in enumerate(named):
        yield from name_error(f"spec.communities[{index}].name", one.name)
    if named and not spec.prefix_advertisements:
        yield "spec.communities: are not used; name them in prefixAdvertisements"
    names = {one.name for one in named}
    for index, advertisement in enumerate(spec.prefix_advertisements or ()):
        at = f"spec.prefixAdvertisements[{index}].communities"
        if not advertisement.communities:
            yield f"{at}: must be given"
        for text in advertisement.communities:
            if text not in names and not _is_community(text):
                yield f"{at}: {text!r} is named in no communities of this object; give its value, such as 65000:100"


def _is_community(text: str) -> bool:
    try:
        community(text)
    except ValueError:
        return False
    return True


def _errors_of_a_nodes_own(spec: BGPConfigurationSpec) -> Iterator[str]:
    """Only the object `default` may say these."""
    given: Iterable[tuple[str, object]] = (
        ("nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled),
        ("asNumber", spec.as_number),
        ("serviceClusterIPs", spec.service_cluster_ips or None),
        ("serviceExternalIPs", spec.service_external_ips or None),
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips or None),
        ("nodeMeshPassword", spec.node_mesh_password),
        ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time),
    )
    for field, value in given:
        if value is not None:
            hint = "; a node's own is spec.bgp.asNumber of its Node" if field == "asNumber" else ""
            yield f"spec.{field}: belongs to the object default{hint}"


def _peer_errors(spec: BGPPeerSpec) -> Iterator[str]:
    if spec.node is not None:
        yield from name_error("spec.node", spec.node)
    # Calico refuses a scope in peerIP as well; here it is how a peer on a link without other addresses is named.
    if "%" in (spec.reachable_by or ""):
        yield f"spec.reachableBy: {spec.reachable_by!r} has a scope, and a scope is one node's own; leave it out"
    for index, name in enumerate(spec.filters or ()):
        yield from name_error(f"spec.filters[{index}]", name)
