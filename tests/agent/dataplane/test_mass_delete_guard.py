"""Which removals are held back, and for how long."""

from __future__ import annotations

from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.mass_delete_guard import MassDeleteGuard


def test_a_removal_is_held_by_share_and_number_and_let_go_by_time_and_a_new_reading() -> None:
    guard = MassDeleteGuard(free=10, share=0.5, hold_seconds=5.0)
    assert guard.allows(Kind.ROUTE, count=10, known=10, reading=1, now=0.0)
    assert guard.allows(Kind.ROUTE, count=50, known=100, reading=1, now=0.0)
    assert not guard.allows(Kind.ROUTE, count=51, known=100, reading=1, now=0.0)
    assert guard.next_at() == 5.0
    assert not guard.allows(Kind.ROUTE, count=51, known=100, reading=2, now=4.9)
    assert guard.due_readings(4.9) == set()
    assert guard.due_readings(5.0) == {Kind.ROUTE}
    assert not guard.allows(Kind.ROUTE, count=51, known=100, reading=1, now=5.0)
    assert guard.allows(Kind.ROUTE, count=51, known=100, reading=2, now=5.0)
    assert guard.next_at() is None


def test_a_removal_that_shrank_is_no_longer_held_and_another_kind_has_its_own_brake() -> None:
    guard = MassDeleteGuard(free=10, share=0.5, hold_seconds=5.0)
    assert not guard.allows(Kind.ROUTE, count=100, known=100, reading=1, now=0.0)
    assert guard.allows(Kind.FDB, count=3, known=3, reading=1, now=0.0)
    assert guard.allows(Kind.ROUTE, count=40, known=100, reading=1, now=1.0)
    assert not guard.allows(Kind.ROUTE, count=100, known=100, reading=2, now=6.0)
