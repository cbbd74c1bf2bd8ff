"""Everything that can be wrong with a BGP resource by itself, a sentence each, field first.

Promises: pure; a resource without errors is one that `agent.peering.peers` and `bgp.policy.policy` can use as a whole.
Does not know: other resources, so neither whether a filter of this name exists nor whether an address is a node's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from agent.datastore.resources.bgp_parsing import community, peer_address, seconds
from agent.datastore.resources.bgp_types import (
    BGPConfigurationSpec,
    BGPFilterSpec,
    BGPPeerSpec,
    FilterRule,
    OperationSpec,
    Password,
)
from agent.datastore.resources.field_checks import network_of, one_of, readable
from agent.datastore.resources.resource_types import BGPConfiguration, BGPFilter, BGPPeer, Resource
from ipam.selector import parse

LONGEST_RESTART_SECONDS = 4095
"""RFC 4724: twelve bits."""
LONGEST_KEEPALIVE_SECONDS = 21845
"""A third of the longest hold time (RFC 4271 section 4.2)."""
SECRET_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
INTERFACE = re.compile(r"[A-Za-z0-9_.*-]{1,15}")
NODE_PREFIX = "node."
"""The name of a node's own BGPConfiguration begins so."""


def validate_bgp(resource: Resource) -> list[str]:
    """What is wrong with a resource of any kind; nothing of those that are not BGP's."""
    match resource:
        case BGPConfiguration():
            return validate_bgp_configuration(resource.metadata.name, resource.spec)
        case BGPPeer():
            return validate_bgp_peer(resource.spec)
        case BGPFilter():
            return validate_bgp_filter(resource.spec)
        case _:
            return []


def validate_bgp_configuration(name: str, spec: BGPConfigurationSpec) -> list[str]:
    """What is wrong with a BGPConfiguration."""
    found = list(one_of("spec.bindMode", spec.bind_mode, ("None", "NodeIP")))
    if name != "default" and not name.startswith(NODE_PREFIX):
        found.append(
            f"metadata.name: {name!r} is neither default nor {NODE_PREFIX}NAME; nobody would read it"
        )
    found += _password("spec.nodeMeshPassword", spec.node_mesh_password)
    restart_time = spec.node_mesh_max_restart_time
    found += readable("spec.nodeMeshMaxRestartTime", restart_time, _duration(LONGEST_RESTART_SECONDS))
    found += _service_errors(spec)
    if not spec.node_to_node_mesh_enabled:
        for field, value in (
            ("nodeMeshPassword", spec.node_mesh_password),
            ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time),
        ):
            if value is not None:
                found.append(f"spec.{field}: needs nodeToNodeMeshEnabled: true")
    for index, named in enumerate(spec.communities or ()):
        found += readable(f"spec.communities[{index}].value", named.value, community)
    names = {named.name for named in spec.communities or ()}
    for index, advertisement in enumerate(spec.prefix_advertisements or ()):
        at = f"spec.prefixAdvertisements[{index}]"
        found += readable(f"{at}.cidr", advertisement.cidr, network_of(None))
        for text in advertisement.communities:
            # A node's own object uses the names of `default`, which is another resource.
            if text not in names and (name == "default" or ":" in text):
                found += readable(f"{at}.communities", text, community)
    return found


def _service_errors(spec: BGPConfigurationSpec) -> Iterator[str]:
    for field, cidrs in (
        ("serviceClusterIPs", spec.service_cluster_ips),
        ("serviceExternalIPs", spec.service_external_ips),
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
    ):
        for index, one in enumerate(cidrs or ()):
            yield from readable(f"spec.{field}[{index}].cidr", one.cidr, network_of(None))


def validate_bgp_peer(spec: BGPPeerSpec) -> list[str]:
    """What is wrong with a BGPPeer."""
    found: list[str] = []
    if spec.node is not None and spec.node_selector is not None:
        found.append("spec.nodeSelector: excludes node; set one of them, or none for all nodes")
    if spec.local_workload_selector is not None:
        found.append(
            "spec.localWorkloadSelector: this program does not peer with pods; use peerIP or peerSelector"
        )
    elif (spec.peer_ip is None) == (spec.peer_selector is None):
        found.append("spec.peerIP: name either peerIP or peerSelector")
    if spec.peer_selector is not None and spec.as_number is not None:
        found.append("spec.asNumber: excludes peerSelector; the nodes' own AS numbers count")
    if spec.peer_ip is not None and spec.as_number is None:
        found.append("spec.asNumber: must be given with peerIP")
    found += readable("spec.nodeSelector", spec.node_selector, parse)
    found += readable("spec.peerSelector", spec.peer_selector, parse)
    found += readable("spec.peerIP", spec.peer_ip, peer_address)
    found += one_of("spec.nextHopMode", spec.next_hop_mode, ("Auto", "Self", "Keep"))
    found += one_of("spec.sourceAddress", spec.source_address, ("UseNodeIP", "None"))
    found += one_of("spec.reversePeering", spec.reverse_peering, ("Auto", "Manual"))
    if spec.keep_original_next_hop and spec.next_hop_mode is not None:
        found.append("spec.keepOriginalNextHop: excludes nextHopMode; use nextHopMode alone")
    found += readable("spec.maxRestartTime", spec.max_restart_time, _duration(LONGEST_RESTART_SECONDS))
    found += readable(
        "spec.keepaliveTime", spec.keepalive_time, _duration(LONGEST_KEEPALIVE_SECONDS, least=1)
    )
    found += _password("spec.password", spec.password)
    return found + _gateway_errors(spec)


