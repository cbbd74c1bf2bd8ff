"""An allowance of turns: a burst at once, then so many per second.

Promises: pure; the first turns wait for nothing. Does not know: what a turn is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """A token bucket."""

    per_second: float = 10.0
    burst: float = 10.0
    _tokens: float | None = None
    _at: float = 0.0

    def take(self, now: float) -> float:
        """Take a turn; the seconds to wait before it."""
        if self._tokens is None:
            self._tokens, self._at = self.burst, now
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second) - 1.0
        self._at = now
        return max(0.0, -self._tokens / self.per_second)
