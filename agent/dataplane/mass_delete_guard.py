"""A brake on mass removals: facts that went wrong look like a wish to remove everything.

Promises: pure; what is small in number or in share is never held; what is large goes only after it was wished for
`hold_seconds` without a break, and after another whole reading of the kernel. Does not know: what the objects are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.netlink.objects import Kind

FREE = 64
"""Removals that are never held: the routes of some nodes leaving together."""
SHARE = 0.5
"""Of what stands."""
HOLD_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Held:
    """A removal that waits."""

    since: float
    """Monotonic seconds."""
    reading: int
    """Whole readings of the kind at that time."""
    count: int
    standing: int

    def __str__(self) -> str:
        return f"the removal of {self.count} of {self.standing} is held back until it has been wished for a while"


@dataclass(slots=True)
class MassDeleteGuard:
    """What is held, by kind."""

    free: int = FREE
    share: float = SHARE
    hold_seconds: float = HOLD_SECONDS
    held: dict[Kind, Held] = field(default_factory=dict)

    def allows(self, kind: Kind, count: int, standing: int, reading: int, now: float) -> bool:
        """Whether `count` of the `standing` objects may be removed now."""
        if count <= self.free or count <= self.share * standing:
            self.held.pop(kind, None)
            return True
        held = self.held.get(kind)
        if held is None:
            self.held[kind] = Held(now, reading, count, standing)
            return False
        if now < held.since + self.hold_seconds or reading <= held.reading:
            return False
        del self.held[kind]
        return True

    def ripe(self, now: float) -> set[Kind]:
        """The kinds to read again now, because their time is over."""
        return {kind for kind, held in self.held.items() if now >= held.since + self.hold_seconds}

    def next_at(self) -> float | None:
        """When the first of them is ripe; None when nothing is held."""
        return min((held.since + self.hold_seconds for held in self.held.values()), default=None)
