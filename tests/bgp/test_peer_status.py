"""What is shown of a neighbour: errors decoded, what was agreed, counts, and what became of every path it told."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest

from bgp.looking_glass import Query, RibView, query
from bgp.peer_config import PeerConfig
from bgp.peer_status import ErrorStatus, PeerStatus, peer_status
from bgp.policy.policy import Action, Policy, Rule
from bgp.session.fsm import State
from bgp.session.notification_text import where_defined
from bgp.wire.families import Family
from bgp.wire.iana import Cease, Error, OpenError
from bgp.wire.messages import Notification
from tests.fakes.add_path_peer import PREFIX, AddPathPeer, attributes, identified
from tests.fakes.wire import Node, Wire, address

MINE, THEIRS = "192.168.1.0/26", "192.168.2.0/26"
FAMILIES = frozenset(Family)


def shown(node: Node, other: Node) -> PeerStatus:
    peer = node.router.peers[other.own]
    return peer_status(peer, peer.state, None)


def pair(wire: Wire, **more: object) -> tuple[Node, Node]:
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, families=FAMILIES, **more)
    wire.peer(two, 1, families=FAMILIES, passive=True)
    wire.announce(one, MINE)
    wire.announce(two, THEIRS)
    wire.until(lambda: one.router.converged and two.router.converged)
    return one, two


def test_what_both_can_do_is_said_with_its_rfc() -> None:
    one, two = pair(Wire())
    assert shown(one, two).agreed == shown(two, one).agreed
    assert shown(one, two).agreed == (
        "IPv4 unicast (RFC 4760)",
        "IPv6 unicast (RFC 4760)",
        "four-octet AS numbers (RFC 6793)",
        "route refresh (RFC 2918)",
        "marked route refresh (RFC 7313)",
        "extended messages (RFC 8654)",
        "graceful restart (RFC 4724)",
        "graceful restart after a NOTIFICATION (RFC 8538)",
        "long-lived graceful restart (RFC 9494)",
    )


def test_messages_and_sessions_are_counted() -> None:
    wire = Wire()
    one, two = pair(wire)
    found = shown(one, two)
    assert dict(found.messages_sent)["OPEN"] == dict(found.messages_received)["OPEN"] == 1
    assert dict(found.messages_sent)["UPDATE"] == 3  # a prefix, and two ends of RIB
    assert (found.sessions, found.received, found.announced) == (1, 1, 1)
    wire.cut(one, two)
    wire.run(10)
    assert shown(one, two).sessions == 2


def test_the_last_notification_is_decoded_on_both_sides_and_stays() -> None:
    wire = Wire()
    one, two = pair(wire)
    assert shown(one, two).last_notification is None
    known = {where: peer.config for where, peer in one.router.peers.items()}
    wire.configure(
        one, {where: PeerConfig(where, 64512, hold_seconds=9, families=FAMILIES) for where in known}
    )
    wire.run(0.2)
    expected = ErrorStatus(True, 6, 6, "cease, other configuration change (6/6)", "RFC 4486", "")
    assert shown(one, two).last_notification == expected
    wire.run(10)
    (sent, code, *_) = (shown(two, one).last_notification.sent, shown(two, one).last_notification.code)  # type: ignore[union-attr]
    assert (sent, code, shown(two, one).state) == (False, 6, State.ESTABLISHED)


DEFINED = [
    (Notification(Error.OPEN_MESSAGE, OpenError.BAD_PEER_AS), "RFC 4271 section 6.2"),
    (Notification(Error.OPEN_MESSAGE, OpenError.UNSUPPORTED_CAPABILITY), "RFC 5492 section 5"),
    (Notification(Error.CEASE, Cease.HARD_RESET), "RFC 8538 section 3"),
    (Notification(Error.CEASE, Cease.ADMINISTRATIVE_SHUTDOWN), "RFC 9003"),
    (Notification(Error.FINITE_STATE_MACHINE, 3), "RFC 6608"),
    (Notification(99, 0), ""),
]


@pytest.mark.parametrize(("notification", "where"), DEFINED)
def test_a_code_is_shown_with_where_it_is_defined(notification: Notification, where: str) -> None:
    assert where_defined(notification) == where


@pytest.mark.parametrize("code", Error)
def test_every_code_that_we_name_is_defined_somewhere(code: Error) -> None:
    assert where_defined(Notification(code, 0)).startswith("RFC ")


def reasons(node: Node, last: int) -> dict[str, tuple[bool, str]]:
    page = query(node.router, Query(RibView.RECEIVED, address(last)))
    return {str(seen.prefix): (seen.best, seen.reason) for seen in page.paths}


def test_every_path_that_a_peer_announced_is_shown_with_what_became_of_it() -> None:
    wire = Wire()
    one, two, three, far = wire.node(1), wire.node(2), wire.node(3), wire.node(4, 65004)
    closed = Policy(import_rules=(Rule(Action.REJECT, "filter closed"),))
    wire.peer(one, 2, 3)
    wire.peer(two, 1)
    wire.peer(three, 1)
    wire.announce(two, MINE, THEIRS)
    wire.announce(three, MINE)
    wire.announce(one)
    wire.announce(far)
    wire.until(lambda: len(one.router.next_hops) == 2 and one.router.converged)
    assert reasons(one, 2) == {MINE: (True, "in use"), THEIRS: (True, "in use")}
    assert reasons(one, 3) == {MINE: (False, "in use")}  # beside the best one
    one.router.set_unreachable_nexthops({IPv4Address("10.0.0.2")})
    assert reasons(one, 2)[THEIRS] == (False, "next hop not reachable")
    assert reasons(one, 3) == {MINE: (True, "in use")}
    known = {where: peer.config for where, peer in one.router.peers.items()}
    wire.configure(
        one, known | {address(3): PeerConfig(address(3), 64512, policy=closed, local_address=one.own)}
    )
    assert reasons(one, 3) == {MINE: (False, "refused: filter closed")}


def test_each_of_several_paths_is_shown_by_itself() -> None:
    one = AddPathPeer()
    for number, hop in ((1, 5), (2, 6), (3, 1)):
        one.say(identified(number, PREFIX), attributes=attributes(hop, 100 * number))
    page = query(one.router, Query(RibView.RECEIVED, IPv4Address("10.0.0.2")))
    assert {(seen.path.source.path_id, seen.best, seen.reason) for seen in page.paths} == {
        (1, False, "lower LOCAL_PREF"),
        (2, True, "in use"),
        (3, False, "refused: NEXT_HOP 10.0.0.1 is ourselves"),
    }
    one.say(gone=identified(3, PREFIX))
    page = query(one.router, Query(RibView.RECEIVED, IPv4Address("10.0.0.2"), ip_network(PREFIX)))
    assert [seen.path.source.path_id for seen in page.paths] == [1, 2]
    one.say(gone=identified(1, PREFIX))
    one.say(gone=identified(2, PREFIX))
    assert query(one.router, Query(RibView.RECEIVED, IPv4Address("10.0.0.2"))).paths == ()
