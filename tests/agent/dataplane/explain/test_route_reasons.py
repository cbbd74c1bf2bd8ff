"""Each route is explained by its facts, and what the next pass would change is what the plan says."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from agent.dataplane.desired.route_producers import RouteClass
from agent.dataplane.explain.dry_run import NextPass, dry_run
from agent.dataplane.explain.route_reasons import (
    ExplainedRoute,
    Reasons,
    explain,
    explain_page,
    nearness,
)
from agent.dataplane.inputs.facts import Facts, FactSettings
from agent.dataplane.inputs.next_hops import Resolution, Resolutions
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.all_kinds import all_kinds
from agent.dataplane.kinds.object_kind import PlannedStep
from agent.dataplane.kinds.states import ActualState, Comparison, DesiredState, RouteSnapshot
from agent.netlink.objects import Link, NextHop, Prefix, Route, RouteKey, RouteType, Scope, Sysctl
from ipam.model import EncapsulationMode
from tests.fakes.kernel import FakeKernel
from tests.scenes.dataplane.reconcilers import Lines
from tests.scenes.dataplane.route_facts import dataplane_of, facts, pool

POD, OWN, NEAR = "192.168.41.193/32", "192.168.41.192/26", "192.168.31.64/26"
WITH_POD = {
    "eth0": facts().links["eth0"],
    "calie486eacd845": Link(9, "calie486eacd845", "veth", 1500, up=True),
    "tunl0": Link(10, "tunl0", "ipip", 1480, up=True),
}


def given(mode: EncapsulationMode = EncapsulationMode.NEVER, **more: object) -> Facts:
    # The filter has its own tests.
    return facts(
        pool(vxlan=mode), links=WITH_POD, **{"settings": FactSettings(filter_workloads=False), **more}
    )


def key(prefix: str) -> RouteKey:
    return RouteKey(ip_network(prefix))


def learned_from(prefix: Prefix) -> str:
    return {NEAR: "near (172.26.5.10)"}.get(str(prefix), "")


def snapshot_of(known: Facts, *changes: Route | str, **more: Any) -> RouteSnapshot:
    """The kernel as desired, but for these: a route that is there instead, the prefix of one that does not."""
    desired = dataplane_of(known)
    routes = dict(desired.routes)
    for change in changes:
        if isinstance(change, str):
            del routes[key(change)]
        else:
            routes[change.key] = change
    state = DesiredState(desired, **{"complete": True, "bgp_complete": True, **more})
    actual = ActualState({Kind.ROUTE: routes, Kind.TUNNEL: desired.tunnels, Kind.SYSCTL: desired.sysctls})
    return RouteSnapshot(state, actual, Ownership(), {}, {})


def said(snapshot: RouteSnapshot, known: Facts, prefix: str) -> ExplainedRoute:
    reasons = Reasons(known, {"calie486eacd845": "web-1"}, learned_from)
    return explain(snapshot, reasons, key(prefix))


PEER = {"peer_gateways": {ip_network("10.9.9.9/32").network_address: facts().nodes["near"].underlay.ip}}  # type: ignore[index]


@pytest.mark.parametrize(
    ("known", "prefix", "kind", "why"),
    [
        (given(), POD, "pod", "pod web-1"),
        (given(), OWN, "blackhole", "this node's block: what no pod has must not leave"),
        (given(), NEAR, "bgp", "learned from near (172.26.5.10), block of near"),
        (given(), "192.168.41.200/32", "bgp", "BGP, next hop 172.26.5.10"),
        (given(EncapsulationMode.CROSS_SUBNET), NEAR, "datastore", "block of near, by its claim"),
        (given(**PEER), "10.9.9.9/32", "peer", "a BGP peer that is on no link"),
    ],
)
def test_a_desired_route_says_why_it_is_there(known: Facts, prefix: str, kind: str, why: str) -> None:
    row = said(snapshot_of(known), known, prefix)
    assert (row.kind, row.why, row.state, row.agrees) == (kind, why, "in place", True)


def test_a_block_of_a_pool_that_becomes_vxlan_is_bgps_until_the_other_has_its_vtep() -> None:
    known = given(EncapsulationMode.ALWAYS)
    nodes = {name: replace(node, vxlan=None) for name, node in known.nodes.items()}
    known = replace(known, nodes=nodes)
    (row,) = explain_page(snapshot_of(known), Reasons(known, {}, learned_from), near=ip_network(NEAR)).routes
    assert row.route == f"{NEAR} via 172.26.5.10 dev tunl0 proto bird onlink"
    assert (row.kind, row.why) == ("bgp", "learned from near (172.26.5.10), block of near")


def test_an_address_borrowed_from_a_block_has_bgps_reason_too_until_its_node_has_its_vtep() -> None:
    known = given(EncapsulationMode.ALWAYS)
    nodes = {name: replace(node, vxlan=None) for name, node in known.nodes.items()}
    row = said(snapshot_of(waiting := replace(known, nodes=nodes)), waiting, "192.168.41.200/32")
    assert (row.kind, row.why) == ("bgp", "BGP, next hop 172.26.5.10")


def test_of_a_next_hop_that_is_on_no_link_or_resolves_no_more_the_reason_says_so() -> None:
    router = NextHop(IPv4Address("172.26.0.1"), "eth0")
    far = given(resolutions=Resolutions(lambda _: Resolution((router,))))
    lost = given(
        resolutions=Resolutions(lambda _: Resolution((router,), "no route of this host leads there"))
    )
    shown = [
        explain(snapshot_of(one), Reasons(one, {}, lambda _: "tor"), key(NEAR)).why for one in (far, lost)
    ]
    assert shown == [
        "learned from tor, next hop 172.26.5.10, block of near",
        "learned from tor, next hop 172.26.5.10, block of near; it leads the way of before, for the next hop does not "
        "resolve: no route of this host leads there",
    ]


def test_what_datastore_and_bgp_both_give_is_said_to_be_the_claims() -> None:
    known = given(settings=FactSettings(from_datastore=True))
    row = said(snapshot_of(known), known, NEAR)
    assert (row.kind, row.why) == ("datastore", "block of near, by its claim")


OLD = Route(key("192.168.99.0/26"), gateway=facts().nodes["near"].underlay.ip, device="eth0")  # type: ignore[index]
STATIC = Route(key(NEAR), device="eth0", protocol=4)
OTHER_TARGET = Route(key(NEAR), RouteType.BLACKHOLE)
CONNECTED = Route(key("172.26.0.0/20"), device="eth0", protocol=2, scope=Scope.LINK)


@pytest.mark.parametrize(
    ("changes", "more", "prefix", "kind", "state"),
    [
        ((NEAR,), {}, NEAR, "bgp", "missing: not written yet"),
        (
            (OTHER_TARGET,),
            {},
            NEAR,
            "bgp",
            "differs: 192.168.31.64/26 via 172.26.5.10 dev eth0 proto bird is desired",
        ),
        ((STATIC,), {}, NEAR, "foreign", "conflict: a route of protocol static is there"),
        ((OLD,), {}, "192.168.99.0/26", "obsolete", "to be removed"),
        (
            (OLD,),
            {"bgp_complete": False},
            "192.168.99.0/26",
            "obsolete",
            "stays until BGP has converged",
        ),
        ((OLD,), {"complete": False}, "192.168.99.0/26", "obsolete", "stays until the datastore was read"),
    ],
)
def test_where_desired_and_actual_state_do_not_agree_the_state_says_how(
    changes: tuple[Route | str, ...], more: dict[str, bool], prefix: str, kind: str, state: str
) -> None:
    known = given()
    row = said(snapshot_of(known, *changes, **more), known, prefix)
    assert row.kind == kind
    assert row.state.startswith(state)
    assert not row.agrees


def test_what_is_others_or_the_kernels_own_is_no_concern() -> None:
    known = given()
    snapshot = snapshot_of(known, CONNECTED, Route(key("10.1.0.0/16"), device="eth0", protocol=4))
    assert said(snapshot, known, "172.26.0.0/20").why == "an address of eth0"
    row = said(snapshot, known, "10.1.0.0/16")
    assert (row.kind, row.why, row.agrees) == ("foreign", "set by static, not by us", True)


def test_a_route_that_waits_or_is_refused_says_for_what() -> None:
    known = given()
    snapshot = replace(
        snapshot_of(known, NEAR, POD), waiting={key(NEAR): "eth0 is down"}, refused={key(POD): "EINVAL"}
    )
    assert said(snapshot, known, NEAR).state == "missing: eth0 is down"
    assert said(snapshot, known, POD).state == "missing: EINVAL"


def test_pages_behind_each_other_are_the_whole_table_once() -> None:
    known = given()
    snapshot = snapshot_of(known, CONNECTED, STATIC)
    reasons, found, after = Reasons(known, {}), [], None
    while True:
        one = explain_page(snapshot, reasons, after=after, most=2)
        assert len(one.routes) <= 2
        found += [row.destination for row in one.routes]
        after = one.last
        if after is None:
            break
    assert len(found) == len(set(found))
    assert set(found) == {
        str(key.destination) for key in (*snapshot.actual.routes, *snapshot.desired.dataplane.routes)
    }


def two(*weights: int) -> Route:
    """To the near node's block by two interfaces."""
    addresses = (ip_address("172.26.5.10"), ip_address("fe80::1"))
    hops = (NextHop(one, f"eth{number}", weight=weights[number]) for number, one in enumerate(addresses))
    return Route(key(NEAR), hops=tuple(hops), route_class=RouteClass.LEARNED)


