"""Everything the desired state depends on, as one frozen value: the same facts always give the same desired state.

Promises: nothing here is desired, all of it is. Does not know: where a fact came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from agent.dataplane.inputs.next_hops import Resolution, Resolutions
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import host_links
from agent.dataplane.kernel.ownership import Ownership
from agent.datastore.resources.bgp_types import DEFAULT_PORT
from agent.netlink.objects import Address, Link, Prefix, RouteKey
from bgp.policy.prefix_filter import ACCEPT_ALL, PrefixFilter
from bgp.rib.multipath import NextHops
from ipam.model import NodeName, Pool
from ipam.selector import Selector


@dataclass(frozen=True, slots=True)
class FactSettings:
    """The settings that the desired state depends on."""

    protocols: Ownership = field(default_factory=Ownership)
    open_forward: bool = True
    """Others' forward chains that drop let pods' packets through."""
    from_datastore: bool = False
    """Routes of every encapsulation follow from the datastore, BGP or not."""
    tunnel_offload: bool | None = None
    """Whether tunnels leave checksums to the device; None leaves it as it is."""
    local_prefixes: tuple[Prefix, ...] = ()
    """Networks that nodes have beside the pods', a docker0 each: the settings are the same on all."""
    accepted_prefixes: tuple[Prefix, ...] = ()
    """What BGP may say of these networks is believed though they lie in no pool, or are on this host's links."""
    filter_workloads: bool = True
    """What workloads send is checked."""
    peers: Selector | None = None
    """Endpoints that may reach nodes' BGP ports; None: none."""
    routers: Selector | None = None
    """Endpoints that may send from any address; None: none."""


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """The addresses of a node, of any version of IP and encapsulation; on the underlay it has one at least."""

    underlay: IPv4Interface | None
    ipip: IPv4Address | None = None
    vxlan: IPv4Address | None = None
    vxlan_mac: str | None = None
    """Published by the node; None means the address made from its name."""
    underlay6: IPv6Interface | None = None
    vxlan6: IPv6Address | None = None
    vxlan6_mac: str | None = None

    def on(self, version: int) -> IPv4Interface | IPv6Interface | None:
        """The address on the underlay in a version of IP."""
        return self.underlay6 if version == 6 else self.underlay

    def vtep(self, version: int) -> Address | None:
        """The address on the VXLAN device of a version of IP."""
        return self.vxlan6 if version == 6 else self.vxlan


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod of this node: the host's side of its interface, and its addresses."""

    interface: str
    addresses: tuple[Address, ...]
    source_prefixes: tuple[Prefix, ...] = ()
    """What it may send from besides its addresses."""
    may_peer: bool = False
    """It may reach nodes' BGP ports."""
    may_route: bool = False
    """It may send from any address."""
    key: str = field(default="", compare=False)
    """Of the datastore: for people."""


