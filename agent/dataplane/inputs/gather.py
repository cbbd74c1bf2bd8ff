"""Brings together what the datastore, the links, BGP and the settings say into one value: the facts.

Promises: pure; a node without an IPv4 address is none yet. Does not know: what follows from the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses, Protocols
from agent.dataplane.inputs.mtu import oversized
from agent.datastore.resources.bgp_types import BGPConfigurationSpec
from agent.datastore.resources.resource_types import Node, WorkloadEndpoint
from agent.datastore.state_cache import StateCache
from agent.netlink.objects import Address, Link, RouteKey
from bgp.wire.families import Prefix
from ipam.model import NodeName, Pool


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


class Gatherer:
    """Gathers again and again; what did not change in the datastore is the same object in the next facts."""

    def __init__(self, cluster: StateCache) -> None:
        self._cluster = cluster
        self._read: tuple[object, object, object] = (None, None, None)
        """What the three below were made of."""
        self._nodes: Mapping[NodeName, NodeAddresses] = {}
        self._pools: tuple[Pool, ...] = ()
        self._endpoints: tuple[Endpoint, ...] = ()
        self._pods: dict[int, tuple[WorkloadEndpoint, Endpoint]] = {}
        """By the identity of what each was made of, which is kept so that nothing else can have it."""

    def gathered(
        self,
        settings: FactSettings,
        links: Mapping[str, Link],
        learned: Mapping[RouteKey, Address],
        gateways: Mapping[Address, Address],
        ways: Collection[str] = (),
        routers: Mapping[Address, Address] | None = None,
    ) -> Facts:
        """The facts; `gateways` lead to peers that are on no link, `ways` and `routers` to other nodes."""
        self._look()
        cluster = self._cluster
        return Facts(
            node=cluster.node,
            pools=self._pools,
            nodes=self._nodes,
            block_owners=cluster.block_owners,
            endpoints=self._endpoints,
            learned=learned,
            gateways=gateways,
            services=service_networks(cluster.bgp_configuration),
            links=links,
            ways=frozenset(ways),
            routers=routers or {},
            borrowed=cluster.borrowed if settings.from_datastore else {},
            from_datastore=settings.from_datastore,
            tunnel_offload=settings.tunnel_offload,
            open_forward=settings.open_forward,
            protocols=settings.protocols,
        )

    def _look(self) -> None:
        nodes, pools, endpoints = self._cluster.nodes, self._cluster.pools, self._cluster.endpoints
        before = self._read
        if nodes is not before[0]:
            found = {name: addresses_of(node) for name, node in nodes.items()}
            self._nodes = {name: one for name, one in found.items() if one is not None}
        if pools is not before[1]:
            self._pools = tuple(record.pool for record in pools)
        if endpoints is not before[2]:
            known = self._pods
            self._pods = {id(one): known.get(id(one)) or (one, _pod(one)) for one in endpoints}
            self._endpoints = tuple(made for _, made in self._pods.values())
        self._read = nodes, pools, endpoints


def _pod(endpoint: WorkloadEndpoint) -> Endpoint:
    return Endpoint(endpoint.spec.interface_name, endpoint.addresses)


def troubles(cluster: StateCache, facts: Facts) -> tuple[str, ...]:
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


def service_networks(settings: BGPConfigurationSpec) -> tuple[Prefix, ...]:
    """The networks of services; Calico's kernel filter keeps learned routes out of them."""
    lists = (settings.service_cluster_ips, settings.service_external_ips, settings.service_load_balancer_ips)
    return tuple(ip_network(one.cidr) for some in lists for one in some or ())
