"""Running speakers that follow the facts: a change touches only the sessions it concerns."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.netlink.objects import RouteKey
from agent.peering.drain import Drained, DrainFile
from bgp.looking_glass import Query, query
from bgp.wire.attributes import PathAttributes
from bgp.wire.iana import WellKnown
from tests.scenes.bgp_controllers import Meshes, MeshNode, document, meshes


def all_up(world: Meshes) -> bool:
    return all(len(one.sessions()) == len(world.nodes) - 1 for one in world.nodes)


async def test_a_change_of_one_peering_leaves_every_other_session_up(tmp_path: Path) -> None:
    async with meshes(3, tmp_path) as world:
        one, two, three = world.nodes
        await world.until(lambda: all_up(world))
        before = one.sessions()
        world.put(
            document(
                "BGPPeer",
                "slow",
                node="n1",
                peerIP=two.address,
                asNumber=64512,
                keepaliveTime="1s",
                ttlSecurity=1,
            )
        )
        await world.until(lambda: all_up(world) and one.sessions()[two.address] != before[two.address])
        assert one.sessions()[three.address] == before[three.address]
        assert (one.peer(two)["type"], one.peer(three)["type"]) == ("node specific", "node-to-node mesh")
        assert one.peer(two)["resource"] == two.peer(one)["resource"] == "slow"


async def test_a_gateway_of_a_peer_is_a_fact_as_long_as_the_peering_is_there(tmp_path: Path) -> None:
    async with meshes(1, tmp_path) as world:
        (one,) = world.nodes
        peer = document("BGPPeer", "far", peerIP="10.99.0.1", asNumber=65001, reachableBy="10.0.0.254")
        one.changed.clear()
        world.put(peer)
        assert {str(far): str(near) for far, near in one.mesh.gateways.items()} == {"10.99.0.1": "10.0.0.254"}
        assert one.changed.is_set()
        world.put(peer, deleted=True)
        assert one.mesh.gateways == {}


async def test_a_node_that_goes_takes_its_own_sessions_alone(tmp_path: Path) -> None:
    async with meshes(3, tmp_path) as world:
        one, two, three = world.nodes
        await world.until(lambda: all_up(world))
        before = one.sessions()
        world.put(document("Node", "n3"), deleted=True)
        await world.until(lambda: three.address not in one.sessions() | two.sessions())
        assert one.sessions() == {two.address: before[two.address]}


async def test_a_password_comes_from_its_file_and_its_absence_is_said(tmp_path: Path) -> None:
    reference = {"secretKeyRef": {"name": "bgp", "key": "mesh"}}
    async with meshes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: all_up(world))
        settings = {"listenPort": 17902, "nodeMeshPassword": reference}
        world.put(document("BGPConfiguration", "default", **settings))
        assert one.sessions() == {}
        (trouble,) = one.mesh.troubles
        assert trouble.endswith(f"{tmp_path}/bgp/mesh: No such file or directory")
        file = tmp_path / "bgp" / "mesh"
        file.parent.mkdir()
        file.touch(0o600)
        file.write_text("hunter2\n")
        for node in world.nodes:
            node.follow()
        await world.until(lambda: all_up(world))
        assert one.mesh.troubles == ()
        before = one.sessions()
        file.unlink()
        one.follow()
        assert one.sessions() == before
        assert "the last good one stays in use" in one.mesh.troubles[0]
        assert two.sessions().keys() == {one.address}


async def test_a_filter_takes_effect_within_the_session(tmp_path: Path) -> None:
    async with meshes(2, tmp_path) as world:
        one, two = world.nodes
        peer = document("BGPPeer", "p", node="n1", peerIP=two.address, asNumber=64512, filters=["f"])
        world.put(peer)
        await world.until(lambda: all_up(world) and RouteKey(one.block) in two.mesh.learned)
        before = one.sessions()
        assert one.mesh.troubles == ("BGPPeer p: BGPFilter f does not exist; it counts as empty",)
        closed = document("BGPFilter", "f", exportV4=[{"action": "Reject", "source": "RemotePeers"}])
        world.put(closed)
        assert one.mesh.troubles == ()
        world.put(document("BGPFilter", "f", exportV4=[{"action": "Reject"}]))
        await world.until(lambda: RouteKey(one.block) not in two.mesh.learned)
        world.put(document("BGPFilter", "f"), deleted=True)
        await world.until(lambda: RouteKey(one.block) in two.mesh.learned)
        assert one.sessions() == before


def best_attributes(node: MeshNode, other: MeshNode) -> PathAttributes | None:
    speaker = node.mesh._speaker
    assert speaker is not None
    found = query(speaker.instance, Query(prefix=other.block)).paths
    return found[0].path.attributes if found else None


async def test_a_drained_node_is_the_last_choice_for_a_moment_then_gone_and_its_text_is_read(
    tmp_path: Path,
) -> None:
    async with meshes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: RouteKey(one.block) in two.mesh.learned)
        two.mesh.drain("gone for lunch")
        two.follow()
        await world.until(lambda: (found := best_attributes(one, two)) is not None and found.local_pref == 0)
        leaving = best_attributes(one, two)
        assert leaving is not None
        assert leaving.communities == (WellKnown.GRACEFUL_SHUTDOWN,)
        assert not two.mesh.has_left
        await world.until(lambda: two.mesh.has_left)
        await world.until(lambda: RouteKey(two.block) not in one.mesh.learned)
        assert "gone for lunch" in one.peer(two)["last_error"]
        assert not two.mesh.converged  # so what it learned stays in its kernel
        assert two.mesh.status() == []


async def test_a_drain_outlives_the_agent_and_ends_with_undrain(tmp_path: Path) -> None:
    async with meshes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: all_up(world))
        two.mesh.drain("")
        await world.until(lambda: two.mesh.has_left)
        again = MeshNode(2, tmp_path)
        again.cluster = two.cluster
        again.follow()
        assert again.mesh.has_left
        assert again.mesh.status() == []
        two.mesh.undrain()
        two.follow()
        assert not two.mesh.converged  # what is in the kernel waits until the peers have told it again
        await world.until(
            lambda: RouteKey(one.block) in two.mesh.learned and RouteKey(two.block) in one.mesh.learned
        )
        assert MeshNode(2, tmp_path).mesh.drained is None


async def test_undraining_before_it_has_left_keeps_the_sessions(tmp_path: Path) -> None:
    async with meshes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(
            lambda: RouteKey(one.block) in two.mesh.learned and RouteKey(two.block) in one.mesh.learned
        )
        before = two.sessions()
        two.mesh.drain("")
        two.follow()
        await world.until(lambda: (found := best_attributes(one, two)) is not None and found.local_pref == 0)
        two.mesh.undrain()
        two.follow()
        await world.until(
            lambda: (found := best_attributes(one, two)) is not None and found.local_pref == 100
        )
        assert two.sessions() == before


def test_a_text_that_no_notification_can_carry_is_refused(tmp_path: Path) -> None:
    node = MeshNode(1, tmp_path)
    with pytest.raises(ValueError, match="at most 255 bytes"):
        node.mesh.drain("x" * 256)
    assert node.mesh.drained is None


def test_a_drain_file_that_cannot_be_read_counts_as_a_drain(tmp_path: Path) -> None:
    file = DrainFile(tmp_path)
    assert file.read() is None
    file.write(Drained(SystemClock().wall(), "why"))
    assert (found := file.read()) is not None
    assert found.text == "why"
    (tmp_path / "drained.json").write_text("{")
    assert (found := file.read()) is not None
    assert found.text == ""
    file.write(None)
    file.write(None)
    assert file.read() is None


async def test_leaving_for_one_life_is_forgotten_by_the_next(tmp_path: Path) -> None:
    node = MeshNode(1, tmp_path)
    node.mesh.leave("the machine goes down")
    assert node.mesh.drained is not None
    assert node.mesh.drained.text == "the machine goes down"
    assert MeshNode(1, tmp_path).mesh.drained is None
    with pytest.raises(ValueError, match="at most 255 bytes"):
        node.mesh.leave("x" * 256)


async def test_leaving_does_not_end_an_operators_drain(tmp_path: Path) -> None:
    node = MeshNode(1, tmp_path)
    node.mesh.drain("new kernel")
    node.mesh.leave("the machine goes down")
    assert node.mesh.drained is not None
    assert node.mesh.drained.text == "new kernel"
    assert MeshNode(1, tmp_path).mesh.drained is not None
