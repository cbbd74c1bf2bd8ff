"""Everything the wishes depend on, as one frozen value: the same facts always give the same wishes.

Promises: no fact here is a wish. Does not know: where a fact came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from agent.netlink.objects import RTPROT_BIRD, RTPROT_BOOT, RTPROT_DATASTORE, Address, Link, Prefix, RouteKey
from ipam.model import NodeName, Pool

IPIP_OVERHEAD = 20
VXLAN_OVERHEADS = {4: 50, 6: 70}
"""By the version of IP outside."""
SMALLEST_MTUS = {4: 576, 6: 1280}
"""RFC 791: every IPv4 host must take a datagram of this size; RFC 8200: a link below it does not carry IPv6."""
VERSIONS = (4, 6)


@dataclass(frozen=True, slots=True)
class Protocols:
    """rtm_protocol of each class of route; the defaults give the table that Calico with BIRD makes."""

    learned: int = RTPROT_BIRD
    blackhole: int = RTPROT_BIRD
    datastore: int = RTPROT_DATASTORE
    """Routes from the datastore over the parent device; those over our own tunnel need no mark and have `tunnel`."""
    tunnel: int = RTPROT_BOOT
    workload: int = RTPROT_BOOT


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """A node as the dataplane needs it."""

    underlay: IPv4Interface
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
    """A local pod interface."""

    interface: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is."""

    node: NodeName
    pools: tuple[Pool, ...] = ()
    nodes: Mapping[NodeName, NodeAddresses] = field(default_factory=dict)
    block_owners: Mapping[Prefix, NodeName] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    learned: Mapping[RouteKey, Address] = field(default_factory=dict)
    """Key -> next hop: the best BGP paths."""
    links: Mapping[str, Link] = field(default_factory=dict)
    protocols: Protocols = Protocols()
    borrowed: Mapping[Prefix, NodeName] = field(default_factory=dict)
    """Addresses of other nodes' pods outside those nodes' blocks, where the blocks' contents are followed."""
    from_datastore: bool = False
    """The setting: routes of every encapsulation follow from the datastore, BGP or not."""
    ways: frozenset[str] = frozenset()
    """The interfaces that lead to other nodes, where they were looked up."""
    tunnel_offload: bool | None = None
    """The setting: whether tunnels leave checksums to the device; None leaves it as it is."""
    open_forward: bool = True
    """The setting: others' forward chains that drop let pods' packets through."""
    gateways: Mapping[Address, Address] = field(default_factory=dict)
    """BGP peer -> the neighbour by which it is reached (`reachableBy`)."""
    routers: Mapping[Address, Address] = field(default_factory=dict)
    """Other node on no link's subnet -> the router by which the kernel reaches it, where it was looked up."""
    services: tuple[Prefix, ...] = ()
    """Networks of services: what others tell of them is not for this node's kernel."""

    @property
    def me(self) -> NodeAddresses | None:
        """This node's own addresses, once it is registered."""
        return self.nodes.get(self.node)

    def gateway_to(self, next_hop: Address) -> Address:
        """Who is sent what goes to a BGP next hop: the next hop, or who is on the way there."""
        return self.gateways.get(next_hop) or self.routers.get(next_hop, next_hop)

    @property
    def parent(self) -> Link | None:
        """The underlay interface of IPv4."""
        return self.parent_of(4)

    def parent_of(self, version: int) -> Link | None:
        """The underlay interface: the one that bears this node's address of a version of IP."""
        own = self.me.on(version) if self.me is not None else None
        return bearing(self.links, own.ip) if own is not None else None

    def underlay_mtu(self, version: int) -> int | None:
        """The largest packet that gets to every other node; of this node's own interface before ways are known."""
        found = [self.links[name].mtu for name in self.ways if name in self.links]
        parent = self.parent_of(version)
        if parent is None:
            return None
        return min(found) if found else parent.mtu

    def pool_of(self, prefix: Prefix) -> Pool | None:
        """The pool that holds a prefix."""
        for pool in self.pools:
            if within(prefix, pool.cidr):
                return pool
        return None


def within(inner: Prefix, outer: Prefix) -> bool:
    """Whether one prefix lies in another; never across versions."""
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    return inner.network_address in outer


def bearing(links: Mapping[str, Link], address: Address) -> Link | None:
    """The link that bears an address."""
    for link in links.values():
        if any(own == address for own, _ in link.addresses):
            return link
    return None


def on_link(links: Mapping[str, Link], address: Address) -> Link | None:
    """The link whose subnet holds `address`, longest prefix first; host addresses (/32, /128) connect to nobody."""
    if address.version == 6 and address.is_link_local:
        return None  # on every link's subnet
    best: tuple[int, Link] | None = None
    for link in links.values():
        for own, length in link.addresses:
            if own.version != address.version or length >= own.max_prefixlen or not link.up:
                continue
            near = (int(own) ^ int(address)) >> (own.max_prefixlen - length) == 0
            if near and (best is None or length > best[0]):
                best = (length, link)
    return best[1] if best else None
