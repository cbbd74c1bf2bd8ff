"""Running speakers that follow the facts: a change touches only the sessions it concerns."""

from __future__ import annotations

from pathlib import Path

from tests.agent.meshes import Meshes, document, meshes


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
        await world.until(lambda: all_up(world) and one.block in two.mesh.learned)
        before = one.sessions()
        assert one.mesh.troubles == ("BGPPeer p: BGPFilter f does not exist; it counts as empty",)
        closed = document("BGPFilter", "f", exportV4=[{"action": "Reject", "source": "RemotePeers"}])
        world.put(closed)
        assert one.mesh.troubles == ()
        world.put(document("BGPFilter", "f", exportV4=[{"action": "Reject"}]))
        await world.until(lambda: one.block not in two.mesh.learned)
        world.put(document("BGPFilter", "f"), deleted=True)
        await world.until(lambda: one.block in two.mesh.learned)
        assert one.sessions() == before
