"""Everything that can be wrong with a resource by itself, a sentence each, field first, whatever its kind.

Promises: pure; a resource without errors is one that `agent.peering.peers`, `bgp.policy.policy`, allocation and routing
can use as a whole; a field that is not given is no error.
Does not know: other resources, so neither whether a filter of this name exists nor whether an address is a node's;
files, etcd.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from ipaddress import IPv4Interface, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network

from agent.datastore.resources.bgp_parsing import community, milliseconds, peer_address, seconds
from agent.datastore.resources.bgp_types import (
    BFDConfigurationSpec,
    BGPConfigurationSpec,
    BGPFilterSpec,
    BGPPeerSpec,
    FilterRule,
    OperationSpec,
    Password,
)
from agent.datastore.resources.ipam_types import rules_of
from agent.datastore.resources.resource_types import (
    BFDConfiguration,
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    IPAMConfiguration,
    IPPool,
    IPPoolSpec,
    IPReservation,
    Node,
    NodeSpec,
    Resource,
    WorkloadEndpoint,
)
from agent.datastore.resources.text_forms import LARGEST_AS
from ipam.address_text import MAPPED, masked_network, text_of
from ipam.allocation.ipam_config import config_fault
from ipam.model import (
    BLOCK_LENGTHS,
    DEFAULT_BLOCK_LENGTH,
    Address,
    AssignmentMode,
    EncapsulationMode,
    IpamConfig,
    Prefix,
    Use,
)
from ipam.selector import parse

NAME = re.compile(r"[!-~]{1,253}")
"""Wider than Calico's rule, because a node's name is what its machine is called."""
LONGEST_RESTART_SECONDS = 4095
"""RFC 4724: twelve bits."""
LONGEST_KEEPALIVE_SECONDS = 21845
"""A third of the longest hold time (RFC 4271 section 4.2)."""
SECRET_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
INTERFACE = re.compile(r"[A-Za-z0-9_.*-]{1,15}")
BFD_PATTERN = re.compile(r"(?=.{1,15}\Z)[A-Za-z0-9_.-]*\*?")
NODE_PREFIX = "node."
"""The name of a node's own BGPConfiguration begins so."""
LINK_LOCAL = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"))
ADDRESS_TYPES = (None, "", "InternalIP", "ExternalIP", "CalicoNodeIP")
"""Of what a Node lists: others are names."""
MAC = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")
DEVICE = re.compile(r"(?!\.{1,2}\Z)[^\s/:\x00]{1,15}")
"""What the kernel takes (dev_valid_name): IFNAMSIZ is 16 with the closing NUL."""
LONGEST_DEVICE = 15
"""Octets, too."""
MOST_POD_ADDRESSES = 64
"""Of one interface of a pod; each is a route."""


def validate(resource: Resource) -> list[str]:
    """Everything wrong with a resource of any kind."""
    name = resource.metadata.name
    found = (
        [] if NAME.fullmatch(name) else ["metadata.name: must be 1 to 253 characters, none of them a space"]
    )
    match resource:
        case IPPool():
            found += validate_pool(resource.spec)
            if "global(" in (
                resource.spec.node_selector or ""
            ):  # read as all(), but not written, as Calico has it
                found.append("spec.nodeSelector: global() is for policies, not for pools; use all()")
        case Node():
            found += _node_errors(resource)
        case IPReservation():
            for index, text in enumerate(resource.spec.reserved_cidrs):
                found += readable(f"spec.reservedCIDRs[{index}]", text, masked_network)
        case IPAMConfiguration():
            found += _ipam_configuration_errors(resource)
        case WorkloadEndpoint():
            found += _endpoint_errors(resource)
        case _:
            found += validate_bgp(resource)
    return found


