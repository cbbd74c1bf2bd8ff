"""IPv4 prefixes with IPv6 next hops (RFC 8950), link-local ones with the zone of their session, and peers of any AS."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import pytest

from bgp.peer_config import NextHopMode, PeerConfig
from bgp.peer_status import peer_status
from bgp.session.fsm import State
from bgp.wire import capabilities, messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.errors import NotificationError
from bgp.wire.families import Family, in_zone, number_of, without_zone
from bgp.wire.framing import Framing
from bgp.wire.iana import MessageType
from bgp.wire.messages import Update
from tests.fakes.wire import Node, Wire

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)
AGREED = Context(four_octet_as=True, internal=True, families=BOTH, ipv6_next_hops=frozenset({V4}))
NOT_AGREED = replace(AGREED, ipv6_next_hops=frozenset())
BLOCK, BLOCK6 = "192.168.1.0/26", "fd10:1::/122"
GLOBAL, LOCAL = IPv6Address("fd00::1"), IPv6Address("fe80::1")
HOST, LINK = GLOBAL.packed.hex(), LOCAL.packed.hex()
PREFIX = nlri.pack(IPv4Network(BLOCK))
WIRE_PREFIX = "1ac0a80100"
ATTRIBUTES = "40010100" + "400200" + "40050400000064"
MARK = "ff" * 16
PATH = PathAttributes(next_hop=LOCAL, local_pref=100)


@pytest.mark.parametrize(
    ("attributes", "hop"),
    [(PATH, "10" + LINK), (replace(PATH, next_hop=GLOBAL, link_local=LOCAL), "20" + HOST + LINK)],
    ids=["sixteen octets", "thirty-two octets"],
)
def test_an_ipv4_prefix_with_an_ipv6_next_hop_and_its_bytes_are_the_same_both_ways(
    attributes: PathAttributes, hop: str
) -> None:
    value = "000101" + hop + "00" + WIRE_PREFIX
    block = f"800e{len(value) // 2:02x}{value}" + ATTRIBUTES
    body = "0000" + f"{len(block) // 2:04x}" + block
    wire = MARK + f"{19 + len(body) // 2:04x}02" + body
    message = Update((), attributes, (PREFIX,))
    assert messages.encode(message, AGREED).hex() == wire
    ((kind, octets),) = Framing().receive(bytes.fromhex(wire))
    assert messages.decode(kind, octets, AGREED) == message
    with pytest.raises(NotificationError, match=r"has (16|32) octets"):
        messages.decode(kind, octets, NOT_AGREED)


def test_beside_ipv6_next_hops_ipv4_ones_are_sent_as_ever() -> None:
    message = Update((), replace(PATH, next_hop=IPv4Address("10.0.0.1")), (PREFIX,))
    assert messages.encode(message, AGREED) == messages.encode(message, NOT_AGREED)


@pytest.mark.parametrize("octets", ["00", "0001000100", "00010001000200"])
def test_a_capability_that_is_no_whole_list_is_malformed(octets: str) -> None:
    value = bytes.fromhex(octets)
    packed = bytes([5, len(value)]) + value
    with pytest.raises(NotificationError, match="extended next hop capability"):
        capabilities.decode(bytes([2, len(packed)]) + packed)


@pytest.mark.parametrize("octets", ["000100020002", "000100010001", "000200010001", "000100800002"])
def test_what_is_not_about_ipv4_unicast_over_ipv6_is_no_offer(octets: str) -> None:
    value = bytes.fromhex(octets)
    packed = bytes([5, len(value)]) + value
    assert not capabilities.decode(bytes([2, len(packed)]) + packed).ipv6_next_hops


def test_a_decoded_next_hop_that_no_host_can_have_withdraws() -> None:
    value = "000101" + "10" + "ff" * 16 + "00" + WIRE_PREFIX
    block = f"800e{len(value) // 2:02x}{value}" + ATTRIBUTES
    body = bytes.fromhex("0000" + f"{len(block) // 2:04x}" + block)
    found = messages.decode(MessageType.UPDATE, body, AGREED)
    assert isinstance(found, Update)
    assert (found.announced, found.withdrawn) == ((), (PREFIX,))


# -- sessions on a link -----------------------------------------------------------------------------------------------


def on_link(last: int, zone: str = "eth1") -> IPv6Address:
    return IPv6Address(f"fe80::{last}%{zone}")


def linked(
    wire: Wire, *, asns: tuple[int, int] = (64512, 65001), own6: bool = False, **more: Any
) -> tuple[Node, Node]:
    """Two speakers that know each other by the link-local addresses of one link."""
    one, two = (wire.node(last, asn, own=on_link(last)) for last, asn in zip((1, 2), asns, strict=True))
    for node, last in ((one, 1), (two, 2)):
        second = IPv6Address(f"fd00::{last}") if own6 else None
        node.router.config = replace(
            node.router.config, listen_address=IPv4Address(f"10.0.0.{last}"), second_address=second
        )
    for node, other, asn, passive in ((one, two, asns[1], False), (two, one, asns[0], True)):
        config = PeerConfig(other.own, asn, passive=passive, families=BOTH, **more)
        wire.configure(node, {other.own: config})
    wire.announce(one, BLOCK, BLOCK6)
    wire.announce(two)
    wire.until(lambda: one.router.converged and two.router.converged)
    return one, two


@pytest.mark.parametrize("own6", [False, True], ids=["no global address", "a global address"])
@pytest.mark.parametrize("asns", [(64512, 65001), (64512, 64512)], ids=["eBGP", "iBGP"])
def test_over_a_link_the_next_hop_is_on_it_in_both_families(own6: bool, asns: tuple[int, int]) -> None:
    _, two = linked(Wire(), own6=own6, asns=asns)
    assert two.learned() == {BLOCK: "fe80::1%eth1", BLOCK6: "fe80::1%eth1"}


def test_it_is_said_that_ipv6_next_hops_are_agreed() -> None:
    one, two = linked(Wire())
    peer = one.router.peers[two.own]
    assert "IPv4 prefixes with IPv6 next hops (RFC 8950)" in peer_status(peer, peer.state, None).agreed


def test_one_object_stands_for_a_next_hop_and_its_zone() -> None:
    assert in_zone(LOCAL, "eth1") is in_zone(IPv6Address("fe80::1"), "eth1")
    assert without_zone(on_link(1)) == LOCAL


def test_a_link_local_address_is_another_peer_on_another_link() -> None:
    assert len({number_of(one) for one in (on_link(1), on_link(1, "eth2"), LOCAL)}) == 3
    assert number_of(IPv4Address("255.255.255.255")) < number_of(IPv6Address("::"))


@pytest.mark.parametrize("mode", NextHopMode)
def test_what_came_over_a_link_goes_on_with_our_own_next_hop(mode: NextHopMode) -> None:
    wire = Wire()
    _, two = linked(wire)
    three = wire.node(3, 65001)
    behind = PeerConfig(three.own, 65001, families=BOTH, next_hop_mode=mode)
    wire.configure(
        two, {peer.config.address: peer.config for peer in two.router.peers.values()} | {three.own: behind}
    )
    two.own = IPv4Address("10.0.0.2")
    wire.nodes[two.own] = two
    wire.configure(three, {two.own: PeerConfig(two.own, 65001, families=BOTH, passive=True)})
    wire.announce(three)
    wire.until(lambda: BLOCK in three.learned())
    assert three.learned()[BLOCK] == "10.0.0.2"


# -- peers of any other AS --------------------------------------------------------------------------------------------


def external(wire: Wire, *asns: int) -> tuple[Node, Node]:
    one, two = wire.node(1, asns[0]), wire.node(2, asns[1])
    wire.configure(one, {two.own: PeerConfig(two.own, None)})
    wire.configure(two, {one.own: PeerConfig(one.own, None, passive=True)})
    wire.announce(one, BLOCK)
    wire.announce(two)
    return one, two


def test_an_external_peer_is_of_whatever_as_its_open_says() -> None:
    wire = Wire()
    one, two = external(wire, 64512, 65007)
    wire.until(lambda: BLOCK in two.learned())
    assert [
        peer_status(node.router.peers[other.own], State.IDLE, None).asn
        for node, other in ((one, two), (two, one))
    ] == [65007, 64512]


def test_one_of_our_own_as_is_no_external_peer() -> None:
    wire = Wire()
    one, two = external(wire, 64512, 64512)
    wire.run(5)
    assert one.state(two) is not State.ESTABLISHED
    errors = {node.router.peers[other.own].last_error for node, other in ((one, two), (two, one))}
    assert any("of our own AS 64512" in error for error in errors)


def test_before_its_open_nobody_knows_its_as() -> None:
    wire = Wire()
    one, two = external(wire, 64512, 65007)
    assert peer_status(one.router.peers[two.own], State.IDLE, None).asn in (None, 65007)
    fresh = Wire().node(1)
    fresh.router.configure({two.own: PeerConfig(two.own, None)}, 0.0)
    assert peer_status(fresh.router.peers[two.own], State.IDLE, None).asn is None


def test_who_takes_an_external_peer_s_place_with_another_as_does_not_inherit_its_paths() -> None:
    wire = Wire()
    one, two = external(wire, 64512, 65007)
    wire.announce(two, "192.168.9.0/26")
    wire.until(lambda: "192.168.9.0/26" in one.learned())
    wire.power_off(two)
    wire.run(120)
    other = wire.node(2, 65099)
    wire.configure(other, {one.own: PeerConfig(one.own, None)})
    wire.announce(other)
    wire.until(lambda: one.state(other) is State.ESTABLISHED)
    assert "192.168.9.0/26" not in one.learned()
