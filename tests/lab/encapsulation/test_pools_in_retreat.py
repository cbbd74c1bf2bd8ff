"""A pool that gives no more addresses keeps its tunnels for those in use: no ping is lost, no tunnel address moves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.fixtures import program
from tests.scenes.lab.lab_nodes import ip_on
from tests.scenes.lab.labs import COMMAND, MakeLab
from tests.scenes.lab.pinging import pinging

pytestmark = pytest.mark.lab

POOL = "default-ipv4-ippool"
CHANGES = ({"nodeSelector": "!all()"}, {"disabled": True})
EXTRA = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "IPPool",
    "metadata": {"name": "more"},
    "spec": {"cidr": "10.11.0.0/16", "vxlanMode": "CrossSubnet", "ipipMode": "Never"},
}


def tortie(node: LabNode, *words: str) -> str:
    """What `tortie WORDS` prints on a node, whose datastore only its own namespace reaches; it must succeed."""
    done = program.run(
        lab_processes.inside(node.namespace, [*COMMAND, *words]), env={**os.environ, **node.environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def vteps(lab: Lab) -> dict[str, str]:
    """Node -> the address of its VTEP: the device bears the one that is recorded."""
    found = {}
    for node in lab.plan.nodes:
        recorded = json.loads(tortie(node, "get", "node", node.name, "-o", "json"))
        address = recorded["spec"].get("ipv4VXLANTunnelAddr", "none")
        assert f"inet {address}/32" in ip_on(node, "addr show vxlan.calico")
        found[node.name] = address
    return found


def test_a_pool_that_is_disabled_or_selects_nobody_loses_no_ping_and_keeps_its_tunnels(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab("retreat", Mode.CROSS_SUBNET, nodes=2, pods=2)
    first = lab.plan.nodes[0]
    before = vteps(lab)
    file = tmp_path / "more.json"
    file.write_text(json.dumps(EXTRA))
    with pinging(lab, tmp_path) as pings:
        tortie(first, "apply", "-f", str(file))
        for change in CHANGES:
            tortie(first, "patch", "ippool", POOL, "-p", json.dumps({"spec": change}))
            assert vteps(lab) == before
        for node in lab.plan.nodes:  # a new life looks at everything
            lab_processes.stop_agent(node, signal.SIGTERM)
        lab_processes.start_agents(lab.plan.nodes)
        lab_processes.wait_for_agents(lab.plan)
        lab_processes.wait_for("quiet nodes", lambda: quiet(lab), 30)
        assert vteps(lab) == before
        assert {pair: lost for pair, lost in pings.lost().items() if lost} == {}


def quiet(lab: Lab) -> bool:
    """Whether every agent has converged without a trouble."""
    statuses = [lab_processes.agent_status(node) for node in lab.plan.nodes]
    return all(one is not None and one["converged"] and not one["troubles"] for one in statuses)
