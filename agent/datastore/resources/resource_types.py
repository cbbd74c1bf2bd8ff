"""Calico's resources (projectcalico.org/v3) that are not IPAM's own, as values.

Promises: names of kinds and fields are Calico's, so files written for calicoctl are read as they are. Reading is
tolerant (an unknown field is ignored); `agent.datastore.resources.documents` adds the strictness
for what a person writes.
Does not know: etcd, files, what a value means for the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from agent.datastore.resources.bgp_types import (
    BFDConfigurationSpec,
    BGPConfigurationSpec,
    BGPFilterSpec,
    BGPPeerSpec,
)
from agent.datastore.resources.ipam_types import (
    BlockAffinitySpec,
    IPAMConfigurationSpec,
    IPReservationSpec,
)
from agent.datastore.resources.text_forms import (
    InterfaceAddress,
    MacText,
    Network,
    PoolNetwork,
    SingleAddress,
    TextForm,
    as_number,
)

API_VERSION = "projectcalico.org/v3"
LARGEST_TTL_ANNOTATION = "projectcalico.org/tortie-bgp-ttl"
"""On a Node whose BGP packets all leave with the largest TTL: with that as its value."""
LARGEST_TTL = "255"
MACHINE_ANNOTATION = "projectcalico.org/tortie-machine-id"
"""On a Node: which machine registered it."""
MOST_CACHED_ADDRESSES = 1 << 16
"""Texts of nodes' addresses remembered as values: every change of one node asks for all of them."""
MOST_SOURCE_PREFIXES = 256
"""Of one endpoint's allowSpoofedSourcePrefixes; more do not count."""
_Value = TypeVar("_Value")


