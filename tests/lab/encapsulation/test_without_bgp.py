"""A cluster without any BGP: every route of every encapsulation comes from the datastore alone."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode
from agent.lab.pods import add_pod, pods
from tests.scenes.lab.lab_nodes import lost_pings, resource
from tests.scenes.lab.labs import MakeLab, wait_until_routed

pytestmark = pytest.mark.lab

NO_MESH = resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False)
STEPS = [
    pytest.param(
        [(Mode.VXLAN, " dev vxlan.calico"), (Mode.NONE, " dev eth0 proto 80 onlink")], id="vxlan and none"
    ),
    pytest.param(
        [(Mode.IPIP, " dev tunl0 proto 80 onlink"), (Mode.NONE, " dev eth0 proto 80 onlink")],
        id="ipip",
        marks=pytest.mark.ipip,
    ),
]


@pytest.mark.parametrize("steps", STEPS)
def test_without_bgp_every_pod_and_every_borrowed_address_is_reached(
    steps: list[tuple[Mode, str]], make_lab: MakeLab, tmp_path: Path
) -> None:
    document = json.loads(lifecycle.SEED_POOL.read_text())
    document["items"][0]["spec"] |= {"cidr": "192.168.0.0/28", "blockSize": 29}
    file = tmp_path / "pool.json"
    file.write_text(json.dumps(document))
    lab = make_lab("nobgp", Mode.NONE, nodes=2, pods=2, pool=file)
    for number in range(8):
        add_pod(lab.plan, f"more{number}", lab.plan.nodes[0])
    lifecycle.apply(lab.plan, NO_MESH)
    for node in lab.plan.nodes:
        lab_processes.stop_agent(node, signal.SIGTERM)
        words = ["ip", "route", "flush", "proto", "bird"]
        subprocess.run(lab_processes.inside(node.namespace, words), check=True)
        lab_processes.start_agents([node], {"TORTIE_ROUTES_SOURCE": "datastore"})
    wait_until_routed(lab, " dev eth0 proto 80 onlink")
    assert lost_pings(lab) == 0
    for mode, form in steps:
        lab = lifecycle.change_mode(lab, mode)
        wait_until_routed(lab, form)
        assert lost_pings(lab) == 0
    owner, borrower = lab.plan.nodes[1], lab.plan.nodes[0].interface.ip
    borrowed = {one.address for one in pods(lab.plan) if one.node == "node1"}
    routed = [line for line in lab_processes.ip_route(owner) if line.split()[0] in borrowed]
    assert routed
    assert all(f" via {borrower} dev eth0 proto 80 onlink" in line for line in routed)
    assert [status["peers"] for node in lab.plan.nodes if (status := lab_processes.agent_status(node))] == [
        [],
        [],
    ]
