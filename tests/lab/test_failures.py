"""What must not hurt: a killed agent, a restarted one, a datastore that is away."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod, pods, remove_pod
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors

pytestmark = pytest.mark.lab

OUTAGE_SECONDS = 30


@pytest.fixture(scope="module", params=[Mode.NONE, Mode.VXLAN], ids=["none", "vxlan"])
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Lab:
    """Routes from BGP, and routes from the datastore."""
    return make_lab(f"fail{request.param.value}", request.param)


def pinging(lab: Lab, seconds: float) -> subprocess.Popen[str]:
    """Every pod pings every other, five times a second, in a process of its own; it exits with 1 if one is lost."""
    words = [
        *COMMAND,
        "lab",
        "ping",
        "--name",
        lab.plan.name,
        "--count",
        str(int(seconds / lifecycle.ROUND_SECONDS)),
    ]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def converged(lab: Lab) -> bool:
    statuses = [lab_processes.agent_status(node) for node in lab.plan.nodes]
    return all(status is not None and status["converged"] and not status["troubles"] for status in statuses)


def test_killing_an_agent_changes_no_route_and_its_return_causes_no_event(lab: Lab, tmp_path: Path) -> None:
    lab_processes.wait_for("convergence", lambda: converged(lab), 60)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        pings = pinging(lab, 12)
        victim = lab.plan.nodes[0]
        lab_processes.stop_agent(victim, signal.SIGKILL)
        assert lab_processes.agent_status(victim) is None
        lab_processes.start_agents([victim])
        lab_processes.wait_for_agents(lab.plan)
        lab_processes.wait_for("convergence", lambda: converged(lab), 60)
        output, _ = pings.communicate(timeout=60)
        assert pings.returncode == 0, output
        assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
    finally:
        monitors.close()


def test_a_stopped_agent_leaves_its_routes_and_comes_back_without_an_event(lab: Lab, tmp_path: Path) -> None:
    lab_processes.wait_for("convergence", lambda: converged(lab), 60)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        lab_processes.stop_agent(lab.plan.nodes[1], signal.SIGTERM)
        lab_processes.start_agents([lab.plan.nodes[1]])
        lab_processes.wait_for_agents(lab.plan)
        lab_processes.wait_for("convergence", lambda: converged(lab), 60)
        assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
    finally:
        monitors.close()


def test_thirty_seconds_without_etcd_lose_no_ping_and_a_pod_can_be_added_afterwards(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab("outage", Mode.NONE)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        lab_processes.stop_etcd(lab.plan)
        pings = pinging(lab, OUTAGE_SECONDS)
        output, _ = pings.communicate(timeout=OUTAGE_SECONDS + 30)
        assert pings.returncode == 0, output
        assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
        lab_processes.start_etcd(lab.plan)
        lab_processes.wait_for_agents(lab.plan)
    finally:
        monitors.close()
    pod = add_pod(lab.plan, "after", lab.plan.nodes[2])
    assert lost_pings(lab, rounds=2) == 0
    remove_pod(lab.plan, pod)
    assert "after" not in {known.name for known in pods(lab.plan)}


def test_a_restored_backup_of_etcd_changes_no_route_and_loses_no_ping(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab("backup", Mode.NONE)
    data, node = lab.plan.directory / "etcd", lab.plan.nodes[0]
    lab_processes.stop_etcd(lab.plan)
    shutil.copytree(data, tmp_path / "backup")
    lab_processes.start_etcd(lab.plan)
    lab_processes.wait_for_agents(lab.plan)
    remove_pod(lab.plan, add_pod(lab.plan, "brief", node))  # revisions go on, so that the backup is older
    lab_processes.wait_for("convergence", lambda: converged(lab), 60)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        pings = pinging(lab, 12)
        lab_processes.stop_etcd(lab.plan)
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "backup", data)
        lab_processes.start_etcd(lab.plan)
        said = node.directory / "agent.log"
        lab_processes.wait_for("the warning", lambda: "datastore.went_back" in said.read_text(), 30)
        lab_processes.wait_for_agents(lab.plan)
        output, _ = pings.communicate(timeout=60)
        assert pings.returncode == 0, output
        assert monitors.events() == {one.name: [] for one in lab.plan.nodes}
    finally:
        monitors.close()
    add_pod(lab.plan, "after", node)
    assert lost_pings(lab, rounds=2) == 0
