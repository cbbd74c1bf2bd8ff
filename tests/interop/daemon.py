"""A foreign BGP daemon in the far namespace: what it is to be, what it is asked, and what it believes.

Promises: what it believes is seen as it happens, in its kernel's routes or in its own watch. Nothing of it stays.
Does not know: which daemon.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.interop.world import (
    OURS,
    OURS6,
    THEIRS,
    THEIRS6,
    THIRD,
    WAIT_SECONDS,
    Far,
    Output,
    start,
)

THEIR_BLOCK, THEIR_BLOCK6 = "192.168.50.0/26", "fd50::/64"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a daemon is to be."""

    asn: int = 64512
    ours_as: int = 64512
    third_as: int | None = None
    """That of a second neighbour, our THIRD; None: it has none."""
    reflects: bool = False
    """Its neighbours are clients of its cluster 10.255.0.1."""
    password: str = ""
    is_near: bool = False
    """TTL security, one hop."""
    ipv6: bool = False
    """Carry IPv6 as well."""
    over_ipv6: bool = False
    """The session is one over IPv6."""
    restart_seconds: int = 20
    long_lived_seconds: int = 0
    """Long-lived graceful restart (RFC 9494); 0: as it is without being asked. BIRD and FRR alone."""
    several: bool = False
    """Take and send several paths to a prefix (RFC 7911), of IPv4."""
    kernel: bool = True
    """Install what is learned."""

    @property
    def ours(self) -> str:
        """Our address."""
        return str(OURS6 if self.over_ipv6 else OURS)

    @property
    def neighbours(self) -> list[tuple[str, int]]:
        """Address and AS of each."""
        third = [] if self.third_as is None else [(str(THIRD), self.third_as)]
        return [(self.ours, self.ours_as), *third]

    @property
    def local(self) -> str:
        """Its own address in the session with us."""
        return str(THEIRS6 if self.over_ipv6 else THEIRS)


class Watch:
    """What a daemon believes, as it changes."""

    def __init__(self, output: Output, parse: Callable[[str], tuple[str, bool] | None]) -> None:
        self._output, self._parse = output, parse
        self.known: set[str] = set()
        self.events: list[str] = []

    async def until(self, *, known: tuple[str, ...] = (), gone: tuple[str, ...] = ()) -> None:
        """Read until these prefixes are known and those are not."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not (self.known.issuperset(known) and self.known.isdisjoint(gone)):
                line = await self._output.until("")
                found = self._parse(line)
                if found is None:
                    continue
                self.events.append(line.strip())
                if found[1]:
                    self.known.add(found[0])
                else:
                    self.known.discard(found[0])


def _kernel_line(line: str) -> tuple[str, bool] | None:
    words = line.split()
    if "proto" not in words or words[words.index("proto") + 1] not in {"bird", "bgp"}:
        return None
    is_there = words[0] != "Deleted"
    return words[0 if is_there else 1], is_there


class Daemon(ABC):
    """One of them; `start` and `kill` may alternate."""

    name = ""
    watch: Watch

    def __init__(self, far: Far, setup: Setup) -> None:
        self.far, self.setup = far, setup
        self.folder = Path(tempfile.mkdtemp(prefix="tortie-interop-"))
        self._running: list[Output] = []
        self._watching: list[Output] = []

    @abstractmethod
    async def start(self, *, again: bool = False) -> None:
        """Have it run; `again`: as a restart through which its forwarding went on."""

    @abstractmethod
    def refresh(self) -> None:
        """Have it ask us for everything again."""

    @abstractmethod
    def shut(self, text: str) -> None:
        """Have its operator shut the session with us, with this text."""

    @abstractmethod
    def paths(self, prefix: str) -> str:
        """What it says of its paths to a prefix."""

    async def follow(self) -> None:
        """Watch what it believes."""
        output = await start(*self.far.command("ip", "-o", "monitor", "route"))
        self._watching.append(output)
        self.watch = Watch(output, _kernel_line)

    async def kill(self) -> None:
        """kill -9."""
        for one in self._running:
            await one.end()
        self._running = []

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.kill()
        for one in self._watching:
            await one.end()
        shutil.rmtree(self.folder)
