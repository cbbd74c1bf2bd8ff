"""Named deadlines. Time is an argument, so a test is just numbers (RFC 4271 section 8.1.3 names the timers)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

SHORTEST_JITTER = 0.75
"""RFC 4271 section 10: a jittered timer runs 75 to 100 percent of its time."""


class Timer(Enum):
    """What a deadline is for."""

    HOLD = auto()
    KEEPALIVE = auto()
    SEND_HOLD = auto()
    """The other end takes no bytes (RFC 9687)."""


class Timers:
    """The timers of one session: at most one deadline each."""

    def __init__(self) -> None:
        self._deadlines: dict[Timer, float] = {}

    def start(self, timer: Timer, seconds: float, now: float) -> None:
        """Start a timer, or start it anew."""
        self._deadlines[timer] = now + seconds

    def stop(self, *timers: Timer) -> None:
        """Stop timers, running or not."""
        for timer in timers:
            self._deadlines.pop(timer, None)

    def stop_all(self) -> None:
        """Stop all timers."""
        self._deadlines.clear()

    def running(self, timer: Timer) -> bool:
        """Whether the timer has a deadline."""
        return timer in self._deadlines

    @property
    def next_deadline(self) -> float | None:
        """The earliest deadline."""
        return min(self._deadlines.values(), default=None)

    def expired(self, now: float) -> list[Timer]:
        """Stop the timers that are due, and answer them, earliest first."""
        due = sorted((at, timer.value, timer) for timer, at in self._deadlines.items() if at <= now)
        for *_, timer in due:
            del self._deadlines[timer]
        return [timer for *_, timer in due]


def jittered(seconds: float, random: Callable[[], float]) -> float:
    """A time shortened at random; `random` answers from 0 to 1. Never for the hold timer, which must not end early."""
    return seconds * (SHORTEST_JITTER + (1 - SHORTEST_JITTER) * random())
