"""Real containers of real engines, on two nodes of a lab: they reach each other, and leave nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle, islice

import pytest

from agent.lab import lifecycle
from agent.lab.lab_plan import Mode
from agent.lab.lab_processes import wait_for
from agent.lab.lifecycle import Lab
from tests.scenes.cni.container_engines import Engines, Kind, engines
from tests.scenes.lab.lab_remains import datastore, kernels
from tests.scenes.lab.labs import MakeLab, make_lab, named

__all__ = ["make_lab"]

KERNEL_SECONDS = 10.0
CONTAINERS_PER_NODE = 2


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    """Two nodes with tunnels: each has a block from the start."""
    yield make_lab("engines", Mode.VXLAN, nodes=2, pods=0)
    lifecycle.down(named("engines"))


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_containers_of_each_engine_that_calls_cni_reach_each_other_across_nodes_and_leave_nothing(
    lab: Lab, version: str
) -> None:
    with engines(lab.plan.nodes, version) as both:
        kinds = both[0].kinds()
        assert Kind.CTR in kinds
        before, stored = kernels(lab), datastore(lab)
        with ExitStack() as stack:
            running = [
                stack.enter_context(one.container(kind, f"{kind.value}-{one.node.name}-{number}"))
                for one in both
                for number, kind in enumerate(islice(cycle(kinds), CONTAINERS_PER_NODE))
            ]
            addresses = [container.address() for container in running]
            assert len(set(addresses)) == CONTAINERS_PER_NODE * len(both)
            for container in running:
                for address in addresses:
                    container.run(
                        "ping", "-c1", "-w5", address
                    )  # fails without a reply; ctr may lose the words
            assert kernels(lab) != before
            assert datastore(lab) != stored
        wait_for("the end of the routes", lambda: kernels(lab) == before, KERNEL_SECONDS)
        assert datastore(lab) == stored
        for one in both:
            must_be_gone(one)


def must_be_gone(one: Engines) -> None:
    """No release to carry out, no container."""
    assert list((one.node.directory / "state").glob("releases/*")) == []
    assert one.run(Kind.CTR, "container", "list", "--quiet") == ""
    assert Kind.PODMAN not in one.kinds() or one.run(Kind.PODMAN, "ps", "--all", "--quiet") == ""
