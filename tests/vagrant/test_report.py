"""The smoke test's report, and its command line."""

from __future__ import annotations

import subprocess

import pytest

from tests import ROOT
from vagrant.report import MOST_CHARACTERS, Report, Step, duration

SMOKE = ROOT / "vagrant" / "smoke"
RAN = Report(
    "two cores",
    (Step("vagrant up", 187.4, "3 nodes"), Step("pods", 9.96, "1 of 30\n pings lost", failed=True)),
)


def test_the_table_says_each_step_and_how_many_passed() -> None:
    assert RAN.table().splitlines() == [
        "| step       | what was seen              | time       |",
        "| ---------- | -------------------------- | ---------- |",
        "| vagrant up | 3 nodes                    | 3 min 07 s |",
        "| pods       | FAILED: 1 of 30 pings lost | 10 s       |",
        "",
        "1 of 2 steps passed in 3 min 17 s, on two cores",
    ]


def test_a_long_trouble_does_not_widen_the_table_and_is_whole_in_the_document() -> None:
    long = Report("here", (Step("removal", 1.0, "word " * 1000, failed=True),))
    assert max(map(len, long.table().splitlines())) < 2 * MOST_CHARACTERS
    assert long.document()["steps"][0]["said"] == "word " * 1000


def test_the_document_says_the_same() -> None:
    said = RAN.document()
    assert (said["failed"], said["seconds"], said["place"]) == (True, 197.4, "two cores")
    assert [step["seconds"] for step in said["steps"]] == [187.4, 10.0]
    assert not Report("here", RAN.steps[:1]).document()["failed"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (9.95, "10 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s")],
)
def test_a_duration_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_smoke_tells_how_it_is_used() -> None:
    done = subprocess.run([SMOKE, "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert "sudo vagrant/without-kvm vagrant/smoke" in done.stdout


def test_an_unknown_step_is_refused_with_the_steps_there_are() -> None:
    from vagrant.run import chosen

    names = [(name, lambda scene: "") for name in ("pods", "drain of node2")]
    assert [name for name, _ in chosen(names, "drain")] == ["drain of node2"]
    with pytest.raises(SystemExit, match="pods, drain of node2"):
        chosen(names, "upgrade")
