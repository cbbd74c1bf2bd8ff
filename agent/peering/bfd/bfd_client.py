"""Keeps the BFD process informed of the sessions that are wanted, and the speaker of what became of them.

Promises: the whole set is said anew after each change and each connection, so either side may be restarted; sessions of
an earlier life of this agent are adopted by that. Only a failure of a session that was seen before is one: a
BFD process that is away, or new, is no failure of a way (RFC 5882 section 3.2). Nothing it says ends this part.
Does not know: which sessions are wanted, what a failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from agent.clock import Clock
from agent.dataplane.trigger import Trigger
from agent.netlink.objects import Address
from agent.peering.bfd.bfd_sessions import HOLD_TIMER, NO_SESSIONS, BfdSessions, bfd_troubles
from agent.trouble import Trouble, TroubleKind
from bgp.bfd.door import (
    LONGEST_LINE,
    BadMessage,
    Desired,
    Report,
    SessionKey,
    SessionReport,
    encode,
    read_report,
)

RETRY_SECONDS = 1.0
"""Between two tries to reach the process while sessions are wanted."""
IDLE_RETRY_SECONDS = 30.0
"""The same while none is: it may hold those of an earlier life."""
ANSWER_SECONDS = 20.0
"""A whole report comes every two seconds: without one for so long, the process hangs."""
LONGEST_REPORT = 2 * LONGEST_LINE

log = structlog.get_logger()


class BfdUser(Protocol):
    """Who acts on what BFD finds."""

    def bfd_changed(self, address: Address, *, up: bool, independent: bool) -> None:
        """The way to a peer works (`up`), or has failed; `independent`: the peer's C bit."""


@dataclass(frozen=True, slots=True)
class BfdStatus:
    """One session for people."""

    report: SessionReport
    since: datetime


