"""A clock that is set is a trouble, and for a minute; what slews is none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import structlog
from structlog.testing import capture_logs

from agent.service.clock_jumps import NOTICE_SECONDS, TICK_SECONDS, ClockJumps
from agent.trouble import TroubleKind


class TwoClocks:
    """A monotonic clock, and one that people set."""

    def __init__(self) -> None:
        self.at, self.set_by = 100.0, 0.0

    def now(self) -> float:
        return self.at

    def wall(self) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + self.at + self.set_by, UTC)


class World:
    def __init__(self) -> None:
        self.clock = TwoClocks()
        self.jumps = ClockJumps(self.clock, structlog.get_logger())

    def look(self, seconds: float = TICK_SECONDS) -> list[str]:
        self.clock.at += seconds
        self.jumps.look()
        found = list(self.jumps.troubles())
        assert all(one.kind is TroubleKind.CLOCK for one in found)
        return [one.evidence for one in found]


@pytest.mark.parametrize(
    ("step", "said"), [(3600.0, "it was set 3600 s forward"), (-86400.0, "it was set 86400 s back")]
)
def test_a_step_is_told_at_the_next_look_and_for_a_minute(step: float, said: str) -> None:
    world = World()
    with capture_logs() as logged:
        assert world.look() == []
        world.clock.set_by += step
        assert world.look() == [f"{said}, or the machine slept"]
        assert world.look(NOTICE_SECONDS - 1) == [f"{said}, or the machine slept"]
        assert world.look(1) == []
    assert [one["event"] for one in logged] == ["clock.stepped", "clock.steady"]


def test_a_step_that_is_taken_back_is_over_at_once() -> None:
    world = World()
    world.clock.set_by += 7200
    assert len(world.look()) == 1
    world.clock.set_by -= 7199
    assert world.look() == []


def test_what_slews_is_no_step() -> None:
    world = World()
    for _ in range(1000):
        world.clock.set_by += 0.05
        assert world.look() == []
