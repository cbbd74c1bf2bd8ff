"""Nodes with addresses of both families have a session of each, and each carries its own family's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.namespace import fresh_namespace, ip
from tests.scenes.bgp.controllers import BgpNode, bgp_nodes, document


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
