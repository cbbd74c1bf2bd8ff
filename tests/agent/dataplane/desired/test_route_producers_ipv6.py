"""Facts become the IPv6 half of the route table, in each encapsulation that IPv6 has."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from agent.dataplane.desired.desired_state import masquerade
from agent.dataplane.desired.desired_sysctls import sysctls
from agent.dataplane.desired.desired_tunnels import fdb, neighbours, pod_mtu, tunnels, vtep_mac
from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses
from agent.dataplane.kernel.calico_names import VXLAN6_DEVICE
from agent.netlink.objects import FdbEntry, Neighbour, Tunnel, TunnelKind
from ipam.model import NodeName, Pool
from tests.scenes.dataplane.route_facts import routes_of
from tests.scenes.dataplane.route_facts_ipv6 import (
    ALWAYS,
    CROSS,
    FAR,
    ME,
    NEAR,
    NEVER,
    address,
    facts,
    network,
)


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
                "fd10:1::40 dev vxlan-v6.calico metric 1024",
                "fd10:1::40/122 via fd10:1::40 dev vxlan-v6.calico metric 1024 onlink",
                "fd10:1::80 dev vxlan-v6.calico metric 1024",
                "fd10:1::80/122 via fd10:1::80 dev vxlan-v6.calico metric 1024 onlink",
                "fd10:1::9 via fd10:1::40 dev vxlan-v6.calico metric 1024 onlink",
            ],
            id="vxlan",
        ),
        pytest.param(
            facts(CROSS),
            [
                "fd10:1::40/122 via fd26::2 dev eth0 proto 80 metric 1024 onlink",
                "fd10:1::80 dev vxlan-v6.calico metric 1024",
                "fd10:1::80/122 via fd10:1::80 dev vxlan-v6.calico metric 1024 onlink",
                "fd10:1::9 via fd26::2 dev eth0 proto 80 metric 1024 onlink",
            ],
            id="vxlan across subnets",
        ),
    ],
)
def test_the_table_is_calicos_and_each_gateway_in_the_tunnel_has_a_route_over_it(
    given: Facts, remote: list[str]
) -> None:
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


def test_without_an_address_of_a_version_on_both_sides_there_is_no_tunnel_to_wait_for() -> None:
    given = facts(ALWAYS)
    alone = {**given.nodes, ME: replace(given.nodes[ME], underlay6=None, vxlan6=None)}
    assert lines(replace(given, nodes=alone, bgp_nexthops={})) == OWN


def test_a_node_of_ipv6_alone_has_its_tunnel_its_routes_and_an_mtu() -> None:
    given = facts(ALWAYS)
    alone = replace(given, nodes={name: replace(node, underlay=None) for name, node in given.nodes.items()})
    assert lines(alone) == lines(given)
    assert tunnels(alone) == tunnels(given)
    assert (pod_mtu(alone), alone.parent) == (1430, given.links["eth0"])
