"""Facts to routes: local pods, own blocks, other nodes' blocks and addresses in each encapsulation.

Promises: pure; the route forms are those of `ip route` on a Calico node. A route whose next hop cannot be reached
directly is not wished: it would be refused by the kernel.
Does not know: what the kernel has, netlink, BGP's decision (it gets best paths).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_network
from typing import TypeVar

from agent.dataplane.inputs.facts import Facts, NodeAddresses, on_link
from agent.netlink.objects import (
    TUNL0,
    VXLAN6_DEVICE,
    VXLAN_DEVICE,
    Address,
    Link,
    Prefix,
    Route,
    RouteKey,
    RouteTarget,
    RouteType,
    Scope,
)
from ipam.model import EncapsulationMode, NodeName, Pool

T = TypeVar("T")

PODS_REMEMBERED = 4096
"""Each pass asks for the routes of all pods of the node; those of so many are not made anew."""


def routes(facts: Facts) -> dict[RouteKey, Route]:
    """All routes this node should have. Of two producers for one key pods go first, then the datastore, then BGP."""
    producers = (learned_routes(facts, facts.learned.items()), stored_routes(facts), workload_routes(facts))
    return {route.key: route for producer in producers for route in producer}


def workload_routes(facts: Facts) -> Iterator[Route]:
    """Those of this node's pods."""
    for endpoint in facts.endpoints:
        for address in endpoint.addresses:
            yield workload_route(address, endpoint.interface, facts.protocols.workload)


def stored_routes(facts: Facts) -> Iterator[Route]:
    """What follows from the datastore: other nodes' blocks and addresses, ways to peers, own blocks, which go first."""
    pool_of = _finder((pool.cidr, pool) for pool in facts.pools)
    for prefix, owner in (*facts.block_owners.items(), *facts.borrowed.items()):
        key = RouteKey(prefix)
        route = _stored_route(facts, key, owner, pool_of(key)) if owner != facts.node else None
        if route is not None:
            yield route
    for peer in facts.gateways:
        way = _direct(facts, peer, on_link(facts.links, facts.gateways[peer]))
        if way is not None:
            yield Route.from_target(RouteKey(ip_network(peer)), way)
    for block, owner in facts.block_owners.items():
        if owner == facts.node and block.prefixlen < block.max_prefixlen:
            # A blackhole of one address would stand in the pod's own place.
            yield blackhole(facts, block)


def learned_routes(facts: Facts, hops: Iterable[tuple[RouteKey, Address | None]]) -> Iterator[Route]:
    """The routes to these next hops, as BGP taught them; none for None, for a service, and where none leads there."""
    pool_of = _finder((pool.cidr, pool) for pool in facts.pools)
    is_service = _finder((network, True) for network in facts.services) if facts.services else None
    learned = _LearnedWays(facts)
    # By identity: very many prefixes share a next hop.
    known: dict[tuple[int, int, int], tuple[RouteTarget | None, object]] = {}
    for key, next_hop in hops:
        if next_hop is None or (is_service is not None and is_service(key)):
            continue
        pool = pool_of(key)
        shape = id(next_hop), id(pool), key[0]
        if (found := known.get(shape)) is not None:
            way = found[0]
        else:
            way = learned.way(key.version, next_hop, pool)
            known[shape] = way, next_hop  # which lives as long as its number is looked up
        if way is not None:
            yield Route.from_target(key, way)


class _LearnedWays:
    """The ways to next hops; each looked for once: routes are many, next hops few."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._direct: dict[Address, RouteTarget | None] = {}
        self._tunnelled: dict[Address, RouteTarget] = {}
        self._nodes: dict[Address, NodeName] | None = None

    def way(self, version: int, next_hop: Address, pool: Pool | None) -> RouteTarget | None:
        """The way of a version's prefixes that lie in a pool; None: none is known here."""
        facts = self._facts
        if next_hop.version != version:
            return None
        if pool is not None and pool.vxlan is not EncapsulationMode.NEVER:
            return self._through_vxlan(version, next_hop, pool)
        if pool is None or not _encapsulated(facts, pool.ipip, next_hop):
            return self._directly(next_hop)
        return self._through_tunl0(next_hop)

    def _through_tunl0(self, next_hop: Address) -> RouteTarget:
        if next_hop not in self._tunnelled:
            self._tunnelled[next_hop] = RouteTarget(
                gateway=next_hop, device=TUNL0, protocol=self._facts.protocols.learned, onlink=True
            )
        return self._tunnelled[next_hop]

    def _directly(self, next_hop: Address) -> RouteTarget | None:
        if next_hop not in self._direct:
            facts = self._facts
            link = on_link(facts.links, facts.gateway_to(next_hop))
            self._direct[next_hop] = _direct(facts, next_hop, link)
        return self._direct[next_hop]

    def _through_vxlan(self, version: int, next_hop: Address, pool: Pool) -> RouteTarget | None:
        """A block's route comes from its claim; what remains is an address borrowed from another node's block."""
        facts = self._facts
        if self._nodes is None:
            self._nodes = _nodes_by_address(facts)
        borrower = self._nodes.get(next_hop)
        if borrower is None:
            return None
        way = _vxlan_way(facts, version, borrower, pool)
        if way is None and facts.nodes[borrower].vtep(version) is None:
            # The pool has just become one of VXLAN: until the other has its VTEP, the way that led there does. tunl0
            # stands as long as others may still send through it.
            tunnel = facts.links.get(TUNL0) if version == 4 else None
            return (
                self._through_tunl0(next_hop)
                if tunnel is not None and tunnel.up
                else self._directly(next_hop)
            )
        return way


