"""When what was refused is tried again."""

from __future__ import annotations

from agent.dataplane.retries import MOST_SECONDS, Retries


def test_waits_double_up_to_a_ceiling_and_end_with_success() -> None:
    retries: Retries[str] = Retries(first_seconds=1.0, most_seconds=5.0)
    now = 100.0
    for wait in (1.0, 2.0, 4.0, 5.0, 5.0):
        retries.failed("a", "no", now)
        assert retries.next_retry_at() == now + wait
        assert not retries.may_try("a", now + wait - 0.1)
        assert retries.may_try("a", now + wait)
        now += wait
    assert retries.may_try("b", now)
    retries.retry_all_now()
    assert retries.may_try("a", 0.0)
    assert retries.failures["a"].why == "no"
    retries.succeeded("a")
    assert retries.failures == {}
    assert retries.next_retry_at() is None


def test_a_thing_that_failed_for_years_still_has_a_finite_wait() -> None:
    retries: Retries[str] = Retries()
    for _ in range(5000):
        retries.failed("a", "no", 0.0)
    assert retries.next_retry_at() == retries.most_seconds


def test_a_step_may_have_a_shorter_longest_wait_than_others() -> None:
    retries: Retries[str] = Retries()
    for _ in range(20):
        retries.failed("tunnel", "no", 100.0, "put", most_seconds=0.4)
        retries.failed("route", "no", 100.0, "put")
    assert retries.next_retry_at() == 100.4
    assert retries.failures["route"].retry_at == 100.0 + MOST_SECONDS
