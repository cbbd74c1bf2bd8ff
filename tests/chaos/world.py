"""The lab that faults are done to: its pods, what runs beside it, and how it is looked at from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agent.lab import lab_processes
from agent.lab.fabric import NAMESPACES
from agent.lab.lab_plan import LabError, LabNode, etcd_endpoint
from agent.lab.lifecycle import Lab
from agent.lab.pods import Pod, add_pod, pods, remove_pod
from tests.fixtures import program
from tests.scenes.lab.pinging import Pinging

COMMAND = [sys.executable, "-m", "agent.cli.main"]
COMMAND_SECONDS = 60
STEADY = "steady"
"""Pods whose names begin so live from the first round to the last, and ping each other all the time."""
MOST_PODS = 12
"""Others that live at one time."""
ROUND_SECONDS = 120
"""The longest that some rounds of pings may take to be sent."""


@dataclass
class World:
    """One lab under faults."""

    lab: Lab
    chance: Random
    pings: Pinging
    calls: ThreadPoolExecutor
    said: list[str] = field(default_factory=list)
    """What was done, in order, for whoever reads a failure."""
    failures: list[str] = field(default_factory=list)
    """Why calls failed, in this round."""
    only_adds: bool = False
    """Whether no pod may go now: what is restored would know it as living."""
    _names: int = 0
    _busy: set[str] = field(default_factory=set)
    """Pods whose call is under way: a runtime makes one at a time for a pod."""
    _calls: list[Future[str | None]] = field(default_factory=list)

    # -- what is there -------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[LabNode, ...]:
        """The nodes."""
        return self.lab.plan.nodes

    def any_node(self) -> LabNode:
        """One of them."""
        return self.chance.choice(self.nodes)

    def others(self) -> list[Pod]:
        """The pods that come and go, those of failed calls included."""
        return [pod for pod in pods(self.lab.plan) if not pod.name.startswith(STEADY)]

    # -- what is done --------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Note what is done."""
        self.said.append(text)

    def wait(self, rounds: int) -> None:
        """Let the pods send so many rounds of pings: the faults' clock, 20 ms a round."""
        until = self.pings.sent() + rounds * len(self.pings.count())
        lab_processes.wait_for("rounds of pings", lambda: self.pings.sent() >= until, ROUND_SECONDS)

    def on(self, node: LabNode, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a node's network namespace."""
        return subprocess.run(
            lab_processes.inside(node.namespace, list(words)),
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
            env=environment(node),
        )

    def tortie(self, node: LabNode, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `tortie WORDS` on a node."""
        command = lab_processes.inside(node.namespace, [*COMMAND, *words])
        return program.run(command, env=environment(node), timeout=COMMAND_SECONDS)

    def etcdctl(self, *words: str, data: bytes = b"") -> bytes:
        """Run etcdctl in the fabric, with `data` as its input; its output."""
        return subprocess.run(
            lab_processes.inside(self.lab.plan.fabric, ["etcdctl", f"--endpoints={etcd_endpoint()}", *words]),
            input=data,
            capture_output=True,
            check=True,
            timeout=COMMAND_SECONDS,
        ).stdout

    def put(self, key: str, value: bytes) -> None:
        """Write a value into etcd."""
        if value:
            self.etcdctl("put", key, data=value)
        else:
            self.etcdctl("put", key, "")  # an empty input is no value to it

    def change_a_pod(self) -> None:
        """Begin to add or remove a pod somewhere."""
        found = [pod for pod in self.others() if pod.name not in self._busy]
        may_go = bool(found) and not self.only_adds
        if may_go and (len(found) >= MOST_PODS or self.chance.random() < 0.5):
            pod = self.chance.choice(found)
            self.say(f"DEL {pod.name} on {pod.node}")
            self._begin(pod.name, lambda: remove_pod(self.lab.plan, pod))
            return
        self._names += 1
        name, node = f"c{self._names}", self.any_node()
        self.say(f"ADD {name} on {node.name}")
        self._begin(name, lambda: add_pod(self.lab.plan, name, node))

    def _begin(self, name: str, call: Callable[[], object]) -> None:
        def failure() -> str | None:
            try:
                call()
            except LabError as error:
                return str(error)
            finally:
                self._busy.discard(name)
            return None

        self._busy.add(name)
        self._calls.append(self.calls.submit(failure))

    def finish_calls(self) -> None:
        """Wait for all calls under way; `failures` then has why those failed that did."""
        calls, self._calls = self._calls, []
        self.failures += [why for call in calls if (why := call.result()) is not None]

    def remove_what_failed(self) -> None:
        """Call DEL again for every pod whose ADD or DEL failed, as a runtime does. Raises LabError."""
        for pod in self.others():
            if not pod.address or not (NAMESPACES / self.lab.plan.pod_namespace(pod.name)).exists():
                remove_pod(self.lab.plan, pod)

    # -- how it is looked at -------------------------------------------------------------------------------------------

    def status(self, node: LabNode) -> dict[str, Any] | None:
        """What the agent says of itself."""
        return lab_processes.agent_status(node)

    def agent_pids(self) -> dict[str, int]:
        """Node -> its agent's process."""
        found = {node.name: self.status(node) for node in self.nodes}
        return {name: int(status["pid"]) for name, status in found.items() if status is not None}

    def is_calm(self) -> bool:
        """Whether every agent is in session with all others and says nothing is amiss."""
        for node in self.nodes:
            status = self.status(node)
            if status is None or not status["converged"] or status["troubles"]:
                return False
            if sum(peer["state"] == "Established" for peer in status["peers"]) < len(self.nodes) - 1:
                return False
        return True

    def why_not_calm(self) -> str:
        """What the agents say, for a failure."""
        found = {}
        for node in self.nodes:
            status = self.status(node)
            found[node.name] = (
                "no answer"
                if status is None
                else {
                    "converged": status["converged"],
                    "troubles": status["troubles"],
                    "peers": {peer["address"]: peer["state"] for peer in status["peers"]},
                }
            )
        return json.dumps(found, indent=1)


def environment(node: LabNode) -> dict[str, str]:
    """What a command on a node finds in its environment."""
    return {**os.environ, **node.environment}


def pod_space(lab: Lab, pod: Pod) -> Path:
    """The namespace of a pod."""
    return NAMESPACES / lab.plan.pod_namespace(pod.name)
