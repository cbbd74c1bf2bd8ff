"""Brings together what the datastore, the links, BGP and the settings say into one value: the facts.

Promises: pure; a node without an IPv4 address is none yet. Does not know: what follows from the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from agent.dataplane.facts import Endpoint, Facts, NodeAddresses, Protocols
from agent.dataplane.mtu import oversized
from agent.dataplane.objects import Address, Link, Prefix
from agent.datastore.cluster import Cluster
from agent.datastore.resources import Node
from agent.policies import services


@dataclass(frozen=True, slots=True)
class FactSettings:
    """The settings that are facts."""

    protocols: Protocols = field(default_factory=Protocols)
    open_forward: bool = True
    from_datastore: bool = False
    tunnel_offload: bool | None = None


def addresses_of(node: Node) -> NodeAddresses | None:
    """A node as the dataplane needs it."""
    if node.ipv4 is None:
        return None
    return NodeAddresses(
        node.ipv4,
        node.ipip_address,
        node.vxlan_address,
        node.spec.vxlan_tunnel_mac_addr,
        node.ipv6,
        node.vxlan6_address,
        node.spec.vxlan_tunnel_mac_addr_v6,
    )


def gathered(
    cluster: Cluster,
    settings: FactSettings,
    links: Mapping[str, Link],
    learned: Mapping[Prefix, Address],
    gateways: Mapping[Address, Address],
    ways: Collection[str] = (),
) -> Facts:
    """The facts; `gateways` lead to peers that are on no link, `ways` are the interfaces to other nodes."""
    nodes = {name: addresses_of(node) for name, node in cluster.nodes.items()}
    return Facts(
        node=cluster.node,
        pools=tuple(record.pool for record in cluster.pools),
        nodes={name: found for name, found in nodes.items() if found is not None},
        block_owners=cluster.block_owners,
        endpoints=tuple(Endpoint(item.spec.interface_name, item.addresses) for item in cluster.endpoints),
        learned=learned,
        gateways=gateways,
        services=services(cluster.bgp),
        links=links,
        ways=frozenset(ways),
        borrowed=cluster.borrowed if settings.from_datastore else {},
        from_datastore=settings.from_datastore,
        tunnel_offload=settings.tunnel_offload,
        open_forward=settings.open_forward,
        protocols=settings.protocols,
    )


def troubles(cluster: Cluster, facts: Facts) -> tuple[str, ...]:
    """What is wrong between the facts, a sentence each."""
    found = []
    me = cluster.nodes.get(cluster.node)
    if me is not None and me.ipv4 is not None and facts.links and facts.parent is None:
        found.append(f"no interface bears the node's address {me.ipv4.ip}: nothing is removed until one does")
    names = {item.spec.interface_name: item.spec.pod or item.spec.endpoint for item in cluster.endpoints}
    found += [
        f"mtu: pod {names[name]} ({name}) has {has}, the way to other nodes carries {carried}: recreate it"
        for name, has, carried in oversized(facts)
    ]
    return tuple(found)
