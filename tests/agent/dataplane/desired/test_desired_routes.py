"""Wished routes that follow the facts change by change are those of a whole computation, whatever changed."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dataplane.desired.route_producers import routes
from agent.dataplane.desired.desired_state import dataplane
from agent.dataplane.desired.desired_routes import DesiredRoutes
from agent.dataplane.inputs.facts import Endpoint, Facts, NodeAddresses
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.diff import ActualState, DesiredState, route_steps
from agent.netlink.objects import Link, RouteKey
from ipam.model import EncapsulationMode, NodeName, Pool

ETH0 = Link(2, "eth0", None, 1500, up=True, addresses=((IPv4Address("10.0.0.1"), 24),))
PREFIXES = [IPv4Network((0x14000000 + (number << 6), 26)) for number in range(6)]
PREFIXES += [IPv4Network("20.0.0.1/32"), IPv4Network("30.0.0.0/24")]
KEYS = [RouteKey(prefix) for prefix in PREFIXES]
HOPS = [IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3"), IPv4Address("10.9.0.9")]
START = Facts(
    node=NodeName("n1"),
    pools=(Pool("p", IPv4Network("20.0.0.0/16"), 26),),
    nodes={NodeName("n1"): NodeAddresses(IPv4Interface("10.0.0.1/24"))},
    links={"eth0": ETH0},
)

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
    wishes, picture = DesiredRoutes(), ActualState()
    plan = route_steps(
        DesiredState(dataplane(facts), complete=True, bgp_complete=True), picture, facts.links, Ownership()
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
        assert wished == routes(facts)
        # And a plan that looks only where something may differ brings the kernel to the same place.
        wish = DesiredState(dataplane(facts, wished), complete=True, bgp_complete=True, touched=keys)
        looked_at = None if keys is None else keys | {*plan.conflicts, *plan.waiting}
        plan = route_steps(wish, picture, facts.links, Ownership(), looked_at)
        whole = route_steps(wish, picture, facts.links, Ownership())
        assert plan.delta == whole.delta
        picture.routes |= {**plan.delta.create, **plan.delta.replace}
        for key in plan.delta.delete:
            del picture.routes[key]


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
