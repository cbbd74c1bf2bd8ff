"""The kinds as a whole: none is forgotten, and they come in their order."""

from __future__ import annotations

import pytest
import structlog

from agent.dataplane.kernel.dataplane_objects import ForwardChain, Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.all_kinds import all_kinds
from agent.netlink.objects import Sysctl
from tests.fakes.kernel import FakeKernel

KINDS = {
    kind.kind: kind
    for kind in all_kinds(
        FakeKernel(), structlog.get_logger(), ownership=Ownership(), tunnel_grace_seconds=5.0
    )
}


def test_every_kind_has_its_file_and_they_come_in_the_order_of_their_creation() -> None:
    assert list(KINDS) == sorted(Kind)


@pytest.mark.parametrize(
    "value",
    [Sysctl("net/ipv4/ip_forward", "1"), ForwardChain("ip", "filter", "FORWARD", drops=True)],
    ids=["sysctl", "forward chain"],
)
async def test_what_is_never_removed_is_refused_and_ends_no_pass(value: Sysctl | ForwardChain) -> None:
    which = Kind.SYSCTL if isinstance(value, Sysctl) else Kind.FORWARD
    (refusal,) = await KINDS[which].remove([value])
    assert (refusal.what, refusal.permanent) == (value, True)
    assert refusal.why.endswith("are never removed")
