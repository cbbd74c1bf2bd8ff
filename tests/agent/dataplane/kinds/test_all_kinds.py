"""The kinds as a whole: none is forgotten, and they come in their order."""

from __future__ import annotations

import structlog

from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.all_kinds import all_kinds
from tests.fakes.kernel import FakeKernel


def test_every_kind_has_its_file_and_they_come_in_the_order_of_their_creation() -> None:
    kinds = all_kinds(FakeKernel(), structlog.get_logger(), ownership=Ownership(), tunnel_grace_seconds=5.0)
    assert [kind.kind for kind in kinds] == sorted(Kind)
