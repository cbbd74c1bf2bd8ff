"""Monitoring's shell: its HTTP pages, and the measurement of the event loop's lag.

Promises: a socket that cannot be opened is said in the log and costs the agent nothing. Does not know: any series.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.metrics import web
from agent.metrics.exposition import CONTENT_TYPE, Exposition

log = structlog.get_logger()

LAG_PAUSE_SECONDS = 0.25
"""Between two measurements of the loop's lag."""


class LoopLag:
    """How late the event loop wakes its sleepers: what is late for this is late for a keepalive too."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._longest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._clock.now() + LAG_PAUSE_SECONDS
            await asyncio.sleep(LAG_PAUSE_SECONDS)
            self._longest = max(self._longest, self._clock.now() - due)

    def take(self) -> float:
        """The longest delay in seconds since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest


class Monitor:
    """One agent's pages."""

    def __init__(
        self,
        path: Path,
        listen: str,
        exposition: Exposition,
        lag: LoopLag,
        not_ready: Callable[[], str | None],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`listen` is `address:port`, or empty for the unix socket alone; `ready` is called once that one listens."""
        self._path = path
        self._listen = listen
        self._exposition = exposition
        self._lag = lag
        self._not_ready = not_ready
        self._listening = ready

    async def run(self) -> None:
        """Serve and measure until cancelled."""
        pages: web.Pages = {
            "/metrics": lambda: web.Response(self._exposition.text(), CONTENT_TYPE),
            # Whoever reads this answer has had it from the loop: that is all there is to say.
            "/livez": lambda: web.verdict(None),
            "/readyz": lambda: web.verdict(self._not_ready()),
        }
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lag.run())
            group.create_task(
                self._served(str(self._path), web.on_socket(self._path, pages, self._listening))
            )
            if self._listen:
                group.create_task(self._served(self._listen, web.on_tcp(self._listen, pages)))

    async def _served(self, where: str, serving: Awaitable[None]) -> None:
        try:
            await serving
        except OSError as error:
            log.warning("metrics.not_served", where=where, why=str(error))
