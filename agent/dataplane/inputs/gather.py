"""Brings together what the datastore, the links, BGP and the settings say into one value: the facts.

Promises: pure but for its memory; what did not change in the datastore is the same object in the next facts.
Does not know: what follows from the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network

from agent.dataplane.inputs.facts import Endpoint, Facts, FactSettings, NodeAddresses
from agent.dataplane.inputs.next_hops import Resolutions
from agent.dataplane.inputs.underlay import Underlay
from agent.dataplane.kernel.dataplane_objects import host_links
from agent.datastore.resources.bgp_parsing import peer_address
from agent.datastore.resources.bgp_types import DEFAULT_PORT, BGPConfigurationSpec, BGPPeerSpec
from agent.datastore.resources.resource_types import Node, WorkloadEndpoint
from agent.datastore.resources.validation import NODE_PREFIX
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of
from agent.memo import Each, Memo
from agent.netlink.objects import Address, Link, RouteKey
from bgp.rib.multipath import NextHops
from bgp.wire.families import Prefix, without_zone
from ipam.model import NodeName, Pool


def addresses_of(node: Node) -> NodeAddresses | None:
    """A node's addresses; None as long as it has none on the underlay: it takes no part yet."""
    if node.ipv4 is None and node.ipv6 is None:
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
        self._addresses = Memo[frozenset[Address]](by_identity=True)
        self._speakers = Memo[frozenset[tuple[Address, int]]](by_identity=True)
        self._older = Memo[frozenset[NodeName]](by_identity=True)
        self._known_older = frozenset[NodeName]()
        self._here = Memo[frozenset[NodeName]](by_identity=True)
        self._owners = Memo[Mapping[Prefix, NodeName]](by_identity=True)
        self._borrowed = Memo[Mapping[Prefix, NodeName]](by_identity=True)
        self._made = Each[WorkloadEndpoint, Endpoint]()

    def gather(
        self,
        settings: FactSettings,
        links: Mapping[str, Link],
        bgp_nexthops: Mapping[RouteKey, NextHops],
        peer_gateways: Mapping[Address, Address],
        underlay: Underlay | None = None,
        resolutions: Resolutions | None = None,
        datastore: frozenset[Address] = frozenset(),
        earlier_pods: Mapping[RouteKey, str] | None = None,
        without_bgp: frozenset[NodeName] = frozenset(),
        peers: frozenset[tuple[Address, int]] = frozenset(),
    ) -> Facts:
        """The facts of this moment; the arguments are what the datastore does not say.

        `peers` are those of this node's speaker, whoever named or found them.
        Of nodes `without_bgp` the addresses that they borrowed follow from the datastore in any case.
        """
        cluster, borrowed = self._cluster, self._cluster.borrowed
        nodes, pools, endpoints = cluster.nodes, cluster.pools, cluster.endpoints
        owners = cluster.block_owners
        older = self._older.get(lambda: self._older_names(nodes), nodes)
        host = host_links(links)
        here = self._here.get(lambda: names_here(cluster.node, nodes, host), nodes, host)
        ports, named = cluster.bgp_configurations, cluster.bgp_peers
        return Facts(
            node=cluster.node,
            pools=self._pools.get(lambda: tuple(record.pool for record in pools), pools),
            nodes=self._nodes.get(lambda: _node_addresses(nodes, older | here), nodes, older, here),
            block_owners=self._owners.get(lambda: _renamed(owners, older, cluster.node), owners, older),
            endpoints=self._endpoints.get(lambda: self._pods(endpoints, settings), endpoints),
            bgp_nexthops=bgp_nexthops,
            peer_gateways=peer_gateways,
            services=service_networks(cluster.bgp_configuration),
            cluster_addresses=self._addresses.get(lambda: cluster_addresses(nodes), nodes),
            bgp_speakers=self._speakers.get(
                lambda: bgp_speakers(nodes, ports, named) | peers, nodes, ports, named, peers
            ),
            listen_port=listen_port(cluster.node, ports),
            links=links,
            underlay_links=underlay.links if underlay is not None else frozenset(),
            node_gateways=underlay.gateways if underlay is not None else {},
            resolutions=resolutions,
            borrowed=borrowed
            if settings.from_datastore
            else self._borrowed.get(lambda: _of_nodes(borrowed, without_bgp), borrowed, without_bgp),
            settings=settings,
            datastore=datastore,
            earlier_pods=earlier_pods or {},
        )

    def _older_names(self, nodes: Mapping[NodeName, Node]) -> frozenset[NodeName]:
        """A name stays this machine's after its record is gone: watches are not in step, and its claims go later."""
        gone = self._known_older - nodes.keys()
        self._known_older = older_names(self._cluster.node, nodes) | gone
        return self._known_older

    def _pods(self, endpoints: Iterable[WorkloadEndpoint], settings: FactSettings) -> tuple[Endpoint, ...]:
        """One pod comes or goes among hundreds: the others' are not made anew."""
        self._made.update(endpoints, lambda one: _endpoint(one, settings))
        return tuple(self._made)


