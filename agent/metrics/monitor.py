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


async def serve_pages(
    path: Path,
    listen: str,
    exposition: Exposition,
    not_ready: Callable[[], str | None],
    listening: Callable[[], None] = lambda: None,
) -> None:
    """Answer for one agent until cancelled, on the unix socket `path` and, unless it is empty, on `listen`.

    `listen` is `address:port`; `listening` is called once the unix socket listens.
    """
    pages: web.Pages = {
        "/metrics": lambda: web.Response(exposition.text(), CONTENT_TYPE),
        # Whoever reads this answer has had it from the loop: that is all there is to say.
        "/livez": lambda: web.verdict(None),
        "/readyz": lambda: web.verdict(not_ready()),
    }
    async with asyncio.TaskGroup() as group:
        group.create_task(_served(str(path), web.on_socket(path, pages, listening)))
        if listen:
            group.create_task(_served(listen, web.on_tcp(listen, pages)))


async def _served(where: str, serving: Awaitable[None]) -> None:
    try:
        await serving
    except OSError as error:
        log.warning("metrics.not_served", where=where, why=str(error))
