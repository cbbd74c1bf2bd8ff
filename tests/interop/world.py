"""A wire between two fresh network namespaces: the test's own thread is in one, a foreign BGP daemon in the other."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import structlog

from agent.clock import SystemClock
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.transport.speaker import Speaker
from bgp.wire.families import Address, Family

CLONE_NEWNET = 0x40000000
OURS, THEIRS, THIRD = IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2"), IPv4Address("10.9.0.3")
"""THIRD is a second speaker of ours, beside the first."""
OURS6, THEIRS6 = IPv6Address("fd09::1"), IPv6Address("fd09::2")
WAIT_SECONDS = 30
LONGEST_LINE_WAIT = 30
LOOK_SECONDS = 0.02
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Nothing stays behind a test that is killed."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Far:
    """The namespace at the other end of the wire, held by a process that does nothing."""

    holder: int

    def command(self, *command: str) -> list[str]:
        """A command line that runs there."""
        return ["nsenter", "-t", str(self.holder), "-n", *command]

    def run(self, *command: str) -> str:
        return subprocess.run(self.command(*command), check=True, capture_output=True, text=True).stdout


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _at_once(address: str) -> list[str]:
    """An IPv6 address is usable only after duplicate detection, unless that is left out."""
    return ["nodad"] if ":" in address else []


@contextmanager
def two_namespaces() -> Iterator[Far]:
    """Move this thread into a new namespace, joined to another; both vanish with their last user."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert _libc.unshare(CLONE_NEWNET) == 0
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        far = Far(holder.pid)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", str(holder.pid))
        for address in (f"{OURS}/24", f"{THIRD}/24", f"{OURS6}/64"):
            _ip("address", "add", address, "dev", "near0", *_at_once(address))
        _ip("link", "set", "near0", "up")
        far.run("ip", "link", "set", "lo", "up")
        for address in (f"{THEIRS}/24", f"{THEIRS6}/64"):
            far.run("ip", "address", "add", address, "dev", "far0", *_at_once(address))
        far.run("ip", "link", "set", "far0", "up")
        yield far
    finally:
        holder.kill()
        holder.communicate()
        assert _libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@contextmanager
def cable(own: str, theirs: str, *behind: str) -> Iterator[Far]:
    """Move this thread into a new namespace and join it to another by a cable without addresses but link-local ones.

    Both have an address on their loopback, and the other one those of hosts behind it.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert _libc.unshare(CLONE_NEWNET) == 0
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        far = Far(holder.pid)
        _ip("link", "set", "lo", "up")
        _ip("address", "add", f"{own}/32", "dev", "lo")
        far.run("ip", "link", "set", "lo", "up")
        for address in (theirs, *behind):
            far.run("ip", "address", "add", address, "dev", "lo", *_at_once(address))
        far.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1")
        _ip("link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", str(holder.pid))
        _ip("link", "set", "near0", "up")
        far.run("ip", "link", "set", "far0", "up")
        yield far
    finally:
        holder.kill()
        holder.communicate()
        assert _libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


class Output:
    """A running command's lines, to be waited for."""

    def __init__(self, process: asyncio.subprocess.Process, stream: asyncio.StreamReader) -> None:
        self.process = process
        self.lines: list[str] = []
        self._stream = stream

    async def until(self, *words: str) -> str:
        """The first new line that has all these words."""
        async with asyncio.timeout(LONGEST_LINE_WAIT):
            while True:
                line = (await self._stream.readline()).decode()
                assert line, f"ended before {words}: {self.lines[-20:]}"
                self.lines.append(line.strip())
                if all(word in line for word in words):
                    return line

    async def end(self) -> None:
        """Kill it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what no event announces."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)


async def start(*command: str, errors: bool = False, given: bool = False) -> Output:
    """Run a command and read its output (or its errors); `given`: it reads what the test writes."""
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *ENDS_WITH_US,
        *command,
        stdin=pipe if given else None,
        stdout=quiet if errors else pipe,
        stderr=pipe if errors else quiet,
    )
    stream = process.stderr if errors else process.stdout
    assert stream is not None
    return Output(process, stream)


@dataclass(slots=True)
class Ours:
    """Our speaker in this thread's namespace."""

    asn: int = 64512
    peer_as: int = 64512
    hold_seconds: int = 9
    address: IPv4Address = OURS
    peer: Address = THEIRS
    families: frozenset[Family] = frozenset({Family.IPV4})
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of PeerConfig."""
    others: tuple[PeerConfig, ...] = ()
    """Peers besides `peer`."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    speaker: Speaker = field(init=False)
    task: asyncio.Task[None] | None = None

    def start(self, *prefixes: str, restarting: bool = False) -> None:
        second = OURS6 if self.address == OURS else None
        config = SpeakerConfig(
            self.asn, self.address, self.address, restarting=restarting, second_address=second
        )
        self.speaker = Speaker(config, SystemClock(), self.changed.set, structlog.get_logger())
        peer = PeerConfig(
            self.peer,
            self.peer_as,
            hold_seconds=self.hold_seconds,
            local_address=self.address if self.peer.version == 4 else OURS6,
            families=self.families,
            **self.more,
        )
        self.speaker.configure({one.address: one for one in (peer, *self.others)})
        self.announce(*prefixes)
        self.task = asyncio.create_task(self.speaker.run())

    def announce(self, *prefixes: str) -> None:
        self.speaker.announce(frozenset(map(ip_network, prefixes)))

    async def kill(self) -> None:
        """As the kernel does with a killed process: TCP is gone, nothing is said."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, condition: Callable[[Speaker], bool], seconds: float = WAIT_SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while not condition(self.speaker):
                await self.changed.wait()
                self.changed.clear()

    def learned(self) -> dict[str, str]:
        return {str(prefix): str(route.next_hop) for prefix, route in self.speaker.learned.items()}


def written(path: Path, text: str) -> str:
    """A file with this text; its name."""
    path.write_text(text)
    return str(path)
