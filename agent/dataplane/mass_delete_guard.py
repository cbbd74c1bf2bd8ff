"""A brake on mass removals: facts that went wrong look as if everything were to be removed.

How it works: what is small in number or in share goes at once. What is large goes only after it was unwanted for
`hold_seconds` without a break, and after another whole reading of the kernel in that time: a store that answers with
half of its content, or a reading that broke off, is over by then; a pool that somebody deleted is not.
Promises: pure. Does not know: what the objects are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.dataplane.kernel.dataplane_objects import Kind

FREE = 64
"""Removals that are never held: as many routes as some nodes have that leave together."""
SHARE = 0.5
"""Of what there is: up to this share of it nothing is held."""
HOLD_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Held:
    """A removal that waits."""

    since: float
    """Monotonic seconds."""
    reading: int
    """Whole readings of the kind at that time."""
    count: int
    known: int

    def __str__(self) -> str:
        return f"the removal of {self.count} of {self.known} is held back until it has been due for a while"


@dataclass(slots=True)
class MassDeleteGuard:
    """What is held back, by kind."""

    free: int = FREE
    share: float = SHARE
    hold_seconds: float = HOLD_SECONDS
    held: dict[Kind, Held] = field(default_factory=dict)

    def allows(self, kind: Kind, count: int, known: int, reading: int, now: float) -> bool:
        """Whether `count` of the `known` objects may be removed now, after so many whole readings of the kind."""
        if count <= self.free or count <= self.share * known:
            self.held.pop(kind, None)
            return True
        held = self.held.get(kind)
        if held is None:
            self.held[kind] = Held(now, reading, count, known)
            return False
        if now < held.since + self.hold_seconds or reading <= held.reading:
            return False
        del self.held[kind]
        return True

    def due_readings(self, now: float) -> set[Kind]:
        """The kinds to read again now, because their removals have been held long enough."""
        return {kind for kind, held in self.held.items() if now >= held.since + self.hold_seconds}

    def next_at(self) -> float | None:
        """When the first of them is ripe; None when nothing is held."""
        return min((held.since + self.hold_seconds for held in self.held.values()), default=None)
