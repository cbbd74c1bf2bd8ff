"""How reconciliation goes: counts and the last reasons, for people, metrics and tests.

Promises: what is reported is what the last pass saw; drift is counted per kind and logged with what was known and what
was found, at most so many lines a reading. Does not know: how anything is repaired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kinds.kernel_routes import RoutePlan, conflict_reason
from agent.dataplane.kinds.object_kind import ObjectKind
from agent.dataplane.kinds.states import ActualState
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.dataplane.retries import Retries

DRIFT_LINES = 10
"""Lines logged for one reading; one more says how many others there are."""


@dataclass(frozen=True, slots=True)
class Report:
    """The dataplane's state in plain types."""

    passes: int
    last_pass: datetime | None
    """Wall clock, UTC."""
    last_pass_seconds: float
    trouble: str | None
    """Why the last pass could not finish."""
    objects: Mapping[str, int]
    """Kind -> how many of ours the kernel holds."""
    written: Mapping[str, int]
    """Kind -> objects created or replaced since the start."""
    removed: Mapping[str, int]
    drift: Mapping[str, int]
    """Kind -> objects of ours that somebody else removed or altered, since the start."""
    overruns: int
    """How often notifications were lost, and everything was read again."""
    refused: Mapping[str, str]
    """Object -> the kernel's reason."""
    conflicts: Mapping[str, str]
    """Destination -> the foreign route in our place."""
    held: Mapping[str, str]
    """Kind -> the mass removal that is held back."""
    waiting: Mapping[str, str]
    """Destination -> the device it waits for."""
    not_in_force: Mapping[str, str]
    """Feature -> why this kernel cannot do it."""


@dataclass(slots=True)
class Counters:
    """The counters behind a report."""

    passes: int = 0
    last_pass: datetime | None = None
    last_seconds: float = 0.0
    trouble: str | None = None
    overruns: int = 0
    written: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    removed: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    drift: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    readings: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    """Kind -> whole readings."""
    not_in_force: dict[str, str] = field(default_factory=dict)

    def pass_ended(self, wall: datetime, seconds: float) -> None:
        """A pass ended well; it took `seconds`."""
        self.passes += 1
        self.last_pass, self.last_seconds, self.trouble = wall, seconds, None

    def note_reading(
        self, kind: ObjectKind[Any, Any], before: Mapping[Any, Any], found: Mapping[Any, Any], log: Any
    ) -> None:
        """Compare a whole reading with what was known before, unless it is the first: what differs, others did."""
        self.readings[kind.kind] += 1
        if self.readings[kind.kind] == 1:
            return
        pairs = ((key, value, before.get(key)) for key, value in found.items())
        changed = [key for key, value, was in pairs if was is not value and was != value]
        changed += [key for key in before if key not in found]
        self.note_drift(kind, changed, before, found, log)

    def note_drift(
        self,
        kind: ObjectKind[Any, Any],
        changed: Iterable[Any],
        before: Mapping[Any, Any],
        found: Mapping[Any, Any],
        log: Any,
    ) -> None:
        """Count and log, of the objects that changed, those of ours that others changed."""
        drift = [key for key in changed if kind.is_drift(before.get(key), found.get(key))]
        self.drift[kind.kind] += len(drift)
        for key in drift[:DRIFT_LINES]:
            was, now = (str(side.get(key, "nothing")) for side in (before, found))
            log.warning("kernel.drift", kind=kind.name, was=was, found=now)
        if len(drift) > DRIFT_LINES:
            log.warning("kernel.drift", kind=kind.name, more=len(drift) - DRIFT_LINES)

    def report(
        self,
        kinds: Iterable[ObjectKind[Any, Any]],
        actual: ActualState,
        retries: Retries[Any],
        routes: RoutePlan,
        guard: MassDeleteGuard,
    ) -> Report:
        """Everything in plain types."""
        return Report(
            passes=self.passes,
            last_pass=self.last_pass,
            last_pass_seconds=round(self.last_seconds, 6),
            trouble=self.trouble,
            objects={kind.name: kind.count(actual.of(kind.kind)) for kind in kinds},
            written=_named(self.written),
            removed=_named(self.removed),
            drift=_named(self.drift),
            overruns=self.overruns,
            refused={
                f"{kind.name.lower()} {_key_text(key)}": failure.why
                for (kind, key), failure in retries.failures.items()
            },
            conflicts={
                str(key.destination): conflict_reason(route) for key, route in routes.conflicts.items()
            },
            held={kind.name.lower(): str(held) for kind, held in guard.held.items()},
            waiting={str(key.destination): why for key, why in routes.waiting.items()},
            not_in_force=dict(self.not_in_force),
        )


def _key_text(key: Any) -> str:
    if hasattr(key, "destination"):
        return str(key.destination)
    return " ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)


def _named(counts: Mapping[Kind, int]) -> dict[str, int]:
    return {kind.name.lower(): count for kind, count in counts.items()}
