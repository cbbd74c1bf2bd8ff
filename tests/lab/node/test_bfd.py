"""BFD in a whole lab: it outlives the agent, and its failure ends the BGP session long before the hold timer."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agent.lab import lab_processes
from agent.lab.fabric import processes_in
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab

SETTINGS = {"TORTIE_BFD_MESH": "true", "TORTIE_BFD_MIN_TX": "200", "TORTIE_BFD_MIN_RX": "200"}
UP_SECONDS = 60


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("bfd", Mode.NONE, pods=0)


def peers(node: LabNode) -> list[dict[str, Any]]:
    status = lab_processes.agent_status(node)
    return status["peers"] if status is not None else []


def all_up(lab: Lab) -> bool:
    """Every session of both kinds."""
    found = [peer for node in lab.plan.nodes for peer in peers(node)]
    wanted = len(lab.plan.nodes) * (len(lab.plan.nodes) - 1)
    return len(found) == wanted and all(
        peer["state"] == "Established" and peer["bfd"]["state"] == "Up" for peer in found
    )


def bfd_of(node: LabNode) -> int:
    for pid in processes_in(node.namespace):
        if b"bfd.sock" in Path(f"/proc/{pid}/cmdline").read_bytes() or "bfd.log" in os.readlink(
            f"/proc/{pid}/fd/1"
        ):
            return pid
    raise AssertionError("no BFD process")


def test_bfd_outlives_a_killed_agent_and_a_frozen_process_ends_the_bgp_sessions(lab: Lab) -> None:
    first, *others = lab.plan.nodes
    for node in lab.plan.nodes:
        lab_processes.stop_agent(node, signal.SIGTERM)
    lab_processes.start_agents(lab.plan.nodes, SETTINGS)
    lab_processes.wait_for("both kinds of sessions", lambda: all_up(lab), UP_SECONDS)
    failures = [peer["bfd"]["failures"] for node in lab.plan.nodes for peer in peers(node)]

    lab_processes.stop_agent(first, signal.SIGKILL)
    lab_processes.start_agents([first], SETTINGS)
    lab_processes.wait_for("both kinds of sessions", lambda: all_up(lab), UP_SECONDS)
    assert [peer["bfd"]["failures"] for node in lab.plan.nodes for peer in peers(node)] == failures

    pid = bfd_of(first)
    os.kill(pid, signal.SIGSTOP)
    try:

        def lost() -> bool:
            seen = [peer for node in others for peer in peers(node) if peer["description"] == first.name]
            return all(peer["bfd"]["failures"] > 0 and peer["sessions"] > 1 for peer in seen)

        lab_processes.wait_for("the end of its sessions", lost, UP_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)
    lab_processes.wait_for("both kinds of sessions", lambda: all_up(lab), UP_SECONDS)
