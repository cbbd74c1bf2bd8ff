"""Desired routes that follow the facts change by change are those of a whole computation, whatever changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.cooperative import run_now
from agent.dataplane.desired.desired_routes import Answer, DesiredRoutes
from agent.dataplane.inputs.facts import Endpoint, Facts
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kinds.states import ActualState, DesiredState
from agent.netlink.objects import Link, Route, RouteKey
from bgp.rib.multipath import NextHopSet
from ipam.model import EncapsulationMode
from tests.scenes.dataplane.reconcilers import route_plan
from tests.scenes.dataplane.route_facts import HOPS, KEYS, PREFIXES, START, dataplane_of, routes_of

SEVERAL = [NextHopSet.of({HOPS[0]: 1, HOPS[1]: 2}), NextHopSet.of({HOPS[1]: 1, HOPS[2]: 1})]
changes = st.one_of(
    st.tuples(st.just("learn"), st.sampled_from(KEYS), st.sampled_from([*HOPS, *SEVERAL])),
    st.tuples(st.just("forget"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.just("own"), st.sampled_from(PREFIXES[:6]), st.booleans()),
    st.tuples(st.just("pod"), st.booleans(), st.none()),
    st.tuples(st.just("mode"), st.sampled_from(EncapsulationMode), st.none()),
)


def classes(routes: Mapping[RouteKey, Route]) -> dict[RouteKey, int]:
    """Which are no part of a comparison of routes."""
    return {key: route.target.route_class for key, route in routes.items()}


def follow(
    desired: DesiredRoutes, facts: Facts, touched: Mapping[RouteKey, IPv4Address | None] | None
) -> Answer:
    return run_now(desired.update(facts, touched))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(changes, max_size=4), max_size=12))
def test_following_change_by_change_ends_in_what_a_whole_computation_gives(steps: list[list[tuple]]) -> None:  # type: ignore[type-arg]
    facts, learned = START, {}
    desired, actual = DesiredRoutes(), ActualState()
    plan = route_plan(
        DesiredState(dataplane_of(facts), complete=True, bgp_complete=True), actual, facts.links
    )
    for step in steps:
        touched = {}
        for what, one, other in step:
            if what == "learn":
                learned[one] = touched[one] = other
            elif what == "forget":
                learned.pop(one, None)
                touched[one] = None
            elif what == "own":
                owners = {**facts.block_owners, one: facts.node}
                facts = replace(facts, block_owners=owners if other else {})
            elif what == "pod":
                pod = Endpoint("cali1", (IPv4Address("20.0.0.1"),))
                facts = replace(facts, endpoints=(pod,) if one else ())
            else:
                facts = replace(facts, pools=(replace(facts.pools[0], ipip=one),))
        facts = replace(facts, bgp_nexthops=learned)
        found, keys = follow(desired, facts, touched)
        assert found == routes_of(facts)
        # And a plan that looks only where something may differ brings the kernel to the same place.
        state = DesiredState(dataplane_of(facts, found), complete=True, bgp_complete=True, touched=keys)
        looked_at = None if keys is None else keys | {*plan.conflicts, *plan.waiting}
        plan = route_plan(state, actual, facts.links, looked_at)
        whole = route_plan(state, actual, facts.links)
        steps = plan.create, plan.replace, plan.delete
        assert steps == (whole.create, whole.replace, whole.delete)
        actual.wrote(Kind.ROUTE, plan.wanted.items())
        actual.removed(Kind.ROUTE, plan.delete)


def test_a_change_of_one_learned_path_names_one_key() -> None:
    desired = DesiredRoutes()
    learned = dict.fromkeys(KEYS, HOPS[0])
    facts = replace(START, bgp_nexthops=learned)
    assert follow(desired, facts, learned)[1] is None
    learned[KEYS[3]] = HOPS[1]
    assert follow(desired, facts, {KEYS[3]: HOPS[1]})[1] == {KEYS[3]}
    assert follow(desired, facts, {})[1] == frozenset()
    assert follow(desired, replace(facts, pools=()), {})[1] is None


def test_a_pod_more_or_less_names_its_keys_and_uncovers_what_it_hid() -> None:
    desired = DesiredRoutes()
    address = KEYS[6]
    facts = replace(START, bgp_nexthops={address: HOPS[0]})
    assert str(follow(desired, facts, None)[0][address]) == "20.0.0.1 via 10.0.0.2 dev eth0 proto bird"
    pod = Endpoint("cali1", (IPv4Address("20.0.0.1"),))
    links = {**facts.links, "cali1": Link(9, "cali1", "veth", 1500, up=True)}
    with_pod = replace(facts, endpoints=(pod,), links=links)
    routes_, keys = follow(desired, with_pod, {})
    assert (str(routes_[address]), keys) == ("20.0.0.1 dev cali1 scope link", {address})
    routes_, keys = follow(desired, facts, {})
    assert (str(routes_[address]), keys) == (
        "20.0.0.1 via 10.0.0.2 dev eth0 proto bird",
        {address},
    )
