"""From a mesh to a route reflector, live: no route of any kernel changes, and no ping is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.fixtures import program
from tests.scenes.lab.lab_nodes import bgp_routes, lost_pings, resource
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors, wait_until_quiet
from tests.scenes.lab.pinging import pinging

pytestmark = pytest.mark.lab

SESSION_SECONDS = 30.0
ASKED = {"TORTIE_BGP_RESTART_SECONDS": "1", "TORTIE_BGP_LONG_LIVED_STALE_SECONDS": "300"}
"""Of the only reflector: a restart time that is over at once, and then the long-lived one."""


def sessions(node: LabNode) -> dict[str, str]:
    """Name of each peer in session -> type."""
    status = lab_processes.agent_status(node)
    peers = status["peers"] if status is not None else []
    return {peer["description"]: peer["type"] for peer in peers if peer["state"] == "Established"}


def make_reflector(lab: Lab, node: LabNode) -> None:
    command = lab_processes.inside(node.namespace, [*COMMAND, "get", "node", node.name, "-o", "json"])
    got = program.run(command, check=True, timeout=60, env={**os.environ, **node.environment})
    record = json.loads(got.stdout)
    del record["metadata"]["resourceVersion"]  # its agent may write it at the same time
    record["metadata"]["labels"] = {"rr": ""}
    record["spec"]["bgp"]["routeReflectorClusterID"] = "244.0.0.1"
    lifecycle.apply(lab.plan, record)


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    """Three nodes in a mesh, until a test makes the first one a reflector."""
    return make_lab("rr", Mode.NONE, nodes=3, pods=3)


def test_a_mesh_becomes_a_reflector_and_its_clients_without_a_route_event(lab: Lab, tmp_path: Path) -> None:
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


def is_last_choice(node: LabNode) -> bool:
    """Whether all that the node learned is long-lived stale."""
    learned = [row for row in bgp_routes(node) if row["peer"] is not None]
    return bool(learned) and all("llgr-stale" in row["communities"] for row in learned)


def test_while_the_only_reflector_is_away_longer_than_its_restart_time_no_ping_is_lost(
    lab: Lab, tmp_path: Path
) -> None:
    first, *others = lab.plan.nodes
    lifecycle.apply(lab.plan, resource("BGPPeer", "reflectors", nodeSelector="all()", peerSelector="has(rr)"))
    make_reflector(lab, first)
    lifecycle.apply(lab.plan, resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False))
    lab_processes.stop_agent(first, signal.SIGKILL)
    lab_processes.start_agents([first], ASKED)

    def through_the_reflector() -> bool:
        return all(
            sessions(node) == {"node1": "node specific"}
            and {(row["name"], row["stale"]) for row in bgp_routes(node, "--received", "node1")}
            == {("node1", False)}
            for node in others
        )

    lab_processes.wait_for("the reflector", through_the_reflector, SESSION_SECONDS)
    wait_until_quiet(lab)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        with pinging(lab, tmp_path) as pings:
            lab_processes.stop_agent(first, signal.SIGKILL)
            lab_processes.wait_for(
                "the long-lived period", lambda: all(map(is_last_choice, others)), SESSION_SECONDS
            )
            lab_processes.start_agents([first], ASKED)
            lab_processes.wait_for("the reflector", through_the_reflector, SESSION_SECONDS)
            assert not any(map(is_last_choice, others))
            assert set(pings.lost().values()) == {0}
        assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
    finally:
        monitors.close()
