"""What breaks in a rack, and for how long pods do not reach each other then: cables, switches, ToRs that stand still.

Each node has equal paths by both ToRs, of BIRD and of FRR, and a BFD process: a packet each 100 ms, three of which may
be missing. `make rack` holds the losses to their bounds; beside the rest of the suite they have SLACK more, which is
still far below the hold timer's 9 s.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode
from tests.scenes.lab.lab_nodes import ip_on
from tests.scenes.lab.pinging import pinging
from tests.scenes.rack.losses import Losses
from tests.scenes.rack.racks import Rack, rack
from tests.scenes.rack.switches import BFD_MILLISECONDS, BFD_MULTIPLIER

pytestmark = pytest.mark.lab

SLACK = 0 if os.environ.get("TORTIE_RACK_ALONE") else 3000
"""Milliseconds for a machine that does much beside."""
MOST_BY_LINK = 100 + SLACK
MOST_BY_BFD = BFD_MULTIPLIER * BFD_MILLISECONDS + MOST_BY_LINK
CHANGE_SECONDS = 30.0


@pytest.fixture(scope="module")
def standing() -> Iterator[Rack]:
    with rack("fail", Mode.NONE, bfd=True, peers={"failureDetectionMode": "BFDIfDirectlyConnected"}) as found:
        yield found


@pytest.mark.parametrize("mode", [Mode.NONE, Mode.VXLAN])
def test_a_cable_or_a_switch_costs_a_tenth_of_a_second_and_one_that_stands_still_what_bfd_takes(
    standing: Rack, mode: Mode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lifecycle.change_mode(standing.lab, mode)
    device = "vxlan.calico" if mode is Mode.VXLAN else "eth"
    lab_processes.wait_for(
        f"routes over {device}",
        lambda: all(device in line for node in standing.nodes for line in _blocks(node)),
        CHANGE_SECONDS,
    )
    standing.wait_for_both_uplinks()
    first, node = standing.tors[0], standing.nodes[0]
    with pinging(standing.lab, tmp_path) as pings:
        losses, most = Losses(pings), dict[str, int]()

        def event(name: str, at_most: int, *steps: object) -> None:
            losses.of(name, lambda: [step() for step in steps if callable(step)])
            most[name] = at_most

        both = standing.wait_for_both_uplinks
        event(
            "link down",
            MOST_BY_LINK,
            lambda: first.set_cables("down", "node1"),
            lambda: standing.wait_without(node, "eth1"),
        )
        event("cable back", MOST_BY_LINK, lambda: first.set_cables("up", "node1"), both)
        event(
            "agent killed and back",
            0,
            lambda: lab_processes.stop_agent(node, signal.SIGKILL),
            lambda: standing.start_agent(node),
        )
        for number, tor in enumerate(standing.tors, 1):
            gone = [
                lambda one=one, number=number: standing.wait_without(one, f"eth{number}")
                for one in standing.nodes
            ]
            event(f"{tor.name} without power", MOST_BY_LINK, lambda tor=tor: tor.set_cables("down"), *gone)
            event(f"{tor.name} with power", MOST_BY_LINK, lambda tor=tor: tor.set_cables("up"), both)
            event(f"{tor.name} frozen", MOST_BY_BFD, tor.freeze, *gone)
            event(f"{tor.name} thawed", MOST_BY_LINK, tor.thaw, both)
            event(f"{tor.name}'s daemon stopped", MOST_BY_LINK, tor.stop)
            event(f"{tor.name}'s daemon started", MOST_BY_LINK, lambda tor=tor: tor.start(bfd=True), both)
    with capsys.disabled():
        print(f"\nrack, {mode.value}: {losses}")
    assert {name: lost for name, lost in losses.milliseconds.items() if lost > most[name]} == {}


def _blocks(node: LabNode) -> list[str]:
    lines = ip_on(node, "-o route").splitlines()
    return [line for line in lines if "/26" in line and "blackhole" not in line]
