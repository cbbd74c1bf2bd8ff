"""Facts to routes: local pods, own blocks, other nodes' blocks and addresses in each encapsulation.

Promises: pure; the route forms are those of `ip route` on a Calico node. A route whose next hop cannot be reached
directly is not wished: it would be refused by the kernel.
Does not know: what the kernel has, netlink, BGP's decision (it gets best paths).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network

from agent.dataplane.facts import Facts, NodeAddresses, on_link, within
from agent.dataplane.objects import (
    TUNL0,
    VXLAN6_DEVICE,
    VXLAN_DEVICE,
    Address,
    Link,
    Prefix,
    Route,
    RouteKey,
    RouteType,
    Scope,
)
from ipam.model import EncapsulationMode, NodeName, Pool


def routes(facts: Facts) -> dict[RouteKey, Route]:
    """All routes this node should have. Of two producers for one key pods go first, then the datastore, then BGP."""
    producers = (learned_routes(facts, facts.learned), stored_routes(facts), workload_routes(facts))
    return {route.key: route for producer in producers for route in producer}


def workload_routes(facts: Facts) -> Iterator[Route]:
    """Those of this node's pods."""
    for endpoint in facts.endpoints:
        for address in endpoint.addresses:
            yield workload_route(facts, address, endpoint.interface)


def stored_routes(facts: Facts) -> Iterator[Route]:
    """What follows from the datastore: other nodes' blocks and addresses, ways to peers, own blocks, which go first."""
    pool_of = _pool_finder(facts)
    for prefix, owner in (*facts.block_owners.items(), *facts.borrowed.items()):
        route = _stored_route(facts, prefix, owner, pool_of(prefix)) if owner != facts.node else None
        if route is not None:
            yield route
    for peer in facts.gateways:
        way = _direct(facts, ip_network(peer), peer, on_link(facts.links, facts.gateways[peer]))
        if way is not None:
            yield way
    for block, owner in facts.block_owners.items():
        if owner == facts.node and block.prefixlen < block.max_prefixlen:
            # A blackhole of one address would stand in the pod's own place.
            yield blackhole(facts, block)


def learned_routes(facts: Facts, prefixes: Iterable[Prefix]) -> Iterator[Route]:
    """The routes of these prefixes as BGP taught them; none where it taught nothing or the next hop is out of reach."""
    links: dict[Address, Link | None] = {}
    pool_of, services = _pool_finder(facts), facts.services
    node_by_address: dict[Address, NodeName] | None = None
    for prefix in prefixes:
        next_hop = facts.learned.get(prefix)
        if next_hop is None or (services and any(within(prefix, one) for one in services)):
            continue
        pool = pool_of(prefix)
        if pool is not None and pool.vxlan is not EncapsulationMode.NEVER:
            # A block's route comes from its claim; what remains is an address borrowed from another node's block.
            node_by_address = node_by_address or _nodes_by_address(facts)
            borrower = node_by_address.get(next_hop)
            route = _vxlan_route(facts, prefix, borrower, pool) if borrower else None
            if route is None and borrower is not None and facts.nodes[borrower].vtep(prefix.version) is None:
                # The pool has just become one of VXLAN: until the other has its VTEP, the way that led there does.
                route = _direct(facts, prefix, next_hop, _link(facts, links, next_hop))
        elif pool is not None and _encapsulated(facts, pool.ipip, next_hop):
            protocol = facts.protocols.learned
            route = Route(RouteKey(prefix), gateway=next_hop, device=TUNL0, protocol=protocol, onlink=True)
        else:
            route = _direct(facts, prefix, next_hop, _link(facts, links, next_hop))
        if route is not None:
            yield route


def _nodes_by_address(facts: Facts) -> dict[Address, NodeName]:
    return {
        own.ip: name for name, node in facts.nodes.items() for own in (node.underlay, node.underlay6) if own
    }


def _pool_finder(facts: Facts) -> Callable[[Prefix], Pool | None]:
    """`Facts.pool_of` for very many prefixes: comparisons of integers."""
    table = [
        (pool.cidr.version, pool.cidr.prefixlen, int(pool.cidr.network_address), int(pool.cidr.netmask), pool)
        for pool in facts.pools
    ]

    def find(prefix: Prefix) -> Pool | None:
        version, length, value = prefix.version, prefix.prefixlen, int(prefix.network_address)
        for pool_version, shortest, network, mask, pool in table:
            if value & mask == network and length >= shortest and version == pool_version:
                return pool
        return None

    return find


def _link(facts: Facts, known: dict[Address, Link | None], next_hop: Address) -> Link | None:
    """The link to a next hop, looked for once: routes are many, next hops few."""
    if next_hop not in known:
        known[next_hop] = on_link(facts.links, facts.gateways.get(next_hop, next_hop))
    return known[next_hop]


def workload_route(facts: Facts, address: Address, interface: str) -> Route:
    """`192.168.41.137 dev calie486eacd845 scope link`; IPv6 knows no scopes of routes."""
    key = RouteKey(ip_network(address))
    scope = Scope.LINK if address.version == 4 else Scope.UNIVERSE
    return Route(key, device=interface, protocol=facts.protocols.workload, scope=scope)


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


def _stored_route(facts: Facts, prefix: Prefix, owner: NodeName, pool: Pool | None) -> Route | None:
    """The route that follows from the datastore alone: in VXLAN always, otherwise by setting."""
    node = facts.nodes.get(owner)
    if pool is None or node is None or pool.vxlan is not EncapsulationMode.NEVER or not facts.from_datastore:
        return _vxlan_route(facts, prefix, owner, pool)
    underlay = node.on(prefix.version)
    if underlay is None or owner == facts.node:
        return None
    if _encapsulated(facts, pool.ipip, underlay.ip):
        device: str | None = TUNL0
    else:
        link = on_link(facts.links, underlay.ip)
        device = link.name if link is not None else None
    if device is None:
        return None
    key, protocol = RouteKey(prefix), facts.protocols.datastore
    return Route(key, gateway=underlay.ip, device=device, protocol=protocol, onlink=True)


def _vxlan_route(facts: Facts, prefix: Prefix, owner: NodeName, pool: Pool | None) -> Route | None:
    node = facts.nodes.get(owner)
    if pool is None or node is None or pool.vxlan is EncapsulationMode.NEVER or owner == facts.node:
        return None
    underlay = node.on(prefix.version)
    if underlay is None:
        return None
    if _encapsulated(facts, pool.vxlan, underlay.ip):
        return _through_vtep(facts, prefix, node)
    parent = facts.parent_of(prefix.version)
    if parent is None:
        return None
    gateway, protocol = underlay.ip, facts.protocols.datastore
    return Route(RouteKey(prefix), gateway=gateway, device=parent.name, protocol=protocol, onlink=True)


def _through_vtep(facts: Facts, prefix: Prefix, node: NodeAddresses) -> Route | None:
    vtep = node.vtep(prefix.version)
    if vtep is None:
        return None
    device = VXLAN6_DEVICE if prefix.version == 6 else VXLAN_DEVICE
    key, protocol = RouteKey(prefix), facts.protocols.tunnel
    return Route(key, gateway=vtep, device=device, protocol=protocol, onlink=True)


def _direct(facts: Facts, prefix: Prefix, next_hop: Address, link: Link | None) -> Route | None:
    if link is None:
        return None
    key, protocol = RouteKey(prefix), facts.protocols.learned
    gateway = facts.gateways.get(next_hop, next_hop)
    return Route(key, gateway=gateway, device=link.name, protocol=protocol)
