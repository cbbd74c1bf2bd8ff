"""What a smoke test says at its end.

Promises: pure; the table and the JSON document say the same.
Does not know: what the steps did.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

HEAD = ("step", "what was seen", "time")
MOST_CHARACTERS = 240
"""Of a cell; the document has all of it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step, done or failed."""

    name: str
    seconds: float
    said: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    place: str
    """The machine that it ran on, in a few words."""
    steps: tuple[Step, ...]

    @property
    def failed(self) -> bool:
        """Whether any step failed."""
        return any(step.failed for step in self.steps)

    def table(self) -> str:
        """The report as a Markdown table, with one line on the whole below it."""
        rows = [HEAD] + [
            (
                step.name,
                _cell(("FAILED: " if step.failed else "") + " ".join(step.said.split())),
                duration(step.seconds),
            )
            for step in self.steps
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        lines = [_line([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows]
        lines.insert(1, _line(["-" * width for width in widths]))
        good = sum(not step.failed for step in self.steps)
        total = duration(sum(step.seconds for step in self.steps))
        return "\n".join(
            [*lines, "", f"{good} of {len(self.steps)} steps passed in {total}, on {self.place}"]
        )

    def document(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "place": self.place,
            "failed": self.failed,
            "seconds": round(sum(step.seconds for step in self.steps), 1),
            "steps": [asdict(step) | {"seconds": round(step.seconds, 1)} for step in self.steps],
        }


def _cell(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def duration(seconds: float) -> str:
    """As a person says it: 0.4 s, 12 s, 3 min 07 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
