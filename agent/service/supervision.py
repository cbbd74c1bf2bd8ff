"""Keeps the service manager informed: ready, status, and the sign of life without which it kills us.

Promises: the sign of life comes from the event loop itself, so a loop that hangs is killed and started again; the
status is sent when it changed. Does not know: what makes the agent ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from agent.clock import Clock
from agent.dataplane.trigger import Trigger
from agent.service.readiness import Readiness, is_ready, status_text
from agent.service.sd_notify import Notifier

STARTING_SECONDS = 0.1
"""Between two notifications until ready."""
LOOK_SECONDS = 2.0
SIGNS_PER_WATCHDOG = 4
"""A loop that is late by half the watchdog's time is still alive."""
BEGIN_AGAIN_SECONDS = 300.0
"""A process that begins again may be as slow as one that starts: TimeoutStartSec of the unit."""

log = structlog.get_logger()


class Supervision:
    """What one agent has sent to its service manager; a shell."""

    def __init__(
        self,
        notifier: Notifier,
        readiness: Callable[[], Readiness],
        request_pass: Callable[[], None],
        begins_again: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`request_pass` asks for one more pass over the kernel; `begins_again` says whether the process stays."""
        self._begins_again = begins_again
        self._notifier = notifier
        self._readiness = readiness
        self._request_pass = request_pass
        self._clock = clock
        self._said = ""
        self._trigger = Trigger()
        self.ready = False
        self._passes_when_in_sync: int | None = None

    def trigger(self) -> None:
        """What the status says may have changed."""
        self._trigger.fire()

    async def run(self) -> None:
        """Notify the service manager until cancelled."""
        started = self._clock.now()
        watchdog = self._notifier.watchdog_seconds
        pause = min(LOOK_SECONDS, watchdog / SIGNS_PER_WATCHDOG) if watchdog else LOOK_SECONDS
        if watchdog:
            self._notifier.notify_watchdog(watchdog)  # a life before this one had asked for more
        try:
            while True:
                self._look(self._clock.now() - started)
                await self._trigger.wait(pause if self.ready else min(pause, STARTING_SECONDS))
        except asyncio.CancelledError:
            if not self._begins_again():  # else systemd would wait for the process to end, and kill it
                self._notifier.notify("STOPPING=1", "STATUS=stopping; routes stay as they are")
            elif watchdog:  # nobody gives a sign of life while Python reads the program anew
                self._notifier.notify_watchdog(BEGIN_AGAIN_SECONDS)
            raise

    def _look(self, age_seconds: float) -> None:
        readiness = self._readiness()
        if self._passes_when_in_sync is None and readiness.not_ready is None:
            self._passes_when_in_sync = readiness.passes
            self._request_pass()
        lines = ["WATCHDOG=1"]
        if not self.ready and is_ready(readiness, self._passes_when_in_sync, age_seconds):
            self.ready = True
            lines.append("READY=1")
            log.info("agent.ready", after_seconds=round(age_seconds, 3), why_not=readiness.not_ready)
        self._notifier.notify(*lines)
        if (text := status_text(readiness)) != self._said:
            self._said = text
            self._notifier.status(text)
