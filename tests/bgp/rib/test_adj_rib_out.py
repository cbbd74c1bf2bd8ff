"""Who is told what, with which attributes: meshes, other autonomous systems, reflectors, limits, leaving."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.instance import Instance
from bgp.path import Path, Source
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.policy.origination import PLAIN
from bgp.rib.decision import best_path, why_not
from bgp.rib.loc_rib import LocRib
from bgp.session.fsm import State
from bgp.wire import messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Family
from bgp.wire.framing import Framing
from bgp.wire.messages import Keepalive, Open, Update
from tests.fakes.paths import lost_by, paths_of
from tests.fakes.wire import Node, Wire

BLOCK, OTHER = "192.168.1.0/26", "192.168.2.0/26"
NARROW = Context(four_octet_as=False, internal=False)


def attributes_of(node: Node, prefix: str) -> PathAttributes:
    best = node.router.ribs[Family.IPV4].best(nlri.pack(IPv4Network(prefix)))
    assert best is not None
    return best.attributes


# -- the decision -----------------------------------------------------------------------------------------------------


def path(
    key: int = 1, *, internal: bool = True, router_id: int = 0, client: bool = False, **fields: object
) -> Path:
    address = IPv4Address(key)
    source = Source(key, address, IPv4Address(router_id or key), internal, client)
    return Path(replace(PathAttributes(next_hop=address), **fields), source)


def sequence(*numbers: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    return ((2, numbers),)


BETTER = [
    ("our own over any LOCAL_PREF", PLAIN.path(), path(1, local_pref=900)),
    ("higher LOCAL_PREF", path(9, local_pref=200, as_path=sequence(1, 2)), path(1, local_pref=100)),
    ("no LOCAL_PREF is 100", path(9), path(1, local_pref=99)),
    ("shorter AS_PATH", path(9, as_path=sequence(1)), path(1, as_path=sequence(2, 3))),
    ("lower ORIGIN", path(9, origin=0), path(1, origin=1)),
    ("lower MED of one AS", path(9, as_path=sequence(7), med=1), path(1, as_path=sequence(7), med=2)),
    ("no MED is 0", path(9, as_path=sequence(7)), path(1, as_path=sequence(7), med=1)),
    ("external over internal", path(9, internal=False, as_path=sequence(7)), path(1, as_path=sequence(8))),
    ("lower identifier", path(9, router_id=1), path(2, router_id=5)),
    ("lower ORIGINATOR_ID", path(9, originator_id=IPv4Address(1)), path(2)),
    ("shorter CLUSTER_LIST", path(9, router_id=1), path(2, router_id=1, cluster_list=(IPv4Address(5),))),
    ("lower address", path(1, router_id=1), path(2, router_id=1)),
]


@pytest.mark.parametrize(("better", "worse"), [pytest.param(*row, id=name) for name, *row in BETTER])
def test_the_rules_of_the_decision_in_their_order(better: Path, worse: Path) -> None:
    assert best_path([worse, better]) is better
    assert best_path([better, worse]) is better
    assert why_not(better, [worse, better]) == ""
    assert why_not(worse, [worse, better]) != ""


def test_med_is_compared_only_within_one_neighbouring_as() -> None:
    cheap = path(9, as_path=sequence(7), med=1)
    dear = path(1, as_path=sequence(7), med=9)
    foreign = path(5, as_path=sequence(8), med=100)
    assert best_path([dear, cheap, foreign]) is foreign


paths = st.builds(
    lambda key, pref, numbers, med, internal: path(
        key, local_pref=pref, as_path=sequence(*numbers), med=med, internal=internal
    ),
    st.integers(1, 9),
    st.sampled_from([None, 100, 200]),
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.sampled_from([None, 0, 5]),
    st.booleans(),
)


@given(
    st.lists(paths, min_size=1, max_size=7, unique_by=lambda one: one.source.key),
    st.randoms(use_true_random=False),
)
def test_the_best_path_does_not_depend_on_the_order_of_arrival(
    candidates: list[Path], random: object
) -> None:
    best = best_path(candidates)
    random.shuffle(candidates)  # type: ignore[attr-defined]
    assert best_path(candidates) is best
    rib = LocRib()
    for one in candidates:
        rib.put([b"\x08\x0a"], one)
    assert rib.best(b"\x08\x0a") is best
    assert rib.drop([b"\x08\x0a"], best.source.key).best == [b"\x08\x0a"]
    rest = [one for one in candidates if one is not best]
    assert rib.best(b"\x08\x0a") is (best_path(rest) if rest else None)


def test_every_path_is_shown_with_the_rule_by_which_it_lost() -> None:
    wire = Wire()
    one, two, three = wire.node(1), wire.node(2), wire.node(3)
    for node, prefixes in ((one, []), (two, [BLOCK]), (three, [BLOCK])):
        wire.peer(node, *([2, 3] if node is one else [1]))
        wire.announce(node, *prefixes)
    wire.run(5)
    shown = paths_of(one.router, IPv4Network(BLOCK))
    assert [(str(path.path.source.address), path.stale, lost_by(path)) for path in shown] == [
        ("10.0.0.2", False, ""),
        ("10.0.0.3", False, "in the set of 2 next hops"),
    ]
    wire.announce(one, BLOCK)
    assert [lost_by(path) for path in paths_of(one.router, IPv4Network(BLOCK))] == [
        "",
        "not our own",
        "not our own",
    ]


# -- who is told ------------------------------------------------------------------------------------------------------


def line(wire: Wire, *asns: int, **more: object) -> list[Node]:
    """Nodes that peer with their neighbours in a row; the first announces BLOCK."""
    nodes = [wire.node(last, asn) for last, asn in enumerate(asns, 1)]
    for last, node in enumerate(nodes, 1):
        beside = [(other, asns[other - 1]) for other in (last - 1, last + 1) if 1 <= other <= len(asns)]
        wire.peer(node, *beside, **(more if last == 2 else {}))
        wire.announce(node, *([BLOCK] if last == 1 else []))
    wire.until(
        lambda: all(peer.state is State.ESTABLISHED for node in nodes for peer in node.router.peers.values())
    )
    wire.run(1)
    return nodes


def test_what_an_ibgp_peer_announced_goes_to_no_other_ibgp_peer() -> None:
    _, two, three = line(Wire(), 64512, 64512, 64512)
    assert two.learned() == {BLOCK: "10.0.0.1"}
    assert three.learned() == {}


def test_what_goes_to_another_as_has_ours_in_front_and_our_next_hop() -> None:
    _, _, three = line(Wire(), 64512, 64512, 65001)
    assert three.learned() == {BLOCK: "10.0.0.2"}
    assert attributes_of(three, BLOCK).as_path == sequence(64512)
    assert attributes_of(three, BLOCK).local_pref is None


def test_what_another_as_announced_goes_inside_with_a_local_pref() -> None:
    _, _, three = line(Wire(), 65001, 64512, 64512)
    assert three.learned() == {BLOCK: "10.0.0.1"}
    assert attributes_of(three, BLOCK).as_path == sequence(65001)
    assert attributes_of(three, BLOCK).local_pref == 100


def test_a_path_through_our_own_as_is_refused() -> None:
    _, _, three = line(Wire(), 64512, 65001, 64512)
    assert three.learned() == {}
    assert three.log == ["our own AS 64512 is in AS_PATH"]


def test_a_withdrawn_block_is_withdrawn_all_along_the_way() -> None:
    wire = Wire()
    one, two, three = line(wire, 64512, 64512, 65001)
    wire.announce(one, OTHER)
    wire.run(1)
    assert two.learned() == {OTHER: "10.0.0.1"}
    assert three.learned() == {OTHER: "10.0.0.2"}


def test_a_reflector_passes_on_with_originator_and_cluster_and_nothing_else_changed() -> None:
    _, _, three = line(Wire(), 64512, 64512, 64512, route_reflector_client=True)
    assert three.learned() == {BLOCK: "10.0.0.1"}
    found = attributes_of(three, BLOCK)
    assert (found.originator_id, found.cluster_list) == (IPv4Address("10.0.0.1"), (IPv4Address("10.0.0.2"),))
    assert (found.local_pref, found.as_path) == (100, ())


def test_two_reflectors_of_one_cluster_do_not_accept_each_other() -> None:
    wire = Wire()
    cluster = IPv4Address("10.255.0.1")
    one, two, three = wire.node(1), wire.node(2, cluster_id=cluster), wire.node(3, cluster_id=cluster)
    wire.peer(one, 2)
    wire.peer(two, 1, 3, route_reflector_client=True)
    wire.peer(three, 2, route_reflector_client=True)
    for node in (two, three):
        wire.announce(node)
    wire.announce(one, BLOCK)
    wire.run(5)
    assert two.learned() == {BLOCK: "10.0.0.1"}
    assert three.learned() == {}


# -- limits and leaving -----------------------------------------------------------------------------------------------


def test_a_peer_that_announces_too_much_is_left_alone_for_minutes() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2)
    wire.peer(two, 1, passive=True, maximum_prefixes=3)
    wire.announce(two)
    wire.announce(one, *[f"10.0.{number}.0/24" for number in range(3)])
    wire.until(lambda: len(two.learned()) == 3)
    wire.announce(one, *[f"10.0.{number}.0/24" for number in range(4)])
    wire.run(0.1)
    assert two.learned() == {}
    assert not two.stale()
    assert one.router.peers[two.own].last_error.startswith(
        "peer said: hard reset: cease, maximum prefixes (6/1)"
    )
    wire.run(290)
    assert two.state(one) is State.ACTIVE
    wire.announce(one, BLOCK)
    wire.until(lambda: two.learned() == {BLOCK: "10.0.0.1"}, seconds=60)


def test_the_paths_of_a_drained_node_go_at_once_and_its_text_is_shown() -> None:
    wire = Wire()
    one, two, _ = line(wire, 64512, 64512, 65001)
    wire.shutdown(one, "replaced ⚙")
    wire.run(0.1)
    assert two.learned() == {}
    why = "peer said: hard reset: cease, administrative shutdown (6/2): replaced ⚙"
    assert two.router.peers[one.own].last_error == why


def test_a_peer_that_takes_no_bytes_is_given_up_after_two_hold_times() -> None:
    wire = Wire()
    one, two, *_ = line(wire, 64512, 64512)
    router, connection = one.router, next(iter(one.ends))
    router.blocked(connection, wire.now, is_full=True)
    wire.run(170)
    assert one.state(two) is State.ESTABLISHED
    two_of_one = two.router.peers[one.own]
    wire.until(lambda: "send hold timer expired (8/0)" in two_of_one.last_error, seconds=15)


def test_a_change_that_concerns_no_session_leaves_it_alone_and_another_begins_it_anew() -> None:
    wire = Wire()
    one, two, *_ = line(wire, 64512, 64512)
    before = list(one.ends)
    wire.peer(one, 2, description="renamed", maximum_prefixes=50, passive=True)
    wire.run(5)
    assert list(one.ends) == before
    wire.peer(one, 2, hold_seconds=9)
    wire.run(5)
    assert list(one.ends) != before
    assert one.state(two) is State.ESTABLISHED


def test_a_peer_that_is_no_longer_passive_begins_to_call() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, passive=True)
    wire.peer(two, 1, passive=True)
    wire.run(20)
    assert one.state(two) is State.ACTIVE
    wire.peer(one, 2)
    wire.run(5)
    assert one.state(two) is State.ESTABLISHED


def test_bad_configuration_is_refused_with_a_sentence() -> None:
    own = IPv4Address("10.0.0.1")
    for make, sentence in (
        (lambda: PeerConfig(own, 0), "AS number 0: must be 1 to 4294967295"),
        (lambda: PeerConfig(own, 1, hold_seconds=2), "hold time 2: must be 0 or at least 3 seconds"),
        (lambda: PeerConfig(own, 1, port=0), "port 0: must be 1 to 65535"),
        (lambda: PeerConfig(own, 1, password="x" * 81), "password: must be at most 80 octets"),
        (lambda: PeerConfig(own, 1, ttl_security_hops=255), "TTL security hops 255: must be 0 to 254"),
        (lambda: SpeakerConfig(1, IPv4Address(0), own), "router id 0.0.0.0 is not allowed"),
        (
            lambda: SpeakerConfig(1, own, own, restart_seconds=5000),
            "restart time 5000: must be 0 to 4095 seconds",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            make()


# -- a neighbour that knows two octets of AS numbers ------------------------------------------------------------------

OLD = IPv4Address("10.0.0.2")


def old_speaker(asn: int = 4200000001) -> tuple[Instance, int]:
    """A router established with an eBGP peer that lacks the AS4 capability."""
    own = IPv4Address("10.0.0.1")
    router = Instance(SpeakerConfig(asn, own, own), lambda: 0.5, 0.0)
    router.configure({OLD: PeerConfig(OLD, 65001, passive=True)}, 0.0)
    router.announce([IPv4Network(BLOCK)])
    connection = router.accept(OLD)
    assert connection is not None
    router.connected(connection, own, 0.0, outgoing=False)
    hello = messages.encode(Open(65001, 90, OLD, Capabilities()), NARROW) + messages.encode(
        Keepalive(), NARROW
    )
    router.received(connection, hello, 0.0)
    router.flush(0.0)
    return router, connection


def test_an_old_speaker_gets_as_trans_and_the_real_path_beside_it() -> None:
    router, connection = old_speaker()
    ((kind, body),) = Framing().receive(router.next_update(connection))
    assert bytes.fromhex("400204" + "02015ba0") in body
    assert bytes.fromhex("c01106" + "0201fa56ea01") in body
    found = messages.decode(kind, body, NARROW)
    assert isinstance(found, Update)
    assert found.attributes is not None
    assert found.attributes.as_path == sequence(4200000001)


AS4 = [
    (
        "the tail is replaced",
        "0203fde95ba05ba0",
        "0202fa56ea10fa56ea11",
        sequence(65001, 4200000016, 4200000017),
    ),
    ("a longer AS4_PATH is ignored", "0201fde9", "0202fa56ea10fa56ea11", sequence(65001)),
    ("a malformed one is ignored", "0202fde95ba0", "0205fa56ea10", sequence(65001, 23456)),
]


@pytest.mark.parametrize(("old", "new", "expected"), [pytest.param(*row, id=name) for name, *row in AS4])
def test_the_real_path_is_put_together_from_both(old: str, new: str, expected: object) -> None:
    router, connection = old_speaker()
    block = "40010100" + f"4002{len(old) // 2:02x}{old}" + "4003040a000002" + f"c011{len(new) // 2:02x}{new}"
    body = (
        b"\0\0" + (len(block) // 2).to_bytes(2, "big") + bytes.fromhex(block) + nlri.pack(IPv4Network(OTHER))
    )
    router.received(connection, b"\xff" * 16 + (19 + len(body)).to_bytes(2, "big") + b"\x02" + body, 0.0)
    best = router.ribs[Family.IPV4].best(nlri.pack(IPv4Network(OTHER)))
    assert best is not None
    assert best.attributes.as_path == expected
