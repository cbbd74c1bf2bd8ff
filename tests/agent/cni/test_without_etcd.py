"""A real agent whose datastore has stopped: a DEL is answered at once and carried out later; the rest says so soon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from agent.cni.plugin.plugin_install import PluginPaths, install
from agent.lab import lab_processes, lifecycle
from agent.lab.fabric import NAMESPACES, make_namespace
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_remains import datastore, kernels
from tests.scenes.lab.labs import MakeLab, make_lab, named

__all__ = ["make_lab"]

SHIMS = ("c", "python")
DELS = 4
"""With each shim."""
DEL_SECONDS, MACHINE_FACTOR = 0.05, 10
"""The promise, on a machine that does nothing else; and how much slower the machine of a test may be."""
REFUSAL_SECONDS = 5.0
REPLAY_SECONDS = 30.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    yield make_lab("away", Mode.VXLAN, nodes=1, pods=0)
    lifecycle.down(named("away"))


class Runtime:
    """Calls one of both shims for pods of the lab's only node."""

    def __init__(self, lab: Lab, shim: str) -> None:
        self._node = lab.plan.nodes[0]
        home = self._node.directory / shim
        paths = PluginPaths(home, home, self._node.run / "cni.sock", self._node.directory / "state")
        for _ in install(paths, shim, "pods"):
            pass
        self._plugin = home / "tortie"

    def call(self, verb: str, container: str = "", netns: Path | str = "") -> tuple[float, dict[str, Any]]:
        """How long it took, and the answer."""
        words = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(netns),
            "CNI_IFNAME": "eth0",
        }
        config = b'{"cniVersion":"1.1.0","name":"pods","type":"tortie"}'
        started = time.monotonic()
        done = subprocess.run([self._plugin], env=words, input=config, capture_output=True, check=False)
        took = time.monotonic() - started
        return took, json.loads(done.stdout) if done.stdout else {}


def test_without_etcd_a_del_is_quick_and_carried_out_later_and_nothing_else_waits_long(lab: Lab) -> None:
    node, runtimes = lab.plan.nodes[0], {shim: Runtime(lab, shim) for shim in SHIMS}
    stored, before = datastore(lab), kernels(lab)
    pods = [
        (shim, f"{shim}{number}", lab.plan.pod_namespace(f"{shim}{number}"))
        for shim in SHIMS
        for number in range(DELS)
    ]
    for shim, container, namespace in pods:
        make_namespace(namespace)
        _, result = runtimes[shim].call("ADD", container, NAMESPACES / namespace)
        assert "ips" in result, result
    lab_processes.stop_etcd(lab.plan)
    took: dict[str, list[float]] = {shim: [] for shim in SHIMS}
    for shim, container, namespace in pods:
        seconds, answer = runtimes[shim].call("DEL", container, NAMESPACES / namespace)
        assert answer == {}
        took[shim].append(seconds)
    times = {
        shim: f"{median(values) * 1000:.0f} ms, at most {max(values) * 1000:.0f}"
        for shim, values in took.items()
    }
    print(f"DEL without etcd: {times}")
    assert max(median(values) for values in took.values()) < DEL_SECONDS * MACHINE_FACTOR
    assert kernels(lab) == before
    assert len(list((node.directory / "state").glob("releases/*.json"))) == len(pods)
    for shim in SHIMS:
        seconds, answer = runtimes[shim].call("ADD", f"late-{shim}", NAMESPACES / pods[0][2])
        assert (answer.get("code"), seconds < REFUSAL_SECONDS) == (11, True), answer
        print(f"ADD without etcd, {shim}: code 11 after {seconds * 1000:.0f} ms: {answer['msg']}")
        seconds, answer = runtimes[shim].call("STATUS")
        assert (answer.get("code") in (50, 51), seconds < REFUSAL_SECONDS) == (True, True), answer
        print(f"STATUS without etcd, {shim}: code {answer['code']} after {seconds * 1000:.0f} ms")
    lab_processes.start_etcd(lab.plan)
    lab_processes.wait_for("the releases", lambda: releases(lab) == [], REPLAY_SECONDS)
    assert datastore(lab) == stored
    assert kernels(lab) == before


QUOTA_BYTES = 16 << 20


def in_fabric(lab: Lab, *words: str, given: bytes = b"") -> bool:
    """Run etcdctl where etcd is; whether it succeeded."""
    return etcdctl(lab, *words, given=given).returncode == 0


