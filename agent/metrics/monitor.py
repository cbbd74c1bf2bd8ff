"""What monitoring asks for: the pages, and the event loop's lag.

Promises: a page says what is at the moment of the question. Does not know: any series, HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.clock import Clock
from agent.metrics.exposition import CONTENT_TYPE, Exposition
from agent.metrics.http_connection import Response
from agent.metrics.web import Pages, verdict

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


def pages(
    exposition: Exposition,
    why_unready: Callable[[], Sequence[str]],
    troubles: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
) -> Pages:
    """The pages of one agent, by their paths; `why_unready` says why no pod can be attached now."""
    return {
        "/metrics": lambda: Response(exposition.text(), CONTENT_TYPE),
        # Whoever reads this answer has had it from the loop: that is all there is to say.
        "/livez": lambda: verdict(()),
        "/readyz": lambda: verdict(why_unready(), troubles()),
    }