class BfdClient:
    """The door to the BFD process; a shell."""

    def __init__(self, path: Path, clock: Clock, user: BfdUser) -> None:
        self._path, self._clock, self._user = path, clock, user
        self._wanted = NO_SESSIONS
        self._names: Mapping[Address, str] = {}
        self._version = 0
        """Of what is wanted; 0 while nobody has said yet: the process keeps the sessions of an earlier life so long."""
        self._changed = Trigger()
        self._reports: dict[SessionKey, BfdStatus] = {}
        """As last reported in this connection; as many as were wanted at most."""
        self.counters: Mapping[str, int] = {}
        """The process's, by what became of packets."""
        self.away = ""
        """Why the process does not answer; empty: it does, or was not asked."""

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def want(self, wanted: BfdSessions, names: Mapping[Address, str]) -> None:
        """Have these sessions, and no others."""
        self._names = names
        if wanted != self._wanted or not self._version:
            self._wanted = wanted
            self._version += 1
            self._changed.fire()

    # -- what is shown ----------------------------------------------------------------------------------------------

    def status(self, address: Address) -> dict[str, object] | None:
        """The session beside a peer's, as `tortie bgp peers` shows it; None: none is wanted."""
        if (why := self._wanted.left_out.get(address)) is not None:
            return {"state": "-", "error": why}
        desired = self._wanted.sessions.get(address)
        if desired is None:
            return None
        found = self._reports.get(desired.key)
        if found is None:
            return {"state": "-", "error": self.away or "the BFD process has not reported it yet"}
        report = found.report
        return {
            "state": report.state,
            "since": found.since,
            "interface": report.key.interface,
            "multihop": report.key.multihop,
            "sent_every_ms": report.tx_ms,
            "received_every_ms": report.rx_ms,
            "detection_ms": report.detection_ms,
            "failures": report.failures,
            "diagnostic": report.diagnostic,
            "remote_state": report.remote_state,
            "remote_diagnostic": report.remote_diagnostic,
            "remote_independent": report.remote_independent,
            "error": report.error,
        }

    def sessions(self) -> dict[Address, SessionReport]:
        """Those that are wanted and reported, by the peer."""
        wanted = self._wanted.sessions.items()
        return {peer: found.report for peer, one in wanted if (found := self._reports.get(one.key))}

    def troubles(self) -> Iterator[Trouble]:
        """What is wanted and not in force."""
        if self.away and self._wanted.sessions:
            cure = "see: systemctl status tortie-bfd"
            yield Trouble(TroubleKind.PEERING, "BFD", self.away, HOLD_TIMER, cure)
        wall = self._clock.wall()
        now = {
            key: msgspec.structs.replace(one.report, seconds=(wall - one.since).total_seconds())
            for key, one in self._reports.items()
        }
        yield from bfd_troubles(self._wanted, now, self._names)

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    reader, writer = await asyncio.open_unix_connection(str(self._path), limit=LONGEST_REPORT)
            except (OSError, TimeoutError) as error:
                self._lost(f"the BFD process does not answer at {self._path}: {error or 'too slow'}")
            else:
                try:
                    await self._serve(reader, writer)
                finally:
                    writer.transport.abort()
            await self._changed.wait(RETRY_SECONDS if self._wanted.sessions else IDLE_RETRY_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk until the connection ends, and say why it did."""
        saying = asyncio.create_task(self._say(writer))
        why = f"the BFD process at {self._path} has ended the connection"
        try:
            while True:
                async with asyncio.timeout(ANSWER_SECONDS):
                    line = await reader.readuntil(b"\n")
                report = read_report(line)
                if report.error:
                    why = f"the BFD process refuses what is asked of it: {report.error}"
                    break
                self._take(report)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except (TimeoutError, asyncio.LimitOverrunError, BadMessage) as error:
            why = f"the BFD process at {self._path}: {error or f'no report within {ANSWER_SECONDS:g} s'}"
        finally:
            saying.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await saying
        self._lost(why)

    async def _say(self, writer: asyncio.StreamWriter) -> None:
        """What is wanted, once that is known and after each change."""
        while not self._version:
            await self._changed.wait(IDLE_RETRY_SECONDS)
        while True:
            said = self._version
            writer.write(encode(Desired(tuple(self._wanted.sessions.values()), said)))
            await writer.drain()
            while said == self._version:
                await self._changed.wait(IDLE_RETRY_SECONDS)

    def _lost(self, why: str) -> None:
        """What was reported is not known any more, and that is no failure of a way."""
        self._reports, self.counters = {}, {}
        if why != self.away and self._wanted.sessions:
            log.warning("bfd.away", why=why)
        self.away = why

    def _take(self, report: Report) -> None:
        if self.away:
            log.info("bfd.connected", socket=str(self._path))
        self.away = ""
        if report.whole:
            self.counters = report.counters
            there = {one.key for one in report.sessions}
            self._reports = {key: one for key, one in self._reports.items() if key in there}
        peers = {one.key: peer for peer, one in self._wanted.sessions.items()}
        wall = self._clock.wall()
        for one in report.sessions:
            before = self._reports.get(one.key)
            since = wall - timedelta(seconds=one.seconds)
            if before is not None and before.report.state == one.state:
                since = min(before.since, since)
            self._reports[one.key] = BfdStatus(one, since)
            if (peer := peers.get(one.key)) is not None:
                self._compare(peer, before.report if before is not None else None, one)

    def _compare(self, peer: Address, before: SessionReport | None, now: SessionReport) -> None:
        """A failure is counted by the process: none is missed, though the session may be up again already."""
        if before is None or before.discriminator != now.discriminator:
            return
        if now.failures > before.failures:
            why = now.diagnostic or "it has come up again"
            log.warning("bfd.down", peer=str(peer), why=why, remote=now.remote_state)
            self._user.bfd_changed(peer, up=False, independent=before.remote_independent)
        if now.state == "Up" and before.state != "Up":
            log.info("bfd.up", peer=str(peer), detection_ms=now.detection_ms)
            self._user.bfd_changed(peer, up=True, independent=now.remote_independent)
