"""The looking glass: every path with its reason, in pages that miss nothing."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from bgp.looking_glass import MOST_PREFIXES, Page, Query, RibView, query
from bgp.peer_config import PeerConfig
from bgp.peer_status import counts
from bgp.policy.policy import Action, Policy, PrefixMatch, PrependAs, Rule
from bgp.policy.prefix_filter import PrefixFilter
from bgp.session.fsm import State
from tests.fakes.wire import Node, Wire, address

ONE, TWO, THREE = "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"
MESH, FABRIC = 64512, 65001
TWO_ONLY = PrefixMatch(ip_network(TWO))


def star(policy: Policy | None = None) -> tuple[Wire, Node, Node, Node]:
    """Node 1 between node 2 (of its AS) and node 3 (of another)."""
    wire = Wire()
    one, two, three = wire.node(1, MESH), wire.node(2, MESH), wire.node(3, FABRIC)
    policy = policy or Policy()
    wire.configure(
        one,
        {
            address(2): PeerConfig(address(2), MESH, policy=policy),
            address(3): PeerConfig(address(3), FABRIC),
        },
    )
    wire.configure(two, {address(1): PeerConfig(address(1), MESH)})
    wire.configure(three, {address(1): PeerConfig(address(1), MESH)})
    for node in (one, two, three):
        wire.announce(node)
    wire.until(lambda: one.state(two) is one.state(three) is State.ESTABLISHED)
    return wire, one, two, three


def told(page: Page) -> dict[str, tuple[bool, str]]:
    return {str(seen.prefix): (seen.best, seen.reason) for seen in page.paths}


def view(which: RibView = RibView.KNOWN, last: int | None = None, prefix: str | None = None) -> Query:
    return Query(
        which,
        address(last) if last is not None else None,
        ip_network(prefix) if prefix is not None else None,
    )


def test_all_paths_are_shown_with_the_reason_of_the_best_and_of_the_others() -> None:
    wire, one, two, three = star()
    wire.announce(one, ONE)
    wire.announce(two, TWO, THREE)
    wire.announce(three, THREE)
    wire.run(1)
    found = query(one.router, view())
    assert [(str(seen.prefix), str(seen.path.source.address), seen.reason) for seen in found.paths] == [
        (ONE, "0.0.0.0", "the only path"),
        (TWO, "10.0.0.2", "the only path"),
        (THREE, "10.0.0.2", "the others have: longer AS_PATH"),
        (THREE, "10.0.0.3", "longer AS_PATH"),
    ]
    assert [seen.best for seen in found.paths] == [True, True, True, False]


def test_what_a_peer_announced_is_shown_with_what_became_of_it() -> None:
    wire, one, two, three = star(Policy(import_rules=(Rule(Action.REJECT, "rule 7", prefix=TWO_ONLY),)))
    wire.announce(one, ONE)
    wire.announce(two, ONE, TWO, THREE)
    wire.announce(three, ONE)
    wire.run(1)
    assert told(query(one.router, view(RibView.RECEIVED, 2))) == {
        ONE: (False, "not our own"),
        TWO: (False, "refused: rule 7"),
        THREE: (True, "in use"),
    }


def test_what_a_peer_is_advertised_is_shown_as_it_is_advertised() -> None:
    policy = Policy(
        export_rules=(Rule(Action.ACCEPT, "rule 1", prefix=TWO_ONLY, operations=(PrependAs((7,)),)),)
    )
    wire, one, *_ = star(policy)
    wire.announce(one, ONE, TWO)
    wire.run(1)
    page = query(one.router, view(RibView.ADVERTISED, 2))
    assert told(page) == {ONE: (True, "advertised"), TWO: (True, "rule 1")}
    assert [seen.path.attributes.as_path for seen in page.paths] == [(), ((2, (7,)),)]
    assert [str(seen.path.attributes.next_hop) for seen in page.paths] == ["10.0.0.1", "10.0.0.1"]


def test_why_a_peer_is_not_advertised_a_prefix_is_said_for_the_prefix_that_is_asked_for() -> None:
    wire, one, two, three = star(Policy(export_rules=(Rule(Action.REJECT, "rule 9", prefix=TWO_ONLY),)))
    wire.announce(one, TWO)
    wire.announce(two, THREE)
    wire.announce(three, ONE)
    wire.run(1)
    assert told(query(one.router, view(RibView.ADVERTISED, 2))) == {ONE: (True, "advertised")}
    for last, prefix, reason in (
        (2, TWO, "rule 9"),
        (2, THREE, "the peer itself announced it"),
        (3, ONE, "the peer itself announced it"),
    ):
        assert told(query(one.router, view(RibView.ADVERTISED, last, prefix))) == {prefix: (False, reason)}
    assert query(one.router, view(RibView.ADVERTISED, 2, "10.9.0.0/24")).paths == ()


def test_what_an_internal_peer_announced_is_not_advertised_to_another() -> None:
    wire = Wire()
    one, two, three = (wire.node(number, MESH) for number in (1, 2, 3))
    wire.configure(one, {address(last): PeerConfig(address(last), MESH) for last in (2, 3)})
    for node in (two, three):
        wire.configure(node, {address(1): PeerConfig(address(1), MESH)})
    for node in (one, two, three):
        wire.announce(node)
    wire.until(lambda: one.state(two) is one.state(three) is State.ESTABLISHED)
    wire.announce(two, TWO)
    wire.run(1)
    assert told(query(one.router, view(RibView.ADVERTISED, 3, TWO))) == {
        TWO: (False, "an internal peer announced it, and neither of the two is our client")
    }


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (TWO, [TWO]),
        ("10.0.2.9/32", [TWO]),
        ("10.0.2.0/25", []),
        ("10.0.9.1/32", ["10.0.0.0/16"]),
        ("10.9.0.1/32", []),
        ("fd00::1/128", []),
    ],
)
def test_a_prefix_is_found_exactly_and_an_address_by_the_longest_prefix(asked: str, found: list[str]) -> None:
    wire, one, two, _ = star()
    wire.announce(two, "10.0.0.0/16", TWO)
    wire.run(1)
    assert list(told(query(one.router, view(prefix=asked)))) == found


def test_pages_are_bounded_and_miss_nothing_though_the_table_changes() -> None:
    wire, one, *_ = star()
    prefixes = [f"10.{high}.{low}.0/24" for high in range(3) for low in range(100)]
    wire.announce(one, *prefixes)
    seen: list[str] = []
    after = None
    while True:
        page = query(one.router, Query(after=after, most=70))
        assert len(page.paths) <= 70
        seen += [str(one.prefix) for one in page.paths]
        if page.last is None:
            break
        after = page.last
        wire.announce(one, *prefixes[5:])  # what goes before the border does not matter
    assert seen == prefixes
    wire.announce(one, *(f"10.{number >> 8}.{number & 255}.0/24" for number in range(MOST_PREFIXES + 1)))
    assert len(query(one.router, Query(most=10**9)).paths) == MOST_PREFIXES


def test_a_stranger_is_named() -> None:
    _, one, *_ = star()
    with pytest.raises(ValueError, match=r"10\.0\.0\.9 is not a peer"):
        query(one.router, view(RibView.RECEIVED, 9))


def test_the_counts_of_a_peer() -> None:
    wire, one, two, _ = star(Policy(import_rules=(Rule(Action.REJECT, "rule 7", prefix=TWO_ONLY),)))
    wire.announce(one, ONE)
    wire.announce(two, TWO, THREE)
    wire.run(1)
    (found,) = counts(one.router.peers[address(2)]).values()
    assert (found.received, found.refused, found.stale, found.advertised) == (2, 1, 0, 1)


def test_a_path_whose_next_hop_leads_nowhere_is_shown_with_that_reason() -> None:
    wire, one, two, three = star()
    wire.announce(two, TWO)
    wire.announce(three, TWO)
    wire.run(1)
    one.router.set_unreachable_nexthops({address(2)})
    wire.settle(one)
    assert [
        (str(seen.path.source.address), seen.best, seen.reason) for seen in query(one.router, view()).paths
    ] == [
        ("10.0.0.3", True, "the only path"),
        ("10.0.0.2", False, "next hop not reachable"),
    ]
    assert told(query(one.router, view(RibView.RECEIVED, 2))) == {TWO: (False, "next hop not reachable")}


def test_what_is_refused_is_shown_among_all_paths_and_never_hides_what_is_used() -> None:
    wire, one, two, three = star(Policy(import_filter=PrefixFilter(refused=((ip_network(TWO), "a link"),))))
    wire.announce(two, "10.0.2.7/32", TWO, THREE)
    wire.announce(three, "10.0.0.0/16", TWO)
    wire.run(1)
    assert [(str(seen.prefix), seen.best, seen.reason) for seen in query(one.router, view()).paths] == [
        ("10.0.0.0/16", True, "the only path"),
        (TWO, True, "the only path"),
        (TWO, False, "refused: a link"),
        ("10.0.2.7/32", False, "refused: a link"),
        (THREE, True, "the only path"),
    ]
    found = query(one.router, view(prefix="10.0.2.7/32")).paths
    assert [(str(seen.prefix), seen.best) for seen in found] == [
        (TWO, True),
        (TWO, False),
        ("10.0.2.7/32", False),
    ]
