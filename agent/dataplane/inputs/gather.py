"""Brings together what the datastore, the links, BGP and the settings say into one value: the facts.

Promises: pure but for its memory; what did not change in the datastore is the same object in the next facts.
Does not know: what follows from the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_network

from agent.dataplane.inputs.facts import Endpoint, Facts, FactSettings, NodeAddresses
from agent.datastore.resources.bgp_types import BGPConfigurationSpec
from agent.datastore.resources.resource_types import Node, WorkloadEndpoint
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of
from agent.memo import Memo
from agent.netlink.objects import Address, Link, RouteKey
from bgp.wire.families import Prefix
from ipam.model import NodeName, Pool


def addresses_of(node: Node) -> NodeAddresses | None:
    """A node's addresses; None as long as it has no IPv4 address: it takes no part yet."""
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
    """Gathers the facts of one node, pass after pass."""

    def __init__(self, cluster: StateCache) -> None:
        self._cluster = cluster
        self._nodes = Memo[Mapping[NodeName, NodeAddresses]](by_identity=True)
        self._pools = Memo[tuple[Pool, ...]](by_identity=True)
        self._endpoints = Memo[tuple[Endpoint, ...]](by_identity=True)
        self._made: dict[int, tuple[WorkloadEndpoint, Endpoint]] = {}
        """By the identity of what each was made of, which is held so that nothing else can have it."""

    def gather(
        self,
        settings: FactSettings,
        links: Mapping[str, Link],
        bgp_nexthops: Mapping[RouteKey, Address],
        peer_gateways: Mapping[Address, Address],
        underlay_links: Collection[str] = (),
        node_gateways: Mapping[Address, Address] | None = None,
        datastore: frozenset[Address] = frozenset(),
        earlier_pods: Mapping[RouteKey, str] | None = None,
    ) -> Facts:
        """The facts of this moment; the arguments are what the datastore does not say."""
        cluster = self._cluster
        nodes, pools, endpoints = cluster.nodes, cluster.pools, cluster.endpoints
        return Facts(
            node=cluster.node,
            pools=self._pools.get(lambda: tuple(record.pool for record in pools), pools),
            nodes=self._nodes.get(lambda: _node_addresses(nodes), nodes),
            block_owners=cluster.block_owners,
            endpoints=self._endpoints.get(lambda: self._pods(endpoints), endpoints),
            bgp_nexthops=bgp_nexthops,
            peer_gateways=peer_gateways,
            services=service_networks(cluster.bgp_configuration),
            links=links,
            underlay_links=frozenset(underlay_links),
            node_gateways=node_gateways or {},
            borrowed=cluster.borrowed if settings.from_datastore else {},
            settings=settings,
            datastore=datastore,
            earlier_pods=earlier_pods or {},
        )

    def _pods(self, endpoints: Iterable[WorkloadEndpoint]) -> tuple[Endpoint, ...]:
        """One pod comes or goes among hundreds: the others' are not made anew."""
        known = self._made
        self._made = {
            id(one): known.get(id(one))
            or (one, Endpoint(one.spec.interface_name, one.addresses, key_of(one)))
            for one in endpoints
        }
        return tuple(made for _, made in self._made.values())


def _node_addresses(nodes: Mapping[NodeName, Node]) -> dict[NodeName, NodeAddresses]:
    found = ((name, addresses_of(node)) for name, node in nodes.items())
    return {name: addresses for name, addresses in found if addresses is not None}


def service_networks(settings: BGPConfigurationSpec) -> tuple[Prefix, ...]:
    """The networks of services; Calico's kernel filter keeps learned routes out of them."""
    lists = (settings.service_cluster_ips, settings.service_external_ips, settings.service_load_balancer_ips)
    return tuple(ip_network(one.cidr) for some in lists for one in some or ())
