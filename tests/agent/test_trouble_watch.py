"""The one list of troubles: what is passing is none, what is listed has its beginning, the log has it once each way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SystemClock
from agent.trouble import Trouble, TroubleKind, in_a_sentence
from agent.trouble_watch import (
    FLAP_SECONDS,
    HOLD_SECONDS,
    LOOK_SECONDS,
    MOST_LINES,
    MOST_NAMED,
    MOST_TROUBLES,
    Change,
    TroubleList,
    TroubleLog,
    TroubleWatch,
)
from tests.scenes.dataplane.reconcilers import Lines

PEER = Trouble(TroubleKind.PEERING, "BGP peer node2", "its limit was exceeded: 7 of 5 prefixes")
POOL = Trouble(TroubleKind.POOL, "", "there is no IP pool")
ROUTE = Trouble(TroubleKind.ROUTE, "node node2", "10.0.0.0/26 has no route here")


def wall(seconds: float) -> datetime:
    return datetime.fromtimestamp(1_000_000 + seconds, UTC)


def looks(found: Iterable[tuple[float, list[Trouble]]]) -> tuple[TroubleList, list[tuple[float, Change]]]:
    """A list after looks at these moments, and what began and ended at which."""
    listing, changes = TroubleList(), list[tuple[float, Change]]()
    for now, troubles in found:
        changes += [(now, one) for one in listing.compare(troubles, now, wall(now))]
    return listing, changes


def test_what_has_been_there_for_a_third_of_a_second_is_listed_since_it_was_first_seen() -> None:
    listing, changes = looks([(0.0, [POOL]), (0.2, [POOL])])
    assert (list(listing.listed()), changes) == ([], [])
    listing, changes = looks([(0.0, [POOL]), (0.2, [POOL]), (0.5, [POOL])])
    assert [(one.trouble, one.since) for one in listing.listed()] == [(POOL, wall(0.0))]
    assert [(now, one.trouble, one.lasted) for now, one in changes] == [(0.5, POOL, None)]


def test_what_is_passing_is_no_trouble_and_what_flaps_faster_than_that_is_one() -> None:
    listing, changes = looks([(0.0, [POOL]), (0.2, []), (0.4, []), (0.6, [])])
    assert (list(listing.listed()), changes) == ([], [])
    blinking = [(0.15 * number, [POOL] if number % 2 == 0 else []) for number in range(20)]
    listing, changes = looks(blinking)
    assert [one.trouble for one in listing.listed()] == [POOL]
    assert [one.lasted for _, one in changes] == [None]


def test_one_is_over_once_it_has_been_away_for_a_third_of_a_second_and_lasted_while_it_was_seen() -> None:
    there = [(0.1 * number, [POOL]) for number in range(21)]
    listing, changes = looks([*there, (2.2, []), (2.3, [])])
    assert len(list(listing.listed())) == 1
    listing, changes = looks([*there, (2.3, []), (2.5, [])])
    assert list(listing.listed()) == []
    assert [(now, one.lasted) for now, one in changes] == [(0.4, None), (2.5, 2.0)]


def test_a_trouble_goes_on_while_its_numbers_change_or_while_its_object_has_another_evidence() -> None:
    more = replace(PEER, evidence="its limit was exceeded: 9 of 5 prefixes")
    other = replace(PEER, evidence="an internal error reset its session")
    listing, changes = looks([(0.0, [PEER]), (0.5, [more]), (1.0, [other])])
    assert [(one.trouble, one.since) for one in listing.listed()] == [(other, wall(0.0))]
    assert len(changes) == 1


def test_two_of_one_object_are_two_and_end_each_for_itself() -> None:
    other = replace(PEER, evidence="an internal error reset its session")
    both = [(0.0, [PEER, other]), (0.5, [PEER, other])]
    listing, changes = looks([*both, (0.8, [other]), (1.3, [other])])
    assert [one.trouble for one in listing.listed()] == [other]
    assert [one.trouble for _, one in changes if one.lasted is not None] == [PEER]


def test_what_is_about_nothing_by_name_is_another_trouble_when_it_says_something_else() -> None:
    other = replace(POOL, evidence="no IP pool serves this node")
    listing, changes = looks([(0.0, [POOL]), (0.5, [POOL]), (0.6, [other]), (1.2, [other])])
    assert [(one.trouble, one.since) for one in listing.listed()] == [(other, wall(0.6))]
    assert [(one.trouble, one.lasted is None) for _, one in changes] == [
        (POOL, True),
        (POOL, False),
        (other, True),
    ]


def test_there_is_a_bound_on_what_is_followed() -> None:
    many = [Trouble(TroubleKind.ROUTE, f"node {number}", "none") for number in range(MOST_TROUBLES + 10)]
    listing, _ = looks([(0.0, many), (0.5, many)])
    assert len(list(listing.listed())) == MOST_TROUBLES


@given(st.lists(st.tuples(st.floats(0.01, 0.4), st.sets(st.sampled_from([PEER, POOL, ROUTE]))), max_size=60))
def test_the_changes_tell_the_whole_list_and_the_log_ends_as_the_list_is(
    steps: list[tuple[float, set[Trouble]]],
) -> None:
    listing, lines, now, told = TroubleList(), Lines(), 0.0, set[Trouble]()
    log = TroubleLog(lines)
    for pause, found in steps:
        now += pause
        changes = listing.compare(found, now, wall(now))
        for one in changes:
            assert (one.trouble in told) is (one.lasted is not None)
            told ^= {one.trouble}
        log.follow(changes, now)
        assert {one.trouble for one in listing.listed()} == told
        assert listing.due(now) < HOLD_SECONDS + 0.01 or listing.due(now) == float("inf")
    log.follow([], now + FLAP_SECONDS)
    last = {
        (fields["kind"], fields["about"]): event
        for event, fields in lines.said
        if event in ("trouble.began", "trouble.ended")
    }
    assert {key for key, event in last.items() if event == "trouble.began"} == {
        (one.kind.value, one.about) for one in told
    }


def change(trouble: Trouble, lasted: float | None = None) -> Change:
    return Change((trouble.kind, trouble.about, trouble.evidence), trouble, lasted)


def test_the_log_says_what_began_with_its_loss_and_cure_and_how_long_it_lasted() -> None:
    lines = Lines()
    log = TroubleLog(lines)
    log.follow([change(replace(POOL, loss="no pod can be attached here", cure="apply an IPPool"))], 0.0)
    log.follow([change(POOL, 3.04)], 3.0)
    common: dict[str, Any] = {"kind": "pool", "about": "", "evidence": "there is no IP pool"}
    assert lines.said == [
        ("trouble.began", {**common, "loss": "no pod can be attached here", "cure": "apply an IPPool"}),
        ("trouble.ended", {**common, "lasted_seconds": 3.0}),
    ]


def test_one_that_comes_again_and_again_has_few_lines_and_then_how_many_were_left_out() -> None:
    lines = Lines()
    log = TroubleLog(lines)
    for number in range(31):
        log.follow([change(ROUTE, None if number % 2 == 0 else 1.0)], float(number))
    assert len(lines.of("trouble.began")) + len(lines.of("trouble.ended")) == MOST_LINES
    log.follow([], FLAP_SECONDS + 1)
    assert lines.said[-2:] == [
        ("trouble.flaps", {"kind": "route", "about": "node node2", "repeated": 31 - MOST_LINES}),
        ("trouble.began", {"kind": "route", "about": "node node2", "evidence": ROUTE.evidence}),
    ]


def test_very_many_at_once_are_a_few_lines_and_a_count() -> None:
    lines = Lines()
    many = [change(Trouble(TroubleKind.ROUTE, f"node {number}", "none")) for number in range(500)]
    TroubleLog(lines).follow(many, 0.0)
    assert len(lines.of("trouble.began")) == MOST_NAMED
    assert lines.of("trouble.more") == [{"count": 500 - MOST_NAMED, "see": "tortie node status"}]


async def test_a_trouble_is_listed_within_a_second_without_anybody_who_says_that_something_changed() -> None:
    found: list[Trouble] = []
    changed = asyncio.Event()
    watch = TroubleWatch(lambda: found, SystemClock(), Lines(), changed.set)
    task = asyncio.create_task(watch.run())
    clock = SystemClock()
    for there in ([ROUTE], []):
        changed.clear()
        began = clock.now()
        found[:] = there
        async with asyncio.timeout(2):
            await changed.wait()
        assert [one.trouble for one in watch.listed] == there
        assert clock.now() - began < HOLD_SECONDS + LOOK_SECONDS + 0.2 < 1.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_sentence_is_about_what_stands_before_its_colon_and_reads_the_same() -> None:
    for text in (
        "the datastore is away: refused: by all",
        "no colon here",
        "peer fd26::b: it has no password",
    ):
        assert str(in_a_sentence(TroubleKind.PEERING, text)) == text
    assert in_a_sentence(TroubleKind.DATASTORE, "the datastore is away: refused").evidence == "refused"
