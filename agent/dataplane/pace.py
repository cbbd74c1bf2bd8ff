"""How fast reconciliation goes: a burst of passes at once, then so many per second, and the pauses between.

Promises: pure; the first turns wait for nothing. Does not know: what a turn does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tempo:
    """The settings; seconds."""

    passes_per_second: float = 10.0
    burst: float = 10.0
    resync_seconds: float = 90.0
    """Everything is read again this often, whatever was heard; nodes drift apart by a fifth of it."""
    overrun_seconds: float = 0.5
    """Between two readings of everything, however often notifications are lost."""
    error_seconds: float = 1.0
    """The pause after a pass that could not read or write the kernel."""


@dataclass(slots=True)
class Pace:
    """A token bucket."""

    per_second: float
    burst: float
    _tokens: float | None = None
    _at: float = 0.0

    def take(self, now: float) -> float:
        """Take a turn; the seconds to wait before it."""
        if self._tokens is None:
            self._tokens, self._at = self.burst, now
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second) - 1.0
        self._at = now
        return max(0.0, -self._tokens / self.per_second)
