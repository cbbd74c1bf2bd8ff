"""Who a node is as a speaker."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.peering.peers import hashed_router_id, identity
from bgp.peer_config import SpeakerConfig
from ipam.model import NodeName
from tests.scenes.bgp.peerings import REFLECTOR, A, B, C, inputs, node


def made(*nodes: object, **more: object) -> SpeakerConfig:
    found = identity(inputs(*nodes, **more))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_node_listens_on_its_own_addresses() -> None:
    both, four = made(A, B), made(C, me="c")
    assert both.addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert four.addresses == (ip_address("10.0.0.3"),)
    assert (both.router_id, both.asn, both.port) == (ip_address("10.0.0.1"), 64512, 179)


def test_bind_mode_none_listens_everywhere() -> None:
    everywhere = made(A, configured={"default": {"bindMode": "None"}})
    assert everywhere.addresses == (ip_address("0.0.0.0"), ip_address("::"))
    assert made(A, configured={"default": {"bindMode": "NodeIP"}}).addresses == made(A).addresses


def test_as_number_port_and_cluster_id_come_from_the_resources() -> None:
    settings = {"default": {"asNumber": 65000, "listenPort": 1790}, "node.a": {"listenPort": 1791}}
    found = made(A, configured=settings)
    assert (found.asn, found.port, found.cluster_id) == (65000, 1791, None)
    assert made(REFLECTOR, me="r").cluster_id == ip_address("1.0.0.1")
    unreadable = node("x", "10.0.0.7", route_reflector_cluster_id="one")
    assert made(unreadable, me="x").cluster_id is None


@pytest.mark.parametrize(
    ("name", "router_id"), [("Testrobin123", "207.94.5.27"), ("nodeTest", "109.174.215.226")]
)
def test_a_node_without_ipv4_has_the_router_id_that_calico_makes_of_its_name(
    name: str, router_id: str
) -> None:
    assert str(hashed_router_id(NodeName(name))) == router_id
    six = made(node(name, v6="fd00::7"), me=name)
    assert (str(six.router_id), six.addresses) == (router_id, (ip_address("fd00::7"),))


def test_without_an_address_there_is_no_speaker() -> None:
    assert identity(inputs(node("a"))) is None
    assert identity(inputs(B)) is None
