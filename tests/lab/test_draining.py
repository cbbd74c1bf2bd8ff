"""A node that is drained is gone from its peers' kernels within a second, and back after undrain."""

from __future__ import annotations

import time

import pytest

from agent import control
from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lab_processes import ip_route
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_nodes import bgp_routes, lost_pings, tortie_on
from tests.scenes.lab.labs import MakeLab, wait_until_routed

pytestmark = pytest.mark.lab

GONE_SECONDS = 1.0


def routes_over(lab: Lab, node: LabNode) -> list[str]:
    """Routes of the other nodes whose gateway is this one."""
    others = [other for other in lab.plan.nodes if other != node]
    return [line for other in others for line in ip_route(other) if f" via {node.interface.ip} " in line]


def test_a_drained_nodes_routes_are_gone_within_a_second_and_its_own_stay(make_lab: MakeLab) -> None:
    lab = make_lab("drain", Mode.NONE)
    first, second, _ = lab.plan.nodes
    own = ip_route(second)
    received = bgp_routes(first, "--received", second.name)
    assert {(row["next_hop"], row["reason"]) for row in received} == {(str(second.interface.ip), "in use")}
    listed = tortie_on(first, "bgp", "peers")
    assert [text.split()[1] for text in listed.splitlines()[1:]] == ["node2", "node3"]
    assert len(routes_over(lab, second)) == 2
    started = time.monotonic()
    control.ask(second.run / "agent.sock", "drain new kernel")
    lab_processes.wait_for("the end of its routes", lambda: not routes_over(lab, second), 10)
    assert time.monotonic() - started < GONE_SECONDS
    assert ip_route(second) == own
    peer_status = lab_processes.agent_status(first)
    assert peer_status is not None
    (peer,) = [peer for peer in peer_status["peers"] if peer["description"] == second.name]
    assert peer["last_error"].endswith("new kernel")
    shown = tortie_on(second, "node", "status")
    assert "has left its peers" in shown
    assert "new kernel" in shown
    assert tortie_on(second, "undrain") == f"{second.name} peers again\n"
    wait_until_routed(lab)
    assert ip_route(second) == own
    assert lost_pings(lab, rounds=2) == 0
    left = tortie_on(second, "drain", "--text", "for good")
    assert left == f"{second.name} has left its peers; tortie undrain ends it\n"
    lab_processes.wait_for("the end of its routes", lambda: not routes_over(lab, second), GONE_SECONDS)
