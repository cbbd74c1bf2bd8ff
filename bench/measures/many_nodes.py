"""Measure i: many nodes on one machine: time to a full mesh, then what an agent that has nothing to do costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode
from bench.figures import OURS, Measure, Series
from bench.testbed import cpu_seconds, memory_mib

LAB = f"nodes{os.getpid() % 100_000}"


def measure(nodes: int, rest_seconds: float, progress: Callable[[str], None]) -> list[Measure]:
    """A lab in which every agent peers with every other, then `rest_seconds` of rest."""
    began = time.monotonic()
    lab = lifecycle.up(LAB, nodes, Mode.NONE, progress)
    try:
        up = time.monotonic() - began
        pids = []
        for node in lab.plan.nodes:
            status = lab_processes.agent_status(node)
            assert status is not None
            pids.append(int(status["pid"]))
        progress(f"(i) {nodes} nodes at rest for {rest_seconds:g} s")
        before, since = [cpu_seconds([pid]) for pid in pids], time.monotonic()
        time.sleep(rest_seconds)
        gone = time.monotonic() - since
        shares = tuple(100 * (cpu_seconds([pid]) - was) / gone for pid, was in zip(pids, before, strict=True))
        memory = tuple(memory_mib([pid]) for pid in pids)
    finally:
        lifecycle.down(LAB)
    return [
        Measure("i-mesh", f"{nodes} nodes: from nothing to full mesh", (Series(OURS, "s", (up,)),)),
        Measure(
            "i-cpu",
            f"{nodes} nodes: processor of one agent at rest",
            (Series(OURS, "% of a core", shares),),
            "<= 1 % of a core",
            limit=1.0,
            notes=(f"median {median(shares):.2f} %",),
        ),
        Measure(
            "i-memory",
            f"{nodes} nodes: memory of one agent",
            (Series(OURS, "MiB", memory),),
            "<= 80 MiB",
            limit=80.0,
        ),
    ]
