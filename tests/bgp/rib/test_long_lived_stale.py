"""Long-lived graceful restart in virtual time, both roles (RFC 9494)."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.path import Path, Source
from bgp.peer_config import NextHopMode, PeerConfig
from bgp.policy.origination import Origination
from bgp.rib.export import ExportTarget, export_attributes, why_not_exported
from bgp.rib.graceful_restart import Preserved, Retention, Staleness
from bgp.session.fsm import State
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Family
from bgp.wire.iana import WellKnown
from bgp.wire.nlri import Nlri
from tests.fakes.wire import Node, Wire, address

BLOCK, OTHER = "192.168.1.0/26", "192.168.2.0/26"
HOUR = 3600
MESH, FABRIC = 64512, 65001


def best(node: Node, prefix: str) -> Path | None:
    return node.router.ribs[Family.IPV4].best(nlri.pack(ip_network(prefix)))


def tags(node: Node, prefix: str) -> tuple[int, ...]:
    path = best(node, prefix)
    assert path is not None, prefix
    return path.attributes.communities


def pair(wire: Wire, seconds: int = HOUR, **more: Any) -> tuple[Node, Node]:
    """Node 1 asks node 2 to keep its paths for `seconds` behind its restart time."""
    one, two = wire.node(1, **more), wire.node(2)
    wire.peer(one, 2, long_lived_stale_seconds=seconds)
    wire.peer(two, 1, passive=True)
    wire.announce(one, BLOCK, OTHER)
    wire.announce(two)
    wire.until(lambda: len(two.learned()) == 2 and one.router.converged)
    two.changes.clear()
    return one, two


def again(wire: Wire, *prefixes: str, restarting: bool = True, seconds: int = HOUR) -> Node:
    """Node 1 as a new process."""
    node = wire.node(1, restarting=restarting)
    wire.peer(node, 2, long_lived_stale_seconds=seconds)
    if prefixes:
        wire.announce(node, *prefixes)
    return node


def test_a_peer_that_asks_for_it_is_kept_behind_its_restart_time_and_gone_after_its_stale_time() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(119)
    assert tags(two, BLOCK) == ()
    wire.run(2)
    assert tags(two, BLOCK) == (WellKnown.LLGR_STALE,)
    assert two.learned() == {BLOCK: "10.0.0.1", OTHER: "10.0.0.1"}
    wire.run(HOUR - 3)
    assert two.stale() == {BLOCK, OTHER}
    assert {hop for _, hop in two.changes} == {"10.0.0.1"}
    wire.run(3)
    assert two.learned() == {}
    assert two.router.next_deadline() is None  # it waits to be called, and no timer is left
    assert not two.stale()


def test_a_peer_that_does_not_ask_goes_after_its_restart_time() -> None:
    wire = Wire()
    one, two = pair(wire, 0)
    wire.kill(one)
    wire.run(121)
    assert two.learned() == {}


def test_a_restart_time_of_zero_leaves_the_long_lived_period_alone() -> None:
    wire = Wire()
    one, two = pair(wire, restart_seconds=0)
    wire.kill(one)
    wire.run(1)
    assert tags(two, BLOCK) == (WellKnown.LLGR_STALE,)
    wire.run(HOUR)
    assert two.learned() == {}


def test_a_path_that_says_no_llgr_goes_when_the_long_lived_period_begins() -> None:
    wire = Wire()
    one, two = pair(wire)
    one.router.announce(
        {
            ip_network(BLOCK): Origination(communities=(int(WellKnown.NO_LLGR),)),
            ip_network(OTHER): Origination(),
        }
    )
    wire.settle(one)
    wire.run(1)
    wire.kill(one)
    wire.run(119)
    assert set(two.learned()) == {BLOCK, OTHER}
    wire.run(2)
    assert two.learned() == {OTHER: "10.0.0.1"}


@pytest.mark.parametrize("local_pref", [100, 4_000_000_000])
def test_a_long_lived_stale_path_is_the_last_choice_whatever_its_local_pref(local_pref: int) -> None:
    wire = Wire()
    one, two = pair(wire)
    one.router.announce({ip_network(BLOCK): Origination(local_pref=local_pref)})
    wire.settle(one)
    three = wire.node(3)
    wire.peer(three, 2)
    wire.announce(three, BLOCK)
    known = {where: peer.config for where, peer in two.router.peers.items()}
    wire.configure(two, known | {address(3): PeerConfig(address(3), MESH, passive=True)})
    wire.until(lambda: three.state(two) is State.ESTABLISHED)
    wire.run(2)
    assert two.learned()[BLOCK] == "10.0.0.1"
    wire.kill(one)
    wire.run(119)
    assert two.learned()[BLOCK] == "10.0.0.1"
    wire.run(2)
    assert two.learned()[BLOCK] == "10.0.0.3"
    again(wire, BLOCK)
    wire.until(lambda: not two.stale() and two.learned()[BLOCK] == "10.0.0.1")


def test_the_peers_return_makes_its_paths_good_again_one_by_one_and_its_end_of_rib_removes_the_rest() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(1000)
    two.changes.clear()
    back = again(wire, BLOCK)
    wire.until(lambda: back.state(two) is State.ESTABLISHED and not two.stale())
    assert tags(two, BLOCK) == ()
    assert two.learned() == {BLOCK: "10.0.0.1"}
    assert (BLOCK, None) not in two.changes


@pytest.mark.parametrize(
    ("restarting", "seconds"), [(False, HOUR), (True, 0)], ids=["F bit clear", "no longer asked for"]
)
def test_what_is_long_lived_stale_goes_at_once_when_the_new_session_does_not_vouch_for_it(
    *, restarting: bool, seconds: int
) -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(1000)
    back = again(wire, restarting=restarting, seconds=seconds)  # it never announces
    wire.until(lambda: back.state(two) is State.ESTABLISHED)
    wire.run(1)
    assert two.learned() == {}


def test_the_stale_time_runs_on_after_the_peers_return_until_its_end_of_rib() -> None:
    wire = Wire()
    one, two = pair(wire, 200)
    wire.kill(one)
    wire.run(300)
    mute = again(wire, seconds=200)
    wire.until(lambda: mute.state(two) is State.ESTABLISHED)
    assert len(two.learned()) == 2
    wire.run(40)
    assert two.learned() == {}  # long before the 360 s that its End-of-RIB may take


def test_a_second_loss_before_end_of_rib_grants_no_second_stale_time() -> None:
    wire = Wire()
    one, two = pair(wire, 400)
    wire.kill(one)
    wire.run(300)
    mute = again(wire, seconds=400)
    wire.until(lambda: mute.state(two) is State.ESTABLISHED)
    wire.kill(mute)
    wire.run(200)
    assert tags(two, BLOCK) == (WellKnown.LLGR_STALE,)
    wire.run(25)
    assert two.learned() == {}


def test_a_hard_reset_leaves_nothing_to_keep() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.shutdown(one, "for good")
    wire.run(1)
    assert two.learned() == {}


def middle(wire: Wire, asn: int) -> tuple[Node, Node, Node]:
    """Node 1 asks node 2, which passes on to node 3 of AS `asn`, what it says."""
    one, two, three = wire.node(1), wire.node(2), wire.node(3, asn)
    reflects = asn == MESH
    wire.peer(one, 2, long_lived_stale_seconds=HOUR)
    wire.configure(
        two,
        {
            address(1): PeerConfig(address(1), MESH, route_reflector_client=reflects),
            address(3): PeerConfig(address(3), asn, route_reflector_client=reflects),
        },
    )
    wire.peer(three, (2, MESH))
    for node in (two, three):
        wire.announce(node)
    wire.announce(one, BLOCK)
    wire.until(lambda: BLOCK in three.learned())
    return one, two, three


@pytest.mark.parametrize("asn", [MESH, FABRIC], ids=["a reflector's client", "another AS"])
def test_a_peer_that_knows_long_lived_stale_paths_is_advertised_them_as_such(asn: int) -> None:
    wire = Wire()
    one, _, three = middle(wire, asn)
    wire.kill(one)
    wire.run(125)
    assert tags(three, BLOCK) == (WellKnown.LLGR_STALE,)
    path = best(three, BLOCK)
    assert path is not None
    assert path.attributes.local_pref == (100 if asn == MESH else None)


def test_the_owner_of_a_path_is_preferred_to_one_that_a_reflector_kept_long_lived() -> None:
    wire = Wire()
    one, two, three = middle(wire, MESH)
    four = wire.node(4)
    wire.peer(four, 3)
    wire.announce(four, BLOCK)
    known = {where: peer.config for where, peer in three.router.peers.items()}
    wire.configure(three, known | {address(4): PeerConfig(address(4), MESH)})
    wire.run(5)
    assert three.learned()[BLOCK] == "10.0.0.1"
    wire.kill(one)
    wire.run(125)
    assert three.learned()[BLOCK] == "10.0.0.4"
    assert set(two.learned()) == {BLOCK}


def test_all_reflectors_gone_for_an_hour_cost_no_route() -> None:
    wire = Wire()
    reflectors = [wire.node(8), wire.node(9)]
    nodes = [wire.node(last) for last in (1, 2, 3)]
    for one in reflectors:
        wire.peer(one, 1, 2, 3, route_reflector_client=True, long_lived_stale_seconds=86400)
        wire.announce(one)
    for node in nodes:
        wire.peer(node, 8, 9)
    for number, node in enumerate(nodes, 1):
        wire.announce(node, f"192.168.{number}.0/26")
    wire.until(lambda: all(len(node.learned()) == 2 for node in nodes))
    wire.run(60)
    for node in nodes:
        node.changes.clear()
    before = [node.learned() for node in nodes]
    for one in reflectors:
        wire.kill(one)
    wire.run(HOUR)
    assert [node.learned() for node in nodes] == before
    for last in (8, 9):
        back = wire.node(last, restarting=True)
        wire.peer(back, 1, 2, 3, route_reflector_client=True, long_lived_stale_seconds=86400)
        wire.announce(back)
    wire.until(lambda: not any(node.stale() for node in nodes), 400)
    assert [node.learned() for node in nodes] == before
    assert [change for node in nodes for change in node.changes if change[1] is None] == []


def target(*, internal: bool, knows: bool) -> ExportTarget:
    own = IPv4Address("10.0.0.2")
    return ExportTarget(7, internal, MESH, own, NextHopMode.AUTO, True, own, long_lived=knows)


def stale_path() -> Path:
    attributes = PathAttributes(
        next_hop=address(1), local_pref=200, communities=(7, int(WellKnown.LLGR_STALE))
    )
    return Path(attributes, Source(1, address(1), address(1), internal=True))


def test_an_external_peer_that_does_not_know_long_lived_stale_paths_gets_none() -> None:
    path, to = stale_path(), target(internal=False, knows=False)
    assert export_attributes(path, to) is None
    assert why_not_exported(path, to) == (
        "it is long-lived stale, and the peer does not know what that is (RFC 9494)"
    )
    assert export_attributes(path, target(internal=False, knows=True)) is not None


def test_an_internal_one_gets_them_as_the_last_choice_that_leaves_the_as_nowhere() -> None:
    exported = export_attributes(stale_path(), target(internal=True, knows=False))
    assert exported is not None
    assert exported.local_pref == 0
    assert exported.communities == (7, WellKnown.LLGR_STALE, WellKnown.NO_EXPORT)
    exported = export_attributes(stale_path(), target(internal=True, knows=True))
    assert exported is not None
    assert (exported.local_pref, exported.communities) == (200, (7, WellKnown.LLGR_STALE))


@given(data=st.data())
def test_however_a_peer_comes_and_goes_no_path_outlives_both_periods_of_its_last_announcement(
    data: st.DataObject,
) -> None:
    stays = Retention(data.draw(st.integers(0, 5)), data.draw(st.integers(0, 20)))
    staleness, now, is_up = Staleness(), 0.0, True
    announced: dict[Nlri, float] = dict.fromkeys((b"a", b"b", b"c"), now)
    for _ in range(data.draw(st.integers(1, 20))):
        now += data.draw(st.integers(0, 8))
        gone, new = set[Nlri](), set[Nlri]()
        match data.draw(st.sampled_from(("lost", "up", "again", "time"))):
            case "lost" if is_up:
                due = staleness.session_lost(announced, stays, now)
                gone, new, is_up = set(due.gone), set(due.long_lived), False
            case "up" if not is_up:
                gone = staleness.session_established(now, Preserved(restart=True, long_lived=True))
                is_up = True
            case "again" if is_up and announced:
                key = data.draw(st.sampled_from(sorted(announced)))
                staleness.refreshed([key])
                announced[key] = now
            case _:
                due = staleness.expired(now)
                gone, new = set(due.gone), set(due.long_lived)
        assert new <= staleness.long_lived
        for key in gone:
            del announced[key]
        assert set(staleness) <= announced.keys()
        assert staleness.long_lived <= set(staleness)
        if not is_up:
            assert set(staleness) == announced.keys()
            assert staleness.deadline is None or staleness.deadline > now
    if not is_up and announced:
        due = staleness.expired(now + stays.restart_seconds + stays.long_lived_seconds)
        assert due.gone == announced.keys()
        assert staleness.deadline is None


def test_a_dead_machine_is_found_by_its_hold_timer_and_gone_after_its_restart_time() -> None:
    wire = Wire()
    one, two = pair(wire, 0)
    wire.vanish(one)
    wire.run(200)
    assert two.stale() == {BLOCK, OTHER}
    wire.run(15)
    assert two.learned() == {}


def test_a_long_lived_stale_path_without_a_way_to_its_next_hop_is_not_used() -> None:
    wire = Wire()
    one, two = pair(wire)
    wire.kill(one)
    wire.run(125)
    assert set(two.learned()) == {BLOCK, OTHER}
    two.router.set_unreachable_nexthops({address(1)})
    wire.settle(two)
    assert two.learned() == {}
    two.router.set_unreachable_nexthops(())
    wire.settle(two)
    assert tags(two, BLOCK) == (WellKnown.LLGR_STALE,)
