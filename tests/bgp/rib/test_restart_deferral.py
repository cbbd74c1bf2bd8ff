"""The deferral of our own start, as the state machine alone (RFC 4724 section 4.1)."""

from __future__ import annotations

import pytest

from bgp.rib.graceful_restart import (
    ANNOUNCING_SECONDS,
    COMING_UP_SECONDS,
    DeferralState,
    RestartDeferral,
    wait_until,
)
from bgp.wire.capabilities import GracefulRestart

NOW, SECONDS = 1000.0, 60.0
DONE, WAITS = float("-inf"), float("inf")


def deferring(*, is_restart: bool = True) -> RestartDeferral:
    deferral = RestartDeferral(SECONDS, is_restart=is_restart, now=NOW)
    deferral.configured(NOW)
    return deferral


def test_it_does_not_end_before_there_is_a_configuration() -> None:
    deferral = RestartDeferral(SECONDS, is_restart=True, now=NOW)
    assert deferral.deadline([]) is None
    assert not deferral.end_if_due([], NOW + 10 * SECONDS)
    assert deferral.state is DeferralState.UNCONFIGURED


def test_it_ends_when_every_peer_is_done_and_never_begins_again() -> None:
    deferral = deferring()
    assert not deferral.end_if_due([DONE, WAITS], NOW + 1)
    assert deferral.end_if_due([DONE, DONE], NOW + 1)
    deferral.configured(NOW + 2)
    assert deferral.is_over
    assert deferral.deadline([WAITS]) is None
    assert not deferral.end_if_due([DONE], NOW + 3)


def test_its_timer_runs_from_the_first_configuration_and_ends_it_whoever_is_missing() -> None:
    deferral = deferring()
    deferral.configured(NOW + 30)
    assert deferral.deadline([WAITS]) == NOW + SECONDS
    assert not deferral.end_if_due([WAITS], NOW + SECONDS - 1)
    assert deferral.end_if_due([WAITS], NOW + SECONDS)


@pytest.mark.parametrize("is_restart", [True, False])
def test_we_restart_only_in_a_start_that_is_a_restart_and_until_it_is_over(is_restart: bool) -> None:
    deferral = deferring(is_restart=is_restart)
    assert deferral.is_restarting is is_restart
    deferral.end_if_due([], NOW)
    assert not deferral.is_restarting


def test_a_peer_is_waited_for_by_what_it_offers() -> None:
    def until(restart: GracefulRestart | None, up_at: float | None = NOW + 1, *, done: bool = False) -> float:
        return wait_until(eor_received=done, configured_at=NOW, up_at=up_at, restart=restart)

    assert until(GracefulRestart(120)) == WAITS
    assert until(GracefulRestart(120, restarting=True)) == NOW + 1 + ANNOUNCING_SECONDS
    assert until(None) == NOW + 1 + ANNOUNCING_SECONDS
    assert until(None, up_at=None) == NOW + COMING_UP_SECONDS
    assert until(GracefulRestart(120), done=True) == until(None, up_at=None, done=True) == DONE