@pytest.mark.parametrize(
    ("route", "via"),
    [(two(1, 1), "172.26.5.10, fe80::1"), (two(3, 1), "172.26.5.10 weight 3, fe80::1 weight 1")],
)
def test_several_next_hops_are_in_one_row_and_each_by_itself(route: Route, via: str) -> None:
    known = given()
    snapshot = snapshot_of(known, route)
    row = said(snapshot, known, NEAR)
    assert (row.via, row.device) == (via, "eth0, eth1")
    assert row.route.count("nexthop") == 2
    assert [(hop.via, hop.device, hop.weight) for hop in row.hops] == [
        (str(hop.gateway), hop.device, hop.weight) for hop in route.target.hops
    ]
    assert row.state.startswith(f"differs: {NEAR} via 172.26.5.10 dev eth0")
    assert said(snapshot_of(known), known, NEAR).hops == ()
    dataplane = replace(snapshot.desired.dataplane, routes={route.key: route})
    desired = replace(snapshot, desired=replace(snapshot.desired, dataplane=dataplane))
    nobody = explain(desired, Reasons(replace(known, bgp_nexthops={}), {}), route.key)
    assert (nobody.state, nobody.why) == ("in place", "BGP, next hop 172.26.5.10 and fe80::1, block of near")


async def test_of_several_next_hops_one_that_cannot_be_used_now_is_waited_for() -> None:
    known, route = given(), two(3, 1)
    left = Route.from_target(route.key, route.target.through(route.target.hops[:1]))
    snapshot = snapshot_of(known, left)
    routes = {**snapshot.desired.dataplane.routes, route.key: route}
    dataplane = replace(snapshot.desired.dataplane, routes=routes)
    snapshot = replace(snapshot, desired=replace(snapshot.desired, dataplane=dataplane))
    (step,) = await steps(snapshot, known)
    assert (step.verb, step.what, step.was, step.why) == (
        *("wait", str(route), str(left)),
        "eth1 is not there",
    )


