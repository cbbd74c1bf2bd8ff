"""What a peer's configuration changes: AS numbers, next hops, timers, and what our own prefixes say of themselves."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from bgp.peer_config import NextHopMode, PeerConfig
from bgp.policy.origination import Origination
from bgp.session.fsm import State
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.communities import format_community, parse
from bgp.wire.families import Family
from tests.fakes.wire import Node, Wire, address

BLOCK = "192.168.1.0/26"
MESH, FABRIC, OTHER_FABRIC = 64512, 65001, 65002


def attributes_at(node: Node, prefix: str = BLOCK) -> PathAttributes:
    best = node.router.ribs[Family.IPV4].best(nlri.pack(IPv4Network(prefix)))
    assert best is not None
    return best.attributes


def config(last: int, asn: int, **more: object) -> PeerConfig:
    return replace(PeerConfig(address(last), asn), **more)  # type: ignore[arg-type]


def join(wire: Wire, one: Node, two: Node, ours: PeerConfig, theirs: PeerConfig) -> None:
    """Peer two nodes, beside the peers they have."""
    for node, peer in ((one, ours), (two, theirs)):
        known = {where: one.config for where, one in node.router.peers.items()}
        wire.configure(node, known | {peer.address: peer})


def up(wire: Wire, *nodes: Node) -> None:
    for node in nodes:
        if not node.router.ribs[Family.IPV4].prefixes:
            wire.announce(node)
    wire.until(
        lambda: all(peer.state is State.ESTABLISHED for node in nodes for peer in node.router.peers.values())
    )
    wire.run(1)


def numbers(attributes: PathAttributes) -> list[int]:
    return [number for _, some in attributes.as_path for number in some]


def test_a_peer_may_know_us_by_another_as_and_sees_only_that_one() -> None:
    wire = Wire()
    node, router = wire.node(1, MESH), wire.node(2, FABRIC)
    join(wire, node, router, config(2, FABRIC, local_as=64999), config(1, 64999))
    wire.announce(node, BLOCK)
    up(wire, node, router)
    assert numbers(attributes_at(router)) == [64999]


def test_a_local_as_equal_to_the_peers_makes_the_session_internal() -> None:
    wire = Wire()
    node, router = wire.node(1, MESH), wire.node(2, FABRIC)
    join(wire, node, router, config(2, FABRIC, local_as=FABRIC), config(1, FABRIC))
    wire.announce(node, BLOCK)
    up(wire, node, router)
    assert (attributes_at(router).as_path, attributes_at(router).local_pref) == ((), 100)


@pytest.mark.parametrize("own", [MESH, 64999], ids=["the speaker's", "the session's"])
def test_a_path_through_any_of_our_as_numbers_is_refused(own: int) -> None:
    wire = Wire()
    origin, fabric, node = wire.node(3, own), wire.node(2, FABRIC), wire.node(1, MESH)
    join(wire, origin, fabric, config(2, FABRIC), config(3, own))
    join(wire, fabric, node, config(1, 64999), config(2, FABRIC, local_as=64999))
    wire.announce(origin, BLOCK)
    up(wire, origin, fabric, node)
    assert node.learned() == {}
    assert node.log == [f"our own AS {own} is in AS_PATH"]


@pytest.mark.parametrize(("allowed", "believed"), [(0, False), (1, False), (2, True), (3, True)])
def test_our_own_as_may_stand_in_a_path_as_often_as_the_peer_is_allowed(allowed: int, believed: bool) -> None:
    """Racks that share an AS number: what comes from another rack has crossed our AS before."""
    wire = Wire()
    racks, fabric, node = (wire.node(4, MESH), wire.node(3, MESH)), wire.node(2, FABRIC), wire.node(1, MESH)
    between = wire.node(5, OTHER_FABRIC)
    join(wire, racks[0], between, config(5, OTHER_FABRIC), config(4, MESH))
    join(wire, between, racks[1], config(3, MESH), config(5, OTHER_FABRIC, allowed_local_as=1))
    join(wire, racks[1], fabric, config(2, FABRIC), config(3, MESH))
    join(wire, fabric, node, config(1, MESH), config(2, FABRIC, allowed_local_as=allowed))
    wire.announce(racks[0], BLOCK)
    up(wire, *racks, between, fabric, node)
    assert numbers(attributes_at(fabric)) == [MESH, OTHER_FABRIC, MESH]
    assert bool(node.learned()) is believed


NEXT_HOPS = [
    # mode, to another AS?, what others taught, what we originate
    (NextHopMode.AUTO, True, "10.0.0.2", "10.0.0.2"),
    (NextHopMode.AUTO, False, "10.0.0.1", "10.0.0.2"),
    (NextHopMode.SELF, True, "10.0.0.2", "10.0.0.2"),
    (NextHopMode.SELF, False, "10.0.0.2", "10.0.0.2"),
    (NextHopMode.KEEP, True, "10.0.0.1", "10.0.0.2"),
    (NextHopMode.KEEP, False, "10.0.0.1", "10.0.0.2"),
]


@pytest.mark.parametrize(("mode", "external", "taught", "own"), NEXT_HOPS)
def test_the_next_hop_that_a_peer_is_advertised(
    mode: NextHopMode, external: bool, taught: str, own: str
) -> None:
    wire = Wire()
    first, node = wire.node(1, FABRIC), wire.node(2, MESH)
    last_as = OTHER_FABRIC if external else MESH
    last = wire.node(3, last_as)
    join(wire, first, node, config(2, MESH), config(1, FABRIC))
    join(wire, node, last, config(3, last_as, next_hop_mode=mode), config(2, MESH))
    wire.announce(first, BLOCK)
    wire.announce(node, "192.168.2.0/26")
    up(wire, first, node, last)
    assert last.learned() == {BLOCK: taught, "192.168.2.0/26": own}


def test_a_reflector_that_is_to_set_its_own_next_hop_does() -> None:
    wire = Wire()
    one, reflector, three = wire.node(1), wire.node(2), wire.node(3)
    to_three = config(3, MESH, next_hop_mode=NextHopMode.SELF)
    join(wire, one, reflector, config(2, MESH), config(1, MESH, route_reflector_client=True))
    join(wire, reflector, three, to_three, config(2, MESH))
    wire.announce(one, BLOCK)
    up(wire, one, reflector, three)
    assert three.learned() == {BLOCK: "10.0.0.2"}


def test_another_next_hop_mode_is_advertised_anew_in_the_same_session() -> None:
    wire = Wire()
    first, node, last = wire.node(1, FABRIC), wire.node(2, MESH), wire.node(3, MESH)
    join(wire, first, node, config(2, MESH), config(1, FABRIC))
    join(wire, node, last, config(3, MESH), config(2, MESH))
    wire.announce(first, BLOCK)
    up(wire, first, node, last)
    assert last.learned() == {BLOCK: "10.0.0.1"}
    before = list(last.ends)
    known = {where: one.config for where, one in node.router.peers.items()}
    changed = replace(known[last.own], next_hop_mode=NextHopMode.SELF)
    wire.configure(node, known | {last.own: changed})
    wire.run(1)
    assert last.learned() == {BLOCK: "10.0.0.2"}
    assert list(last.ends) == before


@pytest.mark.parametrize(("given", "kept"), [(None, 120), (20, 20), (0, 0)])
def test_a_peer_keeps_our_paths_for_its_own_restart_time(given: int | None, kept: int) -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    join(wire, one, two, config(2, MESH, restart_seconds=given), config(1, MESH))
    wire.announce(one, BLOCK)
    up(wire, one, two)
    wire.kill(one)
    if kept:
        wire.run(kept - 1)
        assert two.learned()
        wire.run(2)
    wire.run(0.1)
    assert not two.learned()


@pytest.mark.parametrize(("hold", "keepalive", "most"), [(90, 0, 30), (90, 5, 5), (90, 60, 30), (3, 0.5, 1)])
def test_the_time_between_keepalives_is_the_configured_one_or_a_third_of_the_hold_time(
    hold: int, keepalive: float, most: float
) -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    join(
        wire,
        one,
        two,
        config(2, MESH, hold_seconds=hold, keepalive_seconds=keepalive),
        config(1, MESH, hold_seconds=hold, passive=True),
    )
    up(wire, one, two)
    sent = []
    for _ in range(200):
        session = one.router.peers[two.own].session
        assert session is not None
        due = session.next_deadline
        assert due is not None
        sent.append(due)
        wire.run(0.5)
    gaps = [after - before for before, after in zip(sorted(set(sent)), sorted(set(sent))[1:], strict=False)]
    assert all(gap <= most + 0.01 for gap in gaps)
    assert max(gaps) > most * 0.75 - 0.01


def test_our_own_prefixes_say_their_communities_and_a_change_is_advertised_anew() -> None:
    wire = Wire()
    one, two, three = wire.node(1, MESH), wire.node(2, MESH), wire.node(3, FABRIC)
    join(wire, one, two, config(2, MESH), config(1, MESH))
    join(wire, one, three, config(3, FABRIC), config(1, MESH))
    network = IPv4Network(BLOCK)

    def announce(*texts: str, local_pref: int | None = None) -> None:
        one.router.announce({network: Origination.with_communities(texts, local_pref)})
        wire.settle(one)

    announce("64512:100", "64512:1:2", local_pref=200)
    up(wire, one, two, three)
    inside, outside = attributes_at(two), attributes_at(three)
    assert inside.communities == outside.communities == (64512 << 16 | 100,)
    assert (
        inside.large_communities == outside.large_communities == (bytes.fromhex("0000fc000000000100000002"),)
    )
    assert (inside.local_pref, outside.local_pref) == (200, None)
    announce("no-export")
    wire.run(1)
    assert attributes_at(two).communities == (0xFFFFFF01,)
    assert three.learned() == {}
    one.router.announce([network])
    wire.settle(one)
    wire.run(1)
    assert attributes_at(two).communities == attributes_at(three).communities == ()


COMMUNITIES = ["0:0", "64512:65535", "0:0:0", "4294967295:4294967295:4294967295", "no-export", "blackhole"]


@pytest.mark.parametrize("text", COMMUNITIES)
def test_a_community_is_shown_as_it_was_written(text: str) -> None:
    assert format_community(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "1", "1:", ":1", "65536:1", "1:65536", "-1:1", "1:2:3:4", "4294967296:1:1", "a:b", "1: 2", "²:1"],
)
def test_a_wrong_community_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="must be AS:VALUE of 16 bits each"):
        parse(text)


def test_wrong_options_are_refused_with_a_sentence() -> None:
    for more, sentence in (
        ({"local_as": 0}, "AS number 0: must be 1 to 4294967295"),
        ({"allowed_local_as": 256}, "allowed local AS numbers 256: must be 0 to 255"),
        ({"keepalive_seconds": -1}, "keepalive time -1: must be 0 to 65535"),
        ({"restart_seconds": 4096}, "restart time 4096: must be 0 to 4095 seconds"),
        ({"families": frozenset()}, "must have at least one address family"),
    ):
        with pytest.raises(ValueError, match=sentence):
            config(2, MESH, **more)
