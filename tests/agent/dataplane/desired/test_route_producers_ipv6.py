"""Facts become the IPv6 half of the route table, in each encapsulation that IPv6 has."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest

from agent.dataplane.desired.desired_state import masquerade
from agent.dataplane.desired.desired_sysctls import sysctls
from agent.dataplane.desired.desired_tunnels import fdb, neighbours, pod_mtu, tunnels, vtep_mac
from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses
from agent.dataplane.kernel.calico_names import VXLAN6_DEVICE
from agent.netlink.objects import FdbEntry, Link, Neighbour, RouteKey, Tunnel, TunnelKind
from ipam.model import EncapsulationMode, NodeName, Pool
from tests.scenes.dataplane.route_facts import routes_of

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


def lines(given: Facts) -> list[str]:
    return sorted(str(route) for route in routes_of(given).values())


OWN = ["blackhole fd10:1::/122 proto bird metric 1024", "fd10:1::7 dev cali1 metric 1024"]


@pytest.mark.parametrize(
    ("given", "remote"),
    [
        pytest.param(
            facts(NEVER),
            [
                "fd10:1::40/122 via fd26::2 dev eth0 proto bird metric 1024",
                "fd10:1::9 via fd26::2 dev eth0 proto bird metric 1024",
            ],
            id="none: what is not on the subnet has no next hop of ours",
        ),
        pytest.param(
            facts(ALWAYS),
            [
                "fd10:1::40/122 via fd10:1::40 dev vxlan-v6.calico metric 1024 onlink",
                "fd10:1::80/122 via fd10:1::80 dev vxlan-v6.calico metric 1024 onlink",
                "fd10:1::9 via fd10:1::40 dev vxlan-v6.calico metric 1024 onlink",
            ],
            id="vxlan",
        ),
        pytest.param(
            facts(CROSS),
            [
                "fd10:1::40/122 via fd26::2 dev eth0 proto 80 metric 1024 onlink",
                "fd10:1::80/122 via fd10:1::80 dev vxlan-v6.calico metric 1024 onlink",
                "fd10:1::9 via fd26::2 dev eth0 proto 80 metric 1024 onlink",
            ],
            id="vxlan across subnets",
        ),
    ],
)
def test_the_table_is_that_of_a_calico_node(given: Facts, remote: list[str]) -> None:
    assert lines(given) == sorted([*OWN, *remote])


def test_the_vxlan_device_of_ipv6_is_the_twin_of_the_other() -> None:
    given = facts(ALWAYS)
    assert tunnels(given) == {
        VXLAN6_DEVICE: Tunnel(
            VXLAN6_DEVICE,
            TunnelKind.VXLAN,
            1430,
            address("fd10:1::"),
            vni=4096,
            port=4789,
            parent="eth0",
            local=address("fd26::1"),
            mac=vtep_mac(ME, 6),
        )
    }
    assert vtep_mac(NodeName("node1"), 6) == "66:0f:35:f2:60:df"
    near, far = vtep_mac(NEAR, 6), vtep_mac(FAR, 6)
    assert set(neighbours(given).values()) == {
        Neighbour(VXLAN6_DEVICE, address("fd10:1::40"), near),
        Neighbour(VXLAN6_DEVICE, address("fd10:1::80"), far),
    }
    assert set(fdb(given).values()) == {
        FdbEntry(VXLAN6_DEVICE, near, address("fd26::2")),
        FdbEntry(VXLAN6_DEVICE, far, address("fd27::3")),
    }
    assert pod_mtu(given) == 1430


def test_both_versions_stand_side_by_side_and_pods_get_the_smaller_mtu() -> None:
    four = Pool("four", IPv4Network("10.1.0.0/16"), 26, vxlan=ALWAYS, nat_outgoing=True)
    given = facts(ALWAYS)
    given = replace(given, pools=(four, *given.pools))
    assert sorted(tunnels(given)) == ["vxlan-v6.calico", "vxlan.calico"]
    assert pod_mtu(given) == 1430
    assert masquerade(given).of_version(6).sources == frozenset()
    assert masquerade(replace(given, pools=(replace(given.pools[1], nat_outgoing=True),))).of_version(
        6
    ).sources == {network("fd10:1::/48")}


def test_a_node_without_an_ipv6_address_gets_no_route_and_no_entry() -> None:
    given = facts(ALWAYS)
    nodes = {**given.nodes, FAR: NodeAddresses(IPv4Interface("172.27.0.3/20"))}
    given = replace(given, nodes=nodes)
    assert not any("fd10:1::80" in line for line in lines(given))
    assert len(fdb(given)) == 1


def test_ipv6_is_forwarded_only_where_a_pool_of_it_is() -> None:
    assert sysctls(facts())["net/ipv6/conf/all/forwarding"].value == "1"
    assert sysctls(facts())["net/ipv6/conf/cali1/proxy_ndp"].value == "1"
    without = sysctls(facts(pools=(), endpoints=(Endpoint("cali1", (IPv4Address("10.1.0.7"),)),)))
    assert not any("ipv6" in name and not name.endswith("accept_ra") for name in without)
