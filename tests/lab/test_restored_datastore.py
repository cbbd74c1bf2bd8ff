"""An older, an empty and another machine's datastore: what lives stays, and is written back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabError, LabNode, Mode
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod, pods, remove_pod
from tests.fixtures import program
from tests.scenes.lab.lab_nodes import ip_on, lost_pings, tortie_on
from tests.scenes.lab.lab_remains import datastore
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors, wait_until_quiet, wait_until_routed
from tests.scenes.lab.pinging import pinging

pytestmark = pytest.mark.lab

NEW_PODS = 20
SETTLE_SECONDS = 30.0


@pytest.fixture(scope="module", params=[Mode.VXLAN, Mode.NONE], ids=["vxlan", "none"])
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Lab:
    """Two nodes, no pods; routes from the datastore, or from BGP."""
    return make_lab(f"rest{request.param.value}", request.param, 2, 0)


@contextmanager
def undisturbed(lab: Lab, directory: Path) -> Iterator[None]:
    """No ping is lost and no route event seen during the block."""
    wait_until_quiet(lab)
    monitors = RouteMonitors(lab, directory)
    try:
        with pinging(lab, directory) as pings:
            before = pings.lost()
            yield
            assert pings.lost() == before
            assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
    finally:
        monitors.close()


def copy_of(lab: Lab, directory: Path) -> Path:
    """A backup of the datastore as it is now."""
    lab_processes.stop_etcd(lab.plan)
    shutil.copytree(lab.plan.directory / "etcd", directory)
    lab_processes.start_etcd(lab.plan)
    lab_processes.wait_for_agents(lab.plan)
    return directory


def put_in_place(lab: Lab, backup: Path | None) -> None:
    """Another datastore where etcd was; an empty one without a backup."""
    lab_processes.stop_etcd(lab.plan)
    shutil.rmtree(lab.plan.directory / "etcd")
    if backup is not None:
        shutil.copytree(backup, lab.plan.directory / "etcd")
    lab_processes.start_etcd(lab.plan)


def is_whole(lab: Lab) -> bool:
    """Whether every agent is content, and no inconsistency is found from any node."""
    statuses = [lab_processes.agent_status(node) for node in lab.plan.nodes]
    return all(one is not None and one["in_sync"] and not one["troubles"] for one in statuses) and all(
        checked(node).returncode == 0 for node in lab.plan.nodes
    )


def checked(node: LabNode) -> subprocess.CompletedProcess[str]:
    """`tortie ipam check`, run on a node."""
    words = lab_processes.inside(node.namespace, [*COMMAND, "ipam", "check"])
    environment = {**os.environ, **node.environment}
    return program.run(words, env=environment)


def all_differ(lab: Lab) -> bool:
    found = [pod.address for pod in pods(lab.plan)]
    return len(set(found)) == len(found)


def pods_on_both(lab: Lab, word: str, count: int = 4) -> None:
    for number in range(count):
        add_pod(lab.plan, f"{word}{number}", lab.plan.nodes[number % 2])
    wait_until_routed(lab)
    assert lost_pings(lab, rounds=2) == 0


def test_a_backup_older_than_every_pod_loses_no_ping_and_no_address_is_given_twice(
    lab: Lab, tmp_path: Path
) -> None:
    backup = copy_of(lab, tmp_path / "backup")
    pods_on_both(lab, "new")
    with undisturbed(lab, tmp_path):
        put_in_place(lab, backup)
        lab_processes.wait_for("the pods in the datastore", lambda: is_whole(lab), SETTLE_SECONDS)
    added = [add_pod(lab.plan, f"later{one}", lab.plan.nodes[one % 2]) for one in range(NEW_PODS)]
    assert all_differ(lab)
    for pod in added:
        remove_pod(lab.plan, pod)
    datastore(lab)


def test_a_backup_put_in_place_while_the_agents_are_stopped_is_mended_at_their_start(
    lab: Lab, tmp_path: Path
) -> None:
    backup = copy_of(lab, tmp_path / "backup")
    pods_on_both(lab, "while", 2)
    with undisturbed(lab, tmp_path):
        for node in lab.plan.nodes:
            lab_processes.stop_agent(node, signal.SIGTERM)
        put_in_place(lab, backup)
        lab_processes.start_agents(lab.plan.nodes)
        lab_processes.wait_for("the pods in the datastore", lambda: is_whole(lab), SETTLE_SECONDS)
    assert all_differ(lab)


def test_an_empty_datastore_removes_no_route_and_is_filled_once_the_pools_are_back(
    lab: Lab, tmp_path: Path
) -> None:
    with undisturbed(lab, tmp_path):
        put_in_place(lab, None)
        lab_processes.wait_for("the trouble", lambda: all(map(is_empty, lab.plan.nodes)), SETTLE_SECONDS)
        with pytest.raises(LabError, match="datastore is empty"):
            add_pod(lab.plan, "refused", lab.plan.nodes[0])
        lifecycle.apply(lab.plan, lifecycle.pool_document(None, lab.mode))
        lab_processes.wait_for("the pods in the datastore", lambda: is_whole(lab), SETTLE_SECONDS)
    datastore(lab)


def is_empty(node: LabNode) -> bool:
    """Whether the node's agent says so."""
    status = lab_processes.agent_status(node)
    return status is not None and any("empty" in trouble for trouble in status["troubles"])


@pytest.mark.parametrize("lab", [Mode.VXLAN], indirect=True)
def test_a_second_machine_with_a_nodes_name_stays_out_until_it_takes_over(lab: Lab) -> None:
    first, second = lab.plan.nodes
    lab_processes.stop_agent(second, signal.SIGTERM)
    impostor = replace(second, name=first.name, directory=second.directory / "impostor")
    lab_processes.start_agents([impostor])
    try:
        lab_processes.wait_for("the impostor's trouble", lambda: is_out(impostor), SETTLE_SECONDS)
        before = revision(first)
        assert f"node {first.name} is another machine" in tortie_on(impostor, "node", "status")
        lost = ip_on(second, "route show type blackhole")
        with pytest.raises(lab_processes.LabError):
            lab_processes.wait_for("a write", lambda: revision(first) > before, 3)
        assert ip_on(second, "route show type blackhole") == lost
        taken_over(impostor)
        lab_processes.wait_for("the first machine's trouble", lambda: is_out(first), SETTLE_SECONDS)
        lab_processes.wait_for("the second one's peace", lambda: not is_out(impostor), SETTLE_SECONDS)
        taken_over(first)
        lab_processes.wait_for("the second one's trouble", lambda: is_out(impostor), SETTLE_SECONDS)
    finally:
        lab_processes.stop_agent(impostor, signal.SIGTERM)
        lab_processes.start_agents([second])
    lab_processes.wait_for("peace", lambda: is_whole(lab), SETTLE_SECONDS)


def is_out(node: LabNode) -> bool:
    """Whether the agent says that its node is another machine."""
    status = lab_processes.agent_status(node)
    return status is not None and any("another machine" in trouble for trouble in status["troubles"])


def revision(node: LabNode) -> int:
    """The datastore's newest revision."""
    status = lab_processes.agent_status(node)
    assert status is not None
    return int(status["etcd"]["revision"])


def taken_over(node: LabNode) -> None:
    """`tortie node takeover`, run there."""
    words = lab_processes.inside(node.namespace, [*COMMAND, "node", "takeover"])
    program.run(words, env={**os.environ, **node.environment}, check=True)
