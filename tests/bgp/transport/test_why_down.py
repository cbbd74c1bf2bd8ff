"""A session that is down says why, in the kernel's words, and since when; the log has each reason once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

import pytest

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from bgp.transport.speaker import Speaker
from bgp.wire.families import Address
from tests.fixtures.namespace import fresh_namespace

ONE, TWO, FAR = IPv4Address("127.0.12.1"), IPv4Address("127.0.12.2"), IPv4Address("203.0.113.9")
PORT = 17901
WAIT_SECONDS = 20


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    """Ports and addresses that no other checkout's tests have."""
    with fresh_namespace():
        yield


@dataclass
class Heard:
    """A log that wakes whoever waits for a line."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def _take(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))
        self.more.set()

    info = warning = error = _take

    def reasons(self, peer: Address) -> list[str]:
        return [
            fields["why"]
            for event, fields in self.lines
            if event == "bgp.no_session" and fields["peer"] == str(peer)
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await self.more.wait()
                self.more.clear()


def speaker(log: Heard, *peers: IPv4Address, own: IPv4Address = ONE, passive: bool = False) -> Speaker:
    made = Speaker(SpeakerConfig(64512, own, own, PORT), SystemClock(), log.more.set, log)
    made.configure(
        {
            peer: PeerConfig(
                peer, 64512, PORT, passive=passive, local_address=own if peer.is_loopback else None
            )
            for peer in peers
        }
    )
    made.announce(frozenset())
    return made


def shown(one: Speaker, peer: Address) -> PeerStatus:
    return next(status for status in one.status() if status.address == peer)


async def test_each_reason_is_the_kernels_and_is_logged_once_however_often_it_is_tried() -> None:
    log = Heard()
    one = speaker(log, TWO, FAR)
    running = asyncio.create_task(one.run())
    attempts: list[object] = []
    try:
        await log.until(lambda: bool(log.reasons(TWO)) and bool(log.reasons(FAR)))
        since = shown(one, TWO).since
        original = one.instance.dial_failed

        def counted(*given: Any) -> None:
            attempts.append(given)
            original(*given)
            log.more.set()

        one.instance.dial_failed = counted  # type: ignore[method-assign]
        await log.until(lambda: len(attempts) >= 4)
        assert (log.reasons(TWO), log.reasons(FAR)) == (["Connection refused"], ["Network is unreachable"])
        status = shown(one, TWO)
        assert (status.last_error, status.since) == ("Connection refused", since)
        assert shown(one, FAR).last_error == "Network is unreachable"
        assert since is not None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_why_and_since_when_change_with_the_session_alone() -> None:
    log, other = Heard(), Heard()
    one = speaker(log, TWO)
    running = asyncio.create_task(one.run())
    try:
        await log.until(lambda: log.reasons(TWO) == ["Connection refused"])
        two = speaker(other, ONE, own=TWO, passive=True)
        second = asyncio.create_task(two.run())
        await log.until(lambda: shown(one, TWO).state is State.ESTABLISHED)
        up = shown(one, TWO)
        assert up.last_error == ""
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await log.until(lambda: len(log.reasons(TWO)) == 2)
        down = shown(one, TWO)
        assert log.reasons(TWO)[1] == down.last_error == "Connection refused"
        assert down.session_ended == "the peer closed TCP"
        assert up.since is not None
        assert down.since is not None
        assert down.since >= up.since
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_port_that_somebody_else_answers_says_what_ended_the_connection() -> None:
    log = Heard()
    with socket.create_server((str(TWO), PORT)) as server:
        server.setblocking(False)
        one = speaker(log, TWO)
        running = asyncio.create_task(one.run())
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(server)
            connection.close()
            await log.until(lambda: bool(log.reasons(TWO)))
            assert log.reasons(TWO)[0] in ("the peer closed TCP", "Connection reset by peer")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
