"""How reconciliation goes: counts and the last reasons, for people, metrics and tests.

Promises: what is reported is what the last pass saw; drift is counted per kind and logged with what stood there and
what should have, at most so many lines a read. Does not know: how anything is repaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.diff import ActualState, RoutePlan, conflict_reason, stands
from agent.dataplane.kinds.retries import Retries
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.netlink.objects import Kind, Route

DRIFT_LINES = 10
"""Lines logged for one read; the count tells the rest."""


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

    def passed(self, wall: datetime, seconds: float) -> None:
        """A pass ended."""
        self.passes += 1
        self.last_pass, self.last_seconds, self.trouble = wall, seconds, None

    def failed(self, why: str) -> None:
        """A pass broke off."""
        self.trouble = why

    def read(
        self, kind: Kind, before: Mapping[Any, Any], now: Mapping[Any, Any], ownership: Ownership, log: Any
    ) -> None:
        """Compare a fresh reading with the picture it replaces; what differs, others did. The first reading is none."""
        self.readings[kind] += 1
        if self.readings[kind] == 1:
            return
        pairs = ((key, value, before.get(key)) for key, value in now.items())
        changed = [key for key, value, was in pairs if was is not value and was != value]
        changed += [key for key in before if key not in now]
        if kind is Kind.ROUTE:
            changed = [
                key for key in changed if any(_ours(side.get(key), ownership) for side in (before, now))
            ]
        if kind is Kind.TUNNEL:  # tunl0 was ours to take down
            changed = [key for key in changed if key in before or stands(now[key])]
        if kind is Kind.FORWARD:  # a chain that came anew is no drift
            changed = [key for key in changed if key in before]
        if kind is Kind.SYSCTL:  # one that is new or has gone came and went with its device
            changed = [key for key in changed if key in before and key in now]
        self.drift[kind] += len(changed)
        for key in changed[:DRIFT_LINES]:
            log.warning(
                "kernel.drift", kind=kind.name.lower(), was=_text(before.get(key)), found=_text(now.get(key))
            )
        if len(changed) > DRIFT_LINES:
            log.warning("kernel.drift", kind=kind.name.lower(), more=len(changed) - DRIFT_LINES)

    def report(
        self,
        retries: Retries[Any],
        routes: RoutePlan,
        installed: Mapping[Any, Route],
        picture: ActualState,
        budget: MassDeleteGuard,
    ) -> Report:
        """Everything in plain types."""
        return Report(
            passes=self.passes,
            last_pass=self.last_pass,
            last_pass_seconds=round(self.last_seconds, 6),
            trouble=self.trouble,
            objects={
                "tunnel": len(picture.tunnels),
                "neighbour": len(picture.neighbours),
                "fdb": len(picture.fdb),
                "route": len(installed),
                "masquerade": int(picture.masquerade is not None),
                "sysctl": len(picture.sysctls),
                "forward": sum(chain.opened for chain in picture.forward.values()),
            },
            written=_named(self.written),
            removed=_named(self.removed),
            drift=_named(self.drift),
            overruns=self.overruns,
            refused={
                f"{kind.name.lower()} {_key_text(key)}": failure.why
                for (kind, key), failure in retries.failures().items()
            },
            conflicts={
                str(key.destination): conflict_reason(route) for key, route in routes.conflicts.items()
            },
            held={kind.name.lower(): str(held) for kind, held in budget.held.items()},
            waiting={str(key.destination): why for key, why in routes.waiting.items()},
            not_in_force=dict(self.not_in_force),
        )


def _ours(route: Route | None, ownership: Ownership) -> bool:
    return route is not None and ownership.is_ours(route)


def _text(value: object) -> str:
    return "nothing" if value is None else str(value)


def _key_text(key: Any) -> str:
    if hasattr(key, "destination"):
        return str(key.destination)
    return " ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)


def _named(counts: Mapping[Kind, int]) -> dict[str, int]:
    return {kind.name.lower(): count for kind, count in counts.items()}
