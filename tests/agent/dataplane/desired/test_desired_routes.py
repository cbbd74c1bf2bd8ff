"""Wished routes that follow the facts change by change are those of a whole computation, whatever changed."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.desired.desired_routes import DesiredRoutes
from agent.dataplane.inputs.facts import Endpoint
from agent.dataplane.kinds.states import ActualState, DesiredState
from agent.netlink.objects import Kind, Link
from ipam.model import EncapsulationMode
from tests.scenes.reconcilers import route_plan
from tests.scenes.route_facts import HOPS, KEYS, PREFIXES, START, dataplane_of, routes_of

changes = st.one_of(
    st.tuples(st.just("learn"), st.sampled_from(KEYS), st.sampled_from(HOPS)),
    st.tuples(st.just("forget"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.just("own"), st.sampled_from(PREFIXES[:6]), st.booleans()),
    st.tuples(st.just("pod"), st.booleans(), st.none()),
    st.tuples(st.just("mode"), st.sampled_from(EncapsulationMode), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(changes, max_size=4), max_size=12))
def test_following_change_by_change_ends_in_what_a_whole_computation_gives(steps: list[list[tuple]]) -> None:  # type: ignore[type-arg]
    facts, learned = START, {}
    wishes, actual = DesiredRoutes(), ActualState()
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
        facts = replace(facts, learned=learned)
        wished, keys = wishes.follow(facts, touched)
        assert wished == routes_of(facts)
        # And a plan that looks only where something may differ brings the kernel to the same place.
        wish = DesiredState(dataplane_of(facts, wished), complete=True, bgp_complete=True, touched=keys)
        looked_at = None if keys is None else keys | {*plan.conflicts, *plan.waiting}
        plan = route_plan(wish, actual, facts.links, looked_at)
        whole = route_plan(wish, actual, facts.links)
        steps = plan.create, plan.replace, plan.delete
        assert steps == (whole.create, whole.replace, whole.delete)
        actual.wrote(Kind.ROUTE, plan.wanted.items())
        actual.removed(Kind.ROUTE, plan.delete)


def test_a_change_of_one_learned_path_names_one_key() -> None:
    wishes = DesiredRoutes()
    learned = dict.fromkeys(KEYS, HOPS[0])
    facts = replace(START, learned=learned)
    assert wishes.follow(facts, learned)[1] is None
    learned[KEYS[3]] = HOPS[1]
    assert wishes.follow(facts, {KEYS[3]: HOPS[1]})[1] == {KEYS[3]}
    assert wishes.follow(facts, {})[1] == frozenset()
    assert wishes.follow(replace(facts, pools=()), {})[1] is None


def test_a_pod_more_or_less_names_its_keys_and_uncovers_what_it_hid() -> None:
    wishes = DesiredRoutes()
    address = KEYS[6]
    facts = replace(START, learned={address: HOPS[0]})
    assert str(wishes.follow(facts, None)[0][address]) == "20.0.0.1 via 10.0.0.2 dev eth0 proto bird"
    pod = Endpoint("cali1", (IPv4Address("20.0.0.1"),))
    links = {**facts.links, "cali1": Link(9, "cali1", "veth", 1500, up=True)}
    with_pod = replace(facts, endpoints=(pod,), links=links)
    routes_, keys = wishes.follow(with_pod, {})
    assert (str(routes_[address]), keys) == ("20.0.0.1 dev cali1 scope link", {address})
    routes_, keys = wishes.follow(facts, {})
    assert (str(routes_[address]), keys) == (
        "20.0.0.1 via 10.0.0.2 dev eth0 proto bird",
        {address},
    )
