"""Policies between running speakers: what is told and believed, and that a change of policy costs no session."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from bgp.peer_config import PeerConfig
from bgp.policy.origination import Origination, OwnBlocks, by_family
from bgp.policy.policy import Action, AddCommunity, Own, Policy, PrefixMatch, PrependAs, Rule, SetPriority
from bgp.policy.prefix_filter import PrefixFilter
from bgp.session.fsm import State
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Family
from tests.fakes.wire import Node, Wire, address

ONE, TWO, THREE = "192.168.1.0/26", "192.168.2.0/26", "10.9.0.0/24"
MESH, FABRIC = 64512, 65001
TAG = 65000 << 16 | 7
POOL = PrefixMatch(ip_network("192.168.0.0/16"))


def joined(wire: Wire, one: Node, two: Node, policy: Policy, asn: int = MESH) -> None:
    """`one` (of the mesh) peers with `two` under a policy of its own."""
    wire.configure(one, {address(2): PeerConfig(address(2), asn, policy=policy)})
    wire.configure(two, {address(1): PeerConfig(address(1), MESH)})


def pair(policy: Policy, asn: int = MESH) -> tuple[Wire, Node, Node]:
    wire = Wire()
    one, two = wire.node(1, MESH), wire.node(2, asn)
    joined(wire, one, two, policy, asn)
    wire.announce(one)
    wire.announce(two)
    wire.until(lambda: one.state(two) is two.state(one) is State.ESTABLISHED)
    return wire, one, two


def attributes_at(node: Node, prefix: str) -> PathAttributes:
    best = node.router.ribs[Family.IPV4].best(nlri.pack(ip_network(prefix)))
    assert best is not None
    return best.attributes


def sessions(node: Node) -> list[object]:
    return [peer.connection for peer in node.router.peers.values()]


def test_only_what_the_policy_lets_through_is_advertised() -> None:
    policy = Policy(export_rules=(Rule(Action.ACCEPT, prefix=POOL), Rule(Action.REJECT)))
    wire, one, two = pair(policy)
    wire.announce(one, ONE, THREE)
    wire.run(1)
    assert list(two.learned()) == [ONE]


def test_only_what_the_policy_lets_through_is_accepted_and_the_rest_is_stored_with_its_reason() -> None:
    policy = Policy(import_rules=(Rule(Action.REJECT, "not from there", prefix=POOL),))
    wire, one, two = pair(policy)
    wire.announce(two, ONE, THREE)
    wire.run(1)
    assert list(one.learned()) == [THREE]
    (intake,) = one.router.peers[address(2)].adj_ribs_in.values()
    assert intake.rejected == {nlri.pack(ip_network(ONE)): "not from there"}
    assert len(intake.pre_policy) == 2


IN_POOL = PrefixFilter(
    never=((ip_network("192.168.2.0/26"), "somebody's own"),),
    within=(ip_network("192.168.0.0/16"),),
    outside="lies in no pool",
)


def test_what_the_prefix_filter_refuses_is_stored_with_its_reason_whatever_the_rules_say() -> None:
    everything = (Rule(Action.ACCEPT, "all"),)
    wire, one, two = pair(Policy(import_filter=IN_POOL, import_rules=everything))
    wire.announce(two, ONE, TWO, THREE)
    wire.run(1)
    assert list(one.learned()) == [ONE]
    (rib,) = one.router.peers[address(2)].adj_ribs_in.values()
    assert {str(nlri.unpack(key)): why for key, why in rib.rejected.items()} == {
        TWO: "somebody's own",
        THREE: "lies in no pool",
    }
    assert rib.filtered.keys() == rib.rejected.keys()
    wire.announce(two, ONE)
    wire.run(1)
    assert (rib.rejected, rib.filtered) == ({}, {})


def test_a_filter_that_changes_decides_anew_without_a_session_and_without_the_peers_help() -> None:
    wire, one, two = pair(Policy(import_filter=IN_POOL))
    wire.announce(two, ONE, TWO, THREE)
    wire.run(1)
    before = sessions(one)
    for changed, left in (
        (PrefixFilter(), [ONE, TWO, THREE]),
        (PrefixFilter(within=(ip_network("10.0.0.0/8"),)), [THREE]),
        (IN_POOL, [ONE]),
    ):
        wire.configure(one, {address(2): PeerConfig(address(2), MESH, policy=Policy(import_filter=changed))})
        wire.run(1)
        assert sorted(one.learned()) == sorted(left)
        (rib,) = one.router.peers[address(2)].adj_ribs_in.values()
        assert len(rib.filtered) == 3 - len(left)
    assert sessions(one) == before


def test_a_refused_path_is_never_the_best_and_goes_to_nobody_while_another_peers_does() -> None:
    wire = Wire()
    one, two, three, four = (wire.node(number, MESH) for number in range(1, 5))
    refuse, reflect = Policy(import_filter=IN_POOL), {"route_reflector_client": True}
    configs = {
        address(2): PeerConfig(address(2), MESH, policy=refuse, **reflect),  # type: ignore[arg-type]
        address(3): PeerConfig(address(3), MESH, **reflect),  # type: ignore[arg-type]
        address(4): PeerConfig(address(4), MESH, **reflect),  # type: ignore[arg-type]
    }
    wire.configure(one, configs)
    for node in (two, three, four):
        wire.configure(node, {address(1): PeerConfig(address(1), MESH)})
    for node in (one, two, three, four):
        wire.announce(node)
    wire.until(lambda: all(one.state(other) is State.ESTABLISHED for other in (two, three, four)))
    wire.announce(two, ONE, THREE)
    wire.run(1)
    assert list(four.learned()) == [ONE]
    wire.announce(three, THREE)
    wire.run(1)
    assert str(attributes_at(one, THREE).next_hop) == str(address(3))
    assert sorted(four.learned()) == sorted([ONE, THREE])


def test_a_next_hop_that_the_filter_refuses_costs_the_path() -> None:
    elsewhere = PrefixFilter(next_hops=((ip_network(f"{address(2)}/32"), "a pod"),))
    wire, one, two = pair(Policy(import_filter=elsewhere))
    wire.announce(two, ONE)
    wire.run(1)
    assert not one.learned()
    (rib,) = one.router.peers[address(2)].adj_ribs_in.values()
    assert list(rib.rejected.values()) == [f"NEXT_HOP {address(2)} is a pod"]
    assert len(rib.filtered) == 1


def test_one_update_may_fall_apart_into_paths_with_different_attributes() -> None:
    tag = Rule(Action.NEXT, prefix=PrefixMatch(ip_network(ONE)), operations=(AddCommunity(TAG),))
    prefer = Rule(Action.ACCEPT, prefix=PrefixMatch(ip_network(TWO)), operations=(SetPriority(512),))
    wire, one, two = pair(Policy(import_rules=(tag, prefer)))
    wire.announce(two, ONE, TWO, THREE)
    wire.run(1)
    assert attributes_at(one, ONE).communities == (TAG,)
    assert attributes_at(one, TWO).local_pref == 0x7FFFFFFF - 512
    assert attributes_at(one, THREE) == PathAttributes(next_hop=address(2), local_pref=100)


def test_what_a_rule_puts_in_front_of_the_path_stands_before_our_own_as() -> None:
    policy = Policy(export_rules=(Rule(Action.ACCEPT, operations=(PrependAs((MESH, 65008)),)),))
    wire, one, two = pair(policy, FABRIC)
    wire.announce(one, ONE)
    wire.run(1)
    assert attributes_at(two, ONE).as_path == ((2, (MESH, 65008, MESH)),)


def test_a_rule_for_an_external_peer_sees_our_own_as_in_front() -> None:
    policy = Policy(export_rules=(Rule(Action.REJECT, as_path_begins=(MESH,)),))
    wire, one, two = pair(policy, FABRIC)
    wire.announce(one, ONE)
    wire.run(1)
    assert two.learned() == {}


def test_a_change_of_the_outgoing_policy_is_advertised_within_the_same_session() -> None:
    closed = Policy(export_rules=(Rule(Action.REJECT),))
    wire, one, two = pair(closed)
    wire.announce(one, ONE, THREE)
    wire.run(1)
    before = sessions(one)
    steps = (
        (Policy(), [THREE, ONE]),
        (Policy(export_rules=(Rule(Action.REJECT, prefix=POOL),)), [THREE]),
        (closed, []),
    )
    for policy, expected in steps:
        joined(wire, one, two, policy)
        wire.run(1)
        assert sorted(two.learned()) == sorted(expected)
    assert sessions(one) == before


def test_a_change_of_the_incoming_policy_needs_no_word_from_the_peer() -> None:
    closed = Policy(import_rules=(Rule(Action.REJECT, "closed"),))
    wire, one, two = pair(closed)
    wire.announce(two, ONE, THREE)
    wire.run(1)
    before = sessions(one)
    tagged = Policy(import_rules=(Rule(Action.ACCEPT, operations=(AddCommunity(TAG),)),))
    for policy, expected in (
        (Policy(), [THREE, ONE]),
        (Policy(import_rules=(Rule(Action.REJECT, prefix=POOL),)), [THREE]),
        (tagged, [THREE, ONE]),
        (closed, []),
        (tagged, [THREE, ONE]),
    ):
        joined(wire, one, two, policy)
        assert sorted(one.learned()) == sorted(expected)  # at once, without running the wire
    assert attributes_at(one, ONE).communities == (TAG,)
    assert sessions(one) == before


def test_what_is_wrong_in_itself_stays_refused_under_any_policy() -> None:
    wire = Wire()
    one, two = wire.node(1, MESH), wire.node(2, FABRIC)
    loop = Policy(export_rules=(Rule(Action.ACCEPT, operations=(PrependAs((MESH,)),)),))
    wire.configure(one, {address(2): PeerConfig(address(2), FABRIC)})
    wire.configure(two, {address(1): PeerConfig(address(1), MESH, policy=loop)})
    wire.announce(one)
    wire.announce(two, ONE)
    wire.until(lambda: one.state(two) is State.ESTABLISHED)
    wire.run(1)
    other = Policy(import_rules=(Rule(Action.ACCEPT),))
    wire.configure(one, {address(2): PeerConfig(address(2), FABRIC, policy=other)})
    assert one.learned() == {}
    (intake,) = one.router.peers[address(2)].adj_ribs_in.values()
    assert intake.rejected == {nlri.pack(ip_network(ONE)): f"our own AS {MESH} is in AS_PATH"}


def test_a_withdrawn_path_that_was_refused_leaves_nothing() -> None:
    wire, one, two = pair(Policy(import_rules=(Rule(Action.REJECT, "closed"),)))
    wire.announce(two, ONE)
    wire.run(1)
    wire.announce(two)
    wire.run(1)
    (intake,) = one.router.peers[address(2)].adj_ribs_in.values()
    assert (len(intake.pre_policy), intake.rejected) == (0, {})


def test_a_path_rejected_in_an_update_takes_the_place_of_the_one_accepted_before() -> None:
    refuse_tagged = Policy(import_rules=(Rule(Action.REJECT, "tagged", community=TAG),))
    wire, one, two = pair(refuse_tagged)
    wire.announce(two, ONE)
    wire.run(1)
    assert list(one.learned()) == [ONE]
    tag = Policy(export_rules=(Rule(Action.ACCEPT, operations=(AddCommunity(TAG),)),))
    wire.configure(two, {address(1): PeerConfig(address(1), MESH, policy=tag)})
    wire.run(1)
    assert one.learned() == {}


def test_what_others_announce_inside_our_own_block_is_not_passed_on_while_it_is_ours() -> None:
    """A borrowed address goes to the rack by the one that has it, not by the owner of the block."""
    calico = Policy(
        export_rules=(
            Rule(Action.ACCEPT, "own block", own=Own.IS),
            Rule(Action.REJECT, "inside", own=Own.INSIDE),
            Rule(Action.ACCEPT, "pool", prefix=POOL),
            Rule(Action.REJECT),
        )
    )
    wire = Wire()
    one, two, rack = wire.node(1, MESH), wire.node(2, MESH), wire.node(3, FABRIC)
    peers = {
        address(2): PeerConfig(address(2), MESH),
        address(3): PeerConfig(address(3), FABRIC, policy=calico),
    }
    wire.configure(one, peers)
    for node in (two, rack):
        wire.configure(node, {address(1): PeerConfig(address(1), MESH)})
        wire.announce(node)
    wire.announce(one)
    wire.until(lambda: one.state(two) is one.state(rack) is State.ESTABLISHED)
    borrowed, block = "192.168.1.7/32", ip_network(ONE)
    wire.announce(two, borrowed, TWO)
    wire.run(1)
    assert sorted(rack.learned()) == [borrowed, TWO]
    before = sessions(one)
    one.router.announce({block: Origination(is_block=True)})
    wire.settle(one)
    wire.run(1)
    assert sorted(rack.learned()) == [ONE, TWO]
    one.router.announce({block: Origination()})
    wire.settle(one)
    wire.run(1)
    assert sorted(rack.learned()) == [ONE, borrowed, TWO]
    assert sessions(one) == before


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 32), st.integers(0, 32))
def test_a_truncated_prefix_is_the_one_of_the_standard_library(number: int, one: int, two: int) -> None:
    inner = ip_network((number, max(one, two)), strict=False)
    outer = inner.supernet(new_prefix=min(one, two))
    assert nlri.truncated(nlri.pack(inner), outer.prefixlen) == nlri.pack(outer)


def test_the_relation_to_our_own_blocks() -> None:
    prefixes = {ip_network(text): Origination(is_block=True) for text in ("10.0.0.0/26", "10.1.0.0/16")}
    blocks = OwnBlocks(by_family({**prefixes, ip_network("10.2.0.0/16"): Origination()})[Family.IPV4])
    for text, relation in (
        ("10.0.0.0/26", Own.IS),
        ("10.0.0.63/32", Own.INSIDE),
        ("10.0.0.64/32", None),
        ("10.0.0.0/25", None),
        ("10.1.255.0/24", Own.INSIDE),
        ("10.2.0.0/16", None),
        ("10.2.5.0/24", None),
        ("0.0.0.0/0", None),
    ):
        assert blocks.relation(nlri.pack(ip_network(text))) is relation, text
