"""Some rounds of junk in one field of every kind of stored value: `make junk` goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.lab.lab_plan import Mode
from tests.chaos import junk_fields
from tests.scenes.lab.labs import MakeLab, make_lab

__all__ = ["make_lab"]

pytestmark = pytest.mark.lab
SEED, ROUNDS = 17, 10
TOLD_SECONDS = 3.0
"""Among other labs; alone on a machine it is one."""


def test_junk_in_a_field_of_every_kind_changes_no_route_frees_no_address_and_is_named(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab("junk", Mode.VXLAN, nodes=2, pods=6)
    campaign = junk_fields.run(lab, tmp_path, ROUNDS, SEED, print, TOLD_SECONDS)
    assert not campaign.violations, str(campaign)
    assert campaign.rounds == ROUNDS
    assert len(campaign.fields) >= 20
