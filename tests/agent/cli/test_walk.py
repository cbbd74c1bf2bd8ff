"""Every command in every bad place says one sentence for each thing that is wrong, and never shows a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests import ROOT
from tests.scenes.cli.walk import PLACES

NOBODY_LISTENS = "http://127.0.0.1:1"
WALK_SECONDS = 300
MOST_LINES = 8
POOL = {"kind": "IPPool", "metadata": {"name": "pool"}, "spec": {"cidr": "10.65.0.0/16"}}
FINDINGS = ("node", "checksystem")
"""Prints what it found, and exits with 1 if there was an error among it."""


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Place, words, exit code and standard error of every command in every place."""
    directory = tmp_path_factory.mktemp("walk")
    for name in ("pool.json", "pool.yaml"):
        (directory / name).write_text(json.dumps(POOL))
    for folder in (directory, *list(directory.parents)[:2]):  # nobody may read what pytest made for root
        folder.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORTIE_ETCD_ENDPOINTS": NOBODY_LISTENS}
    done = subprocess.run(
        [sys.executable, "-m", "tests.scenes.cli.walk"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=WALK_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_was_in_every_place(walked: list[dict[str, object]]) -> None:
    counts = Counter(str(one["place"]) for one in walked)
    assert set(counts) == set(PLACES)
    assert len(set(counts.values())) == 1
    assert len(walked) >= 300


def test_what_is_wrong_is_said_in_sentences_and_never_by_a_traceback(
    walked: list[dict[str, object]],
) -> None:
    for one in walked:
        lines = str(one["said"]).splitlines()
        assert one["code"] in (0, 1, 2), one
        assert all(line.startswith("tortie: ") for line in lines), one
        assert "Errno" not in str(one["said"]), one
        assert len(lines) <= MOST_LINES, one
        assert len(lines) == len(set(lines)), one
        assert one["code"] == 0 or lines or tuple(one["words"][:2]) == FINDINGS, one  # type: ignore[index]


@pytest.mark.parametrize(
    ("place", "words", "sentence"),
    [
        (
            "closed standard output",
            "lab up",
            "tortie: standard output is closed: give it a file, or /dev/null",
        ),
        ("full disk", "config reference", "tortie: the output cannot be written: no space left on device"),
        ("full disk", "validate", "tortie: the output cannot be written: no space left on device"),
        ("not root", "lab up", "tortie: "),
        ("not root", "uninstall", "tortie: "),
        ("no agent and no etcd", "node status", "tortie: no agent answers at /run/tortie/agent.sock"),
        ("no agent and no etcd", "get", f"tortie: no answer from etcd at {NOBODY_LISTENS}"),
    ],
)
def test_places_that_people_meet_have_their_sentence(
    walked: list[dict[str, object]], place: str, words: str, sentence: str
) -> None:
    found = [one for one in walked if one["place"] == place and " ".join(one["words"]).startswith(words)]  # type: ignore[arg-type]
    assert found
    assert all(str(one["said"]).startswith(sentence) and one["code"] == 1 for one in found), found
