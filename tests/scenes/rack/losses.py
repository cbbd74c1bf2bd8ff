"""What an event costs: for how long pings between pods were lost, pair by pair, while something broke or came back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.scenes.lab.pinging import ROUND_SECONDS, Pinging


@dataclass(slots=True)
class Losses:
    """The events of a test, in order, and what each cost."""

    pinging: Pinging
    milliseconds: dict[str, int] = field(default_factory=dict)
    """Event -> the longest loss of any pair."""

    def of(self, event: str, happens: Callable[[], object]) -> int:
        """Let it happen, until its effects are over; the milliseconds that the worst pair lost."""
        before = self.pinging.settled()
        happens()
        after = self.pinging.settled()
        lost = max(after[pair] - before.get(pair, 0) for pair in after)
        # One request of each pair may have been under way at each of the two looks.
        self.milliseconds[event] = found = round(max(0, lost - 1) * ROUND_SECONDS * 1000)
        return found

    def __str__(self) -> str:
        return ", ".join(f"{event} {lost} ms" for event, lost in self.milliseconds.items())
