"""IPv6 unicast beside IPv4 over sessions of either: RFC 4760, RFC 2545, and every rule for each family by itself."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.peer_config import PeerConfig
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.session.fsm import State
from bgp.wire import capabilities, messages, nlri
from bgp.wire.attributes import Context, PathAttributes
from bgp.wire.capabilities import Capabilities
from bgp.wire.errors import NotificationError
from bgp.wire.families import Address, Family
from bgp.wire.framing import LARGEST_MESSAGE, Framing
from bgp.wire.iana import MessageType
from bgp.wire.messages import RouteRefresh, Subtype, Update
from tests.fakes.wire import Node, Wire

V4, V6 = Family.IPV4, Family.IPV6
BOTH = frozenset(Family)
DUAL = Context(four_octet_as=True, internal=True, families=BOTH)
MARK = "ff" * 16
BLOCK, OTHER = "192.168.1.0/26", "192.168.2.0/26"
BLOCK6, OTHER6 = "fd10:1::/122", "fd10:2::/122"
GLOBAL, LOCAL = IPv6Address("fd00::1"), IPv6Address("fe80::1")
HOST = "fd000000000000000000000000000001"
LINK = "fe800000000000000000000000000001"
ATTRIBUTES = "40010100" + "400200" + "40050400000064"
PREFIX = nlri.pack(IPv6Network(BLOCK6))
WIRE_PREFIX = "7afd100001000000000000000000000000"
PATH = PathAttributes(next_hop=GLOBAL, local_pref=100)

# -- bytes ------------------------------------------------------------------------------------------------------------

GOLDEN = [
    ("end-of-rib", Update(family=V6), "001d02" + "0000" + "0006" + "800f03" + "000201"),
    (
        "announcement",
        Update((), PATH, (PREFIX,), family=V6),
        "004e02" + "0000" + "0037" + "800e26" + "000201" + "10" + HOST + "00" + WIRE_PREFIX + ATTRIBUTES,
    ),
    (
        "announcement with an address on the link",
        Update((), replace(PATH, link_local=LOCAL), (PREFIX,), family=V6),
        "005e02"
        + "0000"
        + "0047"
        + "800e36"
        + "000201"
        + "20"
        + HOST
        + LINK
        + "00"
        + WIRE_PREFIX
        + ATTRIBUTES,
    ),
    (
        "withdrawal",
        Update((PREFIX,), family=V6),
        "002e02" + "0000" + "0017" + "800f14" + "000201" + WIRE_PREFIX,
    ),
    ("refresh", RouteRefresh(2, 1), "001705" + "00020001"),
]


@pytest.mark.parametrize(("message", "wire"), [pytest.param(m, w, id=name) for name, m, w in GOLDEN])
def test_a_message_and_its_bytes_are_the_same_both_ways(message: messages.Message, wire: str) -> None:
    assert messages.encode(message, DUAL).hex() == MARK + wire
    ((kind, body),) = Framing().receive(bytes.fromhex(MARK + wire))
    assert messages.decode(kind, body, DUAL) == message


def update(block: str, announced: str = "", withdrawn: str = "", context: Context = DUAL) -> Update:
    raw, gone = bytes.fromhex(block), bytes.fromhex(withdrawn)
    body = len(gone).to_bytes(2, "big") + gone + len(raw).to_bytes(2, "big") + raw + bytes.fromhex(announced)
    found = messages.decode(MessageType.UPDATE, body, context)
    assert isinstance(found, Update)
    return found


def reach(next_hop: str, prefixes: str = WIRE_PREFIX) -> str:
    value = f"000201{len(next_hop) // 2:02x}{next_hop}00{prefixes}"
    return f"800e{len(value) // 2:02x}{value}"


NEXT_HOPS = [
    ("global", HOST, GLOBAL, None),
    ("global and on the link", HOST + LINK, GLOBAL, LOCAL),
    ("on the link alone", LINK, LOCAL, None),
    ("on the link behind zeros", "0" * 32 + LINK, LOCAL, None),
    ("on the link twice", LINK + LINK, LOCAL, None),
    ("global and zeros", HOST + "0" * 32, GLOBAL, None),
    ("global twice", HOST + HOST, GLOBAL, None),
]


@pytest.mark.parametrize(("field", "hop", "link"), [pytest.param(*row, id=name) for name, *row in NEXT_HOPS])
def test_each_form_of_an_ipv6_next_hop_is_read(
    field: str, hop: IPv6Address, link: IPv6Address | None
) -> None:
    attributes = update(reach(field) + ATTRIBUTES).attributes
    assert attributes is not None
    assert (attributes.next_hop, attributes.link_local) == (hop, link)


@pytest.mark.parametrize("octets", [0, 4, 8, 15, 17, 31, 33])
def test_a_next_hop_of_another_length_ends_the_session(octets: int) -> None:
    with pytest.raises(NotificationError) as caught:
        update(reach("fd" * octets) + ATTRIBUTES)
    assert (caught.value.code, caught.value.subcode) == (3, 9)


@pytest.mark.parametrize("host", ["0" * 32, "ff02" + "0" * 27 + "1"], ids=["unspecified", "multicast"])
def test_a_next_hop_that_is_no_host_costs_the_routes(host: str) -> None:
    found = update(reach(host) + ATTRIBUTES)
    assert (found.withdrawn, found.announced, found.family) == ((PREFIX,), (), V6)


def test_one_message_may_speak_of_both_families_and_each_has_its_own_next_hop() -> None:
    both = reach(HOST) + ATTRIBUTES[:14] + "4003040a000001" + ATTRIBUTES[14:]
    found = update(both, announced="1ac0a80100", withdrawn="1ac0a80200")
    four, six = PathAttributes(next_hop=IPv4Address("10.0.0.1"), local_pref=100), PATH
    beside = found.beside
    assert beside is not None
    assert (found.family, found.announced, found.attributes) == (V4, (nlri.pack(ip_network(BLOCK)),), four)
    assert found.withdrawn == (nlri.pack(ip_network(OTHER)),)
    assert (beside.family, beside.announced, beside.attributes) == (V6, (PREFIX,), six)


def test_a_fault_in_such_a_message_withdraws_both_families_prefixes() -> None:
    found = update(reach(HOST) + "40010107" + ATTRIBUTES[8:] + "4003040a000001", announced="1ac0a80100")
    assert found.withdrawn == (nlri.pack(ip_network(BLOCK)),)
    assert found.beside is not None
    assert (found.beside.withdrawn, found.beside.announced) == ((PREFIX,), ())


def test_withdrawing_and_announcing_a_prefix_at_once_announces_it() -> None:
    found = update(reach(HOST) + "800f14000201" + WIRE_PREFIX + ATTRIBUTES)
    assert (found.withdrawn, found.announced) == ((), (PREFIX,))


def test_what_was_not_agreed_is_skipped_and_said() -> None:
    only4 = replace(DUAL, families=frozenset({V4}))
    found = update(reach(HOST) + ATTRIBUTES, context=only4)
    assert (found.announced, found.withdrawn, found.beside) == ((), (), None)
    assert found.faults == ("MP_REACH_NLRI of family (2, 1), which was not agreed",)
    only6 = replace(DUAL, families=frozenset({V6}))
    found = update(ATTRIBUTES + "4003040a000001", announced="1ac0a80100", context=only6)
    assert (found.announced, found.withdrawn, found.beside) == ((), (), None)
    assert found.faults == ("IPv4 prefixes, although the family was not agreed",)


prefixes6 = st.builds(
    lambda number, length: IPv6Network((number, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@given(st.lists(prefixes6, max_size=50))
def test_prefixes_survive_a_round_trip(networks: list[IPv6Network]) -> None:
    packed = [nlri.pack(network) for network in networks]
    assert nlri.split(b"".join(packed), 128) == packed
    assert [nlri.unpack(one, V6) for one in packed] == networks


@pytest.mark.parametrize("linked", [False, True])
def test_ten_thousand_prefixes_fit_their_messages(linked: bool) -> None:
    out = AdjRibOut(V6)
    told = replace(PATH, link_local=LOCAL) if linked else PATH
    packed = [nlri.pack(IPv6Network((0xFD10 << 112 | number, 128))) for number in range(10_000)]
    for prefix in packed:
        out.set(prefix, told)
    out.end_of_rib()
    found, count = set(), 0
    while (one := out.next_message(DUAL, LARGEST_MESSAGE)) is not None:
        wire = messages.encode(one, DUAL)
        assert len(wire) <= LARGEST_MESSAGE
        found.update(one.announced)
        count += 1
    assert found == set(packed)
    assert count == -(-10_000 // 234) + 1


# -- sessions ---------------------------------------------------------------------------------------------------------


def pair(
    wire: Wire, *, by_ipv6: bool, asns: tuple[int, int] = (64512, 64512), **more: object
) -> tuple[Node, Node]:
    one, two = wire.node(1, asns[0], by_ipv6=by_ipv6), wire.node(2, asns[1], by_ipv6=by_ipv6)
    wire.peer(one, (2, asns[1]), families=BOTH, **more)
    wire.peer(two, (1, asns[0]), families=BOTH, passive=True, **more)
    wire.announce(one, BLOCK, BLOCK6)
    wire.announce(two)
    wire.until(lambda: one.router.converged and two.router.converged and len(two.learned()) == 2)
    return one, two


@pytest.mark.parametrize("by_ipv6", [False, True], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("asns", [(64512, 64512), (64512, 65001)], ids=["iBGP", "eBGP"])
def test_both_families_go_over_a_session_of_either(by_ipv6: bool, asns: tuple[int, int]) -> None:
    wire = Wire()
    one, two = pair(wire, by_ipv6=by_ipv6, asns=asns)
    assert two.learned() == {BLOCK: "10.0.0.1", BLOCK6: "fd00::1"}
    wire.announce(one, OTHER6)
    wire.run(1)
    assert two.learned() == {OTHER6: "fd00::1"}


def test_equal_bytes_of_two_families_are_two_prefixes() -> None:
    wire = Wire()
    one, two = pair(wire, by_ipv6=False)
    wire.announce(one, "32.1.0.0/16", "2001::/16")
    wire.run(1)
    assert two.learned() == {"32.1.0.0/16": "10.0.0.1", "2001::/16": "fd00::1"}
    wire.announce(one, "2001::/16")
    wire.run(1)
    assert two.learned() == {"2001::/16": "fd00::1"}


def test_a_family_that_only_one_side_has_is_not_advertised() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, families=BOTH)
    wire.peer(two, 1, families=frozenset({V6}))
    wire.announce(one, BLOCK, BLOCK6)
    wire.announce(two)
    wire.until(lambda: one.router.converged and two.router.converged)
    assert two.learned() == {BLOCK6: "fd00::1"}
    assert list(one.router.peers[two.own].adj_ribs_out) == [V6]


def test_no_family_in_common_is_answered_with_what_is_wanted() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    wire.peer(one, 2, families=frozenset({V4}), passive=True)
    wire.peer(two, 1, families=frozenset({V6}))
    wire.run(5)
    assert one.router.peers[two.own].last_error in (
        "peer does not do IPv4 unicast (2/7)",
        "peer said: open message, unsupported capability (2/7)",
    )
    assert one.state(two) is not State.ESTABLISHED


def test_without_an_address_of_a_family_what_is_ours_is_not_advertised_in_it() -> None:
    wire = Wire()
    one, two = wire.node(1), wire.node(2)
    one.router.config = replace(one.router.config, second_address=None)
    wire.peer(one, 2, families=BOTH)
    wire.peer(two, 1, families=BOTH, passive=True)
    wire.announce(one, BLOCK, BLOCK6)
    wire.announce(two)
    wire.until(lambda: two.router.converged)
    assert two.learned() == {BLOCK: "10.0.0.1"}


def test_our_address_on_the_link_goes_to_its_peer_and_no_further() -> None:
    wire = Wire()
    one, two, three = wire.node(1), wire.node(2), wire.node(3)
    wire.peer(one, 2, families=BOTH, link_local_address=LOCAL)
    wire.peer(two, 1, 3, families=BOTH, route_reflector_client=True)
    wire.peer(three, 2, families=BOTH)
    wire.announce(one, BLOCK6)
    wire.announce(two)
    wire.announce(three)
    wire.until(lambda: bool(three.learned()))
    links = []
    for node in (two, three):
        best = node.router.ribs[V6].best(PREFIX)
        assert best is not None
        links.append((best.attributes.next_hop, best.attributes.link_local))
    assert links == [(GLOBAL, LOCAL), (GLOBAL, None)]


def test_the_limit_counts_each_family_by_itself_and_names_the_one_that_broke_it() -> None:
    wire = Wire()
    one, two = pair(wire, by_ipv6=False, maximum_prefixes=3)
    many = [f"fd10:{number}::/64" for number in range(4)]
    wire.announce(one, "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", *many[:3])
    wire.run(1)
    assert len(two.learned()) == 6
    wire.announce(one, "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", *many)
    wire.run(0.1)
    assert two.learned() == {}
    assert two.router.peers[one.own].last_error == "more than 3 prefixes"


def test_a_refresh_repeats_the_family_that_was_asked_for_and_no_other() -> None:
    wire = Wire()
    one, two = pair(wire, by_ipv6=False)
    connection = next(iter(two.ends))
    for family, afi in ((V6, 2), (V4, 1)):
        heard: list[Family | RouteRefresh] = []
        one.router.received(next(iter(one.ends)), messages.encode(RouteRefresh(afi, 1), DUAL), wire.now)
        while data := one.router.next_update(next(iter(one.ends))):
            ((kind, body),) = Framing().receive(data)
            told = messages.decode(kind, body, DUAL)
            assert isinstance(told, Update | RouteRefresh)
            heard.append(told.family if isinstance(told, Update) else told)
        assert heard == [RouteRefresh(afi, 1, Subtype.BEGIN), family, RouteRefresh(afi, 1, Subtype.END)]
    assert connection in two.ends


def killed_and_back(wire: Wire, one: Node, *prefixes: str, families: frozenset[Family] = BOTH) -> Node:
    wire.kill(one)
    wire.run(1)
    node = wire.node(1, restarting=True)
    wire.peer(node, 2, families=families)
    wire.announce(node, *prefixes)
    return node


def test_a_restart_keeps_both_families_and_each_end_of_rib_sweeps_its_own() -> None:
    wire = Wire()
    one, two = pair(wire, by_ipv6=False)
    wire.announce(one, BLOCK, OTHER, BLOCK6, OTHER6)
    wire.run(1)
    two.changes.clear()
    wire.kill(one)
    wire.until(lambda: two.stale() == {BLOCK, OTHER, BLOCK6, OTHER6})
    node = wire.node(1, restarting=True)
    wire.peer(node, 2, families=BOTH)
    wire.announce(node, BLOCK, OTHER6)
    wire.until(lambda: not two.stale())
    assert two.learned() == {BLOCK: "10.0.0.1", OTHER6: "fd00::1"}
    assert [one for one in two.changes if one[1] is None] == [(OTHER, None), (BLOCK6, None)]


def test_a_family_that_does_not_come_back_goes_with_the_new_session() -> None:
    wire = Wire()
    one, two = pair(wire, by_ipv6=False)
    killed_and_back(wire, one, BLOCK, families=frozenset({V4}))
    wire.until(lambda: two.learned() == {BLOCK: "10.0.0.1"} and not two.stale())


def test_a_start_waits_for_the_end_of_rib_of_every_family() -> None:
    wire = Wire()
    _, two = pair(wire, by_ipv6=False)
    peer = next(iter(two.router.peers.values()))
    assert peer.deferred_until == float("-inf")
    peer.adj_ribs_in[V6].eor_received = False
    assert peer.deferred_until == float("inf")


@pytest.mark.parametrize("seed", range(10))
def test_two_speakers_that_call_each_other_over_ipv6_end_with_one_session(seed: int) -> None:
    wire = Wire(seed, slow_accept_seconds=1.0)
    one, two = wire.node(1, by_ipv6=True), wire.node(2, by_ipv6=True)
    for node, other in ((one, 2), (two, 1)):
        wire.peer(node, other, families=BOTH)
        wire.announce(node, f"fd10:{node.own.packed[-1]}::/64")
    wire.run(40)
    assert len(one.ends) == len(two.ends) == 1
    assert one.learned() == {"fd10:2::/64": "fd00::2"}
    assert two.learned() == {"fd10:1::/64": "fd00::1"}


@pytest.mark.parametrize("number", [2, 0x0A000002, 2**32 - 1], ids=["least", "a node's", "greatest"])
def test_addresses_of_two_families_never_name_the_same_source(number: int) -> None:
    wire = Wire()
    hearer = wire.node(1)
    tellers = [wire.node(last, own=own) for last, own in ((2, IPv4Address(number)), (3, IPv6Address(number)))]
    wire.configure(hearer, {node.own: PeerConfig(node.own, 64512, families=BOTH) for node in tellers})
    for node in tellers:
        wire.configure(node, {hearer.own: PeerConfig(hearer.own, 64512, passive=True, families=BOTH)})
        wire.announce(node, BLOCK6)
    wire.announce(hearer)
    wire.until(lambda: hearer.router.converged)
    assert told_by(hearer) == {node.own for node in tellers}
    wire.announce(tellers[0])
    wire.run(1)
    assert told_by(hearer) == {tellers[1].own}


def told_by(node: Node) -> set[Address]:
    """Who tells the block."""
    return {path.source.address for path in node.router.ribs[V6].candidates(PREFIX)}


def test_an_offer_without_multiprotocol_means_ipv4_and_foreign_families_are_left_out() -> None:
    assert capabilities.decode(b"").families == {V4}
    assert capabilities.decode(bytes.fromhex("0206" + "010400190041")).families == frozenset()
    assert capabilities.decode(bytes.fromhex("020c" + "010400020001" + "010400010002")).families == {V6}
    both = Capabilities(families=BOTH)
    assert capabilities.encode(both).hex() == "020c" + "010400010001" + "010400020001"
    assert capabilities.decode(capabilities.encode(both)) == both
