"""A bell: many rings before the next look count as one.

Promises: a ring is never lost; ringing never waits. Does not know: who rings or what is then done.
"""

from __future__ import annotations

import asyncio


class Trigger:
    """One listener, many ringers, one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Ask for one more look at the facts."""
        self._event.set()

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a ring, at most `timeout` seconds (None: for ever); whether it rang. The ring is then used up."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            pass  # the caller's periodic look is the timeout
        rang = self._event.is_set()
        self._event.clear()
        return rang
