"""Measures how late the event loop is: what is late for this is late for a keepalive too."""

from __future__ import annotations

import asyncio

from agent.clock import Clock

BETWEEN_SECONDS = 0.25


class LoopLag:
    """The longest delay since somebody asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._longest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._clock.now() + BETWEEN_SECONDS
            await asyncio.sleep(BETWEEN_SECONDS)
            self._longest = max(self._longest, self._clock.now() - due)

    def take(self) -> float:
        """The longest delay in seconds since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest
