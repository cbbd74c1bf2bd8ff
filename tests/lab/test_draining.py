"""A node that is drained is gone from its neighbours within a second, and back after undrain."""

from __future__ import annotations

import json
import os
import time

import pytest

from agent import control
from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from agent.lab.route_tables import table
from tests.scenes.labs import MakeLab, tortie, wait_until_routed

pytestmark = pytest.mark.lab

GONE_SECONDS = 1.0


def ways_to(lab: Lab, node: LabNode) -> list[str]:
    """The other nodes' routes by way of this one."""
    others = [other for other in lab.plan.nodes if other != node]
    return [line for other in others for line in table(other) if f" via {node.interface.ip} " in line]


def test_a_drained_nodes_routes_are_gone_within_a_second_and_its_own_stay(make_lab: MakeLab) -> None:
    lab = make_lab("drain", Mode.NONE)
    first, second, _ = lab.plan.nodes
    own = table(second)
    looked = tortie(
        "bgp", "routes", "--received", second.name, "-o", "json", env={**os.environ, **first.environment}
    )
    assert {(row["next_hop"], row["reason"]) for row in json.loads(looked.stdout)} == {
        (str(second.interface.ip), "in use")
    }
    listed = tortie("bgp", "peers", env={**os.environ, **first.environment})
    assert [text.split()[1] for text in listed.stdout.splitlines()[1:]] == ["node2", "node3"]
    assert len(ways_to(lab, second)) == 2
    started = time.monotonic()
    control.ask(second.run / "agent.sock", "drain new kernel")
    lab_processes.wait_for("the end of its routes", lambda: not ways_to(lab, second), 10)
    assert time.monotonic() - started < GONE_SECONDS
    assert table(second) == own
    neighbour = lab_processes.agent_status(first)
    assert neighbour is not None
    (peer,) = [peer for peer in neighbour["peers"] if peer["description"] == second.name]
    assert peer["last_error"].endswith("new kernel")
    shown = tortie("node", "status", env={**os.environ, **second.environment})
    assert "has left its peers" in shown.stdout
    assert "new kernel" in shown.stdout
    back = tortie("undrain", env={**os.environ, **second.environment})
    assert (back.returncode, back.stdout) == (0, f"{second.name} peers again\n")
    wait_until_routed(lab)
    assert table(second) == own
    assert sum(count.lost for count in lifecycle.ping(lab, rounds=2).counts.values()) == 0
    left = tortie("drain", "--text", "for good", env={**os.environ, **second.environment})
    assert (left.returncode, left.stdout) == (
        0,
        f"{second.name} has left its peers; tortie undrain ends it\n",
    )
    lab_processes.wait_for("the end of its routes", lambda: not ways_to(lab, second), GONE_SECONDS)
