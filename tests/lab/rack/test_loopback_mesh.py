"""A mesh between the nodes' addresses on lo, without encapsulation: nothing but BGP leads to these addresses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from tests.scenes.lab.lab_nodes import ip_on, resource
from tests.scenes.lab.pinging import pinging
from tests.scenes.rack.losses import Losses
from tests.scenes.rack.racks import SPINE, Rack, rack

pytestmark = pytest.mark.lab

WAIT_SECONDS = 40.0
SLACK = 0 if os.environ.get("TORTIE_RACK_ALONE") else 3000
"""Milliseconds for a machine that does much beside."""
MOST_LOST_MS = 100 + SLACK
NO_BLOCKS = resource(
    "BGPFilter", "no-blocks", importV4=[{"action": "Reject", "matchOperator": "In", "cidr": "192.168.0.0/16"}]
)
"""What the ToRs say of pods is not taken: it is the mesh that tells it, by the nodes' addresses."""


@pytest.fixture(scope="module")
def standing() -> Iterator[Rack]:
    with rack(
        "lomesh",
        Mode.NONE,
        mesh=True,
        way_to=f"{SPINE}/32",
        peers={"filters": ["no-blocks"]},
        more=(NO_BLOCKS,),
    ) as found:
        yield found


def mesh(standing: Rack, node: LabNode) -> set[str]:
    return {standing.own(one) for one in standing.nodes if one is not node}


def test_the_nodes_are_reached_by_what_the_switches_announce_and_their_pods_through_them(
    standing: Rack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab_processes.wait_for(
        "the mesh",
        lambda: all(mesh(standing, node) <= standing.established(node) for node in standing.nodes),
        WAIT_SECONDS,
    )
    lab_processes.wait_for(
        "no trouble",
        lambda: all(
            (status := lab_processes.agent_status(node)) and status["troubles"] == []
            for node in standing.nodes
        ),
        WAIT_SECONDS,
        lambda: str([lab_processes.agent_status(node) for node in standing.nodes]),
    )
    for node in standing.nodes:
        assert "default" not in ip_on(node, "route")
        blocks = [line for where, line in standing.routes(node).items() if where.startswith("192.168.")]
        assert len(blocks) == len(standing.nodes) - 1
        for line in blocks:
            assert "dev eth1" in line
            assert "dev eth2" in line
            assert f"src {standing.own(node)}" in line
    with pinging(standing.lab, tmp_path) as pings:
        losses = Losses(pings)
        node = standing.nodes[0]
        losses.of("cable pulled", lambda: _pulled(standing, node))
        assert "10.1.1.0" not in standing.established(node)  # it ends with its link
        losses.of("cable put back", lambda: _put_back(standing, node))
    with capsys.disabled():
        print(f"\nmesh over loopbacks: {losses}")
    assert losses.milliseconds["cable pulled"] <= MOST_LOST_MS


def _pulled(standing: Rack, node: LabNode) -> None:
    ip_on(node, "link set eth1 down")
    lab_processes.wait_for(
        "no packets by eth1", lambda: all("dead" in line for line in _lines(standing, node)), WAIT_SECONDS
    )


def _lines(standing: Rack, node: LabNode) -> list[str]:
    return [line for line in standing.routes(node).values() if "dev eth1" in line]


def _put_back(standing: Rack, node: LabNode) -> None:
    ip_on(node, "link set eth1 up")
    lab_processes.wait_for(
        "both uplinks",
        lambda: len(live := _lines(standing, node)) >= 4 and not any("dead" in line for line in live),
        WAIT_SECONDS,
        lambda: str(standing.routes(node)),
    )
