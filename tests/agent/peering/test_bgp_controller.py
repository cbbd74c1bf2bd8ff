"""Running speakers that follow the facts: a change touches only the sessions it concerns."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.netlink.objects import Link, RouteKey
from agent.peering import bgp_controller
from agent.peering.drain import Drained, DrainFile
from bgp.looking_glass import Query, query
from bgp.transport.speaker import Speaker
from bgp.wire.attributes import PathAttributes
from bgp.wire.iana import WellKnown
from tests.scenes.bgp.controllers import PORT, BgpNode, BgpNodes, bgp_nodes, document


def all_up(world: BgpNodes) -> bool:
    return all(len(one.sessions()) == len(world.nodes) - 1 for one in world.nodes)


async def test_a_change_of_one_peering_leaves_every_other_session_up(tmp_path: Path) -> None:
    async with bgp_nodes(3, tmp_path) as world:
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
                maxRestartTime="100s",
            )
        )
        await world.until(lambda: all_up(world) and one.sessions()[two.address] != before[two.address])
        assert one.sessions()[three.address] == before[three.address]
        assert (one.peer(two)["type"], one.peer(three)["type"]) == ("node specific", "node-to-node mesh")
        assert one.peer(two)["resource"] == two.peer(one)["resource"] == "slow"


async def test_a_refused_connection_from_a_peers_address_is_a_trouble_that_names_it(tmp_path: Path) -> None:
    async with bgp_nodes(3, tmp_path) as world:
        one, two, _ = world.nodes
        await world.until(lambda: all_up(world))
        assert one.bgp.troubles == ()
        peer = document("BGPPeer", "two", node="n1", peerIP=two.address, asNumber=64512, ttlSecurity=1)
        world.put(peer)
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind((two.address, 0))
            await loop.sock_connect(sock, (one.address, PORT))
            with suppress(ConnectionResetError):
                assert await loop.sock_recv(sock, 1) == b""
        (trouble,) = one.bgp.troubles
        assert trouble.startswith(f"peer n2 ({two.address}): a connection from its address was refused")
        assert all_up(world)


async def test_a_gateway_of_a_peer_is_a_fact_as_long_as_the_peering_is_there(tmp_path: Path) -> None:
    async with bgp_nodes(1, tmp_path) as world:
        (one,) = world.nodes
        peer = document("BGPPeer", "far", peerIP="10.99.0.1", asNumber=65001, reachableBy="10.0.0.254")
        one.changed.clear()
        world.put(peer)
        assert {str(far): str(near) for far, near in one.bgp.gateways.items()} == {"10.99.0.1": "10.0.0.254"}
        assert one.changed.is_set()
        world.put(peer, deleted=True)
        assert one.bgp.gateways == {}


async def test_a_bfdconfiguration_that_selects_the_node_changes_its_sessions_timers(tmp_path: Path) -> None:
    async with bgp_nodes(1, tmp_path) as world:
        (one,) = world.nodes
        fields = {"peerIP": "10.99.0.1", "asNumber": 65001, "failureDetectionMode": "BFDIfDirectlyConnected"}
        world.put(document("BGPPeer", "tor", **fields))
        eth0 = Link(2, "eth0", None, 1500, True, addresses=((ip_address("10.99.0.2"), 24),))

        def timers() -> tuple[int, int]:
            (session,) = one.bgp.bfd_sessions({"eth0": eth0}).sessions.values()
            return session.min_tx_ms, session.multiplier

        assert timers() == (100, 3)
        interfaces = [{"matchPattern": "eth*", "minimumSendInterval": "300ms"}]
        world.put(document("BFDConfiguration", "rack", interfaces=interfaces))
        assert timers() == (300, 5)
        other = document("BFDConfiguration", "rack", nodeSelector="has(gone)", interfaces=interfaces)
        world.put(other)
        assert timers() == (100, 3)


async def test_a_node_that_goes_takes_its_own_sessions_alone(tmp_path: Path) -> None:
    async with bgp_nodes(3, tmp_path) as world:
        one, two, three = world.nodes
        await world.until(lambda: all_up(world))
        before = one.sessions()
        world.put(document("Node", "n3"), deleted=True)
        await world.until(lambda: three.address not in one.sessions() | two.sessions())
        assert one.sessions() == {two.address: before[two.address]}


async def test_a_password_comes_from_its_file_and_its_absence_is_said(tmp_path: Path) -> None:
    reference = {"secretKeyRef": {"name": "bgp", "key": "mesh"}}
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: all_up(world))
        settings = {"listenPort": 17902, "nodeMeshPassword": reference}
        world.put(document("BGPConfiguration", "default", **settings))
        assert one.sessions() == {}
        (trouble,) = one.bgp.troubles
        assert trouble.endswith(f"{tmp_path}/bgp/mesh: No such file or directory")
        file = tmp_path / "bgp" / "mesh"
        file.parent.mkdir()
        file.touch(0o600)
        file.write_text("hunter2\n")
        for node in world.nodes:
            node.reconcile()
        await world.until(lambda: all_up(world))
        assert one.bgp.troubles == ()
        before = one.sessions()
        file.unlink()
        one.reconcile()
        assert one.sessions() == before
        assert "the last good one stays in use" in one.bgp.troubles[0]
        assert two.sessions().keys() == {one.address}


async def test_a_filter_takes_effect_within_the_session(tmp_path: Path) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        peer = document("BGPPeer", "p", node="n1", peerIP=two.address, asNumber=64512, filters=["f"])
        world.put(peer)
        await world.until(lambda: all_up(world) and RouteKey(one.block) in two.bgp.learned)
        before = one.sessions()
        assert one.bgp.troubles == ("BGPPeer p: BGPFilter f does not exist; it counts as empty",)
        closed = document("BGPFilter", "f", exportV4=[{"action": "Reject", "source": "RemotePeers"}])
        world.put(closed)
        assert one.bgp.troubles == ()
        world.put(document("BGPFilter", "f", exportV4=[{"action": "Reject"}]))
        await world.until(lambda: RouteKey(one.block) not in two.bgp.learned)
        world.put(document("BGPFilter", "f"), deleted=True)
        await world.until(lambda: RouteKey(one.block) in two.bgp.learned)
        assert one.sessions() == before


def best_attributes(node: BgpNode, other: BgpNode) -> PathAttributes | None:
    speaker = node.bgp.speaker
    assert speaker is not None
    found = query(speaker.instance, Query(prefix=other.block)).paths
    return found[0].path.attributes if found else None


async def test_a_drained_node_is_the_last_choice_for_a_moment_then_gone_and_its_text_is_read(
    tmp_path: Path,
) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: RouteKey(one.block) in two.bgp.learned)
        two.bgp.drain("gone for lunch")
        two.reconcile()
        await world.until(lambda: (found := best_attributes(one, two)) is not None and found.local_pref == 0)
        leaving = best_attributes(one, two)
        assert leaving is not None
        assert leaving.communities == (WellKnown.GRACEFUL_SHUTDOWN,)
        assert not two.bgp.has_left
        await world.until(lambda: two.bgp.has_left)
        await world.until(lambda: RouteKey(two.block) not in one.bgp.learned)
        assert "gone for lunch" in one.peer(two)["last_error"]
        assert not two.bgp.converged  # so what it learned stays in its kernel
        assert two.bgp.looking_glass.peers() == []


async def test_a_drain_outlives_the_agent_and_ends_with_undrain(tmp_path: Path) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(lambda: all_up(world))
        two.bgp.drain("")
        await world.until(lambda: two.bgp.has_left)
        again = BgpNode(2, tmp_path)
        again.state = two.state
        again.reconcile()
        assert again.bgp.has_left
        assert again.bgp.looking_glass.peers() == []
        two.bgp.undrain()
        two.reconcile()
        assert not two.bgp.converged  # what is in the kernel waits until the peers have advertised it again
        await world.until(
            lambda: RouteKey(one.block) in two.bgp.learned and RouteKey(two.block) in one.bgp.learned
        )
        assert BgpNode(2, tmp_path).bgp.drained is None


async def test_undraining_before_it_has_left_keeps_the_sessions(tmp_path: Path) -> None:
    async with bgp_nodes(2, tmp_path) as world:
        one, two = world.nodes
        await world.until(
            lambda: RouteKey(one.block) in two.bgp.learned and RouteKey(two.block) in one.bgp.learned
        )
        before = two.sessions()
        two.bgp.drain("")
        two.reconcile()
        await world.until(lambda: (found := best_attributes(one, two)) is not None and found.local_pref == 0)
        two.bgp.undrain()
        two.reconcile()
        await world.until(
            lambda: (found := best_attributes(one, two)) is not None and found.local_pref == 2147482623
        )
        assert two.sessions() == before


def test_a_text_that_no_notification_can_carry_is_refused(tmp_path: Path) -> None:
    node = BgpNode(1, tmp_path)
    with pytest.raises(ValueError, match="at most 255 bytes"):
        node.bgp.drain("x" * 256)
    assert node.bgp.drained is None


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
    node = BgpNode(1, tmp_path)
    node.bgp.leave("the machine goes down")
    assert node.bgp.drained is not None
    assert node.bgp.drained.text == "the machine goes down"
    assert BgpNode(1, tmp_path).bgp.drained is None
    with pytest.raises(ValueError, match="at most 255 bytes"):
        node.bgp.leave("x" * 256)


async def test_leaving_does_not_end_an_operators_drain(tmp_path: Path) -> None:
    node = BgpNode(1, tmp_path)
    node.bgp.drain("new kernel")
    node.bgp.leave("the machine goes down")
    assert node.bgp.drained is not None
    assert node.bgp.drained.text == "new kernel"
    assert BgpNode(1, tmp_path).bgp.drained is not None


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), KeyError("of a mistake")])
async def test_a_speaker_that_fails_is_a_trouble_and_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(bgp_controller, "LISTEN_RETRY_SECONDS", 0.05)
    failing, run, failed = [error, error], Speaker.run, asyncio.Event()

    async def fails_first(speaker: Speaker) -> None:
        if failing:
            failed.set()
            raise failing.pop()
        await run(speaker)

    monkeypatch.setattr(Speaker, "run", fails_first)
    async with bgp_nodes(2, tmp_path) as world:
        one, other = world.nodes
        await failed.wait()
        await asyncio.sleep(0)
        assert [text for text in one.bgp.troubles if str(error) in text] != []
        await world.until(lambda: len(one.sessions()) == 1 and len(other.sessions()) == 1)
        assert (one.bgp.troubles, other.bgp.troubles) == ((), ())
