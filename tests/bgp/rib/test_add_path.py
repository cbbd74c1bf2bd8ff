"""Several paths of one peer to one prefix, told apart by identifiers (RFC 7911): as they are taken."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.wire import capabilities, nlri
from bgp.wire.errors import NotificationError
from bgp.wire.families import Family
from bgp.wire.framing import frame
from bgp.wire.iana import MessageType
from tests.fakes.add_path_peer import (
    BOTH,
    PEER,
    PREFIX,
    PREFIX6,
    AddPathPeer,
    attributes,
    identified,
)
from tests.fakes.paths import lost_by, paths_of, prefixes_from


@pytest.mark.parametrize(("paths_sent", "send"), [(1, frozenset()), (2, BOTH)])
def test_we_offer_to_take_several_paths_and_to_send_them_where_that_is_asked_for(
    paths_sent: int, send: frozenset[Family]
) -> None:
    one = AddPathPeer(paths_sent=paths_sent)
    session = one.router.peers[PEER].session
    assert session is not None
    assert (session.local.offer.add_path_receive, session.local.offer.add_path_send) == (BOTH, send)
    assert session.context.path_ids == BOTH
    assert session.path_ids_sent == frozenset()  # the peer takes one


def test_each_identifier_is_a_path_of_its_own() -> None:
    one = AddPathPeer()
    one.say(identified(1, PREFIX), attributes=attributes(5))
    one.say(identified(2, PREFIX), attributes=attributes(6, local_pref=200))
    assert one.hops() == ["10.0.0.6", "10.0.0.5"]
    one.say(identified(1, PREFIX), attributes=attributes(7, local_pref=300))
    assert one.hops() == ["10.0.0.7", "10.0.0.6"]
    one.say(gone=identified(1, PREFIX))
    assert one.hops() == ["10.0.0.6"]
    one.say(gone=identified(9, PREFIX))
    assert one.hops() == ["10.0.0.6"]
    one.say(gone=identified(2, PREFIX))
    assert one.hops() == []


def test_one_message_may_hold_many_identifiers() -> None:
    one = AddPathPeer()
    one.say(*[identified(number, PREFIX) for number in (3, 1, 2)], attributes=attributes(5))
    assert one.hops() == ["10.0.0.5"] * 3
    (shown, *_) = paths_of(one.router, ip_network(PREFIX))
    assert shown.path.source.path_id == 1
    assert prefixes_from(one.router, PEER) == (ip_network(PREFIX),)


def test_ipv6_has_identifiers_too() -> None:
    one = AddPathPeer()
    for number in (1, 2):
        one.say(identified(number, PREFIX6), attributes=attributes(4 + number, 100 * number, Family.IPV6))
    assert one.hops(PREFIX6) == ["fd00::6", "fd00::5"]


def test_paths_that_are_equal_but_for_their_identifier_have_an_order() -> None:
    one = AddPathPeer()
    for number in (7, 3):
        one.say(identified(number, PREFIX), attributes=attributes(number))
    shown = paths_of(one.router, ip_network(PREFIX))
    assert [(path.path.source.path_id, lost_by(path)) for path in shown] == [
        (3, ""),
        (7, "in the set of 2 next hops"),
    ]


def test_the_limit_counts_paths_so_a_peer_cannot_grow_behind_one_prefix() -> None:
    one = AddPathPeer(maximum_prefixes=3)
    for number in range(3):
        one.say(identified(number, PREFIX), attributes=attributes(5))
    assert len(one.hops()) == 3
    one.say(identified(3, PREFIX), attributes=attributes(5))
    assert one.hops() == []
    assert one.router.peers[PEER].last_error == "more than 3 prefixes"


def test_a_restart_keeps_every_path_and_sweeps_those_that_are_not_advertised_again() -> None:
    one = AddPathPeer()
    for number in (1, 2):
        one.say(identified(number, PREFIX), attributes=attributes(number + 4))
    one.end()
    one.router.disconnected(one.connection, "cut", 0.0)
    assert [path.stale for path in paths_of(one.router, ip_network(PREFIX))] == [True, True]
    one.connect()
    one.say(identified(2, PREFIX), attributes=attributes(6))
    assert [path.stale for path in paths_of(one.router, ip_network(PREFIX))] == [True, False]
    one.end()
    assert one.hops() == ["10.0.0.6"]


def test_a_peer_that_comes_back_without_identifiers_replaces_its_paths() -> None:
    one = AddPathPeer()
    one.say(identified(1, PREFIX), attributes=attributes(5))
    one.end()
    one.router.disconnected(one.connection, "cut", 0.0)
    one.connect(ids=False)
    one.say(nlri.pack(ip_network(PREFIX)), attributes=attributes(5))
    one.end()
    assert one.hops() == ["10.0.0.5"]


WRONG = [
    ("an identifier alone", "00000001"),
    ("half an identifier", "0000"),
    ("a prefix of 33 bits", "00000001" + "21" + "0a01000000"),
    ("half a prefix", "00000001" + "18" + "0a"),
    ("a second identifier cut off", "00000001" + "080a" + "000000"),
]


@pytest.mark.parametrize("field", [pytest.param(wire, id=name) for name, wire in WRONG])
@pytest.mark.parametrize("withdrawn", [True, False])
def test_what_does_not_fit_ends_the_session(field: str, withdrawn: bool) -> None:
    one = AddPathPeer()
    raw = bytes.fromhex(field)
    block = bytes.fromhex("40010100" + "400200" + "4003040a000005" + "40050400000064")
    body = len(raw).to_bytes(2, "big") + raw + b"\0\0"
    if not withdrawn:
        body = b"\0\0" + len(block).to_bytes(2, "big") + block + raw
    one.router.received(one.connection, frame(MessageType.UPDATE, body), 0.0)
    assert one.router.peers[PEER].session is None
    assert one.router.peers[PEER].last_error.endswith("(3/10)")


def test_a_capability_with_another_value_counts_as_not_offered() -> None:
    found = capabilities.decode(
        bytes.fromhex("0214" + "010400010001" + "450c" + "00010104" + "00020100" + "00010203")
    )
    assert (found.add_path_receive, found.add_path_send) == (frozenset(), frozenset())


networks = st.builds(
    lambda number, length: ip_network((number << 16, length), strict=False),
    st.integers(0, 2**16 - 1),
    st.integers(0, 32),
)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), networks), max_size=20))
def test_identified_prefixes_are_read_back(pairs: list[tuple[int, object]]) -> None:
    field = b"".join(number.to_bytes(4, "big") + nlri.pack(network) for number, network in pairs)  # type: ignore[arg-type]
    keys = nlri.split_identified(field)
    assert [(nlri.path_id_of(key), nlri.unpack(nlri.prefix_of(key))) for key in keys] == pairs
    grouped = nlri.by_path_id(keys)
    assert sorted(key for _, some in grouped for key in some) == sorted(keys)


def test_a_field_without_identifiers_is_not_mistaken_for_one_with() -> None:
    with pytest.raises(NotificationError):
        nlri.split_identified(nlri.pack(ip_network("10.0.0.0/8")))
