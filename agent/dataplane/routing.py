"""Facts to routes: local pods, own blocks, other nodes' blocks and addresses in each encapsulation.

Promises: pure; the route forms are those of `ip route` on a Calico node. When two producers want one key the lower
RouteClass wins. A route whose next hop cannot be reached directly is not wished: it would be refused by the kernel.
Does not know: what the kernel has, netlink, BGP's decision (it gets best paths).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from agent.dataplane.facts import Facts, NodeAddresses, on_link
from agent.dataplane.objects import TUNL0, VXLAN_DEVICE, Route, RouteKey, RouteType, Scope
from ipam.model import EncapsulationMode, NodeName, Pool


class RouteClass(IntEnum):
    """Two producers want the same key: the lower number wins (Calico's order, D.1)."""

    LOCAL_WORKLOAD = 1
    OWN_BLOCK = 2
    DATASTORE = 3
    LEARNED = 4


def routes(facts: Facts) -> dict[RouteKey, Route]:
    """All routes this node should have."""
    won: dict[RouteKey, tuple[RouteClass, Route]] = {}
    for rank, route in _candidates(facts):
        if route.key not in won or rank < won[route.key][0]:
            won[route.key] = (rank, route)
    return {key: route for key, (_, route) in won.items()}


def _candidates(facts: Facts) -> Iterator[tuple[RouteClass, Route]]:
    for endpoint in facts.endpoints:
        for address in endpoint.addresses:
            yield RouteClass.LOCAL_WORKLOAD, workload_route(facts, address, endpoint.interface)
    node_by_address = {node.underlay.ip: name for name, node in facts.nodes.items()}
    for block, owner in facts.block_owners.items():
        if owner == facts.node:
            if block.prefixlen < 32:  # a blackhole of /32 would stand in the pod's own place
                yield RouteClass.OWN_BLOCK, blackhole(facts, block)
        elif (route := _vxlan_route(facts, block, owner)) is not None:
            yield RouteClass.DATASTORE, route
    for prefix, next_hop in facts.learned.items():
        pool = facts.pool_of(prefix)
        if pool is not None and pool.vxlan is not EncapsulationMode.NEVER:
            # A block's route comes from its claim; what remains is an address borrowed from another node's block.
            borrower = node_by_address.get(next_hop)
            route = _vxlan_route(facts, prefix, borrower) if borrower else None
        else:
            route = _learned_route(facts, prefix, next_hop, pool)
        if route is not None:
            yield RouteClass.LEARNED, route


def workload_route(facts: Facts, address: IPv4Address, interface: str) -> Route:
    """`192.168.41.137 dev calie486eacd845 scope link`."""
    key = RouteKey(IPv4Network(address))
    return Route(key, device=interface, protocol=facts.protocols.workload, scope=Scope.LINK)


def blackhole(facts: Facts, block: IPv4Network) -> Route:
    """`blackhole 192.168.41.192/26 proto bird`: what no pod has must not leave by the default route."""
    return Route(RouteKey(block), RouteType.BLACKHOLE, protocol=facts.protocols.blackhole)


def _same_subnet(facts: Facts, address: IPv4Address) -> bool:
    """Whether an address is in this node's own subnet: what CrossSubnet means is decided by the local prefix alone."""
    return facts.me is not None and address in facts.me.underlay.network


def _encapsulated(facts: Facts, mode: EncapsulationMode, node_address: IPv4Address) -> bool:
    if mode is EncapsulationMode.CROSS_SUBNET:
        return not _same_subnet(facts, node_address)
    return mode is EncapsulationMode.ALWAYS


def _vxlan_route(facts: Facts, prefix: IPv4Network, owner: NodeName) -> Route | None:
    pool, node = facts.pool_of(prefix), facts.nodes.get(owner)
    if pool is None or node is None or pool.vxlan is EncapsulationMode.NEVER or owner == facts.node:
        return None
    if _encapsulated(facts, pool.vxlan, node.underlay.ip):
        return _through_vtep(facts, prefix, node)
    if facts.parent is None:
        return None
    gateway, protocol = node.underlay.ip, facts.protocols.datastore
    return Route(RouteKey(prefix), gateway=gateway, device=facts.parent.name, protocol=protocol, onlink=True)


def _through_vtep(facts: Facts, prefix: IPv4Network, node: NodeAddresses) -> Route | None:
    if node.vxlan is None:
        return None
    key, protocol = RouteKey(prefix), facts.protocols.tunnel
    return Route(key, gateway=node.vxlan, device=VXLAN_DEVICE, protocol=protocol, onlink=True)


def _learned_route(
    facts: Facts, prefix: IPv4Network, next_hop: IPv4Address, pool: Pool | None
) -> Route | None:
    key, protocol = RouteKey(prefix), facts.protocols.learned
    if pool is not None and _encapsulated(facts, pool.ipip, next_hop):
        return Route(key, gateway=next_hop, device=TUNL0, protocol=protocol, onlink=True)
    link = on_link(facts.links, next_hop)
    if link is None:
        return None
    return Route(key, gateway=next_hop, device=link.name, protocol=protocol)
