"""The BFD process as it is installed, in the namespace of the calling thread, and its door as an agent uses it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bgp.bfd.door import (
    LONGEST_LINE,
    Desired,
    DesiredSession,
    Report,
    SessionKey,
    SessionReport,
    encode,
    read_report,
)

PATIENCE_SECONDS = 30
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
AS_THE_UNIT = ("setpriv", "--bounding-set=-all,+sys_nice", "--inh-caps=-all", "--no-new-privs")
"""Root without any capability but that for real-time, for which the unit sets a limit instead."""


class Door:
    """A connection to the process, and all that it reported in it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.reports: dict[SessionKey, SessionReport] = {}
        self.history: list[SessionReport] = []
        self.counters: dict[str, int] = {}

    def want(self, *sessions: DesiredSession) -> None:
        self._writer.write(encode(Desired(sessions)))

    async def hear(self) -> Report:
        """The next report."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            report = read_report(await self._reader.readuntil(b"\n"))
        if report.whole:
            self.reports.clear()
            self.counters = dict(report.counters)
        self.reports |= {one.key: one for one in report.sessions}
        self.history += report.sessions
        return report

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.hear()

    async def until_all(self, state: str, keys: Sequence[SessionKey]) -> None:
        """All these sessions are in this state."""
        await self.until(
            lambda: all(key in self.reports and self.reports[key].state == state for key in keys)
        )

    def close(self) -> None:
        self._writer.transport.abort()


class BfdProcess:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path) -> None:
        self.process, self.socket = process, socket
        self._doors: list[Door] = []

    async def door(self) -> Door:
        made = Door(*await asyncio.open_unix_connection(str(self.socket), limit=2 * LONGEST_LINE))
        self._doors.append(made)
        return made

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.process.wait()

    async def kill(self) -> None:
        for door in self._doors:
            door.close()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def bfd_process(socket: Path, *before: str) -> AsyncIterator[BfdProcess]:
    """One that serves `socket`; `before`: what its command line begins with."""
    command = [*ENDS_WITH_US, *before, *AS_THE_UNIT, sys.executable, "-m", "bgp.bfd", "--socket", str(socket)]
    process = await asyncio.create_subprocess_exec(*command)
    made = BfdProcess(process, socket)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    (await made.door()).close()
                    break
                except OSError:  # nothing says when a socket is made
                    assert process.returncode is None, "the BFD process has ended"
                    await asyncio.sleep(0.02)
        yield made
    finally:
        await made.kill()
