"""`calicoctl datastore migrate lock` in a lab: nothing of ours writes, everything goes on, and it ends at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from agent.datastore.datastore_lock import LOCK_KEY
from agent.lab import lab_processes
from agent.lab.lab_plan import LabError, LabNode, Mode
from agent.lab.lab_processes import inside
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod, pod_named, remove_pod
from tests.fixtures import program
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.lab_remains import datastore
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors
from tests.scenes.lab.raw_store import RawStore, raw_store

pytestmark = pytest.mark.lab
NOTICE_SECONDS = 1.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("locked", Mode.VXLAN, nodes=2, pods=4)


@pytest.fixture
def store(lab: Lab) -> Iterator[RawStore]:
    with raw_store(lab.plan) as found:
        yield found


def tortie_in(node: LabNode, *words: str) -> subprocess.CompletedProcess[str]:
    command = inside(node.namespace, [*COMMAND, *words])
    environment = {**os.environ, **node.environment}
    return program.run(command, env=environment)


def document(ready: bool) -> bytes:
    """As calicoctl stores it."""
    spec = {"clusterGUID": "0123", "calicoVersion": "v3.32.1", "datastoreReady": ready}
    metadata = {"name": "default", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return json.dumps(
        {
            "kind": "ClusterInformation",
            "apiVersion": "projectcalico.org/v3",
            "metadata": metadata,
            "spec": spec,
        }
    ).encode()


def locks(lab: Lab) -> list[bool]:
    """Of each node, whether its trouble names the lock."""
    statuses = [lab_processes.agent_status(node) for node in lab.plan.nodes]
    return [
        one is not None and any("is locked" in text and LOCK_KEY in text for text in one["troubles"])
        for one in statuses
    ]


def wait_until_locked(lab: Lab, *, locked: bool) -> float:
    began = monotonic()
    lab_processes.wait_for("the trouble", lambda: set(locks(lab)) == {locked}, 30)
    return monotonic() - began


def test_a_locked_datastore_takes_nothing_of_ours_and_everything_there_goes_on(
    lab: Lab, store: RawStore, tmp_path: Path
) -> None:
    first, second = lab.plan.nodes
    going = pod_named(lab.plan, "p1")
    before = store.below("/calico/")
    store.write({LOCK_KEY: document(ready=False)})
    assert wait_until_locked(lab, locked=True) < NOTICE_SECONDS
    with pytest.raises(LabError, match=r"the datastore is locked .*\(code 11\)"):
        add_pod(lab.plan, "refused", first)
    remove_pod(lab.plan, going)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        for words in (
            ("ipam", "configure", "--strictaffinity", "true"),
            ("ipam", "release", "--ip", pod_named(lab.plan, "p2").address, "--force"),
            ("label", "node", second.name, "a=b"),
            ("delete", "node", second.name, "--force"),
            ("delete", "ippool", "default-ipv4-ippool", "--force"),
        ):
            done = tortie_in(first, *words)
            assert (done.returncode, done.stdout) == (1, "")
            assert "the datastore is locked" in done.stderr
            assert LOCK_KEY in done.stderr
        assert tortie_in(first, "get", "nodes").returncode == 0
        # A new life of the agent has a fence, endpoints and a record to write: it waits.
        lab_processes.stop_agent(second, signal.SIGKILL)
        lab_processes.start_agents([second])
        assert wait_until_locked(lab, locked=True) < 30
        assert lost_pings(lab, rounds=2) == 0
        assert monitors.events() == {first.name: [], second.name: []}
    finally:
        monitors.close()
    after = store.below("/calico/")
    assert after.pop(LOCK_KEY) == document(ready=False)
    assert after == before
    store.write({LOCK_KEY: document(ready=True)})
    assert wait_until_locked(lab, locked=False) < NOTICE_SECONDS
    lab_processes.wait_for("the address of the pod that went", lambda: going.address not in held(store), 10)
    remove_pod(lab.plan, add_pod(lab.plan, "again", second))
    datastore(lab)


def held(store: RawStore) -> str:
    """All endpoints."""
    return " ".join(
        value.decode() for value in store.below("/calico/resources/v3/projectcalico.org/workloade").values()
    )


def test_the_command_line_locks_and_unlocks_as_calicoctl_does(lab: Lab, store: RawStore) -> None:
    store.write({LOCK_KEY: None})
    done = tortie_in(lab.plan.nodes[0], "datastore", "migrate", "lock")
    assert (done.returncode, done.stdout) == (0, "Datastore locked.\n")
    assert json.loads(store.below(LOCK_KEY)[LOCK_KEY])["spec"]["datastoreReady"] is False
    assert wait_until_locked(lab, locked=True) < NOTICE_SECONDS
    done = tortie_in(lab.plan.nodes[0], "datastore", "migrate", "unlock")
    assert (done.returncode, done.stdout) == (0, "Datastore unlocked.\n")
    assert wait_until_locked(lab, locked=False) < NOTICE_SECONDS
    store.write({LOCK_KEY: None})