def etcdctl(lab: Lab, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = lab_processes.inside(lab.plan.fabric, ["etcdctl", *words])
    environment = {**os.environ, "ETCDCTL_API": "3"}
    return subprocess.run(command, input=given, env=environment, capture_output=True, check=False)


def test_an_etcd_without_space_and_one_that_is_gone_are_said_within_a_second_and_it_goes_on_by_itself(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, runtime, namespace = lab.plan.nodes[0], Runtime(lab, "c"), lab.plan.pod_namespace("full")
    make_namespace(namespace)
    _, result = runtime.call("ADD", "full", NAMESPACES / namespace)
    assert "ips" in result, result

    def said() -> str:
        status = lab_processes.agent_status(node)
        return str(status["datastore"]) if status is not None else ""

    lab_processes.stop_etcd(lab.plan)
    began = time.monotonic()
    lab_processes.wait_for("the refusal", lambda: said().startswith("connection refused since "), 10)
    assert time.monotonic() - began < MACHINE_FACTOR / 2
    monkeypatch.setenv("ETCD_QUOTA_BACKEND_BYTES", str(QUOTA_BYTES))
    lab_processes.start_etcd(lab.plan)
    lab_processes.wait_for("etcd's return", lambda: said() == "ok", 10)
    filler = bytes(1000) * 1000
    while in_fabric(lab, "put", "/filler", given=filler):
        pass
    began = time.monotonic()
    lab_processes.wait_for("the alarm", lambda: said().startswith("etcd takes no writes: NOSPACE"), 10)
    assert time.monotonic() - began < MACHINE_FACTOR / 2
    _, answer = runtime.call("STATUS")
    assert (answer["code"], "NOSPACE" in answer["msg"]) == (50, True), answer
    assert runtime.call("DEL", "full", NAMESPACES / namespace)[1] == {}
    assert len(releases(lab)) == 1
    revision = json.loads(etcdctl(lab, "get", "/filler", "--keys-only", "-w", "json").stdout)["header"][
        "revision"
    ]
    assert in_fabric(lab, "compact", "--physical", str(revision))
    assert in_fabric(lab, "defrag")
    assert in_fabric(lab, "alarm", "disarm")
    lab_processes.wait_for("the release", lambda: releases(lab) == [], REPLAY_SECONDS)
    _, result = runtime.call("ADD", "full", NAMESPACES / namespace)
    assert "ips" in result, result
    assert runtime.call("DEL", "full", NAMESPACES / namespace)[1] == {}


def test_files_in_the_journal_and_a_fifo_for_a_namespace_end_no_agent_and_are_named_in_its_status(
    lab: Lab,
) -> None:
    node = lab.plan.nodes[0]
    runtime, journal = Runtime(lab, "c"), node.directory / "state" / "releases"
    pid = status(node)["pid"]
    journal.mkdir(exist_ok=True)
    for name, config in (("a", "[" * 200_000), ("b", '{"cniVersion":"1.1.0","name":[],"type":[]}')):
        words = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0"}
        (journal / f"1-{name}-eth0.json").write_text(json.dumps({"environment": words, "config": config}))
    os.mkfifo(journal / "1-c-eth0.json")
    fifo = node.directory / "fifo"
    os.mkfifo(fifo)
    seconds, answer = runtime.call("ADD", "odd", fifo)
    assert (answer["code"], "no network namespace" in answer["msg"]) == (8, True), answer
    assert seconds < REFUSAL_SECONDS
    refused = [journal / "refused" / f"1-{name}-eth0.json" for name in "abc"]

    def named() -> bool:
        troubles = status(node)["troubles"]
        return all(any(text.startswith(f"{file}: ") for text in troubles) for file in refused)

    lab_processes.wait_for("the troubles", named, REPLAY_SECONDS)
    assert status(node)["pid"] == pid
    shutil.rmtree(journal / "refused")
    lab_processes.wait_for("their end", lambda: status(node)["troubles"] == [], REPLAY_SECONDS)


def status(node: LabNode) -> dict[str, Any]:
    found = lab_processes.agent_status(node)
    assert found is not None
    return found


def releases(lab: Lab) -> list[Path]:
    return list((lab.plan.nodes[0].directory / "state").glob("releases/*"))