@pytest.mark.parametrize(
    ("near", "foreign", "expected"),
    [
        (NEAR, False, [NEAR]),
        ("192.168.41.193/32", False, [OWN, POD]),
        ("172.16.0.0/12", False, ["172.26.0.0/20"]),
        (None, True, ["10.1.0.0/16"]),
    ],
)
def test_a_table_is_narrowed(near: str | None, foreign: bool, expected: list[str]) -> None:
    known = given()
    snapshot = snapshot_of(known, CONNECTED, Route(key("10.1.0.0/16"), device="eth0", protocol=4))
    found = explain_page(
        snapshot, Reasons(known, {}), near=ip_network(near) if near else None, foreign=foreign
    )
    assert [row.destination for row in found.routes] == expected


def network(version: int, number: int, length: int) -> Prefix:
    """Of few different addresses, so that many overlap."""
    bits = {4: 32, 6: 128}[version]
    return ip_network(((number << (bits - 8)) | number, min(length, bits)), strict=False)


networks = st.builds(network, st.sampled_from([4, 6]), st.sampled_from([0, 1, 128, 255]), st.integers(0, 128))


@hypothesis.given(near=networks, other=networks)
@hypothesis.settings(derandomize=True, max_examples=500)
def test_nearness_by_octets_is_overlap(near: Prefix, other: Prefix) -> None:
    expected = near.version == other.version and near.overlaps(other)
    assert nearness(near)(RouteKey(other)) == expected


