"""What of the dataplane is not in force is one sentence for each reason, with what is lost and what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from agent.dataplane.cooperative import run_now
from agent.dataplane.desired.desired_routes import DesiredRoutes
from agent.dataplane.desired.route_producers import NoRoute
from agent.dataplane.explain.route_troubles import MOST_NAMED, RouteTroubles, Surroundings, route_troubles
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.kernel.calico_names import TUNL0
from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.states import ActualState, DesiredState, RouteSnapshot
from agent.netlink.objects import NextHop, Prefix, Route, RouteKey, RouteType, Tunnel, TunnelKind
from agent.trouble import Trouble
from ipam.model import NodeName
from tests.scenes.dataplane.route_facts import ALWAYS, FAR, HOPS, NEAR, facts, pool

BLOCK = RouteKey(IPv4Network("192.168.31.64/26"))
LEARNED = Route(BLOCK, gateway=IPv4Address("172.26.5.10"), device="eth0")
THROUGH_TUNNEL = Route(BLOCK, gateway=IPv4Address("172.26.5.10"), device=TUNL0, onlink=True)
POD = Route(RouteKey(IPv4Network("192.168.41.193/32")), device="cali1")
IPIP = Tunnel(TUNL0, TunnelKind.IPIP, 1480, IPv4Address("192.168.41.192"))
STATIC = Route(BLOCK, gateway=IPv4Address("172.26.0.1"), device="eth0", protocol=4)


def snapshot(
    *desired: Route,
    actual: tuple[Route, ...] = (),
    tunnels: Mapping[str, Tunnel] | None = None,
    complete: bool = True,
    bgp_complete: bool = True,
    **more: Any,
) -> RouteSnapshot:
    """A pass that ended so."""
    wanted = Dataplane(routes={route.key: route for route in desired}, tunnels=tunnels or {})
    state = DesiredState(wanted, complete=complete, bgp_complete=bgp_complete)
    there = ActualState({Kind.ROUTE: {route.key: route for route in actual}})
    return RouteSnapshot(state, there, Ownership(), more.pop("waiting", {}), more.pop("refused", {}), **more)


def told(
    given: RouteSnapshot, without: Mapping[RouteKey, NoRoute] | None = None, **around: Any
) -> list[Trouble]:
    return list(route_troubles(given, (without or {}).items(), Surroundings(**around)))


def sentences(*given: Any, **more: Any) -> list[str]:
    return [f"{one.kind.value}: {one}" for one in told(*given, **more)]


def test_a_tunnel_that_cannot_be_made_is_named_with_what_cannot_be_reached_and_what_keeps_its_old_way() -> (
    None
):
    given = snapshot(
        THROUGH_TUNNEL,
        actual=(LEARNED,),
        tunnels={TUNL0: IPIP},
        waiting={BLOCK: "tunl0 is not there"},
        failures=((Kind.TUNNEL, TUNL0, "this kernel has no ipip: load the module ipip"),),
    )
    assert sentences(given) == [
        "tunnel: tunl0: this kernel has no ipip: load the module ipip; 192.168.31.64/26 waits for it, "
        "and keeps the way of before"
    ]


def test_a_tunnel_that_is_not_desired_any_more_is_no_trouble() -> None:
    assert sentences(snapshot(failures=((Kind.TUNNEL, TUNL0, "this kernel has no ipip"),))) == []


@pytest.mark.parametrize(
    ("why", "now_named", "end"),
    [
        (
            "cali1 is not there",
            "foo",
            "cali1 has been renamed to foo; 192.168.41.193/32 cannot be reached; name it cali1 again: "
            "ip link set foo name cali1",
        ),
        (
            "cali1 is not there",
            None,
            "cali1 is not there, nor has it another name here: it was deleted, or moved to another network namespace; "
            "192.168.41.193/32 cannot be reached; move it back, or recreate the pod; if the pod is gone, its DEL ends "
            "this",
        ),
        ("cali1 is down", None, "cali1 is down; 192.168.41.193/32 cannot be reached; ip link set cali1 up"),
    ],
)
def test_an_interface_that_is_gone_renamed_or_down_is_named_with_its_pod(
    why: str, now_named: str | None, end: str
) -> None:
    given = snapshot(POD, waiting={POD.key: why})
    found = sentences(given, pods=lambda: {"cali1": "web"}, now_named=lambda _: now_named)
    assert found == [f"interface: pod web (cali1): {end}"]


SEVERAL = Route(
    BLOCK, hops=(NextHop(IPv4Address("172.26.5.10"), "eth0"), NextHop(IPv6Address("fe80::1"), "eth1"))
)
OTHER = Route(RouteKey(IPv4Network("192.168.32.0/26")), hops=SEVERAL.target.hops)


def test_next_hops_that_an_interface_takes_with_it_are_told_by_the_interface() -> None:
    """With the others left, and with none."""
    left = Route(BLOCK, gateway=IPv4Address("172.26.5.10"), device="eth0")
    without = "eth1 has no carrier; 192.168.31.64/26 has its other next hops alone"
    cure = "look at its cable, and at what is at the other end"
    given = snapshot(SEVERAL, actual=(left,), waiting={BLOCK: "eth1 has no carrier"})
    assert sentences(given) == [f"interface: eth1: {without}; {cure}"]
    given = snapshot(SEVERAL, waiting={BLOCK: "eth0 is down, eth1 has no carrier"})
    assert sentences(given) == [
        "interface: eth0: eth0 is down; 192.168.31.64/26 cannot be reached; ip link set eth0 up",
        f"interface: eth1: eth1 has no carrier; 192.168.31.64/26 cannot be reached; {cure}",
    ]
    waiting = {BLOCK: "eth1 has no carrier", OTHER.key: "eth1 has no carrier"}
    assert sentences(snapshot(SEVERAL, OTHER, actual=(left,), waiting=waiting)) == [
        f"interface: eth1: {without}, 1 more cannot be reached; {cure}"
    ]


def test_a_refused_route_of_several_next_hops_names_them() -> None:
    (only,) = sentences(snapshot(SEVERAL, refused={BLOCK: "Nexthop has invalid gateway"}))
    assert only.startswith(
        "route: routes via 172.26.5.10 dev eth0 and via inet6 fe80::1 dev eth1: the kernel refuses"
    )


def test_a_route_of_somebody_else_in_our_place_is_told_with_whose_it_is() -> None:
    (only,) = sentences(snapshot(LEARNED, actual=(STATIC,), conflicts={BLOCK: STATIC}))
    assert only.startswith(
        "route: routes of protocol static in the place of ours: 192.168.31.64/26: a route of protocol static is there"
    )


def test_a_refusal_of_the_kernels_is_told_with_its_word() -> None:
    (only,) = sentences(snapshot(LEARNED, refused={BLOCK: "Network is unreachable"}))
    assert only.startswith(
        "route: routes via 172.26.5.10 dev eth0: the kernel refuses 192.168.31.64/26: Network is unreachable"
    )


def test_what_else_the_kernel_refuses_is_told_but_for_the_filter_which_has_its_own_watch() -> None:
    failures = ((Kind.SYSCTL, "net/ipv4/ip_forward", "Read-only file system"), (Kind.FILTER, "x", "no"))
    assert sentences(snapshot(failures=failures)) == [
        "kernel: sysctl: the kernel refuses net/ipv4/ip_forward: Read-only file system; it is not in force; "
        "it is tried again"
    ]


def test_nothing_is_a_trouble_before_the_datastore_was_read_and_no_path_is_missed_before_bgp_converged() -> (
    None
):
    refused = {BLOCK: "Network is unreachable"}
    assert sentences(snapshot(LEARNED, complete=False, refused=refused)) == []
    missing = {BLOCK: NoRoute(NEAR, "")}
    assert sentences(snapshot(bgp_complete=False), missing) == []
    assert sentences(snapshot(), missing, expects_bgp=lambda: False) == []
    assert sentences(snapshot(), missing, mesh=lambda: {NEAR: "the session with it is Active"}) == [
        "route: node near: 192.168.31.64/26 has no route here: no BGP peer announces them, and the session with it is "
        "Active; packets to them go another way, or nowhere"
    ]


def test_a_block_that_a_router_may_lead_to_is_no_trouble_without_a_session_with_its_node() -> None:
    bare, through_tunnel = {BLOCK: NoRoute(NEAR, "", is_bare=True)}, {BLOCK: NoRoute(NEAR, "")}
    default = Route(
        RouteKey(IPv4Network("0.0.0.0/0")), gateway=IPv4Address("172.26.0.1"), device="eth0", protocol=16
    )
    summary = Route(RouteKey(IPv4Network("192.168.0.0/18")), gateway=IPv4Address("172.26.0.1"), device="eth0")
    blackhole = Route(RouteKey(IPv4Network("192.168.0.0/18")), RouteType.BLACKHOLE)
    assert len(told(snapshot(), bare)) == 1
    assert told(snapshot(actual=(default,)), bare) == []
    assert len(told(snapshot(actual=(default,)), through_tunnel)) == 1
    assert told(snapshot(actual=(summary,)), through_tunnel) == []
    assert len(told(snapshot(actual=(blackhole,)), through_tunnel)) == 1
    session = {NEAR: "the session with it is Established"}
    assert len(told(snapshot(actual=(default,)), bare, mesh=lambda: session)) == 1


def test_twenty_thousand_routes_without_a_way_are_one_trouble_and_are_gone_through_once() -> None:
    prefixes: list[Prefix] = [IPv4Network((0x0A000000 + (number << 8), 24)) for number in range(20_000)]
    hop = IPv4Address("10.99.0.9")
    given = facts(pool(), bgp_nexthops=dict.fromkeys(prefixes, hop), block_owners={})
    desired = DesiredRoutes()
    run_now(desired.update(given, None))
    asked: list[int] = []

    def without() -> Any:
        asked.append(1)
        return desired.without()

    troubles = RouteTroubles(lambda: snapshot(number=7), without, Surroundings())
    (only,) = troubles.troubles()
    assert str(only) == (
        "BGP next hop 10.99.0.9: 20000 prefixes, 10.0.0.0/24 among them, have no route here: no route of this host "
        "leads there; packets to them go another way, or nowhere"
    )
    assert list(troubles.troubles()) == [only]
    began = time.process_time()
    for _ in range(100):
        assert list(troubles.troubles()) == [only]
    assert time.process_time() - began < 0.1
    assert len(asked) == 2  # once more when the sessions became part of it


def test_very_many_next_hops_without_a_way_are_a_few_troubles_and_a_count() -> None:
    without = {
        RouteKey(IPv4Network((0x0A000000 + (number << 8), 24))): NoRoute(IPv4Address(number), "no interface")
        for number in range(1, 501)
    }
    found = told(snapshot(), without)
    assert len(found) == MOST_NAMED + 1
    assert (
        found[-1].evidence
        == f"{500 - MOST_NAMED} more next hops and nodes have prefixes without a route here"
    )


def why_not(**more: Any) -> list[str]:
    desired = DesiredRoutes()
    pools = more.pop("pools", (pool(),))
    given = facts(*pools, **{"bgp_nexthops": {}, **more})
    run_now(desired.update(given, None))
    found = told(snapshot(), dict(desired.without()), mesh=lambda: {NEAR: "it is up", FAR: "it is down"})
    return [str(one).removesuffix("; packets to them go another way, or nowhere") for one in found]


def test_why_there_is_no_route_is_told_by_next_hop_and_by_node() -> None:
    near, far = IPv4Network("192.168.31.64/26"), IPv4Network("192.168.77.0/26")
    nodes = facts().nodes
    vxlan = (pool(vxlan=ALWAYS),)
    bare = replace(nodes[NEAR], vxlan=None)
    assert why_not(block_owners={near: NEAR}) == [
        "node near: 192.168.31.64/26 has no route here: no BGP peer announces them, and it is up"
    ]
    assert why_not(block_owners={near: NEAR}, bgp_nexthops={near: IPv4Address("172.26.5.10")}) == []
    assert why_not(pools=(pool(disable_bgp_export=True),), block_owners={near: NEAR}) == []
    assert why_not(block_owners={near: NEAR}, bgp_nexthops={near: IPv4Address("10.7.7.7")}) == [
        "BGP next hop 10.7.7.7: 192.168.31.64/26 has no route here: no route of this host leads there"
    ]
    assert why_not(
        block_owners={far: FAR},
        bgp_nexthops={far: IPv4Address("172.27.0.9")},
        peer_gateways={IPv4Address("172.27.0.9"): IPv4Address("172.28.0.1")},
    ) == [
        "BGP next hop 172.27.0.9: 192.168.77.0/26 has no route here: of its gateway 172.28.0.1: no route of this host "
        "leads there"
    ]
    assert why_not(pools=vxlan, block_owners={near: NEAR}, nodes={**nodes, NEAR: bare}) == [
        "node near: 192.168.31.64/26 has no route here: it has no address on its vxlan.calico"
    ]
    assert why_not(pools=vxlan, block_owners={}, bgp_nexthops={near: IPv4Address("172.26.0.77")}) == [
        "BGP next hop 172.26.0.77: 192.168.31.64/26 has no route here: it is no node's address, and pool default goes "
        "by VXLAN"
    ]
    assert why_not(block_owners={near: NodeName("gone")}) == [
        "node gone: 192.168.31.64/26 has no route here: it is not known, or has no address; packets to them go another "
        "way, or nowhere; if the node is gone for good, `tortie ipam release --node gone` gives its blocks back"
    ]
    assert why_not(
        block_owners={}, bgp_nexthops={IPv6Network("fd00:1::/64"): IPv4Address("172.26.5.10")}
    ) == [
        "BGP next hop 172.26.5.10: fd00:1::/64 has no route here: it is no IPv6 address, as these prefixes need"
    ]


def test_a_claim_of_a_node_without_an_address_of_its_version_of_ip_is_told() -> None:
    six = IPv6Network("fd00:77::/122")
    pools = (replace(pool(), cidr=IPv6Network("fd00:77::/64"), block_length=122),)
    nodes = dict(facts().nodes)
    assert nodes[NEAR].underlay6 is None
    settings = FactSettings(from_datastore=True)
    assert why_not(pools=pools, block_owners={six: NEAR}, settings=settings) == [
        "node near: fd00:77::/122 has no route here: it has no IPv6 address"
    ]


def test_what_has_a_route_again_by_one_change_is_no_trouble_any_more() -> None:
    near, hop = BLOCK, HOPS[2]
    desired = DesiredRoutes()
    given = facts(pool(), bgp_nexthops={near.destination: hop})
    run_now(desired.update(given, None))
    assert dict(desired.without())[near].end == hop
    better = facts(pool(), bgp_nexthops={near.destination: IPv4Address("172.26.5.10")})
    run_now(desired.update(better, {near: IPv4Address("172.26.5.10")}))
    assert near not in dict(desired.without())
    run_now(desired.update(given, {near: hop}))
    assert dict(desired.without())[near].end == hop
    run_now(desired.update(facts(pool(), bgp_nexthops={}), {near: None}))
    assert dict(desired.without())[near] == NoRoute(NEAR, "", is_bare=True)
