"""What was measured, and how figures are compared: paired rounds, medians, ratios with their spread.

Promises: pure; a ratio is formed within a round, never between rounds, because a machine's speed drifts.
Does not know: what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

OURS = "tortie"
LEAST_MOVE = 0.1
"""Of a ratio, between two runs."""
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True, slots=True)
class Series:
    """One subject's values, one per round; the unit says what a value is."""

    subject: str
    unit: str
    values: tuple[float, ...]
    memory_mib: float | None = None
    """Resident set after the work, all its processes together."""
    cpu_seconds: float | None = None
    """Processor time of the work, all its processes together; the median round."""

    @property
    def median(self) -> float:
        """The middle value."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest."""
        return min(self.values), max(self.values)


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the table: a piece of work, done by us and by others."""

    key: str
    title: str
    series: tuple[Series, ...]
    goal: str = ""
    """In words, as the project set it."""
    against: str = ""
    """The subject that the goal compares us with; empty: the goal is a figure of our own."""
    limit: float | None = None
    """The goal as a number: of the ratio when `against` is set, else of our own median in the series' unit."""
    at_least: bool = False
    """Whether more is better."""
    notes: tuple[str, ...] = field(default=())

    def of(self, subject: str) -> Series | None:
        """A subject's series."""
        return next((series for series in self.series if series.subject == subject), None)

    def ratios(self, other: str) -> tuple[float, ...]:
        """Ours divided by the other's, round by round."""
        ours, theirs = self.of(OURS), self.of(other)
        if ours is None or theirs is None:
            return ()
        return tuple(one / two for one, two in zip(ours.values, theirs.values, strict=False) if two)

    def verdict(self) -> str:
        """`met`, `missed`, or nothing when there is no numeric goal."""
        ours = self.of(OURS)
        if self.limit is None or ours is None:
            return ""
        ratios = self.ratios(self.against) if self.against else ()
        if self.against and not ratios:
            return ""
        reached = median(ratios) if self.against else ours.median
        return "met" if (reached >= self.limit if self.at_least else reached <= self.limit) else "missed"


def shown(value: float, unit: str) -> str:
    """A figure for people: three digits that count."""
    if unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def rows(measures: Iterable[Measure]) -> list[tuple[str, ...]]:
    """measure, subject, median, spread, ratio of ours to it (spread), memory, processor time, goal."""
    found: list[tuple[str, ...]] = []
    for measure in measures:
        for number, series in enumerate(measure.series):
            low, high = series.spread
            ratios = measure.ratios(series.subject) if series.subject != OURS else ()
            ratio = _spread(ratios) if ratios else ""
            goal = (
                f"{measure.goal}: {measure.verdict()}".removesuffix(": ")
                if number == 0 and measure.goal
                else ""
            )
            found.append(
                (
                    f"{measure.key} {measure.title}" if number == 0 else "",
                    series.subject,
                    shown(series.median, series.unit),
                    f"{shown(low, series.unit)} - {shown(high, series.unit)}"
                    if len(series.values) > 1
                    else "",
                    ratio,
                    f"{series.memory_mib:,.0f} MiB" if series.memory_mib is not None else "",
                    f"{series.cpu_seconds:.2f} s" if series.cpu_seconds is not None else "",
                    goal,
                )
            )
    return found


HEADINGS = ("measure", "subject", "median", "spread", "tortie / it", "memory", "cpu", "goal")


def markdown(measures: Iterable[Measure]) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(measures)]
    return "\n".join(lines)


def as_json(measures: Iterable[Measure]) -> list[dict[str, Any]]:
    """The figures as plain values."""
    return [
        {
            "key": measure.key,
            "title": measure.title,
            "goal": measure.goal,
            "verdict": measure.verdict(),
            "notes": list(measure.notes),
            "series": [
                {
                    "subject": series.subject,
                    "unit": series.unit,
                    "values": list(series.values),
                    "memory_mib": series.memory_mib,
                    "cpu_seconds": series.cpu_seconds,
                }
                for series in measure.series
            ],
        }
        for measure in measures
    ]


def against_baseline(measures: Sequence[Measure], baseline: Mapping[str, Any]) -> list[str]:
    """Where we moved against a peer beside an earlier run, a sentence each; the last one says how much is noise.

    Only ratios are compared: absolute times of two runs are times of two machines. A ratio has moved when the rounds
    of the two runs do not overlap and their medians are more than a tenth apart; all else is noise.
    """
    before = _ratios(baseline)
    moved, compared = [], 0
    for measure in measures:
        for series in measure.series:
            was, now = before.get((measure.key, series.subject)), measure.ratios(series.subject)
            if not was or not now or series.subject == OURS:
                continue
            compared += 1
            apart = max(was) < min(now) or max(now) < min(was)
            if apart and abs(median(now) / median(was) - 1) > LEAST_MOVE:
                word = "slower" if median(now) > median(was) else "faster"
                moved.append(
                    f"{measure.key} {measure.title}: {word}, {_spread(now)} of {series.subject}, was {_spread(was)}"
                )
    return [
        *moved,
        f"{len(moved)} of {compared} ratios moved; the rounds of the others overlap, which is noise",
    ]


def _ratios(run: Mapping[str, Any]) -> dict[tuple[str, str], list[float]]:
    """Ours divided by each other's, round by round, of a run's figures."""
    found: dict[tuple[str, str], list[float]] = {}
    for measure in run.get("measures", []):
        values = {series["subject"]: series["values"] for series in measure["series"]}
        for subject, theirs in values.items():
            pairs = zip(values.get(OURS, ()), theirs, strict=False)
            found[(measure["key"], subject)] = [one / two for one, two in pairs if two]
    return found


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
