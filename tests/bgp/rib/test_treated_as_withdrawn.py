"""What RFC 7606 has us treat as withdrawn is shown with its reason, and counts for nothing else."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from bgp.looking_glass import Query, RibView, query
from bgp.peer_config import PeerConfig
from bgp.session.fsm import State
from bgp.wire import attribute_codec
from bgp.wire.attributes import Context
from bgp.wire.errors import Treatment
from bgp.wire.families import Family
from tests.fakes.wire import Node, Wire, address

PREFIX, OTHER = "10.99.0.0/16", "10.98.0.0/16"
TOR = 65001
SEQUENCE, SET, CONFED_SET = "0201" + "0000fde9", "0101" + "0000fdea", "0401" + "0000fdea"
REASON = "refused: AS_PATH holds an AS_SET (RFC 9774)"


def update(as_path: str, *, gone: str = "") -> bytes:
    """An UPDATE that announces both prefixes with this AS_PATH, in hex."""
    path = bytes.fromhex(as_path)
    block = bytes.fromhex("400101004002") + bytes([len(path)]) + path + bytes.fromhex("4003040a000002")
    nlri = bytes.fromhex("100a63" + "100a62")
    withdrawn = bytes.fromhex(gone)
    if gone:
        block = nlri = b""
    body = len(withdrawn).to_bytes(2, "big") + withdrawn + len(block).to_bytes(2, "big") + block + nlri
    return b"\xff" * 16 + (19 + len(body)).to_bytes(2, "big") + b"\x02" + body


def tor(wire: Wire, **more: object) -> tuple[Node, Node]:
    """Node 2 is a ToR that we write the octets of."""
    one, two = wire.node(1), wire.node(2, TOR)
    wire.peer(one, (2, TOR), **more)  # type: ignore[arg-type]
    wire.peer(two, (1, 64512), passive=True)
    wire.announce(one)
    wire.announce(two)
    wire.until(lambda: one.state(two) is State.ESTABLISHED and one.router.converged)
    return one, two


def say(wire: Wire, one: Node, octets: bytes) -> None:
    connection = one.router.peers[address(2)].connection
    assert connection is not None
    one.router.received(connection, octets, wire.now)
    wire.settle(one)


def received(node: Node) -> dict[str, tuple[bool, str]]:
    page = query(node.router, Query(RibView.RECEIVED, address(2)))
    return {str(seen.prefix): (seen.best, seen.reason) for seen in page.paths}


def known(node: Node, prefix: str) -> list[str]:
    return [seen.reason for seen in query(node.router, Query(prefix=ip_network(prefix))).paths]


@pytest.mark.parametrize("segment", [SET, CONFED_SET], ids=["AS_SET", "AS_CONFED_SET"])
def test_a_path_with_an_as_set_is_not_used_and_shown_with_its_reason(segment: str) -> None:
    wire = Wire()
    one, _ = tor(wire)
    say(wire, one, update(SEQUENCE + segment))
    assert one.learned() == {}
    assert received(one) == {PREFIX: (False, REASON), OTHER: (False, REASON)}
    assert known(one, PREFIX) == [REASON]
    assert any(PREFIX in line for line in one.log), one.log


def test_it_takes_the_place_of_a_good_path_and_gives_it_back() -> None:
    wire = Wire()
    one, _ = tor(wire)
    say(wire, one, update(SEQUENCE))
    assert set(one.learned()) == {PREFIX, OTHER}
    say(wire, one, update(SEQUENCE + SET))
    assert one.learned() == {}
    say(wire, one, update(SEQUENCE))
    assert set(one.learned()) == {PREFIX, OTHER}
    assert received(one) == {PREFIX: (True, "in use"), OTHER: (True, "in use")}


def test_it_goes_when_it_is_withdrawn_or_the_session_ends() -> None:
    wire = Wire()
    one, two = tor(wire)
    say(wire, one, update(SEQUENCE + SET))
    say(wire, one, update("", gone="100a63"))
    assert received(one) == {OTHER: (False, REASON)}
    wire.shutdown(two, "")
    wire.run(1)
    assert received(one) == {}


def test_another_policy_does_not_make_it_good() -> None:
    wire = Wire()
    one, _ = tor(wire)
    say(wire, one, update(SEQUENCE + SET))
    more = {"allowed_local_as": 1}
    wire.configure(one, {address(2): PeerConfig(address(2), TOR, local_address=one.own, **more)})  # type: ignore[arg-type]
    wire.run(1)
    assert one.learned() == {}
    assert received(one)[PREFIX] == (False, REASON)


def test_what_is_missing_is_shown_as_the_reason_too() -> None:
    wire = Wire()
    one, _ = tor(wire)
    octets = update(SEQUENCE)
    without_origin = octets.replace(bytes.fromhex("40010100"), b"")
    body_length = len(without_origin)
    fixed = bytearray(without_origin)
    fixed[16:18] = body_length.to_bytes(2, "big")
    fixed[21:23] = (int.from_bytes(octets[21:23], "big") - 4).to_bytes(2, "big")
    say(wire, one, bytes(fixed))
    assert received(one)[PREFIX] == (False, "refused: ORIGIN is missing")


def test_a_set_in_as4_path_is_one_too() -> None:
    old = Context(four_octet_as=False, internal=False, families=frozenset({Family.IPV4}))
    block = "40010100" + "400206" + "0202fde95ba0" + "c0110c" + "02010000fde9" + "01010000fdea"
    found = attribute_codec.decode(bytes.fromhex(block), old)
    assert found.treatment is Treatment.TREAT_AS_WITHDRAW
    assert found.faults == ("AS4_PATH holds an AS_SET (RFC 9774)",)


def test_a_route_servers_paths_are_refused_only_where_the_first_as_is_enforced() -> None:
    foreign = "0201" + "0000fdea"
    wire = Wire()
    one, _ = tor(wire)
    say(wire, one, update(foreign))
    assert one.learned() == {}
    assert received(one)[PREFIX] == (False, f"refused: AS_PATH does not begin with the peer's AS {TOR}")
    config = PeerConfig(address(2), TOR, local_address=one.own, enforce_first_as=False)
    ends = list(one.ends)
    wire.configure(one, {address(2): config})
    wire.run(1)
    assert list(one.ends) == ends
    assert set(one.learned()) == {PREFIX, OTHER}
    say(wire, one, update(""))  # a route server's own prefix
    assert set(one.learned()) == {PREFIX, OTHER}
