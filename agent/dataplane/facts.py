"""Everything the wishes depend on, as one frozen value: the same facts always give the same wishes.

Promises: no fact here is a wish. Does not know: where a fact came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from agent.dataplane.objects import RTPROT_BIRD, RTPROT_BOOT, RTPROT_DATASTORE, Link
from ipam.model import NodeName, Pool

IPIP_OVERHEAD = 20
VXLAN_OVERHEAD = 50
SMALLEST_MTU = 576
"""RFC 791: every IPv4 host must take a datagram of this size."""


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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A local pod interface."""

    interface: str
    addresses: tuple[IPv4Address, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is."""

    node: NodeName
    pools: tuple[Pool, ...] = ()
    nodes: Mapping[NodeName, NodeAddresses] = field(default_factory=dict)
    block_owners: Mapping[IPv4Network, NodeName] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    learned: Mapping[IPv4Network, IPv4Address] = field(default_factory=dict)
    """Prefix -> next hop: the best BGP paths."""
    links: Mapping[str, Link] = field(default_factory=dict)
    protocols: Protocols = Protocols()

    @property
    def me(self) -> NodeAddresses | None:
        """This node's own addresses, once it is registered."""
        return self.nodes.get(self.node)

    @property
    def parent(self) -> Link | None:
        """The underlay interface: the one that bears this node's address."""
        if self.me is None:
            return None
        return bearing(self.links, self.me.underlay.ip)

    def pool_of(self, prefix: IPv4Network) -> Pool | None:
        """The IPv4 pool that holds a prefix."""
        for pool in self.pools:
            if isinstance(pool.cidr, IPv4Network) and prefix.subnet_of(pool.cidr):
                return pool
        return None


def bearing(links: Mapping[str, Link], address: IPv4Address) -> Link | None:
    """The link that bears an address, apart from our own tunnels."""
    for link in links.values():
        if any(own == address for own, _ in link.addresses):
            return link
    return None


def on_link(links: Mapping[str, Link], address: IPv4Address) -> Link | None:
    """The link whose subnet holds `address`, longest prefix first; host addresses (/32) connect to nobody."""
    best: tuple[int, Link] | None = None
    for link in links.values():
        for own, length in link.addresses:
            if own.version != 4 or length >= 32 or not link.up:
                continue
            if address in IPv4Network((int(own), length), strict=False) and (
                best is None or length > best[0]
            ):
                best = (length, link)
    return best[1] if best else None
