"""Two real speakers over TCP on loopback: they tell each other what they originate, and a killed one loses nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
import structlog

from agent.clock import SystemClock
from bgp.looking_glass import Query, RibView, query
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session.fsm import State
from bgp.transport.speaker import Speaker
from bgp.wire.errors import ListenFailed
from tests.fixtures.namespace import fresh_namespace

ONE, TWO = IPv4Address("127.0.11.1"), IPv4Address("127.0.11.2")
PORT = 17900
BLOCK = IPv4Network("192.168.1.0/26")
OTHER = IPv4Network("192.168.2.0/26")
WAIT_SECONDS = 10


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    """Ports and addresses that no other checkout's tests have."""
    with fresh_namespace():
        yield


class Node:
    """A running speaker and its bell."""

    def __init__(self, own: IPv4Address, peer: IPv4Address, *, restarting: bool = False, **more: Any) -> None:
        self.changed = asyncio.Event()
        config = SpeakerConfig(64512, own, own, PORT, restarting=restarting, deferral_seconds=20)
        self.speaker = Speaker(config, SystemClock(), self.changed.set, structlog.get_logger())
        self.speaker.configure(
            {peer: PeerConfig(peer, 64512, PORT, passive=own > peer, local_address=own, **more)}
        )
        self.speaker.announce(frozenset())

    async def until(self, condition: Callable[[Speaker], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition(self.speaker):
                await self.changed.wait()
                self.changed.clear()


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(node.speaker.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def next_hops(speaker: Speaker) -> dict[str, str]:
    return {str(prefix): str(route.next_hop) for prefix, route in speaker.learned.items()}


async def test_two_speakers_advertise_to_each_other_what_they_originate_and_withdraw() -> None:
    one, two = Node(ONE, TWO), Node(TWO, ONE)
    one.speaker.announce(frozenset({BLOCK}))
    async with running(one), running(two):
        await two.until(lambda speaker: speaker.converged and bool(speaker.learned))
        assert next_hops(two.speaker) == {str(BLOCK): str(ONE)}
        await one.until(lambda speaker: speaker.converged)
        two.speaker.announce(frozenset({OTHER}))
        await one.until(lambda speaker: bool(speaker.learned))
        assert next_hops(one.speaker) == {str(OTHER): str(TWO)}
        one.speaker.announce(frozenset())
        await two.until(lambda speaker: not speaker.learned)
        (shown,) = one.speaker.status()
        assert (shown.state, shown.hold_seconds, shown.router_id) == (State.ESTABLISHED, 90, TWO)
        assert shown.received_offer is not None
        assert shown.received_offer.graceful_restart is not None
        received = query(one.speaker.instance, Query(RibView.RECEIVED, TWO)).paths
        advertised = query(two.speaker.instance, Query(RibView.ADVERTISED, ONE)).paths
        assert [path.prefix for path in received] == [path.prefix for path in advertised] == [OTHER]
        assert query(one.speaker.instance, Query(prefix=OTHER)).paths[0].path.source.address == TWO


async def test_a_speaker_that_dies_and_returns_changes_no_next_hop_at_its_peer() -> None:
    one, two = Node(ONE, TWO), Node(TWO, ONE)
    one.speaker.announce(frozenset({BLOCK, OTHER}))
    seen: list[dict[str, str]] = []
    async with running(two):
        async with running(one):
            await two.until(lambda speaker: len(speaker.learned) == 2)
        await two.until(lambda speaker: all(route.stale for route in speaker.learned.values()))
        seen.append(next_hops(two.speaker))
        again = Node(ONE, TWO, restarting=True)
        again.speaker.announce(frozenset({BLOCK}))
        async with running(again):
            await two.until(lambda speaker: not any(route.stale for route in speaker.learned.values()))
            assert seen == [{str(BLOCK): str(ONE), str(OTHER): str(ONE)}]
            assert next_hops(two.speaker) == {str(BLOCK): str(ONE)}


async def test_a_peer_that_is_no_longer_configured_is_removed_at_once_on_both_sides() -> None:
    one, two = Node(ONE, TWO), Node(TWO, ONE)
    one.speaker.announce(frozenset({BLOCK}))
    async with running(one), running(two):
        await two.until(lambda speaker: bool(speaker.learned))
        one.speaker.configure({})
        await two.until(lambda speaker: not speaker.learned)
        assert one.speaker.status() == ()


async def test_a_port_in_use_is_said_with_address_and_port() -> None:
    second = Node(ONE, TWO)
    sentence = f"cannot listen for BGP on {ONE} port {PORT}: another process has it"
    with socket.create_server((str(ONE), PORT)), pytest.raises(ListenFailed, match=sentence):
        await second.speaker.run()


async def test_the_paths_of_a_drained_speaker_go_at_once() -> None:
    one, two = Node(ONE, TWO), Node(TWO, ONE)
    one.speaker.announce(frozenset({BLOCK}))
    async with running(one), running(two):
        await two.until(lambda speaker: bool(speaker.learned))
        one.speaker.shutdown("gone for good")
        await two.until(lambda speaker: not speaker.learned)
        assert two.speaker.status()[0].last_error.endswith("gone for good")


async def test_two_speakers_with_one_password_and_ttl_security_meet() -> None:
    one = Node(ONE, TWO, password="secret", ttl_security_hops=1)
    two = Node(TWO, ONE, password="secret", ttl_security_hops=1)
    one.speaker.announce(frozenset({BLOCK}))
    async with running(one), running(two):
        await two.until(lambda speaker: bool(speaker.learned))


async def test_a_caller_without_the_password_does_not_even_get_tcp() -> None:
    one = Node(ONE, TWO, password="secret")
    async with running(one):
        await one.speaker.listening.wait()
        with socket.socket() as caller:
            caller.bind((str(TWO), 0))
            caller.settimeout(0.3)
            with pytest.raises(TimeoutError):
                caller.connect((str(ONE), PORT))
