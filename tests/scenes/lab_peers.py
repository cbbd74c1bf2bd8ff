"""A lab's node and its peer outside the mesh, a rack's router: how to ask for it, and how their session does."""

from __future__ import annotations

from typing import Any

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode


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
