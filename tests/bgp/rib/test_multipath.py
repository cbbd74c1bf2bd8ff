"""Which paths are used side by side, with which weights, and who hears of it when that changes."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.learned_routes import Learned
from bgp.looking_glass import Query, RibView, query
from bgp.path import Path, Source, local_pref
from bgp.peer_config import Multipath, PeerConfig
from bgp.policy.origination import PLAIN
from bgp.rib.graceful_restart import Retention, Staleness
from bgp.rib.loc_rib import Changes, LocRib
from bgp.rib.multipath import NextHops, NextHopSet, next_hops, used_paths, why_not_used
from bgp.session.fsm import State
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.communities import link_bandwidth
from bgp.wire.families import Family
from bgp.wire.nlri import identified
from tests.fakes.paths import paths_of
from tests.fakes.wire import Node, Wire, address

PREFIX = b"\x08\x0a"
BLOCK = "192.168.1.0/26"


def path(
    key: int,
    hop: int | None = None,
    *,
    internal: bool = True,
    asns: tuple[int, ...] = (),
    path_id: int | None = None,
    **more: object,
) -> Path:
    """A path of the peer `key`, over the next hop 10.0.0.`hop`."""
    source = Source(key, IPv4Address(key), IPv4Address(key), internal, path_id=path_id)
    as_path = ((2, asns),) if asns else ()
    attributes = PathAttributes(next_hop=hop_of(hop or key), as_path=as_path)
    return Path(replace(attributes, **more), source)


def hop_of(last: int) -> IPv4Address:
    return IPv4Address(f"10.0.0.{last}")


def width(gigabits: float, kind: int = 0x40) -> bytes:
    """A link bandwidth community."""
    return bytes([kind, 4]) + (64512).to_bytes(2, "big") + struct.pack("!f", gigabits * 125e6)


def shown(hops: NextHops | None) -> str:
    return "" if hops is None else str(hops).replace("10.0.0.", "")


LOOSE, STRICT = Multipath(), Multipath(as_relax=False)
TORS = [path(1, internal=False, asns=(7, 9)), path(2, internal=False, asns=(8, 9))]
SETS = [
    ("two of the mesh", LOOSE, [path(2), path(1)], "1, 2", ["", ""]),
    ("their order is the decision's", LOOSE, [path(1, 9), path(2, 8)], "8, 9", ["", ""]),
    ("one next hop of two reflectors", LOOSE, [path(1, 5), path(2, 5)], "5", ["", ""]),
    ("a lower LOCAL_PREF", LOOSE, [path(1), path(2, local_pref=99)], "1", ["", "lower LOCAL_PREF"]),
    ("no LOCAL_PREF is 100", LOOSE, [path(1), path(2, local_pref=100)], "1, 2", ["", ""]),
    ("a longer AS_PATH", LOOSE, [path(1, asns=(7,)), path(2, asns=(7, 7))], "1", ["", "longer AS_PATH"]),
    ("a higher ORIGIN", LOOSE, [path(1), path(2, origin=2)], "1", ["", "higher ORIGIN"]),
    (
        "a higher MED of one AS",
        LOOSE,
        [path(1, asns=(7,)), path(2, asns=(7,), med=5)],
        "1",
        ["", "higher MED"],
    ),
    ("MED of another AS", LOOSE, [path(1, asns=(7,)), path(2, asns=(8,), med=5)], "1, 2", ["", ""]),
    (
        "external and internal never mixed",
        LOOSE,
        [path(1, asns=(7,)), path(2, internal=False, asns=(7,)), path(3, internal=False, asns=(8,))],
        "2, 3",
        ["internal", "", ""],
    ),
    (
        "what only makes the choice unique",
        LOOSE,
        [
            path(1),
            path(2, cluster_list=(IPv4Address(9),)),
            path(3, originator_id=IPv4Address(1)),
            path(3, 4, path_id=7),
        ],
        "1, 2, 3, 4",
        ["", "", "", ""],
    ),
    ("two ToRs of two AS, relaxed", LOOSE, TORS, "1, 2", ["", ""]),
    ("two ToRs of two AS, not relaxed", STRICT, TORS, "1", ["", "another neighbouring AS"]),
    (
        "two ToRs of one AS, not relaxed",
        STRICT,
        [path(1, internal=False, asns=(7, 8)), path(2, internal=False, asns=(7, 9))],
        "1, 2",
        ["", ""],
    ),
    (
        "internal ones, not relaxed",
        STRICT,
        [path(1, asns=(7, 8)), path(2, asns=(7, 9)), path(3, asns=(7, 8))],
        "1, 3",
        ["", "another AS_PATH", ""],
    ),
    (
        "more than the maximum",
        Multipath(2),
        [path(4), path(3), path(2), path(1, 2)],
        "2, 3",
        ["more than maximum_paths (2)", "", "", ""],
    ),
    ("one is the maximum", Multipath(1), [path(2), path(1)], "1", ["higher identifier", ""]),
    ("our own is used alone", LOOSE, [PLAIN.path(), path(1)], "", ["", "not our own"]),
    ("none", LOOSE, [], "", []),
]


@pytest.mark.parametrize(
    ("how", "paths", "hops", "out"), [pytest.param(*row, id=name) for name, *row in SETS]
)
def test_equal_paths_are_used_side_by_side_and_the_others_say_why_not(
    how: Multipath, paths: list[Path], hops: str, out: list[str]
) -> None:
    for given_in in (paths, paths[::-1]):
        assert shown(next_hops(used_paths(given_in, how), how)) == hops
        assert [why_not_used(one, given_in, how) for one in paths] == out


def test_what_cannot_be_reached_and_what_is_stale_beside_a_fresh_path_is_not_used() -> None:
    one, two, three = path(1), path(2), path(3)
    paths, gone = [one, two, three], {hop_of(2)}
    assert shown(next_hops(used_paths(paths, LOOSE, gone), LOOSE)) == "1, 3"
    assert why_not_used(two, paths, LOOSE, gone) == "next hop not reachable"
    assert shown(next_hops(used_paths(paths, LOOSE, gone, lambda path: path is one), LOOSE)) == "3"
    assert why_not_used(one, paths, LOOSE, gone, lambda path: path is one) == "stale, beside a fresh one"
    # All stale: nothing is better, and nothing is lost.
    assert shown(next_hops(used_paths(paths, LOOSE, gone, lambda _: True), LOOSE)) == "1, 3"
    assert shown(next_hops(used_paths(paths, Multipath(1), (), lambda path: path is one), LOOSE)) == "1"


WEIGHTS = [
    ("as the bandwidths are", [width(10), width(40)], "1, 2 weight 4"),
    ("equal ones", [width(10), width(10)], "1, 2"),
    ("one is missing", [width(10), None], "1, 2"),
    ("a narrow one has a little", [width(1000), width(0.001)], "1 weight 256, 2"),
    ("thirds", [width(10), width(30)], "1 weight 85, 2 weight 256"),
    ("transitive, as later drafts have it", [width(10, 0x00), width(20, 0x00)], "1, 2 weight 2"),
]


@pytest.mark.parametrize(("widths", "hops"), [pytest.param(*row, id=name) for name, *row in WEIGHTS])
def test_link_bandwidth_makes_weights_where_that_is_asked_for_and_all_have_it(
    widths: list[bytes | None], hops: str
) -> None:
    paths = [path(key, extended_communities=(one,) if one else ()) for key, one in enumerate(widths, 1)]
    weighted = Multipath(link_bandwidth=True)
    assert shown(next_hops(used_paths(paths, weighted), weighted)) == hops
    assert shown(next_hops(used_paths(paths, LOOSE), LOOSE)) == "1, 2"


@pytest.mark.parametrize(
    "one",
    [
        *(
            bytes.fromhex(f"4004fc00{value}")
            for value in ("7f800000", "7fc00000", "ff800000", "00000000", "bf800000")
        ),
        bytes.fromhex("4005fc0041200000"),
        bytes.fromhex("4104fc0041200000"),
    ],
    ids=[
        "infinite",
        "no number",
        "minus infinite",
        "zero",
        "negative",
        "another sub-type",
        "of an IPv4 address",
    ],
)
def test_a_bandwidth_that_makes_no_sense_is_none(one: bytes) -> None:
    assert link_bandwidth((one,)) is None
    assert link_bandwidth((one, width(1))) == 125e6


def test_equal_sets_are_one_object_and_so_are_the_paths_of_prefixes_that_were_announced_together() -> None:
    rib, prefixes = LocRib(), [bytes([24, 10, 0, number]) for number in range(100)]
    for key in (1, 2):
        rib.put(prefixes, path(key))
    assert len({id(rib.candidates(prefix)) for prefix in prefixes}) == 1
    found = [hops for _, hops in rib.next_hops_of(prefixes)]
    assert len({id(hops) for hops in found}) == 1
    assert found[0] is rib.hops(prefixes[7]) is NextHopSet.of({hop_of(2): 1, hop_of(1): 1})


# -- histories --------------------------------------------------------------------------------------------------------


Name = tuple[int, int | None]
"""A peer, and a path identifier of its own."""


def packed(number: int) -> bytes:
    return bytes([8, number])


def oracle(
    known: dict[Name, Path], how: Multipath, lost: set[IPv4Address], stale: set[Name]
) -> NextHops | None:
    """The next hops of one prefix, by the rules in plain words."""
    paths = [one for one in known.values() if one.attributes.next_hop not in lost]
    if not paths or any(one.source.is_own for one in paths):
        return None
    rank = [
        lambda one: -local_pref(one),
        lambda one: one.attributes.as_path_length,
        lambda one: one.attributes.origin,
    ]
    for key in rank:
        paths = [one for one in paths if key(one) == min(map(key, paths))]
    paths = [
        one
        for one in paths
        if all(
            (one.attributes.med or 0) <= (other.attributes.med or 0)
            for other in paths
            if other.attributes.neighbour_as == one.attributes.neighbour_as
        )
    ]
    if any(not one.source.internal for one in paths):
        paths = [one for one in paths if not one.source.internal]
    paths.sort(key=lambda one: (int(one.source.router_id), one.source.key, one.source.path_id or 0))
    if how.maximum_paths == 1:
        return paths[0].attributes.next_hop
    fresh = [one for one in paths if (one.source.key, one.source.path_id) not in stale]
    paths = fresh or paths
    if not how.as_relax:
        paths = [one for one in paths if one.attributes.as_path == paths[0].attributes.as_path]
    hops = list(dict.fromkeys(one.attributes.next_hop for one in paths))[: how.maximum_paths]
    return hops[0] if len(hops) == 1 else NextHopSet.of({hop: 1 for hop in hops if hop is not None})


names = st.tuples(st.integers(1, 3), st.sampled_from([None, 1, 2]))
kinds = st.builds(
    lambda hop, pref, asns, med: {"hop": hop, "local_pref": pref, "asns": asns, "med": med},
    st.integers(1, 4),
    st.sampled_from([None, 100, 200]),
    st.sampled_from([(7,), (8,), (7, 8)]),
    st.sampled_from([None, 5]),
)
some_prefixes = st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True)
histories = st.lists(
    st.one_of(
        st.tuples(st.just("put"), names, some_prefixes, kinds),
        st.tuples(st.just("put"), names, some_prefixes, kinds),
        st.tuples(st.just("drop"), names, some_prefixes, st.none()),
        st.tuples(st.just("stale"), names, some_prefixes, st.none()),
        st.tuples(st.just("fresh"), names, some_prefixes, st.none()),
        st.tuples(st.just("lost"), st.tuples(st.integers(0, 15), st.none()), st.just([1]), st.none()),
    ),
    max_size=25,
)
settings_ = st.builds(Multipath, st.sampled_from([1, 2, 16]), st.booleans())


class History:
    """A RIB, and what was said of its prefixes in plain dictionaries."""

    def __init__(self, how: Multipath) -> None:
        self.how = how
        self.rib = LocRib(how)
        self.rib.stale = {key: Staleness() for key in (1, 2, 3)}
        self.told: dict[int, dict[Name, Path]] = {1: {}, 2: {}, 3: {}}
        self.marked: dict[int, set[Name]] = {1: set(), 2: set(), 3: set()}
        self.lost: set[IPv4Address] = set()

    def take(
        self, kind: str, name: Name, numbers: list[int], more: dict[str, object] | None
    ) -> Changes | None:
        prefixes = [packed(one) for one in numbers]
        keys = [identified(name[1], prefix) for prefix in prefixes]
        match kind:
            case "put":
                said = path(name[0], path_id=name[1], internal=name[0] != 1, **(more or {}))  # type: ignore[arg-type]
                for one in numbers:
                    self.told[one][name] = said
                return self.rib.put(prefixes, said)
            case "drop":
                for one in numbers:
                    self.told[one].pop(name, None)
                return self.rib.drop(prefixes, *name)
            case "stale":
                self.rib.stale[name[0]].session_lost(keys, Retention(10), 0.0)
                for one in numbers:
                    self.marked[one].add(name)
            case "fresh":
                self.rib.stale[name[0]].refreshed(keys)
                for one in numbers:
                    self.marked[one].discard(name)
            case _:
                self.lost = {hop_of(bit + 1) for bit in range(4) if name[0] >> bit & 1}
                changed, self.rib.unreachable = (
                    frozenset(self.lost) ^ self.rib.unreachable,
                    frozenset(self.lost),
                )
                self.rib.reselect(
                    [one for one in list(self.rib.prefixes) if self.rib.uses_nexthop(one, changed)]
                )
        return None

    def state(self) -> dict[bytes, tuple[Path | None, NextHops | None]]:
        """What is best, and what is used but for staleness, which is told by itself."""
        found = {}
        for prefix in map(packed, self.told):
            used = used_paths(self.rib.candidates(prefix), self.how, self.lost)
            found[prefix] = self.rib.best(prefix), next_hops(used, self.how)
        return found

    def expected(self) -> dict[bytes, NextHops | None]:
        return {
            packed(one): oracle(self.told[one], self.how, self.lost, self.marked[one]) for one in self.told
        }


@given(histories, settings_)
def test_a_rib_always_has_the_next_hops_that_the_rules_give_and_says_where_they_changed(
    steps: list[tuple[str, Name, list[int], dict[str, object] | None]], how: Multipath
) -> None:
    history = History(how)
    rib = history.rib
    for step in steps:
        before = history.state()
        changes = history.take(*step)
        expected, after = history.expected(), history.state()
        assert {prefix: rib.hops(prefix) for prefix in expected} == expected
        assert dict(rib.next_hops_of(expected)) == expected
        if changes is not None:
            assert {one for one in after if before[one][0] != after[one][0]} <= {*changes.best}
            assert {one for one in after if before[one][1] != after[one][1]} <= {*changes.best, *changes.hops}
            assert not [one for one in changes.hops if before[one][1] == after[one][1]]
            assert len({*changes.best, *changes.hops, *changes.others}) == sum(map(len, changes))


# -- sessions ---------------------------------------------------------------------------------------------------------


def star(wire: Wire, *more: int, **settings: object) -> tuple[Node, list[Node]]:
    """A node and its peers of the mesh, 2, 3 and `more`, who announce one block together."""
    one = wire.node(1)
    if settings:
        one.router.ribs[Family.IPV4].multipath = Multipath(**settings)  # type: ignore[arg-type]
    others = [wire.node(last) for last in (2, 3, *more)]
    wire.peer(one, *(2, 3, *more))
    wire.announce(one)
    for other in others:
        wire.peer(other, 1)
        wire.announce(other, BLOCK)
    wire.until(lambda: one.router.converged)
    wire.run(1)
    return one, others


def hops(node: Node) -> str:
    return shown(node.router.ribs[Family.IPV4].hops(nlri.pack(ip_network(BLOCK))))


def test_a_further_equal_path_reaches_the_dataplane_and_is_exported_to_nobody() -> None:
    wire = Wire()
    one, _ = star(wire)
    eyes = wire.node(9, 65009)
    add_peer(wire, one, 9, 65009)
    wire.peer(eyes, (1, 64512))
    wire.announce(eyes)
    wire.until(lambda: one.state(eyes) is State.ESTABLISHED)
    four = wire.node(4)
    add_peer(wire, one, 4, 64512)
    wire.peer(four, 1)
    wire.announce(four, BLOCK)
    wire.run(5)
    assert hops(one) == "2, 3, 4"
    told = len(updates(wire, one, eyes))
    one.changes.clear()
    wire.announce(four)
    wire.run(1)
    assert hops(one) == "2, 3"
    assert one.changes == [(BLOCK, "10.0.0.2")]
    assert len(updates(wire, one, eyes)) == told


def add_peer(wire: Wire, node: Node, last: int, asn: int) -> None:
    known = {where: peer.config for where, peer in node.router.peers.items()}
    wire.configure(node, known | {address(last): PeerConfig(address(last), asn, local_address=node.own)})


def updates(wire: Wire, one: Node, other: Node) -> list[bytes]:
    return [
        data for _, sender, to, data in wire.sent if (sender, to) == (one.own, other.own) and data[18] == 2
    ]


def test_a_peer_that_restarts_leaves_the_set_until_it_is_back_and_all_that_restart_stay() -> None:
    wire = Wire()
    one, (two, three) = star(wire)
    assert hops(one) == "2, 3"
    wire.kill(two)
    wire.run(1)
    assert hops(one) == "3"
    assert [(seen.used, seen.reason) for seen in paths_of(one.router, ip_network(BLOCK))] == [
        (False, "the others have: higher identifier; stale, beside a fresh one"),
        (True, "in use, with the same next hop"),
    ]
    wire.kill(three)
    wire.run(1)
    assert hops(one) == "2, 3"
    one.changes.clear()
    again = wire.node(3, restarting=True)
    wire.peer(again, 1)
    wire.announce(again, BLOCK)
    wire.until(lambda: hops(one) == "3")
    assert (BLOCK, "10.0.0.2") in one.changes


def test_the_glass_says_of_each_path_whether_it_is_in_the_set_and_the_shell_has_all_next_hops() -> None:
    wire = Wire()
    one, _ = star(wire, 4, 5, maximum_paths=3)
    seen = paths_of(one.router, ip_network(BLOCK))
    assert sorted(
        (str(path.path.source.address)[-1], path.best, path.used, path.reason) for path in seen
    ) == [
        ("2", True, True, "the others have: higher identifier; in the set of 3 next hops"),
        ("3", False, True, "in the set of 3 next hops"),
        ("4", False, True, "in the set of 3 next hops"),
        ("5", False, False, "more than maximum_paths (3)"),
    ]
    (received,) = query(one.router, Query(RibView.RECEIVED, address(4))).paths
    assert (received.best, received.used, received.reason) == (False, True, "in use")
    route = Learned(one.router)[ip_network(BLOCK)]
    assert (str(route.next_hop), shown(route.several)) == ("10.0.0.2", "2, 3, 4")


def test_a_next_hop_that_is_lost_leaves_the_set_and_comes_back() -> None:
    wire = Wire()
    one, _ = star(wire)
    one.changes.clear()
    for lost, left in (({address(3)}, "2"), (set(), "2, 3"), ({address(2), address(3)}, "")):
        one.router.set_unreachable_nexthops(lost)
        wire.settle(one)
        assert hops(one) == left
    assert len(one.changes) == 3


def test_an_update_of_very_many_prefixes_that_have_paths_already_is_worked_out_once() -> None:
    """300,000 prefixes of a second reflector took seven times as long as those of the first."""
    rib, prefixes = LocRib(), [bytes([24, 10, high, low]) for high in range(4) for low in range(250)]
    rib.put(prefixes, path(1))
    rib.put(prefixes, path(2))
    rib.drop(prefixes[:500], 1)
    assert len({id(rib.candidates(prefix)) for prefix in prefixes}) == 2
