"""The fields of Calico's BGP resources: BGPConfiguration, BGPPeer, BGPFilter, and of BFDConfiguration.

Promises: names, defaults and bounds of single fields are Calico's; POINTERS are fields whose zero value Go tells
from none. Rules of more than one field: `validation`.
Does not know: etcd, files, sessions.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct, field

from agent.datastore.resources.text_forms import (
    LARGEST_AS,
    LogLevel,
    PeerText,
    SingleAddress,
    StrictNetwork,
    TextForm,
    as_number,
)

DEFAULT_AS = 64512
DEFAULT_PORT = 179
LARGEST_PRIORITY = 0x7FFFFFFE

AsNumber = Annotated[int, Meta(ge=1, le=LARGEST_AS), TextForm(as_number)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Priority = Annotated[int, Meta(ge=1, le=LARGEST_PRIORITY)]


class SecretKeyRef(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key of a named secret. Here a secret is a directory and a key a file in it (docs/decisions)."""

    POINTERS: ClassVar[frozenset[str]] = frozenset({"optional"})

    name: str
    key: str
    optional: bool | None = None


class Password(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Where a password is, never the password."""

    secret_key_ref: SecretKeyRef | None = None


class Cidr(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One network."""

    cidr: StrictNetwork


class NamedCommunity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name for a community, to be used in `prefixAdvertisements`."""

    name: str
    value: str


class PrefixAdvertisement(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Communities, by value or by name, of every announced prefix inside a network."""

    cidr: StrictNetwork
    communities: list[str] = []


class BGPConfigurationSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The cluster's BGP settings (the object `default`), or a node's own (`node.NAME`).

    A node's own object counts for `listenPort`, `prefixAdvertisements` and `logSeverityScreen` alone. The networks of
    services are not announced, for this program knows no services; learned routes into them stay out of the kernel.
    """

    POINTERS: ClassVar[frozenset[str]] = frozenset(
        {"nodeToNodeMeshEnabled", "asNumber", "nodeMeshMaxRestartTime"}
    )

    node_to_node_mesh_enabled: bool | None = None
    """None: true."""
    as_number: AsNumber | None = None
    """None: DEFAULT_AS."""
    listen_port: Port | None = None
    bind_mode: str | None = None
    log_severity_screen: LogLevel = "Info"
    ignored_interfaces: list[str] | None = None
    communities: list[NamedCommunity] | None = None
    prefix_advertisements: list[PrefixAdvertisement] | None = None
    node_mesh_password: Password | None = None
    node_mesh_max_restart_time: str | None = None
    service_cluster_ips: list[Cidr] | None = field(default=None, name="serviceClusterIPs")
    service_external_ips: list[Cidr] | None = field(default=None, name="serviceExternalIPs")
    service_load_balancer_ips: list[Cidr] | None = field(default=None, name="serviceLoadBalancerIPs")
    service_load_balancer_aggregation: str | None = None
    local_workload_peering_ipv4: SingleAddress | None = field(default=None, name="localWorkloadPeeringIPV4")
    local_workload_peering_ipv6: SingleAddress | None = field(default=None, name="localWorkloadPeeringIPV6")
    program_cluster_routes: str | None = None
    ipv4_normal_route_priority: Priority | None = None
    ipv6_normal_route_priority: Priority | None = None

    @property
    def has_mesh(self) -> bool:
        """Whether every node peers with every node."""
        return self.node_to_node_mesh_enabled is not False

    @property
    def default_as_number(self) -> int:
        """The AS number of nodes that have none of their own."""
        return self.as_number if self.as_number is not None else DEFAULT_AS


class BGPPeerSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Sessions of some nodes (`node`, `nodeSelector`, or all) with an address or with other nodes (`peerSelector`)."""

    POINTERS: ClassVar[frozenset[str]] = frozenset(
        {"localASNumber", "maxRestartTime", "keepaliveTime", "numAllowedLocalASNumbers", "ttlSecurity"}
    )

    node: str | None = None
    node_selector: str | None = None
    peer_ip: PeerText | None = field(default=None, name="peerIP")
    as_number: AsNumber | None = None
    local_as_number: AsNumber | None = field(default=None, name="localASNumber")
    peer_selector: str | None = None
    keep_original_next_hop: bool = False
    next_hop_mode: str | None = None
    password: Password | None = None
    source_address: str | None = None
    max_restart_time: str | None = None
    keepalive_time: str | None = None
    num_allowed_local_as_numbers: Annotated[int, Meta(ge=0, le=255)] | None = field(
        default=None, name="numAllowedLocalASNumbers"
    )
    ttl_security: Annotated[int, Meta(ge=0, le=254)] | None = None
    failure_detection_mode: str | None = None
    """Of Calico's commercial edition: `BFDIfDirectlyConnected`, or `None`."""
    reachable_by: SingleAddress | None = None
    filters: list[str] | None = None
    reverse_peering: str | None = None
    local_workload_selector: str | None = None


class PrefixLength(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bounds of a prefix length; the family's own are checked in `validation`."""

    POINTERS: ClassVar[frozenset[str]] = frozenset({"min", "max"})

    min: Annotated[int, Meta(ge=0, le=128)] | None = None
    max: Annotated[int, Meta(ge=0, le=128)] | None = None


class CommunityMatch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one community that a route must carry."""

    values: Annotated[list[str], Meta(min_length=1, max_length=1)]


class AddCommunitySpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Add this community."""

    value: str


class PrependASPathSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Put these numbers, in this order, in front of AS_PATH."""

    prefix: Annotated[list[AsNumber], Meta(min_length=1, max_length=10)]


class SetPrioritySpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Give the route this priority, a kernel metric: the lower the better."""

    value: Priority


class OperationSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Exactly one change of a route."""

    add_community: AddCommunitySpec | None = None
    prepend_as_path: PrependASPathSpec | None = field(default=None, name="prependASPath")
    set_priority: SetPrioritySpec | None = None


class FilterRule(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One rule: everything that is set must match, then the operations are done and the action ends the list."""

    POINTERS: ClassVar[frozenset[str]] = frozenset({"priority"})

    action: str
    cidr: StrictNetwork | None = None
    match_operator: str | None = None
    prefix_length: PrefixLength | None = None
    source: str | None = None
    interface: str | None = None
    peer_type: str | None = None
    communities: CommunityMatch | None = None
    as_path_prefix: list[AsNumber] | None = field(default=None, name="asPathPrefix")
    priority: Priority | None = None
    operations: Annotated[list[OperationSpec], Meta(max_length=10)] | None = None


class BGPFilterSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Rules by direction and family; the first that matches decides."""

    export_v4: list[FilterRule] | None = field(default=None, name="exportV4")
    import_v4: list[FilterRule] | None = field(default=None, name="importV4")
    export_v6: list[FilterRule] | None = field(default=None, name="exportV6")
    import_v6: list[FilterRule] | None = field(default=None, name="importV6")


class BFDInterface(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Timers of BFD sessions over some interfaces; durations as Go writes them, in whole milliseconds."""

    POINTERS: ClassVar[frozenset[str]] = frozenset(
        {"minimumRecvInterval", "minimumSendInterval", "idleSendInterval"}
    )

    match_pattern: str = ""
    """A name, a beginning with `*`, or `*`; empty: `*`."""
    minimum_recv_interval: str | None = None
    """None: 10ms."""
    minimum_send_interval: str | None = None
    """None: 100ms."""
    idle_send_interval: str | None = None
    """While a session is not up; None: 1m."""
    multiplier: Annotated[int, Meta(ge=0, le=255)] = 0
    """0: 5."""


class BFDConfigurationSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Timers of BFD (RFC 5880) on some nodes. A kind of Calico's commercial edition."""

    node_selector: str = ""
    """Empty: all nodes."""
    interfaces: list[BFDInterface] | None = None
