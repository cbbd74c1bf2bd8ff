"""Facts of a dual-stack node, for tests of the IPv6 half of what follows from them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network

from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses
from agent.netlink.objects import Link, RouteKey
from ipam.model import EncapsulationMode, NodeName, Pool

NEVER, ALWAYS, CROSS = EncapsulationMode.NEVER, EncapsulationMode.ALWAYS, EncapsulationMode.CROSS_SUBNET
ME, NEAR, FAR = NodeName("me"), NodeName("near"), NodeName("far")
address, network = IPv6Address, IPv6Network


def node(own: str, vtep: str | None, four: str = "172.26.0.1/20") -> NodeAddresses:
    return NodeAddresses(
        IPv4Interface(four), underlay6=IPv6Interface(own), vxlan6=address(vtep) if vtep else None
    )


def facts(vxlan: EncapsulationMode = NEVER, **more: object) -> Facts:
    """A dual-stack node with a neighbour on its subnet and one behind a router."""
    given: dict[str, object] = {
        "pools": (Pool("six", network("fd10:1::/48"), 122, vxlan=vxlan),),
        "nodes": {
            ME: node("fd26::1/64", "fd10:1::"),
            NEAR: node("fd26::2/64", "fd10:1::40", "172.26.0.2/20"),
            FAR: node("fd27::3/64", "fd10:1::80", "172.27.0.3/20"),
        },
        "links": {
            "eth0": Link(
                2,
                "eth0",
                None,
                1500,
                up=True,
                addresses=((IPv4Address("172.26.0.1"), 20), (address("fd26::1"), 64)),
            )
        },
        "block_owners": {
            network("fd10:1::/122"): ME,
            network("fd10:1::40/122"): NEAR,
            network("fd10:1::80/122"): FAR,
            network("fd10:1::c0/128"): ME,
        },
        "endpoints": (Endpoint("cali1", (address("fd10:1::7"),)),),
        "bgp_nexthops": {
            network("fd10:1::40/122"): address("fd26::2"),
            network("fd10:1::80/122"): address("fd27::3"),
            network("fd10:1::9/128"): address("fd26::2"),
        },
        **more,
    }
    learned = {RouteKey(prefix): hop for prefix, hop in given["bgp_nexthops"].items()}  # type: ignore[attr-defined]
    return Facts(node=ME, **{**given, "bgp_nexthops": learned})  # type: ignore[arg-type]
