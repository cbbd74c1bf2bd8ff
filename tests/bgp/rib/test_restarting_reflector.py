"""Who passes on what others tell restarts without a loss: End-of-RIB waits until he has heard them (RFC 4724 4.1)."""

from __future__ import annotations

import pytest

from bgp.peer_config import PeerConfig
from bgp.session.fsm import State
from tests.fakes.wire import Node, Wire, address

BLOCK, OWN = "192.168.1.0/26", "192.168.9.0/26"
MESH, FABRIC = 64512, 65001


def middle(wire: Wire, asn: int, *, restarting: bool = False) -> Node:
    """Node 1 passes on to node 3 (of this AS) what node 2 tells."""
    node = wire.node(1, restarting=restarting)
    reflects = asn == MESH
    wire.configure(
        node,
        {
            address(2): PeerConfig(address(2), MESH, route_reflector_client=reflects),
            address(3): PeerConfig(address(3), asn, route_reflector_client=reflects),
        },
    )
    wire.announce(node, OWN)
    return node


@pytest.mark.parametrize("asn", [MESH, FABRIC], ids=["as reflector", "to another AS"])
def test_its_restart_costs_those_behind_it_nothing(asn: int) -> None:
    def client(*, restarting: bool = False) -> None:
        node = wire.node(2, restarting=restarting)
        wire.configure(node, {address(1): PeerConfig(address(1), MESH)})
        wire.announce(node, BLOCK)

    wire = Wire()
    client()
    three = wire.node(3, asn)
    wire.configure(three, {address(1): PeerConfig(address(1), MESH)})
    wire.announce(three)
    one = middle(wire, asn)
    wire.until(lambda: set(three.learned()) == {BLOCK, OWN} and one.router.converged)
    before = three.learned()
    three.changes.clear()
    wire.kill(one)
    wire.kill(wire.nodes[address(2)])  # it comes back a little later
    wire.run(1)
    one = middle(wire, asn, restarting=True)
    wire.until(lambda: one.state(three) is State.ESTABLISHED)
    wire.run(3)
    client(restarting=True)
    wire.until(lambda: one.router.converged and not three.stale() and one.state(three) is State.ESTABLISHED)
    wire.run(10)
    assert three.learned() == before
    assert [change for change in three.changes if change[1] is None] == []


def test_two_reflectors_that_restart_at_once_do_not_wait_for_each_other() -> None:
    def reflector(last: int, *, restarting: bool = False) -> Node:
        node = wire.node(last, restarting=restarting)
        other = address(3 - last)
        wire.configure(node, {other: PeerConfig(other, MESH, route_reflector_client=True)})
        wire.announce(node, f"10.0.{last}.0/24")
        return node

    wire = Wire()
    one, two = reflector(1), reflector(2)
    wire.until(lambda: bool(one.learned()) and bool(two.learned()))
    wire.kill(one)
    wire.kill(two)
    wire.run(1)
    one, two = reflector(1, restarting=True), reflector(2, restarting=True)
    wire.until(lambda: one.state(two) is State.ESTABLISHED)
    wire.run(15)
    assert one.router.converged
    assert two.router.converged
    assert (list(one.learned()), list(two.learned())) == (["10.0.2.0/24"], ["10.0.1.0/24"])
