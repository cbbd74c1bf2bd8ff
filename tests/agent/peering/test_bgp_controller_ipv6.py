"""Nodes with addresses of both families have a session of each, and each carries its own family's blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.configuration.config import UplinkSettings
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.inputs.gather import Gatherer
from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.bgp.controllers import PORT, BgpNode, bgp_nodes, document


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        for number in (1, 2, 3):
            ip(f"address add fd00::{number}/128 dev lo nodad")
        yield


def dual(node: BgpNode) -> dict[str, object]:
    addresses = {"ipv4Address": f"{node.address}/24", "ipv6Address": f"{node.address6}/64"}
    return document("Node", node.name, bgp=addresses)


async def test_a_session_per_family_and_blocks_by_their_own(tmp_path: Path) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        for node in world.nodes:
            world.put(dual(node))
        await world.until(lambda: len(one.sessions()) == len(two.sessions()) == 2)
        await world.until(lambda: len(one.bgp.learned) == len(two.bgp.learned) == 2)
        assert one.sessions().keys() == {two.address, two.address6}
        assert one.next_hops() == {str(two.block): two.address, str(two.block6): two.address6}
        counts = {str(peer["address"]): peer["counts"] for peer in one.bgp.looking_glass.peers()}
        assert {address: list(families) for address, families in counts.items()} == {
            two.address: ["IPV4"],
            two.address6: ["IPV6"],
        }


async def test_a_node_of_one_family_peers_in_that_family_alone(tmp_path: Path) -> None:
    async with bgp_nodes(3, tmp_path) as world:
        one, two, six = world.nodes
        for node in (one, two):
            world.put(dual(node))
        world.put(document("Node", six.name, bgp={"ipv6Address": f"{six.address6}/64"}))
        await world.until(lambda: set(one.sessions()) == {two.address, two.address6, six.address6})
        await world.until(lambda: set(six.sessions()) == {one.address6, two.address6})
        await world.until(lambda: len(six.bgp.learned) == 2)
        assert six.next_hops() == {str(node.block6): node.address6 for node in (one, two)}


def peer_on(node: BgpNode, address: str) -> dict[str, object]:
    """A BGPPeer of one node with what is at an address of a link."""
    return document("BGPPeer", f"link-{node.name}", node=node.name, peerIP=address, asNumber=64512)


def cable() -> None:
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
    ip("link add near1 type veth peer name far1")
    for end, address in (("near1", "fe80::1"), ("far1", "fe80::2")):
        Path(f"/proc/sys/net/ipv6/conf/{end}/addr_gen_mode").write_text("1")
        Path(f"/proc/sys/net/ipv6/conf/{end}/forwarding").write_text("1")
        ip(f"link set {end} up")
        ip(f"address add {address}/64 dev {end} nodad")


async def test_bgppeers_on_a_link_have_a_session_of_both_families_and_next_hops_there(tmp_path: Path) -> None:
    cable()
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        world.put(document("BGPConfiguration", "default", listenPort=PORT, nodeToNodeMeshEnabled=False))
        world.put(peer_on(one, f"[fe80::2%near1]:{PORT}"))
        world.put(peer_on(two, f"[fe80::1%far1]:{PORT}"))
        await world.until(lambda: set(one.sessions()) == {"fe80::2%near1"})
        await world.until(lambda: set(two.sessions()) == {"fe80::1%far1"})
        await world.until(lambda: str(two.block) in one.next_hops())
        assert one.next_hops()[str(two.block)] == "fe80::2%near1"
    ip("link del near1")


async def test_a_router_found_on_an_uplink_is_a_peer_and_it_is_shown_how_it_was_found(tmp_path: Path) -> None:
    cable()
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        world.put(document("BGPConfiguration", "default", listenPort=PORT, nodeToNodeMeshEnabled=False))
        world.put(peer_on(two, f"[fe80::1%far1]:{PORT}"))
        await one.bgp.close()
        one.bgp = one.new_controller(
            uplink=[UplinkSettings(interface="near*", remote_as="internal", port=PORT)]
        )
        looking = asyncio.create_task(one.bgp.uplinks.run())
        try:
            one.reconcile()
            await world.until(lambda: set(one.sessions()) == {"fe80::2%near1"})
            await world.until(lambda: str(two.block) in one.next_hops())
            (row,) = one.bgp.uplinks.report()
            assert (row["interface"], row["router"], row["state"], row["why_not"]) == (
                *("near1", "fe80::2%near1", "Established", ""),
            )
            assert list(one.bgp.session_troubles()) == []
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await one.bgp.close()
    ip("link del near1")


async def test_pods_are_kept_from_a_router_that_is_found_by_its_ipv4_gateway_alone(tmp_path: Path) -> None:
    ip("link add near1 type veth peer name far1")
    for name in ("near1", "far1"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        ip(f"link set {name} up")
    ip("address add 10.9.0.1/24 dev near1")
    ip("route add default via 10.9.0.2 dev near1")
    router = ip_address("10.9.0.2"), PORT
    async with bgp_nodes(1, tmp_path) as world:
        (one,) = world.nodes
        await one.bgp.close()
        one.bgp = one.new_controller(
            uplink=[UplinkSettings(interface="near*", remote_as="external", port=PORT)]
        )
        looking = asyncio.create_task(one.bgp.uplinks.run())
        try:
            await world.until(lambda: router in one.bgp.speakers)
            found = Gatherer(one.state).gather(FactSettings(), {}, {}, {}, peers=one.bgp.speakers)
            assert router in found.bgp_speakers
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await one.bgp.close()
    ip("link del near1")
