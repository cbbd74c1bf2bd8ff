"""When a pass happens."""

from __future__ import annotations

import pytest

from agent.dataplane.trigger import LONGEST_PAUSE_SECONDS, ROUTE_SECONDS, PassLimiter, Trigger


def test_cheap_passes_never_wait_and_dear_ones_take_their_share() -> None:
    cheap = PassLimiter(share=0.5, burst_seconds=0.5)
    assert {cheap.spent(0.001, 5.0 + number * 0.002) for number in range(5000)} == {0.0}
    dear = PassLimiter(share=0.5, burst_seconds=0.5)
    assert [dear.spent(0.25, 5.0 + number * 0.25) for number in range(3)] == [0.0, 0.0, pytest.approx(0.0)]
    assert dear.spent(0.28, 6.0) == pytest.approx(0.06)
    assert dear.spent(30.0, 36.0) == LONGEST_PAUSE_SECONDS
    assert dear.spent(0.1, 60.0) == 0.0


def test_a_pass_that_writes_very_many_routes_is_not_paused_for_what_they_cost() -> None:
    limiter = PassLimiter(share=0.5, burst_seconds=0.5)
    many = 10_000
    assert {limiter.spent(many * ROUTE_SECONDS, 5.0 + number * 0.1, many) for number in range(100)} == {0.0}
    assert limiter.spent(1.0, 16.0, many) == LONGEST_PAUSE_SECONDS


async def test_many_requests_are_one_and_none_is_lost() -> None:
    trigger = Trigger()
    for _ in range(3):
        trigger.fire()
    assert await trigger.wait(None)
    assert not await trigger.wait(0.0)
    trigger.fire()
    assert await trigger.wait(5.0)
