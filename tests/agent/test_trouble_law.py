"""The law of troubles: each kind is in the status, the metric, systemd's line, the log and, if it is to, /readyz.

Within a second of its cause, and out of all of them within a second of its end: on a real agent, a real kernel and a
real etcd. A kind without an entry in CAUSES fails the test.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.trouble import UNREADY, TroubleKind
from tests import ROOT
from tests.scenes.troubles.trouble_causes import (
    CAUSES,
)

WALK_SECONDS = 110


def test_each_kind_has_a_cause_here_and_a_row_in_the_documents() -> None:
    assert set(CAUSES) == set(TroubleKind)
    rows = re.findall(
        r"^\| (\S+) \| (yes|) ?\| \S.* \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    assert [(kind.value, "yes" if kind in UNREADY else "") for kind in TroubleKind] == rows


@pytest.mark.timeout(120)
def test_each_kind_of_trouble_is_shown_everywhere_within_a_second_of_its_cause_and_of_its_end_nowhere(
    tmp_path: Path,
) -> None:
    words = [sys.executable, "-m", "tests.scenes.troubles.law_walk", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=WALK_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    broken = json.loads(done.stdout.splitlines()[-1])
    assert broken == {}, "\n".join(f"{kind}: {why}" for kind, why in broken.items())
