"""A change of one peer's configuration: its session alone may begin anew, and no path is lost by that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bgp.peer_config import NextHopMode
from bgp.policy.policy import Action, Policy, Rule
from bgp.session.fsm import State
from bgp.wire.families import Family
from tests.fakes.wire import Node, Wire, address

MINE, FIRST, SECOND = "192.168.1.0/26", "192.168.2.0/26", "192.168.3.0/26"


def trio(wire: Wire) -> tuple[Node, Node, Node]:
    """Node 1 between 2 and 3; all have told all."""
    one, two, three = (wire.node(last) for last in (1, 2, 3))
    wire.peer(one, 2, 3)
    wire.peer(two, 1, passive=True)
    wire.peer(three, 1, passive=True)
    for node, prefix in ((one, MINE), (two, FIRST), (three, SECOND)):
        wire.announce(node, prefix)
    wire.until(lambda: all(node.router.converged and node.learned() for node in (one, two, three)))
    wire.run(1)
    return one, two, three


def change(wire: Wire, node: Node, last: int, **more: Any) -> None:
    known = {where: peer.config for where, peer in node.router.peers.items()}
    wire.configure(node, known | {address(last): replace(known[address(last)], **more)})


IN_SESSION: list[dict[str, Any]] = [
    {"description": "renamed"},
    {"maximum_prefixes": 10},
    {"passive": True},
    {"port": 1790},
    {"next_hop_mode": NextHopMode.SELF},
    {"allowed_local_as": 2},
    {"enforce_first_as": False},
    {"keepalive_seconds": 3},
    {"ttl_security_hops": 3},
    {"policy": Policy(import_rules=(Rule(Action.REJECT, "nothing"),))},
]
ANEW: list[dict[str, Any]] = [
    {"hold_seconds": 9},
    {"password": "other"},
    {"route_reflector_client": True},
    {"restart_seconds": 20},
    {"long_lived_stale_seconds": 3600},
    {"families": frozenset(Family)},
]


@pytest.mark.parametrize("more", [*IN_SESSION, *ANEW], ids=lambda more: next(iter(more)))
def test_a_change_touches_one_session_at_most_and_costs_no_path(more: dict[str, Any]) -> None:
    wire = Wire()
    one, two, three = trio(wire)
    before, others = list(two.ends), list(three.ends)
    for node in (one, two, three):
        node.changes.clear()
    change(wire, one, 2, **more)
    wire.run(10)
    assert list(three.ends) == others
    assert (list(two.ends) == before) is (more in IN_SESSION)
    assert one.state(two) is one.state(three) is State.ESTABLISHED
    assert two.learned()[MINE] == "10.0.0.1"
    gone = [prefix for node in (one, two, three) for prefix, hop in node.changes if hop is None]
    assert gone == ([FIRST] if "policy" in more else [])
    assert not two.stale()
    assert not one.stale()


def test_without_rfc_8538_the_old_session_ends_without_a_word_and_no_path_is_lost() -> None:
    wire = Wire()
    one, two, _ = trio(wire)
    for node, other in ((one, two), (two, one)):
        session = node.router.peers[other.own].session
        assert session is not None
        restart = session.local.offer.graceful_restart
        assert restart is not None
        offer = replace(session.local.offer, graceful_restart=replace(restart, notification=False))
        session.local = replace(session.local, offer=offer)
    two.changes.clear()
    change(wire, one, 2, hold_seconds=9)
    wire.run(5)
    assert one.state(two) is State.ESTABLISHED
    assert [two.router.peers[one.own].sessions, one.router.peers[two.own].sessions] == [2, 2]
    assert two.router.peers[one.own].last_down is one.router.peers[two.own].last_down is None
    assert None not in {hop for _, hop in two.changes}


def test_another_as_is_another_peer_and_the_old_one_goes() -> None:
    wire = Wire()
    one, _, _ = trio(wire)
    change(wire, one, 2, asn=65002)
    wire.run(1)
    assert one.learned() == {SECOND: "10.0.0.3"}


def test_a_family_that_is_no_longer_wanted_goes_and_one_that_is_wanted_now_comes() -> None:
    wire = Wire()
    one, two, _ = trio(wire)
    wire.announce(two, FIRST, "fd10:2::/64")
    change(wire, two, 1, families=frozenset(Family))
    change(wire, one, 2, families=frozenset({Family.IPV6}))
    wire.run(10)
    assert one.learned() == {"fd10:2::/64": "fd00::2", SECOND: "10.0.0.3"}


def test_more_of_our_own_as_is_accepted_at_once_without_a_word_to_the_peer() -> None:
    wire = Wire()
    rack, fabric, node = wire.node(1), wire.node(2, 65001), wire.node(3)
    wire.peer(rack, (2, 65001))
    wire.peer(fabric, (1, 64512), (3, 64512))
    wire.peer(node, (2, 65001))
    wire.announce(rack, FIRST)
    for other in (fabric, node):
        wire.announce(other)
    wire.run(5)
    assert node.learned() == {}
    before = list(node.ends)
    change(wire, node, 2, allowed_local_as=1)
    assert node.learned() == {FIRST: "10.0.0.2"}
    change(wire, node, 2, allowed_local_as=0)
    assert node.learned() == {}
    assert list(node.ends) == before
