"""Facts of the article's node, for tests of what follows from them, and the oracles that say it by hand."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address

from agent.dataplane.desired.desired_state import DesiredObjects
from agent.dataplane.desired.route_producers import datastore_routes, learned_routes, workload_routes
from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses
from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.netlink.objects import Link, Route, RouteKey
from ipam.model import EncapsulationMode, NodeName, Pool

NEVER, ALWAYS, CROSS = EncapsulationMode.NEVER, EncapsulationMode.ALWAYS, EncapsulationMode.CROSS_SUBNET
ME, NEAR, FAR = NodeName("me"), NodeName("near"), NodeName("far")
address = IPv4Address
network = IPv4Network


def pool(ipip: EncapsulationMode = NEVER, vxlan: EncapsulationMode = NEVER, **more: object) -> Pool:
    return Pool("default", network("192.168.0.0/16"), 26, ipip=ipip, vxlan=vxlan, **more)  # type: ignore[arg-type]


def link(index: int, name: str, mtu: int, address: str | None = None) -> Link:
    found = ((ip_address(address.split("/")[0]), int(address.split("/")[1])),) if address else ()
    return Link(index, name, None, mtu, True, addresses=found)


def facts(*pools: Pool, **more: object) -> Facts:
    """The article's node 172.26.12.198 with a neighbour on its subnet and one behind a router."""
    nodes = {
        ME: NodeAddresses(
            IPv4Interface("172.26.12.198/20"), address("192.168.41.192"), address("192.168.41.192")
        ),
        NEAR: NodeAddresses(
            IPv4Interface("172.26.5.10/20"), address("192.168.31.64"), address("192.168.31.64")
        ),
        FAR: NodeAddresses(IPv4Interface("172.27.0.9/20"), address("192.168.77.0"), address("192.168.77.0")),
    }
    links = {"eth0": Link(2, "eth0", None, 1500, up=True, addresses=((address("172.26.12.198"), 20),))}
    given: dict[str, object] = {
        "pools": pools,
        "nodes": nodes,
        "links": links,
        "block_owners": {
            network("192.168.41.192/26"): ME,
            network("192.168.31.64/26"): NEAR,
            network("192.168.77.0/26"): FAR,
        },
        "endpoints": (Endpoint("calie486eacd845", (address("192.168.41.193"),)),),
        "bgp_nexthops": {
            network("192.168.31.64/26"): address("172.26.5.10"),
            network("192.168.77.0/26"): address("172.27.0.9"),
            network("192.168.41.200/32"): address("172.26.5.10"),
        },
        **more,
    }
    learned = {RouteKey(prefix): hop for prefix, hop in given["bgp_nexthops"].items()}  # type: ignore[attr-defined]
    return Facts(node=ME, **{**given, "bgp_nexthops": learned})  # type: ignore[arg-type]


ETH0 = Link(2, "eth0", None, 1500, up=True, addresses=((IPv4Address("10.0.0.1"), 24),))
PREFIXES = [IPv4Network((0x14000000 + (number << 6), 26)) for number in range(6)]
PREFIXES += [IPv4Network("20.0.0.1/32"), IPv4Network("30.0.0.0/24")]
KEYS = [RouteKey(prefix) for prefix in PREFIXES]
HOPS = [IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3"), IPv4Address("10.9.0.9")]
START = Facts(
    node=NodeName("n1"),
    pools=(Pool("p", IPv4Network("20.0.0.0/16"), 26),),
    nodes={NodeName("n1"): NodeAddresses(IPv4Interface("10.0.0.1/24"))},
    links={"eth0": ETH0},
)


def routes_of(given: Facts) -> dict[RouteKey, Route]:
    """All desired routes, computed as a whole: pods go before the datastore, the datastore before BGP."""
    producers = (
        workload_routes(given),
        *datastore_routes(given),
        learned_routes(given, given.bgp_nexthops.items()),
    )
    found: dict[RouteKey, Route] = {}
    for producer in producers:
        for route in producer:
            found.setdefault(route.key, route)
    return found


def dataplane_of(given: Facts, desired: Mapping[RouteKey, Route] | None = None) -> Dataplane:
    """Everything desired."""
    return DesiredObjects().dataplane(given, routes_of(given) if desired is None else desired)
