"""How much of the loop reconciliation may take: a pass begins at once until passes have cost too much of late.

Strategy. What is paced is work, not passes: on a small node a pass costs a millisecond and every fact is settled as it
arrives; where a pass costs a tenth of a second, a storm of facts shares passes.
Promises: pure; over any stretch of time passes take at most `burst_seconds` plus `share` of it, and what the routes
that they write cost.
Does not know: what a pass does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PassTiming:
    """The settings."""

    share: float = 0.5
    """Of the loop's time that passes may take in the long run."""
    burst_seconds: float = 0.5
    """Of passes without any pause."""
    resync_seconds: float = 90.0
    """Everything is read again this often, whatever was heard; nodes drift apart by a fifth of it."""
    overrun_seconds: float = 0.5
    """Between two readings of everything, however often notifications are lost."""
    linger_seconds: float = 5.0
    """How long a tunnel that is no longer wished stands after a packet last came out of it."""
    soon_seconds: float = 0.02
    """From the end of a pod's link to a pass: the plugin's own word that the pod is gone follows."""
    error_seconds: float = 1.0
    """The pause after a pass that could not read or write the kernel."""


LONGEST_PAUSE_SECONDS = 0.1
ROUTE_SECONDS = 10e-6
"""From the change of a route to its being in the kernel, on a machine that is not slow."""


@dataclass(slots=True)
class PassLimiter:
    """A bucket of seconds of work."""

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
