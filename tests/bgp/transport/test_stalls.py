"""A speaker that was stopped, or failed, reads first and judges then; over TCP, in real seconds where they count."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.scheduler import Scheduler
from bgp.session.fsm import State
from bgp.transport.speaker import Speaker
from bgp.transport.tcp import Tcp
from bgp.wire import messages, nlri
from bgp.wire.attributes import Context
from bgp.wire.capabilities import Capabilities
from bgp.wire.framing import Framing
from bgp.wire.messages import Keepalive, Message, Notification, Open
from tests import ROOT
from tests.fixtures.namespace import fresh_namespace

US = IPv4Address("127.0.13.1")
PORT = 17913
WIDE = Context(four_octet_as=True, internal=True)
KEEPALIVE = messages.encode(Keepalive(), WIDE)
HOLD_SECONDS = 3
STOPPED_SECONDS = 4.2
WAIT_SECONDS = 10
BLOCK = IPv4Network("192.168.1.0/26")
BLOCK_NLRI = nlri.pack(BLOCK)


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        yield


class Raw:
    """A peer that says KEEPALIVE each second while it talks, and judges nobody."""

    def __init__(self, last: int) -> None:
        self.own = IPv4Address(f"127.0.13.{last}")
        self.heard: list[Message] = []
        self._news = asyncio.Event()
        self.closed = False

    async def establish(self, hold_seconds: int = HOLD_SECONDS) -> None:
        self._reader, self.writer = await asyncio.open_connection(
            str(US), PORT, local_addr=(str(self.own), 0)
        )
        hello = Open(64512, hold_seconds, self.own, Capabilities(four_octet_as=64512))
        self.writer.write(messages.encode(hello, WIDE) + KEEPALIVE)
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._talk())]
        await self.until(lambda: Keepalive() in self.heard)

    async def _hear(self) -> None:
        framing = Framing()
        with suppress(OSError):
            while data := await self._reader.read(65536):
                for kind, content in framing.receive(data):
                    self.heard.append(messages.decode(kind, content, WIDE))
                self._news.set()
        self.closed = True
        self._news.set()

    async def _talk(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.writer.write(KEEPALIVE)

    def fall_silent(self) -> None:
        self._tasks[1].cancel()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.writer.transport.abort()


@asynccontextmanager
async def process(folder: Path, peers: list[Raw]) -> AsyncIterator[asyncio.subprocess.Process]:
    text = f'as = 64512\nrouter_id = "{US}"\nlisten = "{US}"\nport = {PORT}\n'
    for peer in peers:
        text += (
            f'[[peer]]\naddress = "{peer.own}"\nas = 64512\npassive = true\nhold_seconds = {HOLD_SECONDS}\n'
        )
    path = folder / "speaker.toml"
    path.write_text(text)
    found = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bgp", str(path)), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert found.stdout is not None
    try:
        assert b"listening" in await asyncio.wait_for(found.stdout.readline(), WAIT_SECONDS)
        yield found
    finally:
        found.kill()
        await found.communicate()


async def test_sessions_whose_keepalives_lie_unread_outlive_a_stop_longer_than_the_hold_time(
    tmp_path: Path,
) -> None:
    peers = [Raw(last) for last in range(2, 12)]
    *talkers, silent = peers
    async with process(tmp_path, peers) as speaker:
        for peer in peers:
            await peer.establish()
        os.kill(speaker.pid, signal.SIGSTOP)
        silent.fall_silent()
        await asyncio.sleep(STOPPED_SECONDS)
        for peer in peers:
            peer.heard.clear()
        os.kill(speaker.pid, signal.SIGCONT)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for peer in talkers:
            await peer.until(lambda peer=peer: bool(peer.heard))
            assert peer.heard[0] == Keepalive()
        assert loop.time() - began < HOLD_SECONDS, "what the peers wait for comes first"
        await silent.until(lambda: silent.closed)
        await asyncio.sleep(max(0.0, began + HOLD_SECONDS + 0.5 - loop.time()))
        for peer in talkers:
            assert not peer.closed
            assert set(map(type, peer.heard)) == {Keepalive}
        assert [one for one in silent.heard if isinstance(one, Notification)] == [Notification(4, 0)]
        for peer in peers:
            await peer.close()


class Log:
    """What was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.failed = asyncio.Event()

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))
        if event == "bgp.step_failed":
            self.failed.set()

    warning = error = info


@asynccontextmanager
async def running(*peers: Raw) -> AsyncIterator[tuple[Speaker, Log]]:
    log = Log()
    speaker = Speaker(SpeakerConfig(64512, US, US, PORT), SystemClock(), lambda: None, log)
    speaker.configure({peer.own: PeerConfig(peer.own, 64512, passive=True) for peer in peers})
    speaker.announce(frozenset())
    task = asyncio.create_task(speaker.run())
    try:
        await speaker.listening.wait()
        yield speaker, log
    finally:
        for peer in peers:
            await peer.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def established(speaker: Speaker) -> list[IPv4Address]:
    return [one.address for one in speaker.status() if one.state is State.ESTABLISHED]  # type: ignore[misc]


async def test_a_step_that_raises_is_said_and_ends_neither_the_speaker_nor_a_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = Raw(2)
    right, left = Scheduler.step, [2]

    def step(self: Scheduler, *args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise KeyError("nobody's")
        return right(self, *args)

    async with running(peer) as (speaker, log):
        await peer.establish(90)
        monkeypatch.setattr(Scheduler, "step", step)
        speaker.announce({BLOCK})
        await asyncio.wait_for(log.failed.wait(), WAIT_SECONDS)
        assert speaker.failure == 'KeyError: "nobody\'s"'
        await peer.until(lambda: any(BLOCK_NLRI in getattr(heard, "announced", ()) for heard in peer.heard))
        assert speaker.failure == ""
        failed = [fields["traceback"] for event, fields in log.lines if event == "bgp.step_failed"]
        assert len(failed) == 2
        assert "in step" in failed[0]
        assert established(speaker) == [peer.own]


async def test_a_write_that_raises_costs_that_peer_its_session_and_the_others_get_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = Raw(2), Raw(3)
    right = Tcp.write

    def write(self: Tcp, data: bytes) -> None:
        if self.remote == one.own:
            raise RuntimeError("a bug")
        right(self, data)

    async with running(one, two) as (speaker, log):
        await one.establish(90)
        await two.establish(90)
        monkeypatch.setattr(Tcp, "write", write)
        speaker.announce({BLOCK})
        await two.until(lambda: any(BLOCK_NLRI in getattr(heard, "announced", ()) for heard in two.heard))
        await one.until(lambda: one.closed)
        assert established(speaker) == [two.own]
        assert ("bgp.internal_error", str(one.own)) in [(event, of.get("peer")) for event, of in log.lines]
