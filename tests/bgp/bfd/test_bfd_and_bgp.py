"""What BFD's word means to a BGP session: RFC 5882 sections 4.3 and 10, RFC 9384."""

from __future__ import annotations

import pytest

from bgp.wire.iana import Cease, Error
from tests.fakes.wire import Node, Wire

BLOCK = "192.168.1.0/26"


def two(wire: Wire) -> tuple[Node, Node]:
    """1 announces a block to 2."""
    one, other = wire.node(1, 64512), wire.node(2, 64512)
    wire.peer(one, (2, 64512))
    wire.peer(other, (1, 64512), passive=True)
    wire.announce(one, BLOCK)
    wire.announce(other)
    wire.until(lambda: other.learned() == {BLOCK: "10.0.0.1"})
    return one, other


def stale(node: Node) -> bool:
    (peer,) = node.router.peers.values()
    return any(rib.stale for rib in peer.adj_ribs_in.values())


@pytest.mark.parametrize("independent", [False, True], ids=["C=0", "C=1"])
def test_a_bfd_session_that_fails_ends_the_bgp_session_and_takes_its_routes_at_once(
    independent: bool,
) -> None:
    wire = Wire()
    one, other = two(wire)
    (address,) = other.router.peers
    other.router.bfd_changed(address, wire.now, up=False, independent=independent)
    wire.settle(other)
    assert other.learned() == {}
    (peer,) = other.router.peers.values()
    assert peer.last_down is not None
    assert peer.last_down.sent is not None
    sent = peer.last_down.sent
    assert (sent.code, sent.subcode, sent.data[:2]) == (
        Error.CEASE,
        Cease.HARD_RESET,
        bytes([Error.CEASE, Cease.BFD_DOWN]),
    )
    wire.run(1)
    assert one.learned() == {}


def test_a_bfd_session_that_goes_with_a_graceful_restart_of_c_0_takes_no_stale_path() -> None:
    wire = Wire()
    one, other = two(wire)
    (address,) = other.router.peers
    wire.kill(one)
    wire.run(0.1)
    assert stale(other)
    other.router.bfd_changed(address, wire.now, up=False, independent=False)
    wire.settle(other)
    assert other.learned() == {BLOCK: "10.0.0.1"}


def test_a_bfd_session_of_c_1_that_fails_in_a_graceful_restart_takes_the_stale_paths() -> None:
    wire = Wire()
    one, other = two(wire)
    (address,) = other.router.peers
    wire.kill(one)
    wire.run(0.1)
    other.router.bfd_changed(address, wire.now, up=False, independent=True)
    wire.settle(other)
    assert other.learned() == {}


def test_a_bfd_session_that_comes_up_has_the_peer_called_at_once() -> None:
    wire = Wire()
    one, _ = two(wire)
    (address,) = one.router.peers
    one.router.bfd_changed(address, wire.now, up=False, independent=True)
    wire.settle(one)
    due = one.router.next_deadline()
    assert due is not None
    assert due > wire.now
    one.router.bfd_changed(address, wire.now, up=True, independent=True)
    assert one.router.next_deadline() == wire.now