def _node_errors(node: Node) -> Iterator[str]:
    spec, bgp = node.spec, node.bgp
    for version, text, read in ((4, bgp.ipv4_address, node.ipv4), (6, bgp.ipv6_address, node.ipv6)):
        if text and read is None:
            yield f"spec.bgp.ipv{version}Address: {text!r} is not an IPv{version} address with a length"
        elif read is not None and not _is_host(read):
            yield f"spec.bgp.ipv{version}Address: {text!r} can be no host's address"
    if bgp.as_number is not None and not 1 <= bgp.as_number <= LARGEST_AS:
        yield f"spec.bgp.asNumber: {bgp.as_number} is outside 1 to {LARGEST_AS}"
    for field, text, found, version in (
        ("spec.bgp.ipv4IPIPTunnelAddr", bgp.ipv4_ipip_tunnel_addr, node.ipip_address, 4),
        ("spec.bgp.routeReflectorClusterID", bgp.route_reflector_cluster_id, None, 4),
        ("spec.ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr, node.vxlan_address, 4),
        ("spec.ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr, node.vxlan6_address, 6),
    ):
        if text and (found is None or "%" in text):  # else it was read already
            yield from readable(field, text, address_of(version))
    yield from _listed_address_errors(spec)
    yield from _mac("spec.vxlanTunnelMACAddr", spec.vxlan_tunnel_mac_addr)
    yield from _mac("spec.vxlanTunnelMACAddrV6", spec.vxlan_tunnel_mac_addr_v6)


def _listed_address_errors(spec: NodeSpec) -> Iterator[str]:
    for index, listed in enumerate(spec.addresses or ()):
        if listed.type in ADDRESS_TYPES:
            yield from readable(f"spec.addresses[{index}].address", listed.address, ip_interface)


def _is_host(one: IPv4Interface | IPv6Interface) -> bool:
    """Whether an address with its length can be a machine's; `is_reserved` has 240.0.0.0/4, and ::/8 of IPv6."""
    address = one.ip
    if address.version == 6 and address.scope_id is not None:
        return False
    never = address.is_unspecified or address.is_multicast or (address.version == 4 and address.is_reserved)
    return not never and one.network.prefixlen > 0


def _mac(field: str, text: str | None) -> Iterator[str]:
    if text and (not MAC.fullmatch(text) or int(text[:2], 16) & 1 or not text.strip("0:")):
        yield f"{field}: {text!r} is not the MAC of one device, such as 66:01:02:03:04:05"


def _endpoint_errors(endpoint: WorkloadEndpoint) -> Iterator[str]:
    spec = endpoint.spec
    name = spec.interface_name
    if not (DEVICE.fullmatch(name) and name.isprintable()) or len(name.encode()) > LONGEST_DEVICE:
        yield f"spec.interfaceName: {name!r} is no name of an interface"
    if len(spec.ip_networks) > MOST_POD_ADDRESSES:
        yield f"spec.ipNetworks: {len(spec.ip_networks)} are more than {MOST_POD_ADDRESSES}"
    elif len(endpoint.addresses) < len(spec.ip_networks):
        yield "spec.ipNetworks: must be single addresses, such as 192.168.0.1/32"
    if not endpoint.metadata.name.startswith(f"{spec.node.replace('-', '--')}-"):
        yield f"spec.node: {spec.node!r} is not the node of this name"
    yield from _mac("spec.mac", spec.mac)


def _ipam_configuration_errors(resource: IPAMConfiguration) -> Iterator[str]:
    name, metadata = resource.metadata.name, resource.metadata
    if name != "default":
        yield f"metadata.name: {name!r} is not default; there is one for the whole cluster"
    if (sentence := config_fault(rules_of(resource.spec, IpamConfig()))) is not None:
        field, _, rest = sentence.partition(" ")
        yield f"spec.{field.rstrip(':')}: {rest}"
    for field, value in (("labels", metadata.labels), ("annotations", metadata.annotations)):
        if value:
            yield f"metadata.{field}: Calico keeps none for the rules of allocation"


# -- pools ------------------------------------------------------------------------------------------------------------


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
    found += readable("spec.nodeSelector", spec.node_selector or "all()", parse)
    return [*found, *readable("spec.namespaceSelector", spec.namespace_selector or "all()", parse)]


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
        found.append(f"spec.cidr: write {spec.cidr} with its length, {text_of(cidr)}")
    if any(cidr.version == other.version and cidr.overlaps(other) for other in LINK_LOCAL):
        found.append(f"spec.cidr: {cidr} overlaps the link-local range")
    if cidr.version == 6 and spec.ipip_mode != "Never":
        found.append("spec.ipipMode: IPIP carries IPv4 only; use vxlanMode or Never for an IPv6 pool")
    return found + _block_length_errors(spec, cidr)


def _as_ipv4(mapped: IPv6Network) -> str:
    return f"{mapped.network_address.ipv4_mapped}/{mapped.prefixlen - MAPPED.prefixlen}"


def _block_length_errors(spec: IPPoolSpec, cidr: Prefix) -> list[str]:
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


# -- BGP --------------------------------------------------------------------------------------------------------------


def validate_bgp(resource: Resource) -> list[str]:
    """What is wrong with a resource of any kind; nothing of those that are not BGP's."""
    match resource:
        case BGPConfiguration():
            return validate_bgp_configuration(resource.metadata.name, resource.spec)
        case BGPPeer():
            return validate_bgp_peer(resource.spec)
        case BGPFilter():
            return validate_bgp_filter(resource.spec)
        case BFDConfiguration():
            return validate_bfd(resource.spec)
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
    if not spec.has_mesh:
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
    modes = ("None", "BFDIfDirectlyConnected")
    found += one_of("spec.failureDetectionMode", spec.failure_detection_mode, modes)
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
    yield from _prefix_length_errors(rule, version)
    for value in rule.communities.values if rule.communities is not None else ():
        yield from readable("communities.values", value, community)
    if rule.operations and rule.action != "Accept":
        yield "operations: need action Accept"
    for index, operation in enumerate(rule.operations or ()):
        yield from _operation_errors(f"operations[{index}]", operation)


def _prefix_length_errors(rule: FilterRule, version: int) -> Iterator[str]:
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


def validate_bfd(spec: BFDConfigurationSpec) -> list[str]:
    """What is wrong with a BFDConfiguration."""
    found = list(readable("spec.nodeSelector", spec.node_selector or None, parse))
    for index, one in enumerate(spec.interfaces or ()):
        at = f"spec.interfaces[{index}]"
        if one.match_pattern and not BFD_PATTERN.fullmatch(one.match_pattern):
            found.append(
                f"{at}.matchPattern: {one.match_pattern!r} must be an interface's name of up to 15 letters, digits, "
                "'.', '-' and '_', its beginning with '*' behind it, or '*'"
            )
        found += readable(f"{at}.minimumRecvInterval", one.minimum_recv_interval, milliseconds)
        found += readable(f"{at}.minimumSendInterval", one.minimum_send_interval, milliseconds)
        found += readable(f"{at}.idleSendInterval", one.idle_send_interval, milliseconds)
    return found


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


# -- single fields ----------------------------------------------------------------------------------------------------


def readable(field: str, text: str | None, read: Callable[[str], object]) -> Iterator[str]:
    """A text that `read` takes; its ValueError says what is wrong."""
    try:
        if text is not None:
            read(text)
    except ValueError as error:
        yield f"{field}: {error}"


def one_of(field: str, word: str | None, words: Iterable[str | Enum]) -> Iterator[str]:
    """A word out of a list, or a value of an Enum."""
    known = [str(one.value) if isinstance(one, Enum) else one for one in words]
    if word is not None and word not in known:
        yield f"{field}: {word!r} is none of {', '.join(known)}"


def address_of(version: int) -> Callable[[str], Address]:
    """A reader of addresses of a version of IP."""

    def read(text: str) -> Address:
        try:
            if (
                found := ip_address(text)
            ).version == version and "%" not in text:  # no scope of another's link
                return found
        except ValueError:
            pass
        raise ValueError(f"{text!r} is not an IPv{version} address")

    return read


def network_of(version: int | None) -> Callable[[str], Prefix]:
    """A reader of networks of a version of IP; None: of either."""

    def read(text: str) -> Prefix:
        found = ip_network(text)
        if version not in (None, found.version):
            raise ValueError(f"{text} is not IPv{version}")
        return found

    return read