async def next_pass(snapshot: RouteSnapshot, known: Facts, **held: str) -> NextPass:
    kinds = all_kinds(FakeKernel(), Lines(), ownership=Ownership(), tunnel_grace_seconds=5.0)
    given = Comparison(snapshot.desired, snapshot.actual, known.links)
    return await dry_run(kinds, given, Reasons(known, {}, learned_from), held)


async def steps(snapshot: RouteSnapshot, known: Facts) -> list[PlannedStep]:
    return list((await next_pass(snapshot, known)).steps)


async def test_a_kernel_as_desired_has_no_next_step() -> None:
    known = given()
    assert await steps(snapshot_of(known), known) == []


@pytest.mark.parametrize(
    ("changes", "verb", "what", "why"),
    [
        ((NEAR,), "create", "192.168.31.64/26 via 172.26.5.10 dev eth0 proto bird", "learned from near"),
        ((OTHER_TARGET,), "replace", "192.168.31.64/26 via", "learned from near"),
        ((STATIC,), "conflict", "192.168.31.64/26 via", "is not ours"),
        ((OLD,), "delete", "", "nothing asks for it any more"),
    ],
)
async def test_each_difference_is_a_step_with_its_reason(
    changes: tuple[Route | str, ...], verb: str, what: str, why: str
) -> None:
    known = given()
    (step,) = await steps(snapshot_of(known, *changes), known)
    assert (step.kind, step.verb) == ("route", verb)
    assert step.what.startswith(what)
    assert why in step.why
    assert bool(step.was) == (verb != "create")


async def test_sysctls_and_tunnels_are_steps_and_reserves_are_said() -> None:
    known = given(EncapsulationMode.ALWAYS)
    snapshot = snapshot_of(known, complete=False)
    snapshot.actual.adopt(Kind.TUNNEL, {})
    snapshot.actual.adopt_some(Kind.SYSCTL, {"net/ipv4/ip_forward": Sysctl("net/ipv4/ip_forward", "0")})
    found = await next_pass(snapshot, known, route="50 of 60")
    assert [(one.kind, one.verb) for one in found.steps][:1] == [("tunnel", "create")]
    assert any(one.what == "net/ipv4/ip_forward = 1" for one in found.steps)
    assert found.reserves == (
        "the datastore was not read as a whole yet: nothing is replaced or deleted",
        "a mass removal is held back: route: 50 of 60",
    )
