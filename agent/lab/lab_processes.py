"""Starts the lab's processes in their namespaces and finds them again.

Promises: commands are argument lists, never shell text; every process is in a namespace of the lab, so it is found and
ended by that; a start is finished only when the process answers.
Does not know: fabric, pods.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent import control
from agent.lab.fabric import NAMESPACES, processes_in
from agent.lab.forks import Fork, Program
from agent.lab.lab_plan import (
    SUBNETS,
    TOPOLOGY,
    LabError,
    LabNode,
    LabPlan,
    Mode,
    etcd_endpoint,
    gateway,
    plan,
)
from agent.netlink.namespaces import entered

POLL_SECONDS = 0.05
ETCD_SECONDS = 30.0
AGENT_SECONDS = 60.0
MORE_SECONDS_EACH = 4.0
"""A hundred agents on two cores come up in minutes: each has ninety-nine sessions."""
END_SECONDS = 10.0
ANSWER_SECONDS = 2.0
MOST_HEALTH_BYTES = 4096
CALL_SECONDS = 30.0
BFD_WANTED = frozenset({"TORTIE_BFD_MESH", "TORTIE_BFD_PEERS"})
"""Settings of an agent beside which a BFD process is started, unless one runs there."""
NO_NFTABLES = ("cannot hold the nftables table", "this kernel has no nftables")
"""In troubles of a kernel without nftables, such as a guest's: it has all but the workload filter and natOutgoing."""


def inside(namespace: str, command: list[str]) -> list[str]:
    """The command, run in a network namespace."""
    return ["nsenter", f"--net={NAMESPACES / namespace}", "--", *command]


def ip_route(node: LabNode) -> list[str]:
    """The lines of `ip route`, run on a node."""
    command = inside(node.namespace, ["ip", "route"])
    done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS, check=True)
    return [line.strip() for line in done.stdout.splitlines()]


def wait_for(
    what: str, ready: Callable[[], bool], seconds: float, hint: Callable[[], str] = lambda: ""
) -> None:
    """Ask until it is so. Raises LabError."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not come within {seconds:g} s{hint()}")
        time.sleep(POLL_SECONDS)


def start_etcd(plan: LabPlan) -> None:
    """The lab's datastore, in the fabric, as a process that outlives this one; returns when it answers."""
    if shutil.which("etcd") is None:
        raise LabError("there is no etcd on this machine; install the package etcd-server")
    data = plan.directory / "etcd"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    url, peer = etcd_endpoint(), "http://127.0.0.1:2380"
    flags = {
        "name": "lab",
        "data-dir": data,
        "listen-client-urls": f"{url},http://127.0.0.1:2379",
        "advertise-client-urls": url,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"lab={peer}",
        "logger": "zap",
    }
    command = ["etcd", *(f"--{name}={value}" for name, value in flags.items())]
    log = plan.directory / "etcd.log"
    with log.open("ab") as output:
        detached = ["setsid", "--fork", *inside(plan.fabric, command)]
        subprocess.run(detached, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True)
    wait_for("etcd", lambda: _etcd_answers(plan), ETCD_SECONDS, lambda: _tail(log))


def _etcd_answers(plan: LabPlan) -> bool:
    with entered(NAMESPACES / plan.fabric):
        connection = socket.socket()
    with connection, suppress(OSError):
        connection.settimeout(ANSWER_SECONDS)
        connection.connect((str(gateway(SUBNETS[0])), TOPOLOGY.etcd_port))
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        received = b""
        while (data := connection.recv(MOST_HEALTH_BYTES)) and len(received) < MOST_HEALTH_BYTES:
            received += data
        return b'"true"' in received
    return False


def program(lab: str) -> Program:
    """The process of a lab of this name that has loaded the program; it lives in the fabric."""
    made = plan(lab, 1, Mode.NONE)
    directory = made.directory
    return Program(directory / "program.sock", NAMESPACES / made.fabric, directory / "program.log")


