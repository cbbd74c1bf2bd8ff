"""A minute of random faults: nothing is lost, nothing shared, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.lab.lab_plan import Mode
from tests.chaos import rounds
from tests.scenes.lab.labs import MakeLab, make_lab

__all__ = ["make_lab"]

pytestmark = pytest.mark.lab
SECONDS = 60.0
SEED = 20_261_130
"""Another is for `make chaos`: a failure here is of the change, not of the dice."""


def test_a_minute_of_random_faults_leaves_every_invariant_standing(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("chaos", Mode.VXLAN, pods=0)
    outcome = rounds.run(lab, tmp_path, SECONDS, SEED, print)
    assert not outcome.violations, str(outcome)
    assert outcome.rounds >= 1
