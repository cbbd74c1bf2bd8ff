"""A clock that a test sets."""

from __future__ import annotations

from datetime import UTC, datetime


class SetClock:
    """Time stands still; `at` is the monotonic reading, and what the wall clock says in seconds since 1970."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)