def _of_nodes(borrowed: Mapping[Prefix, NodeName], nodes: frozenset[NodeName]) -> dict[Prefix, NodeName]:
    return {prefix: node for prefix, node in borrowed.items() if node in nodes}


def _endpoint(one: WorkloadEndpoint, settings: FactSettings) -> Endpoint:
    chosen = [
        selector is not None and selector.matches(endpoint_labels(one))
        for selector in (settings.peers, settings.routers)
    ]
    return Endpoint(
        one.spec.interface_name,
        one.addresses,
        source_prefixes=one.source_prefixes,
        may_peer=chosen[0],
        may_route=chosen[1],
        key=key_of(one),
    )


def endpoint_labels(one: WorkloadEndpoint) -> dict[str, str]:
    """The labels that selectors see: its own, and those that Calico adds of where it belongs."""
    name = one.spec.pod or one.spec.workload or one.spec.endpoint
    return {
        **(one.metadata.labels or {}),
        "projectcalico.org/namespace": one.metadata.namespace or "default",
        "projectcalico.org/orchestrator": one.spec.orchestrator,
        "projectcalico.org/name": name,
    }


def older_names(me: NodeName, nodes: Mapping[NodeName, Node]) -> frozenset[NodeName]:
    """What this very machine was called before, as long as these records and blocks are still there."""
    own = nodes.get(me)
    return frozenset(name for name, node in nodes.items() if own is not None and node.is_older_record_of(own))


def names_here(
    me: NodeName, nodes: Mapping[NodeName, Node], links: Mapping[str, Link]
) -> frozenset[NodeName]:
    """Nodes with an address of this machine, while it has no record: no path leads to itself, and none is its own."""
    if me in nodes:
        return frozenset()
    own = {address for link in links.values() for address, _ in link.addresses}
    underlay = {name: [one.ip for one in (node.ipv4, node.ipv6) if one] for name, node in nodes.items()}
    return frozenset(name for name, found in underlay.items() if own.intersection(found))


def _renamed(
    owners: Mapping[Prefix, NodeName], older: frozenset[NodeName], me: NodeName
) -> Mapping[Prefix, NodeName]:
    """Blocks of this machine under another name are its own: a path to itself would be none."""
    if not older:
        return owners
    return {block: me if owner in older else owner for block, owner in owners.items()}


def cluster_addresses(nodes: Mapping[NodeName, Node]) -> frozenset[Address]:
    """Every address of every node that the datastore knows."""
    found: set[Address] = set()
    for node in nodes.values():
        underlay = (one.ip for one in (node.ipv4, node.ipv6) if one is not None)
        tunnels = (node.ipip_address, node.vxlan_address, node.vxlan6_address)
        found.update(underlay, (one for one in tunnels if one is not None))
        for listed in node.spec.addresses or ():
            with suppress(ValueError):  # a name, or with a length
                found.add(ip_address(listed.address))
    return frozenset(one for one in found if not (one.is_unspecified or one.is_loopback or one.is_multicast))


def node_addresses(nodes: Iterable[Node]) -> Iterator[Address]:
    """The nodes' addresses on the underlay, of each version of IP."""
    return (one.ip for node in nodes for one in (node.ipv4, node.ipv6) if one is not None)


def listen_port(node: NodeName, settings: Mapping[str, BGPConfigurationSpec]) -> int:
    """The TCP port of a node's speaker: its own setting, else the cluster's."""
    own, cluster = settings.get(f"{NODE_PREFIX}{node}"), settings.get("default")
    ports = (one.listen_port for one in (own, cluster) if one is not None)
    return next((port for port in ports if port), DEFAULT_PORT)


def bgp_speakers(
    nodes: Mapping[NodeName, Node],
    settings: Mapping[str, BGPConfigurationSpec],
    peers: Mapping[str, BGPPeerSpec],
) -> frozenset[tuple[Address, int]]:
    """Where the speakers listen that would believe a node's address: all nodes', and those of configured peers."""
    found = {
        (address, listen_port(name, settings))
        for name, node in nodes.items()
        for address in cluster_addresses({name: node})
    }
    for spec in peers.values():
        with suppress(ValueError):
            peer = peer_address(spec.peer_ip or "")
            found.add((without_zone(peer.address), peer.port or DEFAULT_PORT))
    return frozenset(found)


def _node_addresses(
    nodes: Mapping[NodeName, Node], older: frozenset[NodeName]
) -> dict[NodeName, NodeAddresses]:
    found = ((name, addresses_of(node)) for name, node in nodes.items() if name not in older)
    return {name: addresses for name, addresses in found if addresses is not None}


def service_networks(settings: BGPConfigurationSpec) -> tuple[Prefix, ...]:
    """The networks of services; Calico's kernel filter keeps learned routes out of them."""
    lists = (settings.service_cluster_ips, settings.service_external_ips, settings.service_load_balancer_ips)
    return tuple(ip_network(one.cidr) for some in lists for one in some or ())
