"""When a pass happens: soon after somebody asked for one, unless passes have cost too much of late.

Promises: a request is never lost, and making one never waits. Does not know: what a pass does, who asks for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


class Trigger:
    """Asks for one more look at the facts; many requests before the next look are one. One waits, many ask."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Ask for one more look."""
        self._event.set()

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a request, at most `timeout` seconds (None: for ever); whether there was one. It is then used up."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            pass  # the caller's periodic look is the timeout
        fired = self._event.is_set()
        self._event.clear()
        return fired


@dataclass(frozen=True, slots=True)
class PassTiming:
    """The settings of when passes happen."""

    share: float = 0.5
    """Of the loop's time that passes may take in the long run."""
    burst_seconds: float = 0.5
    """Of passes without any pause."""
    resync_seconds: float = 90.0
    """Everything is read again this often, whatever events came; nodes drift apart by a fifth of it."""
    overrun_seconds: float = 0.5
    """Between two readings of everything, however often notifications are lost."""
    grace_seconds: float = 5.0
    """How long a tunnel that is no longer desired is left after a packet last came out of it."""
    soon_seconds: float = 0.02
    """From the end of a pod's link to a pass: the plugin's own report that the pod is gone follows."""
    later_seconds: float = 1.0
    """From what somebody else's container does to a link that nothing leads over to a pass that takes it in."""
    error_seconds: float = 1.0
    """The pause after a pass that could not read or write the kernel."""


LONGEST_PAUSE_SECONDS = 0.1
ROUTE_SECONDS = 10e-6
"""From the change of a route to its being in the kernel, on a machine that is not slow."""


@dataclass(slots=True)
class PassLimiter:
    """A bucket of seconds of work: how much of the loop's time passes may take.

    A pass begins at once until passes have cost too much of late. What is limited is work, not their number: on a small
    node a pass costs a millisecond and every fact is carried out as it comes; where a pass costs a tenth of a second, a
    storm of facts shares passes. Over any stretch of time passes take at most `burst_seconds` plus `share` of it, and
    what the routes cost that they write.
    """

    share: float
    burst_seconds: float
    _left: float | None = None
    _at: float = 0.0

    def spent(self, seconds: float, now: float, routes: int = 0) -> float:
        """A pass took so long, wrote so many routes and ended now; the seconds to wait before the next.

        What each route costs is not counted: it would cost the same in a later pass, and others run meanwhile.
        """
        seconds = max(0.0, seconds - routes * ROUTE_SECONDS)
        before = self.burst_seconds if self._left is None else self._left
        refilled = min(self.burst_seconds, before + (now - self._at) * self.share)
        # A pass over very much is not paid for by a pause as long: what it waited for would wait again.
        self._left, self._at = max(refilled - seconds, -LONGEST_PAUSE_SECONDS * self.share), now
        return max(0.0, -self._left / self.share)
