"""Whom a node peers with, and what it tells."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.dataplane.facts import Endpoint, Facts
from agent.dataplane.objects import RouteKey
from agent.datastore.bgp_resources import BGPConfigurationSpec
from agent.datastore.resources import Metadata, Node, NodeBGPSpec, NodeSpec
from agent.peering import announcements, mesh
from ipam.model import NodeName, Pool

ME, OTHER = NodeName("a"), NodeName("b")
BLOCK = IPv4Network("192.168.1.0/26")


def node(name: str, address: str | None, asn: int | None = None) -> Node:
    return Node(
        metadata=Metadata(name=name), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address=address, as_number=asn))
    )


NODES = {ME: node("a", "10.0.0.1/24"), OTHER: node("b", "10.0.0.2/24", 64999), NodeName("c"): node("c", None)}


def test_the_mesh_holds_every_other_node_with_an_address() -> None:
    peers = mesh(ME, NODES, BGPConfigurationSpec(), hold_seconds=90)
    assert list(peers) == [IPv4Address("10.0.0.2")]
    peer = peers[IPv4Address("10.0.0.2")]
    assert (peer.asn, peer.port, peer.passive, peer.description) == (64999, 179, False, "b")


def test_of_two_nodes_exactly_one_waits_to_be_called() -> None:
    one = mesh(ME, NODES, BGPConfigurationSpec(), 90)[IPv4Address("10.0.0.2")]
    other = mesh(OTHER, NODES, BGPConfigurationSpec(), 90)[IPv4Address("10.0.0.1")]
    assert (one.passive, other.passive) == (False, True)


def test_without_the_mesh_or_without_an_own_address_there_is_no_peer() -> None:
    assert mesh(ME, NODES, BGPConfigurationSpec(node_to_node_mesh_enabled=False), 90) == {}
    assert mesh(NodeName("c"), NODES, BGPConfigurationSpec(), 90) == {}


def facts(**more: object) -> Facts:
    given: dict[str, object] = {
        "pools": (Pool("p", IPv4Network("192.168.0.0/16"), 26),),
        "block_owners": {BLOCK: ME, IPv4Network("192.168.9.0/26"): OTHER},
        "endpoints": (
            Endpoint("cali1", (IPv4Address("192.168.1.7"),)),
            Endpoint("cali2", (IPv4Address("192.168.9.5"),)),
        ),
        **more,
    }
    return Facts(node=ME, **given)  # type: ignore[arg-type]


def test_own_blocks_and_borrowed_addresses_are_told_and_own_addresses_are_not() -> None:
    assert announcements(facts(), {RouteKey(BLOCK)}) == {BLOCK, IPv4Network("192.168.9.5/32")}


def test_a_block_is_told_only_after_its_blackhole_is_in_the_kernel() -> None:
    assert announcements(facts(endpoints=()), ()) == frozenset()


def test_a_block_of_one_address_needs_no_blackhole() -> None:
    single = IPv4Network("192.168.1.9/32")
    assert announcements(facts(block_owners={single: ME}, endpoints=()), ()) == {single}


@pytest.mark.parametrize(
    "pools",
    [(), (Pool("p", IPv4Network("192.168.0.0/16"), 26, disable_bgp_export=True),)],
    ids=["no pool", "not exported"],
)
def test_nothing_is_told_of_what_no_exported_pool_holds(pools: tuple[Pool, ...]) -> None:
    assert announcements(facts(pools=pools), {RouteKey(BLOCK)}) == frozenset()
