"""Which packet is whose, what lives how long, and what is reported."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from bgp.bfd.door import DesiredSession, SessionKey, SessionReport
from bgp.bfd.engine import ABANDONED_SECONDS, Arrival, Engine
from bgp.bfd.packet import Check, ControlPacket, State, decode, encode

KEY = SessionKey("10.0.0.2", "10.0.0.1", "eth0")
FAR = SessionKey("10.9.0.2", "10.0.0.1", multihop=True)
THERE = Arrival("10.0.0.2", "10.0.0.1", "eth0", 255, multihop=False)
DOWN = ControlPacket(State.DOWN, 99, 0, 1_000_000, 100_000, 3)


def engine(*keys: SessionKey) -> Engine:
    numbers = count(1)
    made = Engine(lambda: 0.5, lambda: next(numbers))
    made.configure([DesiredSession(key) for key in keys], 0.0)
    return made


def only(made: Engine, now: float = 0.0) -> SessionReport:
    (found,) = made.all_reports(now)
    return found


def bring_up(made: Engine, arrival: Arrival = THERE, number: int = 1) -> None:
    made.receive(encode(DOWN), arrival, 0.1)
    for final in (False, True):
        packet = replace(DOWN, state=State.UP, your_discriminator=number, desired_min_tx=100_000, final=final)
        made.receive(encode(packet), arrival, 0.1)
    assert made.all_reports(0.1)[number - 1].state == "Up"


@pytest.mark.parametrize(
    ("packet", "arrival", "check"),
    [
        (DOWN, replace(THERE, ttl=254), Check.TTL),
        (DOWN, replace(THERE, peer="10.0.0.3"), Check.NO_SESSION),
        (DOWN, replace(THERE, interface="cali1"), Check.NO_SESSION),
        (DOWN, replace(THERE, multihop=True), Check.NO_SESSION),
        (DOWN, replace(THERE, local="10.0.0.9"), Check.NO_SESSION),
        (replace(DOWN, your_discriminator=7), THERE, Check.NO_SESSION),
        (replace(DOWN, your_discriminator=1), replace(THERE, peer="10.0.0.3"), Check.OTHER_ADDRESS),
        (replace(DOWN, your_discriminator=1), replace(THERE, interface="cali1"), Check.OTHER_ADDRESS),
        (replace(DOWN, your_discriminator=1), replace(THERE, multihop=True), Check.OTHER_ADDRESS),
    ],
)
def test_a_packet_that_is_not_the_neighbours_is_dropped_and_counted_by_its_check(
    packet: ControlPacket, arrival: Arrival, check: Check
) -> None:
    made = engine(KEY)
    bring_up(made)
    made.receive(encode(packet), arrival, 0.2)
    assert made.counters[f"dropped_{check}"] == 1
    assert only(made).state == "Up"


def test_a_malformed_packet_changes_nothing() -> None:
    made = engine(KEY)
    bring_up(made)
    made.receive(b"\x20", THERE, 0.2)
    assert made.counters["dropped_short"] == 1
    assert only(made).state == "Up"


def test_a_session_over_several_hops_takes_packets_with_the_ttl_that_is_asked_for() -> None:
    made = engine()
    made.configure([DesiredSession(FAR, minimum_ttl=250)], 0.0)
    near = Arrival("10.9.0.2", "10.0.0.1", "eth7", 250, multihop=True)
    made.receive(encode(DOWN), replace(near, ttl=249), 0.1)
    assert only(made).state == "Down"
    made.receive(encode(DOWN), near, 0.1)
    assert only(made).state == "Init"


def test_the_same_packet_again_keeps_a_session_up_without_a_second_look_and_after_a_failure_gets_one() -> (
    None
):
    made = engine(KEY)
    bring_up(made)
    packet = encode(replace(DOWN, state=State.UP, your_discriminator=1, desired_min_tx=100_000))
    made.receive(packet, THERE, 0.2, b"all of it")
    for step in range(3, 30):
        assert made.hear_again(b"all of it", step / 10)
        made.handle_timers(step / 10)
    assert only(made).state == "Up"
    made.handle_timers(3.4)
    assert (only(made).state, only(made).failures) == ("Down", 1)
    assert not made.hear_again(b"all of it", 3.5)


def test_another_set_of_sessions_touches_no_session_that_stays() -> None:
    made = engine(KEY)
    bring_up(made)
    number = only(made).discriminator
    made.configure([DesiredSession(KEY), DesiredSession(FAR, minimum_ttl=1)], 1.0)
    first, second = made.all_reports(1.0)
    assert (first.state, first.discriminator, first.failures) == ("Up", number, 0)
    assert second.discriminator not in (0, number)


def test_a_session_that_is_no_longer_wanted_says_goodbye_and_is_forgotten() -> None:
    made = engine(KEY)
    bring_up(made)
    made.outputs.clear()
    made.configure([], 1.0)
    for step in range(20):
        made.handle_timers(1.0 + step / 50)
    assert [decode(data).state for _, data in made.outputs] == [State.ADMIN_DOWN] * 3
    assert not made.is_leaving
    assert made.next_deadline is None
    made.receive(encode(replace(DOWN, your_discriminator=1)), THERE, 2.0)
    assert made.counters["dropped_no_session"] == 1


def test_a_session_wanted_again_at_once_is_a_new_one_and_its_neighbour_hears_no_goodbye_behind_it() -> None:
    made = engine(KEY)
    made.configure([], 1.0)
    made.configure([DesiredSession(KEY)], 1.01)
    made.outputs.clear()
    made.handle_timers(1.5)
    assert {decode(data).state for _, data in made.outputs} == {State.DOWN}
    assert only(made).discriminator == 2


def test_sessions_outlive_the_agent_by_a_day_and_are_adopted_by_the_next() -> None:
    made = engine(KEY)
    made.abandoned(10.0)
    made.handle_timers(10.0 + ABANDONED_SECONDS - 1)
    assert only(made).state == "Down"
    made.configure([DesiredSession(KEY)], 10.0 + ABANDONED_SECONDS - 1)
    made.handle_timers(10.0 + 2 * ABANDONED_SECONDS)
    assert only(made).discriminator == 1
    made.abandoned(0.0)
    made.handle_timers(10.0 + 2 * ABANDONED_SECONDS)
    assert made.all_reports(0.0) == []


def test_what_changed_is_reported_once_and_a_packet_that_changes_nothing_is_not() -> None:
    made = engine(KEY)
    assert [one.state for one in made.take_changed(0.0)] == ["Down"]
    made.receive(encode(DOWN), THERE, 0.1)
    assert [one.state for one in made.take_changed(0.1)] == ["Init"]
    made.receive(encode(DOWN), THERE, 0.2)
    made.handle_timers(0.5)
    assert made.take_changed(0.5) == []


def test_discriminators_are_unique_and_none_is_zero() -> None:
    numbers = iter([0, 5, 5, 0, 6])
    made = Engine(lambda: 0.5, lambda: next(numbers))
    made.configure([DesiredSession(KEY), DesiredSession(FAR)], 0.0)
    assert [one.discriminator for one in made.all_reports(0.0)] == [5, 6]
