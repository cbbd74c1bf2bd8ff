"""What a test does with a lab and its nodes: write resources, run commands there, ask for sessions and lost pings."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode
from agent.lab.lifecycle import Lab
from tests.scenes.lab.labs import tortie


def resource(kind: str, name: str, **spec: object) -> dict[str, Any]:
    """A document of that kind, as `tortie apply` reads it."""
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}


def session(node: LabNode) -> tuple[str, str]:
    """State of a node's session with the peer described as `tor`, and since when; empty texts without one."""
    status = lab_processes.agent_status(node) or {"peers": []}
    found = [peer for peer in status["peers"] if peer["description"] == "tor"]
    return (found[0]["state"], found[0]["since"]) if found else ("", "")


def converged(node: LabNode) -> bool:
    """Whether every peer of the node has told it all that it has: End-of-RIB from each, or their time is over."""
    status = lab_processes.agent_status(node)
    return status is not None and bool(status["converged"])


def tortie_on(node: LabNode, *words: str) -> str:
    """What `tortie WORDS` prints on a node; it must succeed, `node status` with troubles or without."""
    done = tortie(*words, env={**os.environ, **node.environment})
    assert done.returncode == 0 or (words[:2] == ("node", "status") and not done.stderr), done.stderr
    return done.stdout


def bgp_routes(node: LabNode, *words: str) -> list[dict[str, Any]]:
    """What the looking glass shows of a node, `tortie bgp routes WORDS`: a row for each path."""
    found = json.loads(tortie_on(node, "bgp", "routes", *words, "-o", "json"))
    assert isinstance(found, list)
    return found


def ip_on(node: LabNode, words: str) -> str:
    """What `ip WORDS` prints in a node's namespace; it must succeed."""
    command = lab_processes.inside(node.namespace, ["ip", *words.split()])
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def lost_pings(lab: Lab, rounds: int = 3) -> int:
    """Echo requests without an answer, of all pods to all others."""
    return sum(count.lost for count in lifecycle.ping(lab, rounds=rounds).counts.values())
