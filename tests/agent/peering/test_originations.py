"""The prefixes that a node originates."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, ip_network

from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses
from agent.netlink.objects import Link, RouteKey
from agent.peering.originations import BLOCK as OWN
from agent.peering.originations import OTHER as NO_BLOCK
from agent.peering.originations import (
    borrowed_addresses,
    loopback_addresses,
    originations,
    policy_interfaces,
    with_local_address,
)
from agent.peering.peer_policies import PolicyInterface
from bgp.policy.policy import LARGEST_LOCAL_PREF
from ipam.model import NodeName, Pool

ME, OTHER = NodeName("a"), NodeName("b")
BLOCK = IPv4Network("192.168.1.0/26")


def facts(**more: object) -> Facts:
    given: dict[str, object] = {
        "pools": (Pool("p", IPv4Network("192.168.0.0/16"), 26),),
        "block_owners": {BLOCK: ME, IPv4Network("192.168.9.0/26"): OTHER},
        "endpoints": (
            Endpoint("cali1", (IPv4Address("192.168.1.7"),)),
            Endpoint("cali2", (IPv4Address("192.168.9.5"),)),
        ),
        **more,
    }
    return Facts(node=ME, **given)  # type: ignore[arg-type]


def test_own_blocks_and_borrowed_addresses_are_originated_and_own_addresses_are_not() -> None:
    assert originations(facts(), {RouteKey(BLOCK)}, borrowed_addresses(facts())) == {
        BLOCK: OWN,
        IPv4Network("192.168.9.5/32"): NO_BLOCK,
    }


def test_what_is_originated_has_the_local_pref_of_calicos_normal_priority() -> None:
    """So a Calico of 3.32 or later gives it metric 1024, and `setPriority` is worse above that and better below."""
    assert {OWN.local_pref, NO_BLOCK.local_pref} == {2147482623}
    normal = OWN.local_pref or 0
    assert LARGEST_LOCAL_PREF - 512 > normal > LARGEST_LOCAL_PREF - 2000


def test_a_block_is_exported_only_after_its_blackhole_is_in_the_kernel() -> None:
    assert originations(facts(endpoints=()), (), ()) == {}


def test_a_block_of_one_address_needs_no_blackhole() -> None:
    single = IPv4Network("192.168.1.9/32")
    assert originations(facts(block_owners={single: ME}, endpoints=()), (), ()) == {single: OWN}


def test_local_prefixes_are_originated_beside_the_rest() -> None:
    docker = IPv4Network("172.17.1.0/24")
    assert originations(facts(endpoints=()), {RouteKey(BLOCK)}, (docker,)) == {BLOCK: OWN, docker: NO_BLOCK}


def test_a_local_prefix_is_exported_only_while_an_interface_that_is_up_bears_it() -> None:
    here, gone, six = (ip_network(text) for text in ("172.17.1.0/24", "172.17.2.0/24", "fd17::/64"))
    docker = Link(3, "docker0", "bridge", 1500, True, None, ((IPv4Address("172.17.1.252"), 24),))
    prefixes = (here, gone, six)
    assert with_local_address(prefixes, {"docker0": docker}) == (here,)
    assert with_local_address(prefixes, {"docker0": replace(docker, up=False)}) == ()
    both = replace(docker, addresses=(*docker.addresses, (IPv6Address("fd17::1"), 64)))
    assert with_local_address(prefixes, {"docker0": both}) == (here, six)


def test_interfaces_bring_their_subnets_and_what_is_behind_them() -> None:
    docker = Link(3, "docker0", "bridge", 1500, True, None, ((IPv4Address("172.17.1.252"), 24),))
    eth = Link(
        2, "eth0", None, 1500, True, None, ((IPv4Address("10.0.0.1"), 24), (IPv6Address("fd00::1"), 64))
    )
    tunnel = Link(4, "vxlan.calico", "vxlan", 1450, True, None, ((IPv4Address("192.168.1.0"), 32),))
    pod = Link(5, "cali2", "veth", 1500, True)
    nodes = {ME: NodeAddresses(IPv4Interface("10.0.0.1/24"))}
    links = {link.name: link for link in (docker, eth, tunnel, pod)}
    local = (ip_network("172.17.1.0/24"), ip_network("172.17.2.0/24"))
    assert policy_interfaces(facts(links=links, nodes=nodes), local) == (
        PolicyInterface("cali2", own=frozenset({ip_network("192.168.9.5/32")})),
        PolicyInterface("docker0", (ip_network("172.17.1.0/24"),), frozenset({ip_network("172.17.1.0/24")})),
        PolicyInterface("eth0", (ip_network("10.0.0.0/24"), ip_network("fd00::/64")), is_parent=True),
        PolicyInterface("vxlan.calico"),
    )


def test_the_nodes_address_is_originated_while_its_loopback_bears_it_and_no_link() -> None:
    own = {ME: NodeAddresses(IPv4Interface("10.255.0.1/32"))}
    address = (IPv4Address("10.255.0.1"), 32)
    lo, dummy = (
        Link(1, name, kind, 65536, up=True, addresses=(address,))
        for name, kind in (("lo", None), ("n0", "dummy"))
    )
    for bearer in (lo, dummy):
        there = facts(nodes=own, links={bearer.name: bearer})
        assert loopback_addresses(there) == (IPv4Network("10.255.0.1/32"),)
        assert originations(there, (), loopback_addresses(there)) == {IPv4Network("10.255.0.1/32"): NO_BLOCK}
    on_a_link, gone = replace(lo, name="eth0"), replace(lo, addresses=())
    assert loopback_addresses(facts(nodes=own, links={"eth0": on_a_link})) == ()
    assert loopback_addresses(facts(nodes=own, links={"lo": gone})) == ()