def _nodes_by_address(facts: Facts) -> dict[Address, NodeName]:
    return {
        own.ip: name for name, node in facts.nodes.items() for own in (node.underlay, node.underlay6) if own
    }


def _finder(networks: Iterable[tuple[Prefix, T]]) -> Callable[[RouteKey], T | None]:
    """What belongs to the first of these networks that holds a key: for very many keys, by comparing octets."""
    table = []
    for network, what in networks:
        key = RouteKey(network)
        table.append((key.version, key.length, key.packed[1:], network.broadcast_address.packed, what))

    def find(key: RouteKey) -> T | None:
        version, packed, _, _ = key
        octets, length = packed[1:], packed[0]
        for of_version, shortest, first, last, what in table:
            if first <= octets <= last and length >= shortest and version == of_version:
                return what
        return None

    return find


@lru_cache(maxsize=PODS_REMEMBERED)
def workload_route(address: Address, interface: str, protocol: int) -> Route:
    """`192.168.41.137 dev calie486eacd845 scope link`; IPv6 knows no scopes of routes."""
    key = RouteKey(ip_network(address))
    scope = Scope.LINK if address.version == 4 else Scope.UNIVERSE
    return Route(key, device=interface, protocol=protocol, scope=scope)


def blackhole(facts: Facts, block: Prefix) -> Route:
    """`blackhole 192.168.41.192/26 proto bird`: what no pod has must not leave by the default route."""
    return Route(RouteKey(block), RouteType.BLACKHOLE, protocol=facts.protocols.blackhole)


def _same_subnet(facts: Facts, address: Address) -> bool:
    """Whether an address is in this node's own subnet: what CrossSubnet means is decided by the local prefix alone."""
    own = facts.me.on(address.version) if facts.me is not None else None
    return own is not None and address in own.network


def _encapsulated(facts: Facts, mode: EncapsulationMode, node_address: Address) -> bool:
    if mode is EncapsulationMode.CROSS_SUBNET:
        return not _same_subnet(facts, node_address)
    return mode is EncapsulationMode.ALWAYS


def _stored_route(facts: Facts, key: RouteKey, owner: NodeName, pool: Pool | None) -> Route | None:
    """The route that follows from the datastore alone: in VXLAN always, otherwise by setting."""
    node = facts.nodes.get(owner)
    if pool is None or node is None:
        return None
    if pool.vxlan is not EncapsulationMode.NEVER or not facts.from_datastore:
        way = _vxlan_way(facts, key.version, owner, pool)
    else:
        way = _datastore_way(facts, key.version, node, pool)
    return Route.from_target(key, way) if way is not None else None


def _datastore_way(facts: Facts, version: int, node: NodeAddresses, pool: Pool) -> RouteTarget | None:
    underlay = node.on(version)
    if underlay is None:
        return None
    if _encapsulated(facts, pool.ipip, underlay.ip):
        device: str | None = TUNL0
    else:
        link = on_link(facts.links, underlay.ip)
        device = link.name if link is not None else None
    if device is None:
        return None
    return RouteTarget(gateway=underlay.ip, device=device, protocol=facts.protocols.datastore, onlink=True)


def _vxlan_way(facts: Facts, version: int, owner: NodeName, pool: Pool) -> RouteTarget | None:
    node = facts.nodes.get(owner)
    if node is None or pool.vxlan is EncapsulationMode.NEVER or owner == facts.node:
        return None
    underlay = node.on(version)
    if underlay is None:
        return None
    if _encapsulated(facts, pool.vxlan, underlay.ip):
        return _through_vtep(facts, version, node)
    parent = facts.parent_of(version)
    if parent is None:
        return None
    return RouteTarget(
        gateway=underlay.ip, device=parent.name, protocol=facts.protocols.datastore, onlink=True
    )


def _through_vtep(facts: Facts, version: int, node: NodeAddresses) -> RouteTarget | None:
    vtep = node.vtep(version)
    if vtep is None:
        return None
    device = VXLAN6_DEVICE if version == 6 else VXLAN_DEVICE
    return RouteTarget(gateway=vtep, device=device, protocol=facts.protocols.tunnel, onlink=True)


def _direct(facts: Facts, next_hop: Address, link: Link | None) -> RouteTarget | None:
    if link is None:
        return None
    return RouteTarget(gateway=facts.gateway_to(next_hop), device=link.name, protocol=facts.protocols.learned)
