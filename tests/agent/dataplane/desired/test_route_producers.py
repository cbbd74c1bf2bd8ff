"""Facts become the route table of the article, in each encapsulation."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, ip_network
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.desired.desired_state import masquerade
from agent.dataplane.desired.desired_tunnels import fdb, neighbours, pod_mtu, tunnels, vtep_mac
from agent.dataplane.desired.route_producers import (
    NoRoute,
    RouteClass,
    learned_routes,
    merge,
    resolving_prefixes,
)
from agent.dataplane.inputs.facts import Facts, FactSettings, NodeAddresses
from agent.dataplane.inputs.next_hops import Resolutions
from agent.netlink.objects import RTPROT_BOOT, Link, Route, RouteKey
from bgp.policy.prefix_filter import PrefixFilter
from bgp.rib.multipath import NextHops, NextHopSet
from ipam.model import EncapsulationMode, NodeName, Pool
from tests.scenes.dataplane.route_facts import (
    ALWAYS,
    CROSS,
    FAR,
    ME,
    NEAR,
    NEVER,
    address,
    facts,
    network,
    pool,
    routes_of,
)


def lines(given: Facts) -> list[str]:
    return sorted(str(route) for route in routes_of(given).values())


LOCAL = ["192.168.41.193 dev calie486eacd845 scope link", "blackhole 192.168.41.192/26 proto bird"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            pool(ipip=ALWAYS),
            [
                "192.168.31.64/26 via 172.26.5.10 dev tunl0 proto bird onlink",
                "192.168.41.200 via 172.26.5.10 dev tunl0 proto bird onlink",
                "192.168.77.0/26 via 172.27.0.9 dev tunl0 proto bird onlink",
            ],
            id="ipip",
        ),
        pytest.param(
            pool(ipip=CROSS),
            [
                "192.168.31.64/26 via 172.26.5.10 dev eth0 proto bird",
                "192.168.41.200 via 172.26.5.10 dev eth0 proto bird",
                "192.168.77.0/26 via 172.27.0.9 dev tunl0 proto bird onlink",
            ],
            id="ipip-cross-subnet",
        ),
        pytest.param(
            pool(vxlan=ALWAYS),
            [
                "192.168.31.64/26 via 192.168.31.64 dev vxlan.calico onlink",
                "192.168.41.200 via 192.168.31.64 dev vxlan.calico onlink",
                "192.168.77.0/26 via 192.168.77.0 dev vxlan.calico onlink",
            ],
            id="vxlan",
        ),
        pytest.param(
            pool(vxlan=CROSS),
            [
                "192.168.31.64/26 via 172.26.5.10 dev eth0 proto 80 onlink",
                "192.168.41.200 via 172.26.5.10 dev eth0 proto 80 onlink",
                "192.168.77.0/26 via 192.168.77.0 dev vxlan.calico onlink",
            ],
            id="vxlan-cross-subnet",
        ),
        pytest.param(
            pool(),
            [
                "192.168.31.64/26 via 172.26.5.10 dev eth0 proto bird",
                "192.168.41.200 via 172.26.5.10 dev eth0 proto bird",
            ],
            id="none: the far next hop is not on a link, so there is no route to refuse",
        ),
    ],
)
def test_every_encapsulation_gives_the_route_forms_of_a_calico_node(given: Pool, expected: list[str]) -> None:
    assert sorted(expected + LOCAL) == lines(facts(given))


def test_an_own_block_beats_the_same_block_learned_from_another() -> None:
    given = facts(pool(), bgp_nexthops={network("192.168.41.192/26"): address("172.26.5.10")})
    assert lines(given) == sorted(LOCAL)


def test_a_local_pod_beats_its_own_address_learned_from_another() -> None:
    given = facts(pool(), bgp_nexthops={network("192.168.41.193/32"): address("172.26.5.10")})
    assert lines(given) == sorted(LOCAL)


def test_a_block_of_one_address_has_no_blackhole() -> None:
    assert (
        lines(facts(pool(), block_owners={network("192.168.41.5/32"): ME}, bgp_nexthops={}, endpoints=()))
        == []
    )


def test_a_node_without_its_tunnel_address_gets_no_vxlan_route_yet() -> None:
    waiting = {
        ME: NodeAddresses(IPv4Interface("172.26.12.198/20")),
        NEAR: NodeAddresses(IPv4Interface("172.26.5.10/20")),
    }
    assert lines(facts(pool(vxlan=ALWAYS), nodes=waiting, bgp_nexthops={})) == sorted(LOCAL)


def test_a_pool_that_changes_from_ipip_to_vxlan_goes_on_by_tunl0_until_the_other_has_its_vtep() -> None:
    """Virtual machines, whose agents are slower than a ping: a block behind a router had no route meanwhile."""
    far = address("172.27.0.9")
    nodes = {
        ME: NodeAddresses(IPv4Interface("172.26.12.198/20")),
        FAR: NodeAddresses(IPv4Interface("172.27.0.9/20")),
    }
    changed = facts(
        pool(vxlan=ALWAYS),
        nodes=nodes,
        endpoints=(),
        block_owners={},
        bgp_nexthops={network("192.168.77.0/26"): far},
    )
    assert lines(changed) == []
    for up, expected in (
        (False, []),
        (True, ["192.168.77.0/26 via 172.27.0.9 dev tunl0 proto bird onlink"]),
    ):
        links = {**changed.links, "tunl0": Link(9, "tunl0", "ipip", 1480, up=up, addresses=())}
        assert lines(replace(changed, links=links)) == expected


def test_the_tunnel_devices_follow_the_pools_and_the_underlay() -> None:
    both = facts(pool(ipip=ALWAYS), Pool("other", network("10.0.0.0/16"), 26, vxlan=CROSS))
    made = tunnels(both)
    assert (made["tunl0"].mtu, str(made["tunl0"].address)) == (1480, "192.168.41.192")
    vxlan = made["vxlan.calico"]
    assert (vxlan.mtu, vxlan.vni, vxlan.port, vxlan.parent, str(vxlan.local)) == (
        1450,
        4096,
        4789,
        "eth0",
        "172.26.12.198",
    )
    assert vxlan.mac == vtep_mac(ME)
    assert tunnels(facts(pool())) == {}


def test_every_other_node_has_a_neighbour_and_a_forwarding_entry() -> None:
    given = facts(pool(vxlan=ALWAYS))
    assert {str(entry.address): entry.mac for entry in neighbours(given).values()} == {
        "192.168.31.64": vtep_mac(NEAR),
        "192.168.77.0": vtep_mac(FAR),
    }
    assert {entry.mac: str(entry.remote) for entry in fdb(given).values()} == {
        vtep_mac(NEAR): "172.26.5.10",
        vtep_mac(FAR): "172.27.0.9",
    }
    assert neighbours(facts(pool(ipip=ALWAYS))) == {}


@pytest.mark.parametrize(("node", "mac"), [("node1", "66:f9:37:c3:7e:94"), ("node2", "66:2d:bf:44:a6:8b")])
def test_the_vtep_address_is_the_one_calico_computes(node: str, mac: str) -> None:
    assert vtep_mac(NodeName(node)) == mac


@pytest.mark.parametrize(
    ("pools", "mtu"),
    [((pool(),), 1500), ((pool(ipip=ALWAYS),), 1480), ((pool(ipip=ALWAYS), pool(vxlan=CROSS)), 1450)],
)
def test_a_pod_gets_the_smallest_mtu_that_any_encapsulation_leaves(pools: tuple[Pool, ...], mtu: int) -> None:
    assert pod_mtu(facts(*pools)) == mtu


def test_traffic_between_pools_is_never_masqueraded() -> None:
    nat = masquerade(facts(pool(nat_outgoing=True), Pool("other", network("10.0.0.0/16"), 26)))
    assert nat.sources == {network("192.168.0.0/16")}
    assert nat.pools == {network("192.168.0.0/16"), network("10.0.0.0/16")}
    assert not masquerade(facts(pool())).sources


def test_of_several_routes_for_one_key_the_class_decides_and_not_the_order_of_producers() -> None:
    key, other = RouteKey(network("10.0.0.0/26")), RouteKey(network("10.0.0.64/26"))
    producers = [{key: Route(key, device=one.name, route_class=one)} for one in RouteClass]
    producers[-1][other] = Route(other, device="eth0", route_class=RouteClass.LEARNED)
    for order in permutations(producers):
        assert {one.key: one.device for one in merge(*order).values()} == {key: "WORKLOAD", other: "eth0"}


def test_twenty_thousand_blocks_learned_with_equal_next_hops_are_as_many_routes_to_one_target() -> None:
    blocks = [network((int(address("10.0.0.0")) + 64 * number, 26)) for number in range(20_000)]
    learned = {block: address("172.26.5.10") for block in blocks}
    for mode in (ALWAYS, NEVER):
        wide = Pool("wide", network("10.0.0.0/8"), 26, ipip=mode)
        found = routes_of(facts(wide, bgp_nexthops=learned, block_owners={}, endpoints=()))
        assert len(found) == 20_000
        assert len({id(route.target) for route in found.values()}) == 1


def test_until_the_other_has_its_vtep_bgps_route_leads_there() -> None:
    """A pool that has just become one of VXLAN: without this, packets would go to the default route meanwhile."""
    given = facts(pool(vxlan=ALWAYS))
    nodes = {name: replace(node, vxlan=None) for name, node in given.nodes.items()}
    assert lines(replace(given, nodes=nodes)) == sorted(
        [
            *LOCAL,
            "192.168.31.64/26 via 172.26.5.10 dev eth0 proto bird",
            "192.168.41.200 via 172.26.5.10 dev eth0 proto bird",
        ]
    )


def test_a_peer_behind_a_gateway_has_a_route_of_its_own_and_so_has_what_it_advertised() -> None:
    tor, gateway = address("10.99.0.1"), address("172.26.0.1")
    learned = {network("10.50.0.0/16"): tor, network("10.51.0.0/16"): address("10.99.0.2")}
    given = facts(pool(), bgp_nexthops=learned, endpoints=(), block_owners={}, peer_gateways={tor: gateway})
    assert lines(given) == [
        "10.50.0.0/16 via 172.26.0.1 dev eth0 proto bird",
        "10.99.0.1 via 172.26.0.1 dev eth0 proto bird",
    ]
    out_of_reach = facts(
        pool(), bgp_nexthops=learned, endpoints=(), block_owners={}, peer_gateways={tor: tor}
    )
    assert lines(out_of_reach) == []


def test_a_node_behind_a_router_is_reached_by_it_where_nothing_encapsulates() -> None:
    """Virtual machines on two subnets, in mode none: the blocks of the other subnet had no route at all."""
    far, router = address("172.27.0.9"), address("172.26.0.1")
    blocks = {network("192.168.77.0/26"): far}
    given = facts(pool(), bgp_nexthops=blocks, endpoints=(), block_owners={})
    default = Route(RouteKey(network("0.0.0.0/0")), gateway=router, device="eth0", protocol=RTPROT_BOOT)
    given = replace(given, resolutions=Resolutions.by_links(given.links, [default]))
    assert lines(given) == ["192.168.77.0/26 via 172.26.0.1 dev eth0 proto bird"]
    tunnelled = replace(given, pools=(pool(ipip=ALWAYS),))
    assert lines(tunnelled) == ["192.168.77.0/26 via 172.27.0.9 dev tunl0 proto bird onlink"]
    elsewhere = replace(given, resolutions=Resolutions.by_links(given.links, [default.with_(device="eth9")]))
    assert lines(elsewhere) == []


NEAR_HOP, SECOND_HOP, FAR_HOP = address("172.26.5.10"), address("172.26.5.11"), address("172.27.0.9")
SEVERAL = [
    (
        "direct",
        {},
        {NEAR_HOP: 1, SECOND_HOP: 1},
        "nexthop via 172.26.5.10 dev eth0 weight 1 nexthop via 172.26.5.11 dev eth0 weight 1",
    ),
    (
        "by weight",
        {},
        {NEAR_HOP: 3, SECOND_HOP: 1},
        "nexthop via 172.26.5.10 dev eth0 weight 3 nexthop via 172.26.5.11 dev eth0 weight 1",
    ),
    (
        "one is out of reach",
        {},
        {NEAR_HOP: 1, address("192.0.2.1"): 1},
        "via 172.26.5.10 dev eth0 proto bird",
    ),
    (
        "through tunl0",
        {"ipip": ALWAYS},
        {NEAR_HOP: 1, FAR_HOP: 1},
        "nexthop via 172.26.5.10 dev tunl0 weight 1 onlink nexthop via 172.27.0.9 dev tunl0 weight 1 onlink",
    ),
    (
        "one by the tunnel, one beside it",
        {"ipip": CROSS},
        {NEAR_HOP: 1, FAR_HOP: 1},
        "nexthop via 172.26.5.10 dev eth0 weight 1 nexthop via 172.27.0.9 dev tunl0 weight 1 onlink",
    ),
]


@pytest.mark.parametrize(
    ("encapsulation", "hops", "words"), [pytest.param(*row, id=name) for name, *row in SEVERAL]
)
def test_several_next_hops_of_bgp_are_one_route_each_as_it_would_be_alone(
    encapsulation: dict[str, EncapsulationMode], hops: dict[IPv4Address, int], words: str
) -> None:
    given = facts(
        pool(**encapsulation),
        bgp_nexthops={network("192.168.77.0/26"): NextHopSet.of(hops)},
        block_owners={},
        endpoints=(),
    )
    (line,) = lines(given)
    assert words in line


def test_several_next_hops_out_of_reach_have_no_route_and_the_reason_of_the_first() -> None:
    prefix, without = network("192.168.77.0/26"), {}
    hops = NextHopSet.of({address("192.0.2.1"): 1, address("192.0.2.2"): 1})
    given = facts(pool(), bgp_nexthops={prefix: hops})
    assert list(learned_routes(given, given.bgp_nexthops.items(), without)) == []
    assert without == {RouteKey(prefix): NoRoute(address("192.0.2.1"), "no route of this host leads there")}


PREFIXES = st.builds(
    lambda base, offset, length: IPv4Network((int(base) + offset, length), strict=False),
    st.sampled_from(
        [address("192.168.0.0"), address("192.168.77.0"), address("10.96.0.0"), address("8.0.0.0")]
    ),
    st.integers(0, 600),
    st.sampled_from((8, 15, 16, 24, 26, 30, 32)),
)
END = st.sampled_from(
    [
        address("172.26.5.10"),
        address("172.27.0.9"),
        address("192.0.2.1"),
        IPv6Address("fe80::9%eth0"),
        NextHopSet.of({address("172.26.5.10"): 1, address("192.0.2.1"): 2}),
        None,
    ]
)
KEYS = st.one_of(PREFIXES.map(RouteKey), st.just(RouteKey(ip_network("fd00::/64"))))


@given(st.dictionaries(KEYS, END, max_size=12), st.sampled_from((NEVER, ALWAYS, CROSS)), st.booleans())
def test_what_is_learned_together_gets_the_routes_and_reasons_of_each_alone(
    hops: dict[RouteKey, NextHops | None], vxlan: EncapsulationMode, filtered: bool
) -> None:
    inner = replace(pool(ipip=CROSS), name="inner", cidr=network("192.168.77.0/24"))
    admissible = PrefixFilter(
        never=((network("192.168.0.7/32"), "ours"),),
        refused=((network("192.168.2.0/24"), "a link"),),
        within=(network("192.168.0.0/16"), network("10.96.0.0/12"), ip_network("fd00::/8")),
    )
    some = facts(inner, pool(vxlan=vxlan), services=(network("10.96.0.0/16"),))
    some = replace(some, from_peers=admissible) if filtered else some
    without: dict[RouteKey, NoRoute] = {}
    without_alone: dict[RouteKey, NoRoute] = {}
    together = list(learned_routes(some, hops.items(), without))
    alone = [route for pair in hops.items() for route in learned_routes(some, [pair], without_alone)]
    assert (together, without) == (alone, without_alone)


ON_LINK = IPv6Address("fe80::9%eth0")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            pool(), ["192.168.77.0/26 via inet6 fe80::9 dev eth0 proto bird"], id="no encapsulation"
        ),
        pytest.param(pool(ipip=ALWAYS), [], id="an IPv4 tunnel has no IPv6 end"),
        pytest.param(pool(ipip=CROSS), [], id="nor where it spares a subnet"),
        pytest.param(pool(vxlan=ALWAYS), [], id="nor has VXLAN"),
    ],
)
def test_ipv4_goes_by_a_link_local_next_hop_on_the_link_that_its_zone_names(
    given: Pool, expected: list[str]
) -> None:
    hops = {network("192.168.77.0/26"): ON_LINK}
    assert lines(facts(given, bgp_nexthops=hops, endpoints=(), block_owners={})) == expected


@pytest.mark.parametrize("zone", ["%eth7", ""], ids=["no such link", "no zone"])
def test_a_link_local_next_hop_on_no_link_of_this_node_is_out_of_reach(zone: str) -> None:
    hops = {network("0.0.0.0/0"): IPv6Address(f"fe80::9{zone}")}
    assert lines(facts(pool(), bgp_nexthops=hops, endpoints=(), block_owners={})) == []


def test_next_hops_resolve_by_no_prefix_of_pods_or_services_and_none_that_is_refused() -> None:
    refused = PrefixFilter(never=((network("10.254.0.0/16"), "somebody's"),))
    given = replace(facts(pool(), services=(network("10.96.0.0/12"),)), from_peers=refused)
    admits = resolving_prefixes(given)
    texts = [
        "10.255.0.12/32",
        "0.0.0.0/0",
        "fd99::9/128",
        "192.168.31.64/26",
        "10.96.5.5/32",
        "10.254.0.9/32",
    ]
    assert [admits(RouteKey(ip_network(text))) for text in texts] == [True, True, True, False, False, False]


def test_learned_routes_into_the_networks_of_services_stay_out_of_the_kernel() -> None:
    near = address("172.26.5.10")
    learned = {network("10.96.0.0/12"): near, network("10.96.5.5/32"): near, network("10.0.0.0/8"): near}
    given = facts(
        pool(), bgp_nexthops=learned, endpoints=(), block_owners={}, services=(network("10.96.0.0/12"),)
    )
    assert lines(given) == ["10.0.0.0/8 via 172.26.5.10 dev eth0 proto bird"]


@pytest.mark.parametrize(
    ("encapsulation", "near", "far"),
    [
        ({}, "via 172.26.5.10 dev eth0 proto 80 onlink", None),
        (
            {"ipip": ALWAYS},
            "via 172.26.5.10 dev tunl0 proto 80 onlink",
            "via 172.27.0.9 dev tunl0 proto 80 onlink",
        ),
        (
            {"ipip": CROSS},
            "via 172.26.5.10 dev eth0 proto 80 onlink",
            "via 172.27.0.9 dev tunl0 proto 80 onlink",
        ),
        (
            {"vxlan": ALWAYS},
            "via 192.168.31.64 dev vxlan.calico onlink",
            "via 192.168.77.0 dev vxlan.calico onlink",
        ),
    ],
    ids=["none", "ipip", "ipip across subnets", "vxlan"],
)
def test_where_there_is_no_bgp_every_route_follows_from_the_datastore(
    encapsulation: dict[str, EncapsulationMode], near: str, far: str | None
) -> None:
    borrowed = {network("192.168.41.200/32"): NEAR, network("192.168.31.70/32"): ME}
    given = facts(
        pool(**encapsulation), bgp_nexthops={}, settings=FactSettings(from_datastore=True), borrowed=borrowed
    )
    expected = [*LOCAL, f"192.168.31.64/26 {near}", f"192.168.41.200 {near}"]
    assert lines(given) == sorted([*expected, *([f"192.168.77.0/26 {far}"] if far else [])])
