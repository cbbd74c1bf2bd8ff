"""How figures are compared, that the feeds are right, and that the harness still runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.feeds import FEEDS, announcement, small, withdrawal
from bench.figures import OURS, Measure, Series, against_baseline, as_json, markdown, shown
from bench.measures import rib
from bench.testbed import BenchError


def bodies(stream: bytes) -> Iterator[bytes]:
    """The bodies of a stream of UPDATEs."""
    while stream:
        length = int.from_bytes(stream[16:18], "big")
        assert (stream[:16], stream[18]) == (b"\xff" * 16, 2)
        yield stream[19:length]
        stream = stream[length:]


PREFIXES = 20_000
PAIRED = Measure(
    "x",
    "work",
    (Series(OURS, "s", (1.0, 4.0, 9.0)), Series("peer", "s", (2.0, 4.0, 3.0))),
    "<= 0.5 of peer",
    "peer",
    0.5,
)


def test_a_ratio_is_formed_within_a_round() -> None:
    assert PAIRED.ratios("peer") == (0.5, 1.0, 3.0)


@pytest.mark.parametrize(
    ("limit", "at_least", "verdict"),
    [(0.5, False, "missed"), (1.0, False, "met"), (1.0, True, "met"), (2.0, True, "missed")],
)
def test_a_goal_is_met_or_missed_by_the_median_ratio(limit: float, at_least: bool, verdict: str) -> None:
    series = PAIRED.series
    assert Measure("x", "work", series, "goal", "peer", limit, at_least).verdict() == verdict


def test_a_goal_without_a_peer_is_measured_by_our_own_median() -> None:
    assert Measure("x", "work", PAIRED.series, "goal", limit=4.0).verdict() == "met"
    assert Measure("x", "work", PAIRED.series, "goal", limit=3.9).verdict() == "missed"


def test_figures_show_the_digits_that_count() -> None:
    assert [shown(value, "s") for value in (0.0123, 1.234, 12.34, 1234.0)] == [
        "12.3 ms",
        "1.23 s",
        "12.3 s",
        "1,234 s",
    ]


def test_the_table_names_each_measure_once_and_every_subject() -> None:
    lines = markdown([PAIRED]).splitlines()
    assert lines[2].startswith("| x work | tortie | 4.00 s | 1.00 s - 9.00 s |")
    assert lines[3].startswith("|  | peer | 3.00 s | 2.00 s - 4.00 s | 1.00 (0.50-3.00) |")


def against_one(*ours: float) -> Measure:
    return Measure("x", "work", (Series(OURS, "s", ours), Series("peer", "s", (1.0,) * len(ours))))


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ((1.0, 1.1, 1.2), None),
        ((1.2, 2.0, 3.0), None),
        ((1.9, 2.0, 2.1), "x work: slower, 2.00 (1.90-2.10) of peer, was 1.10 (1.00-1.20)"),
        ((0.4, 0.5, 0.6), "x work: faster, 0.50 (0.40-0.60) of peer, was 1.10 (1.00-1.20)"),
        ((1.201, 1.205, 1.206), None),
    ],
    ids=["the same", "rounds that overlap", "slower", "faster", "less than a tenth"],
)
def test_a_later_run_tells_a_move_from_noise(later: tuple[float, ...], said: str | None) -> None:
    before = {"measures": as_json([against_one(1.0, 1.1, 1.2)])}
    moved = 0 if said is None else 1
    assert against_baseline([against_one(*later)], before) == [
        *([said] if said else []),
        f"{moved} of 1 ratios moved; the rounds of the others overlap, which is noise",
    ]


def test_what_the_earlier_run_did_not_measure_is_not_compared() -> None:
    assert against_baseline([PAIRED], {})[-1].startswith("0 of 0 ")


@pytest.mark.parametrize("name", list(FEEDS))
def test_a_feed_is_whole_messages_and_its_withdrawal_names_its_prefixes(name: str) -> None:
    feed = small(FEEDS[name], 100)
    octets = 1 + (feed.length + 7) // 8
    announced, withdrawn = b"", b""
    for body in bodies(announcement(feed)):
        announced += body[4 + int.from_bytes(body[2:4], "big") :]
    for body in bodies(withdrawal(feed)):
        withdrawn += body[2:-2]
    assert len(announced) == feed.count * octets
    assert announced == withdrawn


def test_our_speaker_takes_a_feed_whole_and_its_cost_is_of_that_work_alone() -> None:
    began = time.perf_counter()
    # In a process of its own: in this one so many may find room in what it has.
    memory, work = rib.measure(1, PREFIXES)
    passed = time.perf_counter() - began
    (mebibytes,), (seconds,) = memory.series[0].values, work.series[0].values
    assert 50 < mebibytes * 2**20 / PREFIXES < 1000
    assert 0 < seconds < passed


def test_a_feed_that_lost_a_message_is_no_figure() -> None:
    whole = rib.feed(1000, 10)
    missing = whole[int.from_bytes(whole[16:18], "big") :]
    with pytest.raises(BenchError, match="the RIB holds 900 of 1000 prefixes"):
        rib.once(missing, 1000)


@pytest.mark.lab
@pytest.mark.timeout(400)
def test_the_short_bench_runs_every_measure_and_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short", "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr
    keys = {measure["key"].split("-")[0] for measure in json.loads(file.read_text())["measures"]}
    assert keys == {"a", "b", "c", "d", "e", "f", "g", "h", "i"}
