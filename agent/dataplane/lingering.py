"""Lets a tunnel that is no longer wished stand for a while: other nodes still send through it when they hear later.

Promises: pure; what is wished again meanwhile was never unwished. Does not know: what a tunnel is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Lingering:
    """What is not wished any more, and since when; as many as there are tunnels."""

    seconds: float
    _since: dict[str, float] = field(default_factory=dict)
    """Monotonic seconds."""

    def over(self, unwished: Iterable[str], now: float) -> list[str]:
        """Of what is unwished now, what has been so long enough."""
        self._since = {name: self._since.get(name, now) for name in unwished}
        return [name for name, since in self._since.items() if now >= since + self.seconds]

    def next_at(self, now: float) -> float | None:
        """When the next one's time is over; None when none waits. One whose time is over does not come again."""
        moments = (since + self.seconds for since in self._since.values())
        return min((moment for moment in moments if moment > now), default=None)
