"""The one place that reads a clock.

Promises: a monotonic reading for deadlines, a wall-clock reading for stamps that people and Calico's tools read.
Does not know: what a deadline means. Cores never import this; they get `now` as an argument.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The readings of time that a shell needs."""

    def now(self) -> float:
        """Seconds on a monotonic clock: only differences mean anything."""
        ...

    def wall(self) -> datetime:
        """The present moment in UTC, for stamps."""
        ...


class SystemClock:
    """The kernel's clocks."""

    def now(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def wall(self) -> datetime:
        """CLOCK_REALTIME in UTC."""
        return datetime.now(UTC)
