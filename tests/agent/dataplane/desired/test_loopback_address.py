"""A node whose address is on lo or a dummy, with two uplinks: its routes' source, its tunnels' ends, its MTU."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

import pytest

from agent.dataplane.desired.desired_tunnels import pod_mtu, tunnels
from agent.dataplane.desired.route_producers import datastore_routes, learned_routes
from agent.dataplane.inputs.facts import Facts, FactSettings, NodeAddresses
from agent.dataplane.inputs.next_hops import Resolutions
from agent.dataplane.kernel.calico_names import TUNL0, VXLAN6_DEVICE, VXLAN_DEVICE
from agent.netlink.objects import Address, Link, Route, RouteKey
from ipam.model import EncapsulationMode, NodeName, Pool
from tests.scenes.dataplane.route_facts import ALWAYS, CROSS, NEVER

ME, OTHER = NodeName("me"), NodeName("other")
OWN, OWN6 = ip_address("10.255.0.1"), ip_address("fd25::1")
BLOCK, BLOCK6 = ip_network("192.168.9.0/26"), ip_network("fd44:9::/122")
LOOPBACK = Link(
    1, "lo", None, 65536, up=True, addresses=((ip_address("127.0.0.1"), 8), (OWN, 32), (OWN6, 128))
)
DUMMY = replace(LOOPBACK, index=9, name="node0", kind="dummy", mtu=1500)


def uplink(index: int, mtu: int = 9000) -> Link:
    addresses = tuple(
        (ip_address(text.format(index)), length) for text, length in (("10.0.{}.1", 31), ("fd00:{}::1", 64))
    )
    return Link(index, f"eth{index}", None, mtu, up=True, addresses=addresses)


def facts(
    bearer: Link = LOOPBACK, ipip: EncapsulationMode = NEVER, vxlan: EncapsulationMode = NEVER, **more: object
) -> Facts:
    """The other node's address is behind eth2's switch, by a static route."""
    links = {one.name: one for one in (bearer, uplink(1), uplink(2, 1600))}
    nodes = {
        ME: NodeAddresses(
            IPv4Interface("10.255.0.1/32"),
            underlay6=IPv6Interface("fd25::1/128"),
            vxlan=ip_address("192.168.1.0"),
            vxlan6=ip_address("fd44:1::"),
        ),  # type: ignore[arg-type]
        OTHER: NodeAddresses(
            IPv4Interface("10.255.0.2/32"),
            underlay6=IPv6Interface("fd25::2/128"),
            vxlan=ip_address("192.168.9.0"),
            vxlan6=ip_address("fd44:9::"),
        ),  # type: ignore[arg-type]
    }
    pools = (
        Pool("p", ip_network("192.168.0.0/16"), 26, ipip=ipip, vxlan=vxlan),
        Pool("six", ip_network("fd44::/16"), 122, vxlan=vxlan),
    )
    gateways = {
        ip_address("10.255.0.2"): ip_address("10.0.2.0"),
        ip_address("fd25::2"): ip_address("fd00:2::"),
    }
    static = [Route(RouteKey(ip_network(node)), gateway=via, device="eth2") for node, via in gateways.items()]
    given = {
        "node": ME,
        "pools": pools,
        "nodes": nodes,
        "links": links,
        "resolutions": Resolutions.by_links(links, [one.with_(protocol=4) for one in static]),
        **more,
    }
    return Facts(**given)  # type: ignore[arg-type]


def learned(given: Facts, prefix: str, next_hop: str) -> Route:
    (found,) = learned_routes(given, [(RouteKey(ip_network(prefix)), ip_address(next_hop))])
    return found


@pytest.mark.parametrize("bearer", [LOOPBACK, DUMMY], ids=["lo", "dummy"])
@pytest.mark.parametrize(
    ("prefix", "next_hop", "gateway", "device", "source"),
    [
        ("10.255.0.2/32", "10.0.1.0", "10.0.1.0", "eth1", OWN),
        ("192.168.9.0/26", "10.0.1.0", "10.0.1.0", "eth1", OWN),
        ("192.168.9.0/26", "10.255.0.2", "10.0.2.0", "eth2", OWN),
        ("fd25::2/128", "fd00:1::", "fd00:1::", "eth1", OWN6),
        ("fd44:9::/122", "fd25::2", "fd00:2::", "eth2", OWN6),
    ],
)
def test_what_this_host_itself_sends_bears_the_address_of_its_loopback(
    bearer: Link, prefix: str, next_hop: str, gateway: str, device: str, source: Address
) -> None:
    found = learned(facts(bearer), prefix, next_hop)
    assert found == Route(
        RouteKey(ip_network(prefix)), gateway=ip_address(gateway), device=device, source=source
    )
    assert f" src {source}" in str(found)


def test_routes_of_one_next_hop_share_a_target_with_its_source() -> None:
    hop = ip_address("10.0.1.0")
    keys = [RouteKey(ip_network(text)) for text in ("10.9.1.0/24", "10.9.2.0/24")]
    one, other = learned_routes(facts(), [(key, hop) for key in keys])
    assert one.target is other.target


def test_an_address_on_a_link_is_no_source_because_the_kernel_takes_it_by_itself() -> None:
    given = facts(replace(LOOPBACK, name="eth0"))
    assert learned(given, "192.168.9.0/26", "10.0.1.0").target.source is None


def test_an_address_that_no_interface_bears_now_is_no_source_because_the_kernel_would_refuse_the_route() -> (
    None
):
    given = facts(replace(LOOPBACK, addresses=()))
    assert learned(given, "192.168.9.0/26", "10.0.1.0").target.source is None


def test_into_a_tunnel_this_host_sends_from_the_tunnels_address() -> None:
    given = facts(ipip=ALWAYS)
    found = learned(given, "192.168.9.0/26", "10.255.0.2")
    assert (found.device, found.gateway, found.target.onlink) == (TUNL0, ip_address("10.255.0.2"), True)
    assert found.target.source is None
    routes = [
        one for some in datastore_routes(facts(vxlan=CROSS, block_owners={BLOCK: OTHER})) for one in some
    ]
    assert [(one.device, one.target.source) for one in routes if one.key == RouteKey(BLOCK)] == [
        (VXLAN_DEVICE, None)
    ]


def test_routes_that_follow_from_the_datastore_have_the_source_too() -> None:
    links = {"lo": LOOPBACK, "eth1": replace(uplink(1), addresses=((ip_address("10.255.0.9"), 24),))}
    given = facts(
        links=links,
        settings=FactSettings(from_datastore=True),
        block_owners={BLOCK: OTHER},
        resolutions=Resolutions.by_links(links),
    )
    (found,) = (one for some in datastore_routes(given) for one in some)
    assert (found.device, found.target.source) == ("eth1", OWN)


@pytest.mark.parametrize("bearer", [LOOPBACK, DUMMY], ids=["lo", "dummy"])
def test_a_vxlan_device_has_the_address_as_its_end_and_no_parent_for_either_uplink_may_carry_it(
    bearer: Link,
) -> None:
    found = tunnels(facts(bearer, vxlan=ALWAYS))
    assert {name: (one.parent, one.local) for name, one in found.items()} == {
        VXLAN_DEVICE: (None, OWN),
        VXLAN6_DEVICE: (None, OWN6),
    }


def test_the_mtu_is_that_of_the_least_uplink_whatever_the_loopbacks_is() -> None:
    given = facts(vxlan=ALWAYS)
    assert {one.mtu for one in tunnels(given).values()} == {1550, 1530}
    assert pod_mtu(given) == 1530
    looked_up = replace(given, underlay_links=frozenset({"eth1"}))
    assert tunnels(looked_up)[VXLAN_DEVICE].mtu == 8950


def test_interfaces_that_are_no_uplinks_do_not_count_for_the_mtu() -> None:
    given = facts(ipip=ALWAYS)
    others = [
        Link(20, "cali1", "veth", 600, up=True),
        Link(21, TUNL0, "ipip", 700, up=True),
        Link(22, "docker0", "bridge", 800, up=True, addresses=((ip_address("172.17.0.1"), 16),)),
        Link(23, "eth9", None, 900, up=False),
    ]
    given = replace(given, links={**given.links, **{one.name: one for one in others}})
    assert tunnels(given)[TUNL0].mtu == 1580


def test_nodes_on_loopbacks_are_never_on_ones_own_subnet() -> None:
    given = facts(ipip=CROSS)
    assert ip_interface("10.255.0.1/32").network != ip_interface("10.255.0.2/32").network
    assert learned(given, "192.168.9.0/26", "10.255.0.2").device == TUNL0