def start_agents(nodes: Iterable[LabNode], settings: Mapping[str, str] | None = None) -> None:
    """The nodes' agents, with more settings than their own if need be (`TORTIE_…`); does not wait for them.

    Raises LabError when not all could be started.
    """
    for node in nodes:
        for directory in (node.run, node.directory / "state"):
            directory.mkdir(parents=True, exist_ok=True)
        if (settings or {}).keys() & BFD_WANTED:
            # One that runs already stays, and the second ends by itself.
            _detach(node, "bgp.bfd.__main__", ["--socket", str(node.run / "bfd.sock")], {}, "bfd.log")
        _detach(node, "agent.daemon", [], {**node.environment, **(settings or {})}, "agent.log")


def _detach(node: LabNode, module: str, words: list[str], environment: Mapping[str, str], log: str) -> None:
    space = str(NAMESPACES / node.namespace)
    fork = Fork(module, words, {**os.environ, **environment}, space, os.getcwd(), is_detached=True)
    try:
        program(node.lab).detach(fork, node.directory / log)
    except (OSError, subprocess.SubprocessError) as error:
        raise LabError(f"{module} of {node.name} could not be started: {error}") from error


def agent_status(node: LabNode) -> dict[str, Any] | None:
    """What the node's agent says of itself, or None when none answers."""
    try:
        answer: dict[str, Any] = control.ask(node.run / "agent.sock", "status")
    except control.NotRunning:
        return None
    return answer


def wait_for_agents(plan: LabPlan, progress: Callable[[int], None] = lambda _: None) -> None:
    """Until every agent is in sync, registered, and in session with every other."""

    waiting = list(plan.nodes)
    wanted = (len(plan.nodes) - 1) * (2 if plan.dual_stack else 1)

    def ready() -> bool:
        # One after the other: in a large lab to ask is work, for those who are asked, too.
        while waiting and _in_session(waiting[0], wanted):
            waiting.pop(0)
        progress(len(plan.nodes) - len(waiting))
        return not waiting

    seconds = AGENT_SECONDS + len(plan.nodes) * MORE_SECONDS_EACH
    wait_for("the agents", ready, seconds, lambda: _tail((waiting or plan.nodes)[0].directory / "agent.log"))


def _is_of_the_kernel(trouble: str) -> bool:
    return any(words in trouble for words in NO_NFTABLES)


def _in_session(node: LabNode, wanted: int) -> bool:
    status = agent_status(node)
    if not status or not all(map(_is_of_the_kernel, status["troubles"])):
        return False
    if status["datastore"] != "ok":  # its trouble is in the list a moment later
        return False
    established: int = sum(peer["state"] == "Established" for peer in status["peers"])
    return established == wanted


def stop_agent(node: LabNode, number: signal.Signals) -> None:
    """Signal the node's agent and wait until it is gone."""
    status = agent_status(node)
    if status is None:
        raise LabError(f"no agent answers on {node.name}; start it with: tortie lab agent start {node.name}")
    _end(int(status["pid"]), number)


def stop_etcd(plan: LabPlan) -> None:
    """End the datastore and wait until it is gone."""
    for pid in processes_in(plan.fabric):
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "etcd":
                _end(pid, signal.SIGTERM)


def _end(pid: int, number: signal.Signals) -> None:
    """Signal a process, and wait for the end of its last thread: only then are its locks free."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        ended = select.poll()
        ended.register(process, select.POLLIN)
        if not ended.poll(END_SECONDS * 1000):
            raise LabError(f"process {pid} has not ended within {END_SECONDS:g} s of {number.name}")
    finally:
        os.close(process)


def _tail(log: Path, lines: int = 5) -> str:
    try:
        last = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return f"; the last of {log}:\n" + "\n".join(f"  {line[:300]}" for line in last)


def write_json(path: Path, value: Any) -> None:
    """Replace a file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value, indent=2))
    temporary.replace(path)
