"""The agent's side of the door: what it says, what it makes of reports, and who may die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.netlink.objects import Address
from agent.peering.bfd.bfd_client import BfdClient
from agent.peering.bfd.bfd_sessions import NO_SESSIONS, BfdSessions
from bgp.bfd.door import Desired, DesiredSession, Report, SessionKey, SessionReport, encode, read_desired

PEER = ip_address("10.0.0.254")
KEY = SessionKey("10.0.0.254", "10.0.0.1", "eth0")
WANTED = BfdSessions({PEER: DesiredSession(KEY)}, {})
PATIENCE_SECONDS = 20
QUIET_SECONDS = 0.2


class Process:
    """A BFD process played by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: asyncio.Queue[Desired] = asyncio.Queue()
        self.connected: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def start(self) -> None:
        self.server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.put_nowait(writer)
        while line := await reader.readline():
            self.asked.put_nowait(read_desired(line))
        writer.close()


class World:
    """A client with its process, and what the speaker was told."""

    def __init__(self, path: Path) -> None:
        self.process = Process(path)
        self.client = BfdClient(path, SystemClock(), self)
        self.told: asyncio.Queue[tuple[Address, bool, bool]] = asyncio.Queue()
        self.count = 0

    def bfd_changed(self, address: Address, *, up: bool, independent: bool) -> None:
        self.told.put_nowait((address, up, independent))

    async def connect(self) -> asyncio.StreamWriter:
        """The client has connected, and said what it wants."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer = await self.process.connected.get()
            await self.process.asked.get()
        return writer


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "bfd.sock")
    await made.process.start()
    made.client.want(WANTED, {PEER: "tor1"})
    running = asyncio.create_task(made.client.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    made.process.server.close()


def session(state: str, number: int = 7, failures: int = 0, **more: object) -> SessionReport:
    return SessionReport(KEY, state, number, failures, **more)  # type: ignore[arg-type]


def say(writer: asyncio.StreamWriter, *sessions: SessionReport, whole: bool = False) -> None:
    writer.write(encode(Report(1, whole, sessions, {"sent": 3} if whole else {})))


async def told(world: World) -> tuple[Address, bool, bool]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await world.told.get()


async def test_a_failure_is_told_with_the_c_bit_that_was_heard_and_a_return_is_told(world: World) -> None:
    writer = await world.connect()
    say(writer, session("Up", remote_independent=True), whole=True)
    say(writer, session("Down", failures=1))
    assert await told(world) == (PEER, False, True)
    say(writer, session("Up", failures=1))
    assert await told(world) == (PEER, True, False)


async def test_a_failure_between_two_reports_is_not_missed(world: World) -> None:
    writer = await world.connect()
    say(writer, session("Up"), whole=True)
    say(writer, session("Up", failures=1))
    assert await told(world) == (PEER, False, False)


async def test_a_session_that_the_peer_has_put_down_is_told_to_nobody_until_it_is_up(world: World) -> None:
    writer = await world.connect()
    say(writer, session("Up"), whole=True)
    say(writer, session("Down", remote_state="AdminDown"))
    say(writer, session("Up"))
    assert await told(world) == (PEER, True, False)


async def test_a_process_that_dies_is_a_trouble_and_no_failure_and_another_ones_sessions_are_new(
    world: World,
) -> None:
    writer = await world.connect()
    say(writer, session("Up"), whole=True)
    say(writer, session("Down", failures=1))
    await told(world)
    say(writer, session("Up", failures=1))
    await told(world)
    writer.close()
    again = await world.connect()
    say(again, session("Down", number=8), whole=True)
    say(again, session("Up", number=8))
    assert await told(world) == (PEER, True, False)
    assert world.told.empty()


async def test_a_process_that_is_away_is_one_trouble_while_sessions_are_wanted(tmp_path: Path) -> None:
    made = World(tmp_path / "bfd.sock")
    made.client.want(WANTED, {})
    running = asyncio.create_task(made.client.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not made.client.away:  # noqa: ASYNC110 - nothing says when it was tried
            await asyncio.sleep(0)
    (trouble,) = made.client.troubles()
    assert "does not answer" in trouble.evidence
    assert trouble.cure == "see: systemctl status tortie-bfd"
    made.client.want(NO_SESSIONS, {})
    assert list(made.client.troubles()) == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "line", [b"junk\n", b'{"sessions": 7}\n', b"x" * 600_000, encode(Report(error="too many sessions"))]
)
async def test_whatever_the_process_says_the_part_goes_on_and_asks_again(world: World, line: bytes) -> None:
    writer = await world.connect()
    writer.write(line)
    writer = await world.connect()
    say(writer, session("Up"), whole=True)
    say(writer, session("Down", failures=1))
    assert await told(world) == (PEER, False, False)


async def test_before_it_is_known_what_is_wanted_nothing_is_asked_so_an_earlier_lifes_sessions_stay(
    tmp_path: Path,
) -> None:
    made = World(tmp_path / "bfd.sock")
    await made.process.start()
    running = asyncio.create_task(made.client.run())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            say(await made.process.connected.get(), session("Up"), whole=True)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(made.process.asked.get(), QUIET_SECONDS)
            made.client.want(WANTED, {PEER: "tor1"})
            assert (await made.process.asked.get()).sessions == (DesiredSession(KEY),)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        made.process.server.close()


async def test_the_whole_set_is_said_again_after_each_change(world: World) -> None:
    await world.connect()
    world.client.want(NO_SESSIONS, {})
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await world.process.asked.get()).sessions == ()
    world.client.want(WANTED, {})
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await world.process.asked.get()).sessions == (DesiredSession(KEY),)


async def test_a_session_is_shown_with_its_timers_and_its_last_diagnostic(world: World) -> None:
    writer = await world.connect()
    say(writer, session("Up", tx_ms=100.0, detection_ms=300.0, diagnostic="path down"), whole=True)
    say(writer, session("Down", failures=1, diagnostic="detection time expired"))
    await told(world)
    shown = world.client.status(PEER)
    assert shown is not None
    assert (shown["state"], shown["failures"], shown["diagnostic"]) == ("Down", 1, "detection time expired")
    assert world.client.counters == {"sent": 3}
    assert world.client.status(ip_address("10.0.0.9")) is None
