"""A pod calls another node, and the masquerade gives it its own node's address: with real packets, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session.fsm import State
from bgp.transport.speaker import Speaker
from bgp.wire.families import Address, Family
from tests.scenes.bgp.machines import THERE, THERE6, US, US6, Machine, Wire, wire

WAIT_SECONDS = 20
BLOCK = "192.168.2.0/26"
CONFIG = """
as = 64512
router_id = "{router_id}"
listen = "{own}"
{second}
announce = ["{block}"]
restarting = {restarting}
[[peer]]
address = "{us}"
as = 64512
families = ["ipv4"]
"""


@pytest.fixture
def line() -> Iterator[Wire]:
    with wire() as made:
        yield made


class Node:
    """Our speaker, whose one peer is the machine at the other end."""

    def __init__(self, *, over_ipv6: bool = False, **more: object) -> None:
        self.changed = asyncio.Event()
        self.own: Address = ip_address(US6 if over_ipv6 else US)
        self.peer: Address = ip_address(THERE6 if over_ipv6 else THERE)
        config = SpeakerConfig(64512, IPv4Address(US), self.own)
        self.speaker = Speaker(config, SystemClock(), self.changed.set, structlog.get_logger())
        one = PeerConfig(
            self.peer, 64512, passive=True, local_address=self.own, families=frozenset({Family.IPV4})
        )
        self.speaker.configure({self.peer: replace(one, **more)})  # type: ignore[arg-type]
        self.speaker.announce(frozenset())

    async def until(self, condition: Callable[[Speaker], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition(self.speaker):
                await self.changed.wait()
                self.changed.clear()

    @property
    def is_fresh(self) -> bool:
        route = self.speaker.learned.get(ip_network(BLOCK))
        return route is not None and not route.stale


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    task = asyncio.create_task(node.speaker.run())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def speaking(
    machine: Machine, folder: Path, node: Node, *, restarting: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The machine's own speaker, killed at the end."""
    config = folder / "speaker.toml"
    text = CONFIG.format(
        second=f'listen_second = "{THERE}"' if node.peer.version == 6 else "",
        router_id=THERE,
        own=node.peer,
        us=node.own,
        block=BLOCK,
        restarting=str(restarting).lower(),
    )
    config.write_text(text)
    process = await asyncio.create_subprocess_exec(
        *machine.command(sys.executable, "-m", "bgp", str(config)), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def calls(pod: Machine, node: Node, what: str, count: int, ttl: int = 64) -> Counter[str]:
    """How the calls of a pod ended."""
    words = ("-m", "tests.scenes.bgp.impostor", str(node.own), "64512", THERE, str(ttl), what, str(count))
    process = await asyncio.create_subprocess_exec(
        *pod.command(sys.executable, *words), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return Counter(out.decode().splitlines())


@pytest.mark.parametrize("over_ipv6", [False, True], ids=["IPv4", "IPv6"])
async def test_a_hundred_calls_of_a_pod_end_no_session_move_no_route_and_are_told(
    line: Wire, tmp_path: Path, over_ipv6: bool
) -> None:
    machine = line.machine()
    pod = line.pod(machine)
    node = Node(over_ipv6=over_ipv6)
    ended: Counter[str] = Counter()
    async with running(node), speaking(machine, tmp_path, node):
        await node.until(lambda _: node.is_fresh)
        node.speaker.take_changed()
        with capture_logs() as logs:
            for what in ("silence", "garbage", "open", "update"):
                ended += await calls(pod, node, what, 25)
        (status,) = node.speaker.status()
        assert (status.state, status.sessions, status.last_error) == (State.ESTABLISHED, 1, "")
        assert node.speaker.take_changed() == {}
        assert {str(prefix) for prefix in node.speaker.learned} == {BLOCK}
        assert node.is_fresh
        assert ended.total() == 100
        assert ended["established"] == 0
        assert status.refused >= 70  # right after the session's birth a call may have been under way
        assert status.refused_at is not None
        told = [one for one in logs if one["event"] == "bgp.connection_refused"]
        assert 0 < len(told) <= 20
        assert told[0]["peer"] == str(node.peer)


async def test_kill_9_power_off_and_a_start_under_a_pods_calls_lose_no_path(
    line: Wire, tmp_path: Path
) -> None:
    machine = line.machine()
    pod = line.pod(machine)
    node = Node()
    async with running(node):
        async with speaking(machine, tmp_path, node):
            await node.until(lambda _: node.is_fresh)
            node.speaker.take_changed()
            await calls(pod, node, "silence", 3)
        await node.until(lambda _: not node.is_fresh)
        async with speaking(machine, tmp_path, node, restarting=True):
            await node.until(lambda _: node.is_fresh)
            machine.power_off()
        assert node.is_fresh  # nobody has said anything
        again = line.machine()
        async with speaking(again, tmp_path, node, restarting=True):
            await node.until(lambda speaker: speaker.status()[0].sessions == 3 and node.is_fresh)
            assert {str(prefix) for prefix in node.speaker.learned} == {BLOCK}


@pytest.mark.parametrize("over_ipv6", [False, True], ids=["IPv4", "IPv6"])
async def test_with_ttl_security_a_pods_packets_reach_no_speaker_even_beside_no_session(
    line: Wire, tmp_path: Path, over_ipv6: bool
) -> None:
    machine = line.machine()
    pod = line.pod(machine)
    node = Node(over_ipv6=over_ipv6, ttl_security_hops=1)
    async with running(node):
        await node.speaker.listening.wait()
        assert set(await calls(pod, node, "update", 5, ttl=255)) == {"no answer"}
        assert not node.speaker.learned
        async with speaking(machine, tmp_path, node):
            await node.until(lambda _: node.is_fresh)
