"""One session against a neighbour played by hand, and two against each other on a wire that loses packets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.bfd.bfd_session import Session, Timers
from bgp.bfd.packet import Check, ControlPacket, Diagnostic, Dropped, State, decode

FAST = Timers(100_000, 100_000, 3)
THEIRS = ControlPacket(State.DOWN, 77, 0, 1_000_000, 200_000, 5)


def session(timers: Timers = FAST, chance: Callable[[], float] = lambda: 1.0) -> Session:
    return Session(timers, 11, chance, 0.0)


def says(one: Session, state: State, now: float, **more: object) -> list[ControlPacket]:
    """The neighbour says this; what we answer at once."""
    packet = replace(THEIRS, state=state, your_discriminator=11, **more)  # type: ignore[arg-type]
    return [decode(data) for data in one.receive(packet, now)]


def up(timers: Timers = FAST, **more: object) -> Session:
    """A session that came up at 1 s, its poll sequence over."""
    one = session(timers)
    says(one, State.DOWN, 1.0, **more)
    says(one, State.INIT, 1.0, **more)
    says(one, State.UP, 1.0, final=True, **more)
    assert one.state is State.UP
    return one


def due(one: Session, until: float) -> list[tuple[float, ControlPacket]]:
    """All that is sent until then, with its moment."""
    sent = []
    while (at := one.next_deadline) is not None and at <= until:
        sent += [(at, decode(data)) for data in one.handle_timer(at)]
    return sent


def test_a_session_that_is_not_up_speaks_as_seldom_as_is_wanted_and_never_more_than_once_a_second() -> None:
    seldom = session(Timers(100_000, 100_000, 3, 60_000_000))
    assert [round(at) for at, _ in due(seldom, 61.0)] == [0, 48]
    assert {packet.desired_min_tx for _, packet in due(seldom, 100.0)} == {60_000_000}
    hasty = session(Timers(100_000, 100_000, 3, 1000))
    assert {packet.desired_min_tx for _, packet in due(hasty, 2.0)} == {1_000_000}
    says(seldom, State.DOWN, 101.0)
    says(seldom, State.INIT, 101.0)
    assert (seldom.state, due(seldom, 102.0)[-1][1].desired_min_tx) == (State.UP, 100_000)


D, N, U, A = State.DOWN, State.INIT, State.UP, State.ADMIN_DOWN


@pytest.mark.parametrize(
    ("before", "heard", "after"),
    [
        ((), D, N), ((), N, U), ((), U, D), ((), A, D),
        ((D,), D, N), ((D,), N, U), ((D,), U, U), ((D,), A, D),
        ((N,), D, D), ((N,), N, U), ((N,), U, U), ((N,), A, D),
    ],
)  # fmt: skip
def test_the_state_machine_is_the_one_of_section_6_2(
    before: tuple[State, ...], heard: State, after: State
) -> None:
    one = session()
    for state in (*before, heard):
        says(one, state, 0.1)
    assert one.state is after


def test_a_session_that_is_not_up_speaks_once_a_second_at_most_and_does_not_name_faster_timers() -> None:
    one = session(Timers(50_000, 50_000, 3))
    sent = due(one, 5.0)
    assert 5 <= len(sent) <= 7
    assert {packet.desired_min_tx for _, packet in sent} == {1_000_000}
    assert {packet.required_min_rx for _, packet in sent} == {50_000}


def test_a_session_that_comes_up_says_its_timers_in_a_poll_sequence() -> None:
    one = session()
    says(one, D, 1.0)
    (answer,) = says(one, N, 1.0)
    assert (answer.state, answer.poll, answer.desired_min_tx) == (U, True, 100_000)
    assert all(packet.poll for _, packet in due(one, 2.0))
    says(one, U, 2.0, final=True)
    assert not any(packet.poll for _, packet in due(one, 3.0))


def test_a_poll_is_answered_at_once_with_the_final_bit() -> None:
    one = up()
    (answer,) = says(one, U, 1.5, poll=True)
    assert (answer.final, answer.poll) == (True, False)


def test_both_sides_timers_are_agreed_on_and_the_slower_one_counts_each_way() -> None:
    one = up(required_min_rx=250_000, desired_min_tx=300_000, multiplier=4)
    assert one.tx_interval == 250_000
    assert one.rx_interval == 300_000
    assert one.detection_time == pytest.approx(1.2)


def test_silence_of_a_detection_time_is_a_failure_and_its_diagnostic_is_told() -> None:
    one = up(desired_min_tx=100_000, multiplier=3)
    (at, packet) = next((at, packet) for at, packet in due(one, 3.0) if packet.state is not U)
    assert at == pytest.approx(1.3)
    assert (packet.state, packet.diagnostic) == (D, Diagnostic.DETECTION_TIME_EXPIRED)
    assert packet.your_discriminator == 0
    assert one.failures == 1


def test_a_neighbour_that_is_down_is_a_failure_but_one_that_is_put_down_is_none() -> None:
    one, other = up(), up()
    says(one, D, 2.0)
    says(other, A, 2.0)
    assert (one.state, one.failures, one.diagnostic) == (D, 1, Diagnostic.NEIGHBOR_SIGNALED_DOWN)
    assert (other.state, other.failures, other.diagnostic) == (D, 0, Diagnostic.NEIGHBOR_SIGNALED_DOWN)


def test_a_neighbour_that_was_put_down_and_then_goes_away_is_no_failure() -> None:
    one = up()
    says(one, A, 2.0)
    due(one, 60.0)
    assert one.failures == 0


@pytest.mark.parametrize(("multiplier", "most"), [(3, 1.0), (1, 0.9)])
def test_periods_are_three_quarters_of_the_interval_at_least_and_with_their_lateness_at_most_what_is_allowed(
    multiplier: int, most: float
) -> None:
    for chance in (0.0, 0.5, 1.0):
        one = session(Timers(100_000, 100_000, multiplier), lambda chance=chance: chance)  # type: ignore[misc]
        says(one, D, 1.0)
        says(one, N, 1.0, required_min_rx=100_000)
        says(one, U, 1.0, required_min_rx=100_000, final=True)
        first = one.next_deadline
        assert first is not None
        one.handle_timer(first)
        assert one.next_deadline is not None
        period = (one.next_deadline - first) / 0.1
        assert period + 1e-9 >= 0.75
        assert period + one.lateness / 0.1 <= most + 1e-9


def test_longer_timers_count_once_the_neighbour_knows_them_and_shorter_ones_at_once() -> None:
    one = up(required_min_rx=50_000)
    one.change(Timers(400_000, 100_000, 3), 2.0)
    assert one.tx_interval == 100_000
    assert all(packet.poll and packet.desired_min_tx == 400_000 for _, packet in due(one, 2.2))
    says(one, U, 2.2, final=True, required_min_rx=50_000)
    assert one.tx_interval == 400_000
    one.change(Timers(60_000, 100_000, 3), 3.0)
    assert one.tx_interval == 60_000


def test_a_shorter_detection_counts_only_when_the_neighbour_knows_that_it_has_to_be_faster() -> None:
    one = up(Timers(100_000, 500_000, 3), desired_min_tx=50_000, multiplier=3)
    one.change(Timers(100_000, 100_000, 3), 2.0)
    assert one.detection_time == pytest.approx(1.5)
    says(one, U, 2.1, final=True, desired_min_tx=50_000, multiplier=3)
    assert one.detection_time == pytest.approx(0.3)


def test_a_second_change_during_a_poll_sequence_is_a_second_sequence() -> None:
    one = up()
    one.change(Timers(300_000, 100_000, 3), 2.0)
    one.change(Timers(400_000, 100_000, 3), 2.01)
    says(one, U, 2.1, final=True)
    assert all(packet.poll for _, packet in due(one, 2.5))
    assert one.tx_interval == 200_000, "the first answer may be to the first sequence"
    says(one, U, 2.6, final=True)
    assert one.tx_interval == 400_000


def test_who_wants_no_packets_gets_none_and_who_wants_demand_mode_gets_none_but_answers() -> None:
    one = up(required_min_rx=0)
    assert [packet for _, packet in due(one, 1.9)] == []
    other = up(demand=True)
    assert [packet for at, packet in due(other, 1.9) if packet.state is U] == []
    (answer,) = says(other, U, 2.0, demand=True, poll=True)
    assert (answer.final, answer.demand) == (True, False)


def test_who_gives_up_says_so_three_times_and_hears_nothing_more() -> None:
    one = up()
    one.give_up(2.0)
    sent = due(one, 9.0)
    assert [(packet.state, packet.diagnostic) for _, packet in sent] == [
        (A, Diagnostic.ADMINISTRATIVELY_DOWN)
    ] * 3
    assert one.is_over
    with pytest.raises(Dropped) as dropped:
        says(one, U, 3.0)
    assert dropped.value.check is Check.ADMIN_DOWN


def test_the_c_bit_is_always_said_and_the_neighbours_is_kept() -> None:
    one = up(independent=True)
    assert one.remote_independent
    assert all(packet.independent for _, packet in due(one, 1.5))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.4),
    ours=st.builds(Timers, st.integers(50_000, 1_500_000), st.integers(50_000, 1_500_000), st.integers(3, 8)),
    theirs=st.builds(
        Timers, st.integers(50_000, 1_500_000), st.integers(50_000, 1_500_000), st.integers(3, 8)
    ),
)
def test_two_sessions_come_up_and_agree_whatever_is_lost_before_and_stay_up_when_nothing_is(
    seed: int, loss: float, ours: Timers, theirs: Timers
) -> None:
    chance = random.Random(seed)
    ends = Session(ours, 1, chance.random, 0.0), Session(theirs, 2, chance.random, 0.0)
    wire: list[tuple[float, int, bytes]] = []
    now = 0.0

    def run(until: float, lost: float) -> None:
        nonlocal now
        while True:
            dues = [(at, 2 + who) for who, end in enumerate(ends) if (at := end.next_deadline) is not None]
            now, what = min([*dues, *((at, number) for at, number, _ in wire)])
            if now > until:
                return
            if what >= 2:
                sent = ends[what - 2].handle_timer(now)
                wire.extend((now + 0.001, 3 - what, data) for data in sent if chance.random() >= lost)
            else:
                arrived = next(one for one in wire if one[:2] == (now, what))
                wire.remove(arrived)
                answers = ends[what].receive(decode(arrived[2]), now)
                wire.extend((now + 0.001, 1 - what, data) for data in answers if chance.random() >= lost)

    run(8.0, loss)
    run(30.0, 0.0)
    one, other = ends
    assert (one.state, other.state) == (U, U)
    assert one.tx_interval == max(ours.min_tx, theirs.min_rx) == other.rx_interval
    assert other.tx_interval == max(theirs.min_tx, ours.min_rx) == one.rx_interval
    failures = one.failures, other.failures
    run(40.0, 0.0)
    assert (one.failures, other.failures) == failures
