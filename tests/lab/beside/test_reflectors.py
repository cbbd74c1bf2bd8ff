"""From a mesh to a route reflector, live: no route of any kernel changes, and no ping is lost."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_nodes import bgp_routes, lost_pings, resource
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors, wait_until_quiet

pytestmark = pytest.mark.lab

SESSION_SECONDS = 30.0


def sessions(node: LabNode) -> dict[str, str]:
    """Name of each peer in session -> type."""
    status = lab_processes.agent_status(node)
    peers = status["peers"] if status is not None else []
    return {peer["description"]: peer["type"] for peer in peers if peer["state"] == "Established"}


def make_reflector(lab: Lab, node: LabNode) -> None:
    command = lab_processes.inside(node.namespace, [*COMMAND, "get", "node", node.name, "-o", "json"])
    got = subprocess.run(
        command, capture_output=True, check=True, timeout=60, env={**os.environ, **node.environment}
    )
    record = json.loads(got.stdout)
    del record["metadata"]["resourceVersion"]  # its agent may write it at the same time
    record["metadata"]["labels"] = {"rr": ""}
    record["spec"]["bgp"]["routeReflectorClusterID"] = "244.0.0.1"
    lifecycle.apply(lab.plan, record)


def test_a_mesh_becomes_a_reflector_and_its_clients_without_a_route_event(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab("rr", Mode.NONE, nodes=3, pods=3)
    first, second, third = lab.plan.nodes
    lifecycle.apply(lab.plan, resource("BGPPeer", "reflectors", nodeSelector="all()", peerSelector="has(rr)"))
    make_reflector(lab, first)
    lab_processes.wait_for(
        "the reflector's sessions",
        lambda: (
            sessions(first) == {"node2": "node specific", "node3": "node specific"}
            and sessions(second) == {"node1": "node specific", "node3": "node-to-node mesh"}
            and len(bgp_routes(second, "--received", "node1")) == 2
            and len(bgp_routes(third, "--received", "node1")) == 2
        ),
        SESSION_SECONDS,
    )
    wait_until_quiet(lab)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        lifecycle.apply(lab.plan, resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False))
        lab_processes.wait_for(
            "the end of the mesh",
            lambda: sessions(second) == sessions(third) == {"node1": "node specific"},
            SESSION_SECONDS,
        )
        assert lost_pings(lab) == 0
        assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
    finally:
        monitors.close()
    (reflected,) = [row for row in bgp_routes(second) if row["next_hop"] == str(third.interface.ip)]
    assert (reflected["name"], reflected["originator_id"], reflected["cluster_list"]) == (
        "node1",
        str(third.interface.ip),
        ["244.0.0.1"],
    )