class Metadata(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What every resource has; `resource_version` is etcd's mod_revision and is never stored."""

    name: str
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    generate_name: str | None = None


class IPPoolSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An address pool; the checks that need more than one field are in `agent.datastore.resources.documents`."""

    POINTERS: ClassVar[frozenset[str]] = frozenset({"assignmentMode"})

    cidr: PoolNetwork
    ipip_mode: str = "Never"
    vxlan_mode: str = "Never"
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = field(default=False, name="disableBGPExport")
    block_size: int | None = None
    node_selector: str = "all()"
    namespace_selector: str | None = None
    allowed_uses: list[str] | None = None
    assignment_mode: str = "Automatic"


class NodeBGPSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A node as a BGP speaker; the length in `ipv4_address` is what "same subnet" means for CrossSubnet."""

    POINTERS: ClassVar[frozenset[str]] = frozenset({"asNumber"})

    as_number: Annotated[int, TextForm(as_number)] | None = None
    ipv4_address: InterfaceAddress | None = None
    ipv6_address: InterfaceAddress | None = None
    ipv4_ipip_tunnel_addr: SingleAddress | None = field(default=None, name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: SingleAddress | None = field(default=None, name="routeReflectorClusterID")


class NodeAddress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of a node's addresses, as other tools list them."""

    address: str
    type: str | None = None


class OrchRef(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The node's name in an orchestrator."""

    orchestrator: str
    node_name: str | None = None


class NodeSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One machine of the cluster."""

    bgp: NodeBGPSpec | None = None
    ipv4_vxlan_tunnel_addr: SingleAddress | None = field(default=None, name="ipv4VXLANTunnelAddr")
    vxlan_tunnel_mac_addr: MacText | None = field(default=None, name="vxlanTunnelMACAddr")
    ipv6_vxlan_tunnel_addr: SingleAddress | None = field(default=None, name="ipv6VXLANTunnelAddr")
    vxlan_tunnel_mac_addr_v6: MacText | None = field(default=None, name="vxlanTunnelMACAddrV6")
    addresses: list[NodeAddress] | None = None
    orch_refs: list[OrchRef] | None = None
    wireguard: dict[str, str] | None = None
    interfaces: list[dict[str, Any]] | None = None


class WorkloadEndpointSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One pod interface."""

    node: str
    orchestrator: str
    workload: str | None = None
    pod: str | None = None
    container_id: str | None = field(default=None, name="containerID")
    endpoint: str
    interface_name: str
    ip_networks: list[Network] = []
    mac: MacText | None = None
    profiles: list[str] | None = None
    allow_spoofed_source_prefixes: list[Network] | None = None


class _Resource(Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind"):
    api_version: str = API_VERSION
    metadata: Metadata


_Kind = TypeVar("_Kind", bound=_Resource)


class IPPool(_Resource, frozen=True, kw_only=True, tag="IPPool"):
    """See IPPoolSpec."""

    spec: IPPoolSpec


class Node(_Resource, frozen=True, kw_only=True, tag="Node"):
    """See NodeSpec."""

    spec: NodeSpec = NodeSpec()

    @property
    def bgp(self) -> NodeBGPSpec:
        """The node as a BGP speaker."""
        return self.spec.bgp or NodeBGPSpec()

    @property
    def ipv4(self) -> IPv4Interface | None:
        """The node's underlay address with its subnet; None when the node has none or it cannot be read."""
        return _value(IPv4Interface, self.bgp.ipv4_address)

    @property
    def ipv6(self) -> IPv6Interface | None:
        """The node's IPv6 underlay address with its subnet; None when the node has none or it cannot be read."""
        return _value(IPv6Interface, self.bgp.ipv6_address)

    @property
    def machine(self) -> str:
        """The id of the machine that wrote the record; empty where it bears none."""
        return (self.metadata.annotations or {}).get(MACHINE_ANNOTATION, "")

    def is_older_record_of(self, other: Node) -> bool:
        """Whether the same machine wrote both, for one address: it was renamed in between."""
        if not self.machine or self.machine != other.machine or self.metadata.name == other.metadata.name:
            return False
        pairs = ((self.underlay(version), other.underlay(version)) for version in (4, 6))
        return any(one is not None and two is not None and one.ip == two.ip for one, two in pairs)

    def underlay(self, version: int) -> IPv4Interface | IPv6Interface | None:
        """The node's underlay address of a version of IP, with its subnet."""
        return self.ipv4 if version == 4 else self.ipv6

    @property
    def sends_largest_ttl(self) -> bool:
        """Whether its agent says that its BGP packets have TTL 255, so that others may demand it (RFC 5082)."""
        return (self.metadata.annotations or {}).get(LARGEST_TTL_ANNOTATION) == LARGEST_TTL

    @property
    def ipip_address(self) -> IPv4Address | None:
        """The address on the node's tunl0."""
        return _value(IPv4Address, self.bgp.ipv4_ipip_tunnel_addr)

    @property
    def vxlan_address(self) -> IPv4Address | None:
        """The address on the node's vxlan.calico: its VTEP."""
        return _value(IPv4Address, self.spec.ipv4_vxlan_tunnel_addr)

    @property
    def vxlan6_address(self) -> IPv6Address | None:
        """The address on the node's vxlan-v6.calico."""
        return _value(IPv6Address, self.spec.ipv6_vxlan_tunnel_addr)


def _single(text: str) -> IPv4Address | IPv6Address:
    """`10.0.0.1/32` or `fd00::1/128`, also without its length. Raises ValueError."""
    found = ip_interface(text)
    if found.network.prefixlen != found.max_prefixlen or "%" in text:
        raise ValueError
    return found.ip


@lru_cache(maxsize=MOST_CACHED_ADDRESSES)
def _cached(read: Callable[[str], object], text: str) -> Any:
    try:
        return read(text) if text else None
    except ValueError:
        return None


def _value(read: Callable[[str], _Value], text: str | None) -> _Value | None:
    """A text as a value; None when it is not given or cannot be read."""
    found: _Value | None = _cached(read, text or "")
    return found


class BGPConfiguration(_Resource, frozen=True, kw_only=True, tag="BGPConfiguration"):
    """See BGPConfigurationSpec."""

    spec: BGPConfigurationSpec = BGPConfigurationSpec()


class BGPPeer(_Resource, frozen=True, kw_only=True, tag="BGPPeer"):
    """See BGPPeerSpec."""

    spec: BGPPeerSpec = BGPPeerSpec()


class BGPFilter(_Resource, frozen=True, kw_only=True, tag="BGPFilter"):
    """See BGPFilterSpec."""

    spec: BGPFilterSpec = BGPFilterSpec()


class BFDConfiguration(_Resource, frozen=True, kw_only=True, tag="BFDConfiguration"):
    """See BFDConfigurationSpec."""

    spec: BFDConfigurationSpec = BFDConfigurationSpec()


class WorkloadEndpoint(_Resource, frozen=True, kw_only=True, tag="WorkloadEndpoint"):
    """See WorkloadEndpointSpec."""

    spec: WorkloadEndpointSpec

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """The addresses of the pod; what cannot be read, and what is no single address, is left out."""
        found = (_value(_single, text) for text in self.spec.ip_networks)
        return tuple(address for address in found if address is not None)

    @property
    def source_prefixes(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """What the pod may send from besides its addresses, at most so many; what cannot be read is left out."""
        found = (_value(ip_network, text) for text in self._source_texts[:MOST_SOURCE_PREFIXES])
        return tuple(prefix for prefix in found if prefix is not None)

    @property
    def ignored_source_prefixes(self) -> tuple[str, ...]:
        """What is left out of them."""
        texts = self._source_texts
        bad = (text for text in texts[:MOST_SOURCE_PREFIXES] if _value(ip_network, text) is None)
        return (*bad, *texts[MOST_SOURCE_PREFIXES:])

    @property
    def _source_texts(self) -> list[str]:
        return self.spec.allow_spoofed_source_prefixes or []


class IPReservation(_Resource, frozen=True, kw_only=True, tag="IPReservation"):
    """See IPReservationSpec."""

    spec: IPReservationSpec = IPReservationSpec()


class IPAMConfiguration(_Resource, frozen=True, kw_only=True, tag="IPAMConfiguration"):
    """See IPAMConfigurationSpec."""

    spec: IPAMConfigurationSpec = IPAMConfigurationSpec()


class BlockAffinity(_Resource, frozen=True, kw_only=True, tag="BlockAffinity"):
    """See BlockAffinitySpec."""

    spec: BlockAffinitySpec


Resource = (
    IPPool
    | Node
    | BGPConfiguration
    | BGPPeer
    | BGPFilter
    | BFDConfiguration
    | IPReservation
    | IPAMConfiguration
    | WorkloadEndpoint
    | BlockAffinity
)

KINDS: dict[str, type[Resource]] = {kind.__name__: kind for kind in get_args(Resource)}

PLURALS = {kind: f"{kind.lower()}s" for kind in KINDS if kind not in ("IPAMConfiguration", "BlockAffinity")}
"""Kind -> the plural that its etcd keys bear, such as `ippools`; `agent.datastore.storage_layout` knows the kinds that
are stored otherwise."""

NAMESPACED = frozenset({"WorkloadEndpoint"})

READ_ONLY = {
    "WorkloadEndpoint": "pods are made and removed by the CNI plugin",
    "BlockAffinity": "claims are made and released by agents; see: tortie ipam",
}
"""Kinds that a person does not write, and why."""


def kind_of(resource: Resource) -> str:
    """The resource's kind: `IPPool`, `Node` …"""
    return type(resource).__name__


def encode(resource: Resource) -> bytes:
    """The JSON that is stored: without resourceVersion, which only a read knows."""
    return msgspec.json.encode(with_revision(resource, None))


def without_empty_bgp(resource: Resource) -> Resource:
    """A Node without an object `bgp` in which nothing is set: Calico refuses to write one."""
    if isinstance(resource, Node) and resource.spec.bgp == NodeBGPSpec():
        return replace(resource, spec=replace(resource.spec, bgp=None))
    return resource


def with_revision(resource: _Kind, revision: int | None) -> _Kind:
    """A resource with the revision of its value in etcd as its resourceVersion."""
    version = str(revision) if revision is not None else None
    return replace(resource, metadata=replace(resource.metadata, resource_version=version))


def endpoint_name(node: str, orchestrator: str, workload: str, endpoint: str) -> str:
    """A WorkloadEndpoint's name: `node-orchestrator-workload-endpoint`, a dash inside a part written twice."""
    return "-".join(part.replace("-", "--") for part in (node, orchestrator, workload, endpoint))
