"""`python -m bgp`: what its file may say, and two of them talking over loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from bgp.settings import BadSettings, Form, Leaving, settings_of
from bgp.wire.families import Family
from tests.fixtures.namespace import fresh_namespace

WAIT_SECONDS = 20
HEAD = 'as = 64512\nrouter_id = "10.0.0.1"\nlisten = "127.0.12.1"\n'
PEER = '[[peer]]\naddress = "127.0.12.2"\nas = 64513\n'


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    with fresh_namespace():
        yield


def test_a_file_says_who_we_are_and_whom_we_peer_with() -> None:
    settings = settings_of(
        HEAD
        + 'listen_second = "fd00::1"\noutput = "text"\non_sigterm = "silence"\nannounce = ["192.168.1.0/26"]\n'
        + PEER
        + 'families = ["ipv4", "ipv6"]\npassword = "secret"\n'
        + '[[originate]]\nprefixes = ["fd01::/64"]\ncommunities = ["64512:1"]\n'
    )
    assert settings.speaker.addresses == (IPv4Address("127.0.12.1"), IPv6Address("fd00::1"))
    peer = settings.peers[IPv4Address("127.0.12.2")]
    assert peer.local_address == IPv4Address("127.0.12.1")
    assert peer.families == {Family.IPV4, Family.IPV6}
    assert [str(one) for one in settings.originations] == ["192.168.1.0/26", "fd01::/64"]
    assert settings.originations[IPv4Network("192.168.1.0/26")].communities == ()
    assert (settings.output, settings.on_sigterm) == (Form.TEXT, Leaving.SILENCE)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("as = ", "not TOML: "),
        ("as = 1\n", "router_id: is missing"),
        (HEAD + "pork = 179\n", "pork: there is no such key; did you mean port?"),
        (HEAD + "port = true\n", "port: must be a whole number, not True"),
        (HEAD + "port = 70000\n", "settings: port 70000: must be 1 to 65535"),
        (HEAD + 'output = "xml"\n', "output: must be one of json, text, not 'xml'"),
        (HEAD + 'announce = ["192.168.1.1/26"]\n', "announce: 192.168.1.1/26 has host bits set"),
        (
            HEAD + PEER + "hold_second = 9\n",
            "peer 1: hold_second: there is no such key; did you mean hold_seconds?",
        ),
        (HEAD + PEER + "hold_seconds = 1\n", "peer 1: hold time 1: must be 0 or at least 3 seconds"),
        (HEAD + PEER + PEER, "peer 2: address: 127.0.12.2 is there twice"),
        (HEAD + PEER + 'families = ["ipx"]\n', "peer 1: families: must be one of ipv4, ipv6, not 'ipx'"),
        (HEAD + PEER + "families = [[1]]\n", "peer 1: families: must be one of ipv4, ipv6, not [1]"),
        (HEAD + '[[originate]]\ncommunities = ["x"]\n', "originate 1: "),
        (HEAD + 'peer = ["x"]\n', "peer 1: must be a table"),
        (HEAD + "originate = 1\n", "originate: must be a list"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_where(text: str, sentence: str) -> None:
    with pytest.raises(BadSettings) as raised:
        settings_of(text)
    assert sentence in str(raised.value)


class Process:
    """A running `python -m bgp` and its lines."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self.process, self.path = process, path
        self._passed: list[dict[str, Any]] = []

    async def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first event of this name with these fields that was not asked for yet."""
        for said in self._passed:
            if said["event"] == event and fields.items() <= said.items():
                self._passed.remove(said)
                return said
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while line := await self.process.stdout.readline():
                said = json.loads(line)
                if said["event"] == event and fields.items() <= said.items():
                    return said
                self._passed.append(said)
        raise AssertionError(f"it ended without {event} {fields}: {self._passed}")


@asynccontextmanager
async def speaking(folder: Path, number: int, more: str) -> AsyncIterator[Process]:
    """One that peers with the other of a pair."""
    other = 3 - number
    path = folder / f"{number}.toml"
    path.write_text(
        f'as = {64511 + number}\nrouter_id = "10.0.0.{number}"\nlisten = "127.0.12.{number}"\n{more}\n'
        f'[[peer]]\naddress = "127.0.12.{other}"\nas = {64511 + other}\nttl_security_hops = 1\n'
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bgp", str(path)), stdout=asyncio.subprocess.PIPE
    )
    running = Process(process, path)
    try:
        await running.until("listening")
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


SAID = "peer said: hard reset: cease, administrative shutdown (6/2): back soon"
ONE_BLOCK, TWO_BLOCK = (
    'announce = ["192.168.1.0/26"]',
    'announce = ["192.168.2.0/26"]\ndrain_text = "back soon"',
)


async def test_two_programs_advertise_to_each_other_and_the_paths_of_a_terminated_one_go(
    tmp_path: Path,
) -> None:
    async with speaking(tmp_path, 1, ONE_BLOCK) as one, speaking(tmp_path, 2, TWO_BLOCK) as two:
        # Fresh, in the end: while two connections of a collision become one, a path may be seen stale for a moment.
        learned = await one.until("path", prefix="192.168.2.0/26", stale=False)
        assert (learned["next_hop"], learned["peer"]) == ("127.0.12.2", "127.0.12.2")
        await two.until("path", prefix="192.168.1.0/26")
        two.process.send_signal(signal.SIGTERM)
        ended = await one.until("session", why=SAID)
        assert (ended["peer"], ended["state"] == "Established") == ("127.0.12.2", False)
        await one.until("gone", prefix="192.168.2.0/26")
        assert (await two.until("stopped"))["how"] == "drain"
        assert await two.process.wait() == 0


async def test_one_that_stops_silently_is_remembered(tmp_path: Path) -> None:
    async with speaking(tmp_path, 1, ONE_BLOCK) as one:
        async with speaking(tmp_path, 2, TWO_BLOCK + '\non_sigterm = "silence"') as two:
            await one.until("path", prefix="192.168.2.0/26")
            two.process.send_signal(signal.SIGTERM)
            assert (await two.until("stopped"))["how"] == "silence"
        await one.until("path", prefix="192.168.2.0/26", stale=True)


async def test_sighup_reads_the_file_again_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    async with speaking(tmp_path, 1, ONE_BLOCK) as one, speaking(tmp_path, 2, TWO_BLOCK) as two:
        await one.until("path", prefix="192.168.2.0/26")
        text = two.path.read_text()
        two.path.write_text("pork = 1\n" + text)
        two.process.send_signal(signal.SIGHUP)
        assert "pork" in (await two.until("refused"))["why"]
        two.path.write_text(text.replace("192.168.2.0", "192.168.3.0"))
        two.process.send_signal(signal.SIGHUP)
        await two.until("reloaded", peers=1, prefixes=1)
        await one.until("path", prefix="192.168.3.0/26")
        await one.until("gone", prefix="192.168.2.0/26")


async def test_a_file_or_an_address_that_is_wrong_is_reported_and_ends_it(tmp_path: Path) -> None:
    async def said_of(text: str) -> str:
        (tmp_path / "wrong.toml").write_text(text)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bgp", str(tmp_path / "wrong.toml")), stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert process.returncode == 1
        return errors.decode()

    assert "pork: there is no such key" in await said_of(HEAD + "pork = 1\n")
    assert "cannot listen for BGP on 192.0.2.1 port 179" in await said_of(
        HEAD.replace("127.0.12.1", "192.0.2.1")
    )


async def test_the_text_form_is_for_people(tmp_path: Path) -> None:
    (tmp_path / "text.toml").write_text(HEAD + 'output = "text"\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bgp", str(tmp_path / "text.toml")), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    first = ""
    while "listening" not in first:
        first += (await asyncio.wait_for(process.stdout.readline(), WAIT_SECONDS)).decode()
    os.kill(process.pid, signal.SIGTERM)
    rest, _ = await process.communicate()
    lines = [line.split() for line in (first + rest.decode()).splitlines()]
    assert ["listening", "addresses=['127.0.12.1']", "port=179"] in lines
    assert lines[-1] == ["stopped", "how=drain"]