def _gateway_errors(spec: BGPPeerSpec) -> list[str]:
    if spec.reachable_by is None:
        return []
    if found := list(readable("spec.reachableBy", spec.reachable_by, ip_address)):
        return found
    if spec.peer_ip is None:
        return ["spec.reachableBy: needs peerIP"]
    try:
        peer = peer_address(spec.peer_ip).address
    except ValueError:
        return []  # said already
    if peer.version != ip_address(spec.reachable_by).version:
        return ["spec.reachableBy: must be of the same family as peerIP"]
    return []


def validate_bgp_filter(spec: BGPFilterSpec) -> list[str]:
    """What is wrong with a BGPFilter."""
    found: list[str] = []
    for field, version, rules in (
        ("exportV4", 4, spec.export_v4),
        ("importV4", 4, spec.import_v4),
        ("exportV6", 6, spec.export_v6),
        ("importV6", 6, spec.import_v6),
    ):
        for index, rule in enumerate(rules or ()):
            found += [f"spec.{field}[{index}].{sentence}" for sentence in _rule_errors(rule, version, field)]
    return found


def _rule_errors(rule: FilterRule, version: int, direction: str) -> Iterator[str]:
    yield from one_of("action", rule.action, ("Accept", "Reject"))
    yield from one_of("matchOperator", rule.match_operator, ("Equal", "NotEqual", "In", "NotIn"))
    yield from one_of("source", rule.source, ("RemotePeers",))
    yield from one_of("peerType", rule.peer_type, ("eBGP", "iBGP"))
    if rule.source is not None and direction.startswith("import"):
        yield "source: belongs to export rules; what is imported comes from peers anyway"
    if (rule.cidr is None) != (rule.match_operator is None):
        yield "matchOperator: goes with cidr; set both or neither"
    if rule.cidr is not None:
        yield from readable("cidr", rule.cidr, network_of(version))
    if rule.interface is not None and not INTERFACE.fullmatch(rule.interface):
        yield f"interface: {rule.interface!r} must be 1 to 15 letters, digits, '.', '-', '_' or '*'"
    yield from _length_errors(rule, version)
    for value in rule.communities.values if rule.communities is not None else ():
        yield from readable("communities.values", value, community)
    if rule.operations and rule.action != "Accept":
        yield "operations: need action Accept"
    for index, operation in enumerate(rule.operations or ()):
        yield from _operation_errors(f"operations[{index}]", operation)


def _length_errors(rule: FilterRule, version: int) -> Iterator[str]:
    length, longest = rule.prefix_length, 32 if version == 4 else 128
    if length is None:
        return
    if rule.cidr is None:
        yield "prefixLength: needs cidr"
    least = length.min if length.min is not None else 0
    most = length.max if length.max is not None else longest
    if max(least, most) > longest:
        yield f"prefixLength: must be 0 to {longest} for IPv{version}"
    elif least > most:
        yield f"prefixLength: min {least} is greater than max {most}, so nothing could match"


def _operation_errors(at: str, operation: OperationSpec) -> Iterator[str]:
    given = (operation.add_community, operation.prepend_as_path, operation.set_priority)
    if sum(one is not None for one in given) != 1:
        yield f"{at}: must hold exactly one of addCommunity, prependASPath, setPriority"
    if operation.add_community is not None:
        yield from readable(f"{at}.addCommunity.value", operation.add_community.value, community)


def _duration(most: int, least: int = 0) -> Callable[[str], float]:
    """A reader of durations between bounds in seconds."""

    def read(text: str) -> float:
        if not least <= (found := seconds(text)) <= most:
            raise ValueError(f"{text} is outside {least} to {most} seconds")
        return found

    return read


def _password(field: str, password: Password | None) -> Iterator[str]:
    if password is None:
        return
    if password.secret_key_ref is None:
        yield f"{field}.secretKeyRef: must be given"
        return
    for name, part in (("name", password.secret_key_ref.name), ("key", password.secret_key_ref.key)):
        if not SECRET_PART.fullmatch(part):
            yield (
                f"{field}.secretKeyRef.{name}: {part!r} must be letters, digits, '-', '_' and '.', "
                "beginning and ending with a letter or digit"
            )