@dataclass(frozen=True, slots=True)
class RefusedClaim:
    """What the datastore says and this node does not do."""

    key: str
    """Of the datastore, or what else names it."""
    prefix: Prefix | None
    """None: it is about all of the value."""
    why: str
    stands: bool = False
    """It is in force all the same, because it was before there was a reason against it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of the cluster and this node's kernel and settings when a pass begins."""

    node: NodeName
    pools: tuple[Pool, ...] = ()
    nodes: Mapping[NodeName, NodeAddresses] = field(default_factory=dict)
    block_owners: Mapping[Prefix, NodeName] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    bgp_nexthops: Mapping[RouteKey, NextHops] = field(default_factory=dict)
    """Key -> next hop of BGP's best path; perhaps a view of BGP's table, which changes later."""
    links: Mapping[str, Link] = field(default_factory=dict)
    settings: FactSettings = FactSettings()
    borrowed: Mapping[Prefix, NodeName] = field(default_factory=dict)
    """Addresses of other nodes' pods outside those nodes' blocks, where the blocks' contents are followed."""
    underlay_links: frozenset[str] = frozenset()
    """Names of the interfaces that lead to other nodes, where they were looked up."""
    peer_gateways: Mapping[Address, Address] = field(default_factory=dict)
    """BGP peer on no link's subnet -> the gateway to it (`reachableBy`)."""
    node_gateways: Mapping[Address, Address] = field(default_factory=dict)
    """Other node that is on no link -> the gateway by which the kernel reaches it."""
    resolutions: Resolutions | None = None
    """How next hops are reached; None: by the subnets of the links alone."""
    cluster_addresses: frozenset[Address] = frozenset()
    """All that is known of nodes' addresses, tunnels' and those that other tools list included."""
    bgp_speakers: frozenset[tuple[Address, int]] = frozenset()
    """Address and port of every node as a BGP speaker, of every configured peer, and of those found on uplinks."""
    listen_port: int = DEFAULT_PORT
    """This node's own."""
    services: tuple[Prefix, ...] = ()
    """Networks of services: what BGP learns of them is not for this node's kernel."""
    datastore: frozenset[Address] = frozenset()
    """Addresses of the datastore's members, as far as they are resolved."""
    earlier_pods: Mapping[RouteKey, str] = field(default_factory=dict)
    """Address -> the interface to which an earlier life of this agent left its route."""
    from_mesh: PrefixFilter = ACCEPT_ALL
    """What the node-to-node mesh may announce. This and the rest follow from the fields above."""
    from_peers: PrefixFilter = ACCEPT_ALL
    """What any peer may announce."""
    refused: tuple[RefusedClaim, ...] = ()
    """What is left out of the fields above, and what is not though it should be."""

    @property
    def me(self) -> NodeAddresses | None:
        """This node's own addresses, once it is registered."""
        return self.nodes.get(self.node)

    def resolution_of(self, next_hop: Address) -> Resolution:
        """How a BGP next hop or a node is reached: by the kernel's routes, a peer with `reachableBy` by its gateway."""
        resolutions = self.resolutions if self.resolutions is not None else Resolutions.by_links(self.links)
        return resolutions.of(self.peer_gateways.get(next_hop, next_hop))

    @property
    def parent(self) -> Link | None:
        """The underlay interface of IPv4; of a node of IPv6 alone, that."""
        return self.parent_of(4 if self.me is None or self.me.underlay is not None else 6)

    def parent_of(self, version: int) -> Link | None:
        """The underlay interface: the one that has this node's address of a version of IP."""
        own = self.me.on(version) if self.me is not None else None
        return link_with(host_links(self.links), own.ip) if own is not None else None

    def underlay_mtu(self, version: int) -> int | None:
        """Octets of the largest packet that gets to every other node; the parent's MTU before links are looked up.

        Of a parent on which nothing leaves, that of the least of the interfaces by which anything may.
        """
        found = [self.links[name].mtu for name in self.underlay_links if name in self.links]
        parent = self.parent_of(version)
        if parent is None:
            return None
        if not found and bears_no_subnet(parent):
            found = [link.mtu for link in host_links(self.links).values() if may_be_uplink(link)]
        return min(found) if found else parent.mtu

    def loopback_address(self, version: int) -> Address | None:
        """This node's address where an interface bears it on which nothing leaves: as a router's, no link's own.

        None: it is a link's, as usual, or no interface bears it now.
        """
        parent, own = self.parent_of(version), self.me.on(version) if self.me is not None else None
        return own.ip if own is not None and parent is not None and bears_no_subnet(parent) else None


def bears_no_subnet(link: Link) -> bool:
    """Whether nothing leaves by an interface: lo, or a dummy; who gives it an address means it for all the others."""
    return link.name == "lo" or link.kind == "dummy"


def may_be_uplink(link: Link) -> bool:
    """Whether packets to other nodes may leave by an interface, as far as its name and its kind say."""
    ours = link.name in OUR_TUNNELS or link.name.startswith(WORKLOAD_PREFIX)
    return link.up and not ours and not bears_no_subnet(link) and link.kind != "bridge"


def link_with(links: Mapping[str, Link], address: Address) -> Link | None:
    """The link that has an address."""
    for link in links.values():
        if any(own == address for own, _ in link.addresses):
            return link
    return None
