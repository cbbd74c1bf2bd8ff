"""Each node's route table in `ip route`'s own words, read by `ip` on the node."""

from __future__ import annotations

import subprocess

from agent.lab.lab_plan import LabNode, LabPlan
from agent.lab.lab_processes import inside

CALL_SECONDS = 30.0


def table(node: LabNode) -> list[str]:
    """The lines of `ip route` on a node."""
    command = inside(node.namespace, ["ip", "route"])
    done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS, check=True)
    return [line.strip() for line in done.stdout.splitlines()]


def tables(plan: LabPlan) -> str:
    """All nodes' tables, one under the other."""
    parts = []
    for node in plan.nodes:
        parts += ["", f"{node.name}# ip route", *table(node)]
    return "\n".join(parts)
