"""Which prefixes may be programmed, announced or believed, whoever asks, and what a change of the facts changes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.cooperative import run_now
from agent.dataplane.desired.admissible_prefixes import MARTIANS, AdmissiblePrefixes
from agent.dataplane.desired.desired_routes import DesiredRoutes
from agent.dataplane.desired.desired_sysctls import sysctls
from agent.dataplane.desired.route_producers import RouteClass
from agent.dataplane.inputs.facts import Endpoint, Facts, FactSettings, NodeAddresses
from agent.netlink.objects import Link, RouteKey
from agent.peering.originations import borrowed_addresses, originations
from bgp.policy.prefix_filter import PrefixFilter
from bgp.wire.families import Address, Prefix, family_of
from bgp.wire.nlri import pack
from ipam.model import NodeName, Pool

ME, OTHER = NodeName("me"), NodeName("other")
POOL, POOL6 = Pool("p", ip_network("192.168.0.0/16"), 26), Pool("six", ip_network("fd10::/64"), 122)
CALI = "cali0123456789a"


def link(number: int, name: str, *addresses: str) -> Link:
    parsed = [one.partition("/") for one in addresses]
    return Link(
        number, name, None, 1500, True, None, tuple((ip_address(a), int(length)) for a, _, length in parsed)
    )


NODES = {
    ME: NodeAddresses(
        IPv4Interface("172.26.0.11/20"),
        ip_address("192.168.1.1"),
        underlay6=IPv6Interface("fd26::b/64"),  # type: ignore[arg-type]
    ),
    OTHER: NodeAddresses(
        IPv4Interface("172.26.0.12/20"),
        ip_address("192.168.2.1"),
        underlay6=IPv6Interface("fd26::c/64"),  # type: ignore[arg-type]
    ),
}
LINKS = {
    one.name: one
    for one in (
        link(1, "lo", "127.0.0.1/8", "::1/128", "203.0.113.9/32"),
        link(2, "eth0", "172.26.0.11/20", "fd26::b/64", "fe80::b/64"),
        link(3, "tunl0", "192.168.1.1/32"),
        link(4, "docker0", "172.17.0.1/16"),
        link(5, CALI),
    )
}
ETCD, ETCD6 = ip_address("10.50.0.5"), ip_address("fd50::5")
START = Facts(
    ME,
    pools=(POOL, POOL6),
    nodes=NODES,
    links=LINKS,
    datastore=frozenset({ETCD, ETCD6, ip_address("172.26.0.1")}),
    services=(ip_network("10.96.0.0/12"),),
)


def facts(**more: Any) -> Facts:
    return replace(START, **more)


def claims(*prefixes: str, of: NodeName = ME) -> dict[Prefix, NodeName]:
    return {ip_network(one): of for one in prefixes}


def pods(*addresses: str, interface: str = CALI) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(interface, (ip_address(one),), key=f"/key/{one}") for one in addresses)


def reasons(found: Facts) -> dict[str, str]:
    return {str(one.prefix): one.why for one in found.refused}


WRONG = {
    "0.0.0.0/0": "lies in no pool",
    "0.0.0.0/1": "lies in no pool",
    "128.0.0.0/1": "lies in no pool",
    "10.0.0.0/8": "lies in no pool",
    "192.0.0.0/8": "lies in no pool",
    "127.0.0.0/26": "loopback (RFC 1122)",
    "0.0.0.0/32": "this network (RFC 1122)",
    "169.254.0.0/26": "link-local (RFC 3927)",
    "224.0.0.0/4": "multicast or reserved (RFC 1112)",
    "240.0.0.0/4": "multicast or reserved (RFC 1112)",
    "255.255.255.255/32": "multicast or reserved (RFC 1112)",
    "172.26.0.0/26": "lies in no pool",
    "172.26.0.11/32": "this host's own address 172.26.0.11",
    "203.0.113.9/32": "this host's own address 203.0.113.9",
    "10.50.0.5/32": "lies in no pool",
    "8.8.8.8/32": "lies in no pool",
    "::/0": "lies in no pool",
    "::/1": "lies in no pool",
    "2000::/3": "lies in no pool",
    "fd00::/8": "lies in no pool",
    "::1/128": "unspecified, loopback or IPv4-compatible (RFC 4291)",
    "::/128": "unspecified, loopback or IPv4-compatible (RFC 4291)",
    "::ffff:10.0.0.0/122": "IPv4-mapped (RFC 4291)",
    "fe80::/122": "link-local (RFC 4291)",
    "ff02::/122": "multicast (RFC 4291)",
    "fd26::/122": "lies in no pool",
    "fd26::b/128": "this host's own address fd26::b",
    "fd50::5/128": "lies in no pool",
}
"""Prefix -> why no claim of it counts."""
RIGHT = ("192.168.1.0/26", "192.168.2.64/26", "fd10::40/122")


@pytest.mark.parametrize("owner", [ME, OTHER])
def test_a_claim_counts_only_in_a_pool_and_nowhere_else(owner: NodeName) -> None:
    found = AdmissiblePrefixes().admit(facts(block_owners=claims(*WRONG, *RIGHT, of=owner)))
    assert found.block_owners == claims(*RIGHT, of=owner)
    assert reasons(found) == {str(ip_network(prefix)): why for prefix, why in WRONG.items()}
    assert found.refused[0].key == f"/calico/ipam/v2/host/{owner}/ipv4/block/0.0.0.0-0"


def test_a_borrowed_address_counts_only_in_a_pool() -> None:
    hosts = {prefix: why for prefix, why in WRONG.items() if prefix.endswith(("/32", "/128"))}
    found = AdmissiblePrefixes().admit(facts(borrowed=claims(*hosts, "192.168.2.9/32", of=OTHER)))
    assert found.borrowed == claims("192.168.2.9/32", of=OTHER)
    assert reasons(found) == {str(ip_network(prefix)): why for prefix, why in hosts.items()}


def test_a_pods_address_counts_only_in_a_pool_and_on_an_interface_of_pods() -> None:
    addresses = [prefix.partition("/")[0] for prefix in WRONG if prefix.endswith(("/32", "/128"))]
    right = pods("192.168.1.9", "fd10::41")
    odd = ("eth0", "lo", "tunl0", "cali/../eth0", "cali\0", "cali 1", "cali0123456789ab", "", "calié\ud800")
    wrong = [*pods(*addresses), *(one for name in odd for one in pods("192.168.1.10", interface=name))]
    found = AdmissiblePrefixes().admit(facts(endpoints=(*wrong, *right)))
    usable = [one for one in found.endpoints if one.addresses]
    assert usable == list(right)
    assert {one.interface for one in found.endpoints} == {CALI}
    assert len(found.refused) == len(wrong)
    assert {one.key for one in found.refused} == {one.key for one in wrong}
    assert not [name for name in sysctls(found) if "eth0" in name or ".." in name]


def test_a_pod_has_no_nodes_tunnel_address() -> None:
    found = AdmissiblePrefixes().admit(facts(endpoints=pods("192.168.1.1", "192.168.2.1")))
    assert [one.addresses for one in found.endpoints] == [(), ()]
    assert set(reasons(found).values()) == {"is a node's tunnel address"}


def test_a_peer_behind_a_gateway_is_at_nobodys_address_no_peer() -> None:
    wrong = ("127.0.0.1", "172.26.0.11", "192.168.1.1", "224.0.0.1", "::1", "fd26::b")
    gateways = {ip_address(one): ip_address("172.26.0.254") for one in (*wrong, "10.50.0.5", "10.9.9.9")}
    found = AdmissiblePrefixes().admit(facts(peer_gateways=gateways))
    assert {str(one) for one in found.peer_gateways} == {"10.50.0.5", "10.9.9.9"}
    assert len(found.refused) == len(wrong)


def test_a_block_around_this_nodes_tunnel_address_is_right() -> None:
    found = AdmissiblePrefixes().admit(facts(block_owners=claims("192.168.1.0/26", "192.168.1.1/32")))
    assert found.refused == ()


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        ("172.26.0.64/26", "inside the connected subnet 172.26.0.0/20 of eth0"),
        ("172.17.5.0/26", "inside the connected subnet 172.17.0.0/16 of docker0"),
        ("172.16.0.0/12", "holds the gateway 172.30.0.1"),
        ("172.30.0.0/26", "holds the gateway 172.30.0.1"),
        ("172.29.0.3/32", "the address 172.29.0.3 of a node"),
        ("172.31.0.0/26", "inside the network of services 172.31.0.0/16"),
        ("172.28.0.0/26", "holds the datastore's address 172.28.0.5"),
        ("172.17.0.0/15", "holds the connected subnet 172.17.0.0/16 of docker0"),
        ("172.18.0.0/26", ""),
    ],
)
def test_a_pool_around_the_underlay_gives_nobody_the_underlay(claim: str, why: str) -> None:
    far = {NodeName("far"): NodeAddresses(IPv4Interface("172.29.0.3/24"))}
    given = facts(
        pools=(Pool("wide", ip_network("172.16.0.0/12"), 26),),
        nodes=NODES | far,
        node_gateways={ip_address("172.29.0.3"): ip_address("172.30.0.1")},
        datastore=frozenset({ip_address("172.28.0.5")}),
        services=(ip_network("172.31.0.0/16"),),
        block_owners={ip_network(claim, strict=False): ME},
    )
    found = AdmissiblePrefixes().admit(given)
    # A prefix that holds several of these names one of them.
    assert list(reasons(found).values()) == [why] * bool(why) or claim == "172.16.0.0/12"
    assert bool(found.block_owners) == (not why)


def test_a_pool_of_everything_is_no_pool() -> None:
    everything = (Pool("all", ip_network("0.0.0.0/0"), 26), Pool("half", ip_network("8000::/1"), 122))
    found = AdmissiblePrefixes().admit(
        facts(pools=everything, block_owners=claims("8.8.8.0/26", "fd50::/122"))
    )
    assert found.block_owners == {}


# -- what BGP may say -------------------------------------------------------------------------------------------------


def hop_refusal(one: PrefixFilter, text: str) -> str:
    found = one.compiled_next_hops()
    return found(ip_address(text)) if found is not None else ""


def refusal(one: PrefixFilter, text: str) -> str:
    prefix = ip_network(text)
    found = one.compiled(family_of(prefix))
    return found(pack(prefix)) if found is not None else ""


def test_the_mesh_is_believed_what_lies_in_pools_or_is_a_service() -> None:
    given = AdmissiblePrefixes().admit(facts()).from_mesh
    believed = (
        "192.168.2.0/26",
        "192.168.0.0/16",
        "192.168.2.9/32",
        "10.96.0.1/32",
        "fd10::/64",
        "fd10::7/128",
    )
    assert [refusal(given, prefix) for prefix in believed] == [""] * len(believed)
    assert all(refusal(given, prefix) for prefix in WRONG)
    assert refusal(given, "10.0.0.0/8") == "lies in no pool (from the node mesh)"
    assert refusal(given, "192.168.1.1/32") == "this host's own address 192.168.1.1"


def test_a_peer_of_a_bgppeer_is_believed_all_but_what_is_the_hosts_own() -> None:
    given = AdmissiblePrefixes().admit(facts()).from_peers
    believed = (
        *("8.8.8.8/32", "0.0.0.0/0", "0.0.0.0/1", "172.16.0.0/12", "172.26.0.0/19", "10.50.0.6/32"),
        *("::/0", "2000::/3", "fd26::/63", "fd00::/12", "192.168.2.0/26", "169.0.0.0/8", "10.96.0.0/12"),
    )
    assert {prefix: refusal(given, prefix) for prefix in believed} == dict.fromkeys(believed, "")
    refused = {
        "172.26.0.0/20": "inside the connected subnet 172.26.0.0/20 of eth0",
        "172.26.0.12/32": "inside the connected subnet 172.26.0.0/20 of eth0",
        "172.17.3.0/24": "inside the connected subnet 172.17.0.0/16 of docker0",
        "10.50.0.0/24": "holds the datastore's address 10.50.0.5",
        "10.0.0.0/8": "holds the datastore's address 10.50.0.5",
        "fd50::/64": "holds the datastore's address fd50::5",
        "203.0.113.9/32": "this host's own address 203.0.113.9",
        "fd26::/65": "inside the connected subnet fd26::/64 of eth0",
    }
    assert {prefix: refusal(given, prefix) for prefix in refused} == refused
    assert all(refusal(given, str(network)) for network, _ in MARTIANS)


def test_the_mesh_is_believed_the_local_prefixes_of_other_nodes_as_the_settings_name_them() -> None:
    local = tuple(map(ip_network, ("172.17.0.0/16", "172.18.0.0/16", "172.26.0.0/16")))
    given = AdmissiblePrefixes().admit(facts(settings=FactSettings(local_prefixes=local))).from_mesh
    assert refusal(given, "172.18.2.0/24") == ""
    assert refusal(given, "172.17.0.0/16") == "inside the connected subnet 172.17.0.0/16 of docker0"
    assert refusal(given, "172.26.0.0/26") == "inside the connected subnet 172.26.0.0/20 of eth0"
    assert refusal(given, "172.26.0.12/32") == "the address 172.26.0.12 of a node"
    assert refusal(given, "172.26.0.0/16").startswith("holds ")


def test_a_setting_has_peers_believed_more_but_never_what_is_nobodys_or_our_own() -> None:
    wide = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "127.0.0.0/8")))
    given = AdmissiblePrefixes().admit(facts(settings=FactSettings(accepted_prefixes=wide)))
    for one in (given.from_mesh, given.from_peers):
        assert [refusal(one, prefix) for prefix in ("10.50.0.5/32", "172.26.0.0/24", "10.0.0.0/8")] == [
            ""
        ] * 3
        assert refusal(one, "127.0.0.1/32") == "loopback (RFC 1122)"
        assert refusal(one, "172.26.0.11/32") == "this host's own address 172.26.0.11"


@pytest.mark.parametrize("hop", ["172.26.0.11", "203.0.113.9", "192.168.1.1"])
def test_a_next_hop_that_is_this_hosts_own_is_refused_from_everybody(hop: str) -> None:
    given = AdmissiblePrefixes().admit(facts())
    for one in (given.from_mesh, given.from_peers):
        assert hop_refusal(one, hop).startswith(f"NEXT_HOP {hop} is ")


def test_a_next_hop_among_the_pods_is_refused_from_the_mesh() -> None:
    given = AdmissiblePrefixes().admit(facts())
    assert hop_refusal(given.from_mesh, "192.168.9.9")
    assert not hop_refusal(given.from_peers, "192.168.9.9")  # a pod may be a router
    assert not hop_refusal(given.from_mesh, "172.26.0.12")
    for hop in (
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.0.1",
        "::",
        "ff02::1",
        "::ffff:7f00:1",
    ):
        assert hop_refusal(given.from_mesh, hop)
        assert hop_refusal(given.from_peers, hop)
    assert not hop_refusal(given.from_peers, "fe80::7")


# -- what a change of the facts changes -------------------------------------------------------------------------------


def test_a_pool_that_comes_admits_what_waited_for_it() -> None:
    rule, given = AdmissiblePrefixes(), facts(endpoints=pods("10.7.0.9"), block_owners=claims("10.7.0.0/26"))
    assert len(rule.admit(given).refused) == 2
    later = rule.admit(replace(given, pools=(*given.pools, Pool("new", ip_network("10.7.0.0/16"), 26))))
    assert (later.refused, later.endpoints, later.block_owners) == ((), given.endpoints, given.block_owners)


def test_a_pool_that_goes_ends_no_living_pod_and_no_block_and_lets_no_new_one_in() -> None:
    rule = AdmissiblePrefixes()
    given = facts(endpoints=pods("192.168.1.9"), block_owners=claims("192.168.1.0/26"))
    rule.admit(given)
    without = replace(given, pools=(POOL6,))
    for _ in range(2):
        found = rule.admit(without)
        assert (found.endpoints, found.block_owners) == (given.endpoints, given.block_owners)
        assert [(one.why, one.stands) for one in found.refused] == [("lies in no pool", True)] * 2
    more = replace(
        without,
        endpoints=(*given.endpoints, *pods("192.168.1.10"), *pods("192.168.1.9", interface="cali1")),
        block_owners={**given.block_owners, ip_network("192.168.3.0/26"): ME},
    )
    found = rule.admit(more)
    assert [one.addresses for one in found.endpoints] == [(ip_address("192.168.1.9"),), (), ()]
    assert found.block_owners == given.block_owners
    gone = rule.admit(replace(without, endpoints=(), block_owners={}))
    assert gone.refused == ()
    assert rule.admit(without).block_owners == {}  # who has left comes back only as everybody else


def test_a_pod_of_an_earlier_life_keeps_its_route_without_its_pool() -> None:
    given = facts(pools=(), endpoints=pods("192.168.1.9", "192.168.1.10"))
    earlier = {RouteKey(ip_network("192.168.1.9")): CALI, RouteKey(ip_network("192.168.1.10")): "cali1"}
    found = AdmissiblePrefixes().admit(replace(given, earlier_pods=earlier))
    assert [one.addresses for one in found.endpoints] == [(ip_address("192.168.1.9"),), ()]


def test_a_network_that_comes_to_lie_over_a_pool_ends_nothing_that_is_in_force() -> None:
    rule = AdmissiblePrefixes()
    given = facts(endpoints=pods("192.168.1.9"), block_owners=claims("192.168.1.0/26"))
    rule.admit(given)
    bridge = {**LINKS, "br-1": link(9, "br-1", "192.168.0.1/20")}
    found = rule.admit(replace(given, links=bridge, block_owners=claims("192.168.1.0/26", "192.168.4.0/26")))
    assert (found.endpoints, found.block_owners) == (given.endpoints, given.block_owners)
    assert [one.stands for one in found.refused] == [True, True, False]


@pytest.mark.parametrize(
    "change",
    [
        {"links": {**LINKS, "eth1": link(9, "eth1", "192.168.1.9/32")}},
        {"datastore": frozenset({ip_address("192.168.1.9")})},
        {"node_gateways": {ip_address("172.29.0.3"): ip_address("192.168.1.9")}},
        {"nodes": {**NODES, ME: NodeAddresses(IPv4Interface("192.168.1.9/24"))}},
    ],
    ids=["own", "datastore", "gateway", "node's own"],
)
def test_what_the_host_lives_by_ends_even_what_is_in_force(change: dict[str, Any]) -> None:
    rule, given = AdmissiblePrefixes(), facts(endpoints=pods("192.168.1.9"))
    assert rule.admit(given).refused == ()
    found = rule.admit(replace(given, **change))
    assert [one.addresses for one in found.endpoints] == [()]
    assert [one.stands for one in found.refused] == [False]
    assert rule.admit(given).endpoints == given.endpoints  # and the correction is heard


def test_a_node_that_says_it_has_a_pods_address_ends_no_route_and_takes_no_block() -> None:
    rule = AdmissiblePrefixes()
    given = facts(
        endpoints=pods("192.168.1.9"), block_owners=claims("192.168.1.0/26", "192.168.2.0/26", of=OTHER)
    )
    rule.admit(given)
    liars = (IPv4Interface("192.168.1.9/24"), IPv4Interface("192.168.2.9/24"))
    nodes = {NodeName(str(one)): NodeAddresses(one, vxlan=one.ip) for one in liars}
    found = rule.admit(replace(given, nodes={**NODES, **nodes}))
    assert (found.endpoints, found.block_owners) == (given.endpoints, given.block_owners)
    assert refusal(found.from_mesh, "192.168.2.0/26") == ""
    assert refusal(found.from_mesh, "192.168.2.9/32") == "the address 192.168.2.9 of a node"


def test_before_the_links_are_known_nothing_is_remembered_as_in_force() -> None:
    rule, given = AdmissiblePrefixes(), facts(endpoints=pods("172.17.0.9"))
    wide = replace(given, pools=(Pool("wide", ip_network("172.16.0.0/12"), 26),))
    rule.admit(replace(wide, links={}))
    assert [one.addresses for one in rule.admit(wide).endpoints] == [()]


def test_a_pod_that_comes_leaves_all_else_the_same_objects() -> None:
    rule = AdmissiblePrefixes()
    given = facts(endpoints=pods("192.168.1.9"), block_owners=claims("192.168.1.0/26", "8.8.8.0/26"))
    before = rule.admit(given)
    later = rule.admit(replace(given, endpoints=(*given.endpoints, *pods("192.168.1.10"))))
    assert later.block_owners is before.block_owners
    assert (later.from_mesh, later.from_peers) == (before.from_mesh, before.from_peers)
    assert later.from_mesh is before.from_mesh
    desired = DesiredRoutes()
    run_now(desired.update(before, None))
    assert run_now(desired.update(later, {}))[1] == {RouteKey(ip_network("192.168.1.10"))}


# -- everything together ----------------------------------------------------------------------------------------------

numbers = st.sampled_from(
    [int(network.network_address) for network, _ in MARTIANS if network.version == 4]
    + [
        int(ip_address(one))
        for one in ("192.168.1.0", "192.168.1.1", "172.26.0.11", "172.26.0.1", "10.50.0.5")
    ]
    + [int(ip_address(one)) for one in ("172.17.0.0", "10.96.0.1", "8.8.8.8", "192.169.0.0", "0.0.0.0")]
)
networks = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False), numbers, st.integers(0, 32)
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(networks, st.sampled_from((ME, OTHER)), max_size=8),
    st.lists(numbers, max_size=4),
    st.dictionaries(networks, st.just(ip_address("172.26.0.12")), max_size=8),
)
def test_no_route_sysctl_or_origination_is_ever_outside_the_rule(
    owners: dict[Prefix, NodeName], addresses: list[int], learned: dict[Prefix, Address]
) -> None:
    given = facts(
        block_owners=owners,
        endpoints=tuple(Endpoint(CALI, (ip_address(one),)) for one in addresses),
        bgp_nexthops={RouteKey(prefix): hop for prefix, hop in learned.items()},
    )
    found = AdmissiblePrefixes().admit(given)
    routes, _ = run_now(DesiredRoutes().update(found, None))
    announced = originations(found, routes.keys(), borrowed_addresses(found))
    for prefix in [
        *announced,
        *(key.destination for key, one in routes.items() if one.target.route_class < RouteClass.LEARNED),
    ]:
        assert prefix.subnet_of(POOL.cidr)  # type: ignore[arg-type]
    for key in routes:
        prefix = key.destination
        assert not any(prefix.version == m.version and prefix.subnet_of(m) for m, _ in MARTIANS)  # type: ignore[arg-type]
        assert not prefix.subnet_of(IPv4Network("172.26.0.0/20"))  # type: ignore[arg-type]
        assert prefix.prefixlen < 8 or ETCD not in prefix
