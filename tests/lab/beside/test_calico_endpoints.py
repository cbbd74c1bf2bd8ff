"""Endpoints that agents of before Calico's form wrote are completed by the next start of an agent, in place."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import Mode, etcd_endpoint
from agent.lab.lifecycle import Lab
from ipam.keys import resource_prefix
from tests.scenes.lab.labs import MakeLab, RouteMonitors, wait_until_quiet, wait_until_routed
from tests.scenes.lab.pinging import pinging

pytestmark = pytest.mark.lab

SECONDS = 30.0
ENDPOINTS, PROFILES = resource_prefix("workloadendpoints"), resource_prefix("profiles")


def etcdctl(lab: Lab, *words: str, value: str | None = None) -> str:
    command = ["etcdctl", f"--endpoints={etcd_endpoint()}", *words]
    done = subprocess.run(
        lab_processes.inside(lab.plan.fabric, command),
        input=value,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(lab: Lab, prefix: str) -> dict[str, dict[str, Any]]:
    lines = etcdctl(lab, "get", "--prefix", prefix).splitlines()
    return {key: json.loads(value) for key, value in zip(lines[::2], lines[1::2], strict=True)}


def in_form(document: dict[str, Any]) -> bool:
    metadata = document["metadata"]
    labels = {"projectcalico.org/namespace", "projectcalico.org/orchestrator"}
    return bool(metadata.get("uid")) and labels <= metadata.get("labels", {}).keys()


def test_endpoints_of_older_agents_are_completed_without_a_lost_ping_or_a_route_event(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab("form", Mode.NONE, 2, 4)
    whole = stored(lab, ENDPOINTS)
    assert len(whole) == 4
    assert all(map(in_form, whole.values()))
    profiles = stored(lab, PROFILES)
    assert len(profiles) == 1
    wait_until_routed(lab)
    wait_until_quiet(lab)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        with pinging(lab, tmp_path) as pings:
            before = pings.lost()
            for node in lab.plan.nodes:
                lab_processes.stop_agent(node, signal.SIGTERM)
            for key, document in whole.items():
                kept = {
                    name: document["metadata"][name] for name in ("name", "namespace", "creationTimestamp")
                }
                etcdctl(lab, "put", key, value=json.dumps({**document, "metadata": kept}))
            etcdctl(lab, "del", "--prefix", PROFILES)
            lab_processes.start_agents(lab.plan.nodes)
            lab_processes.wait_for(
                "endpoints in form, and their profile",
                lambda: stored(lab, ENDPOINTS) == whole and stored(lab, PROFILES).keys() == profiles.keys(),
                SECONDS,
            )
            assert pings.lost() == before
            assert monitors.events() == {node.name: [] for node in lab.plan.nodes}
    finally:
        monitors.close()
