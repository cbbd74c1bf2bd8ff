"""Notices when the machine's clock is set: the difference between CLOCK_REALTIME and CLOCK_MONOTONIC changes at once.

Nothing here waits by the clock that people set: timers are the monotonic clock's. What is compared with stamps in the
datastore (cooldowns, retained addresses, the age of claims) goes by it, and so do people who read logs.
Promises: a step is a trouble within TICK_SECONDS, and for NOTICE_SECONDS; one that is taken back is over at once.
Slewing, and steps that nothing here would notice, are none. Does not know: why the clock was set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.clock import Clock
from agent.trouble import Trouble, TroubleKind

TICK_SECONDS = 0.5
LEAST_STEP_SECONDS = 5.0
NOTICE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ClockStep:
    """By how many seconds the clock was set, forward if positive, and when (seconds on the monotonic clock)."""

    seconds: float
    at: float

    def __str__(self) -> str:
        return f"{abs(self.seconds):.0f} s {'forward' if self.seconds > 0 else 'back'}"


class ClockJumps:
    """Looks at both clocks again and again; a shell."""

    def __init__(self, clock: Clock, log: Any) -> None:
        self._clock = clock
        self._log = log
        self._offset = self._read()
        self._step: ClockStep | None = None

    def _read(self) -> float:
        return self._clock.wall().timestamp() - self._clock.now()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(TICK_SECONDS)

    def look(self) -> None:
        """Compare both clocks with what they were at the last look."""
        offset, now = self._read(), self._clock.now()
        seconds, self._offset = offset - self._offset, offset
        if abs(seconds) >= LEAST_STEP_SECONDS:
            before = self._step.seconds if self._step is not None else 0.0
            self._step = ClockStep(before + seconds, now)
            self._log.warning("clock.stepped", by=str(ClockStep(seconds, now)))
        if self._step is not None and self._is_over(self._step, now):
            self._step = None
            self._log.info("clock.steady")

    def _is_over(self, step: ClockStep, now: float) -> bool:
        return abs(step.seconds) < LEAST_STEP_SECONDS or now - step.at >= NOTICE_SECONDS

    def troubles(self) -> Iterator[Trouble]:
        """That the clock was set lately."""
        if self._step is not None:
            yield Trouble(
                TroubleKind.CLOCK,
                "the machine's clock",
                f"it was set {self._step}, or the machine slept",
                "timers go on; cooldowns and retained addresses end by that clock, and stamps in logs do not fit",
                "have it follow a time server: `timedatectl`, `chronyc tracking`",
            )
