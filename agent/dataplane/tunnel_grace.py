"""Lets a tunnel that is no longer wished stand for as long as others still send through it: they may hear later.

Strategy. How much later cannot be known, but what comes out of the tunnel can be counted: it goes when nothing has come
for a while. Somebody who never stops does not keep it for ever.
Promises: pure; what is wished again meanwhile was never unwished. Does not know: what a tunnel is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LONGEST_SECONDS = 300.0
"""From the last wish on, whatever still comes."""


@dataclass(frozen=True, slots=True)
class _Left:
    since: float
    """Monotonic seconds, like the next."""
    quiet_since: float
    received: int


@dataclass(slots=True)
class TunnelGracePeriod:
    """What is not wished any more, and since when nothing came; as many as there are tunnels."""

    seconds: float
    """Without a packet."""
    _left: dict[str, _Left] = field(default_factory=dict)

    def over(self, unwished: Mapping[str, int], now: float) -> list[str]:
        """Of what is unwished now, with the packets it has received so far, what has been quiet long enough."""
        self._left = {name: self._seen(name, received, now) for name, received in unwished.items()}
        return [name for name, left in self._left.items() if now >= self._end(left)]

    def _seen(self, name: str, received: int, now: float) -> _Left:
        left = self._left.get(name)
        if left is None:
            return _Left(now, now, received)
        return left if received == left.received else _Left(left.since, now, received)

    def _end(self, left: _Left) -> float:
        return min(left.quiet_since + self.seconds, left.since + max(self.seconds, LONGEST_SECONDS))

    def next_at(self, now: float) -> float | None:
        """When the next one's time may be over; None when none waits. One whose time is over does not come again."""
        moments = map(self._end, self._left.values())
        return min((moment for moment in moments if moment > now), default=None)
