"""Measure f: first pod of a new block -> the block's route in the kernel of every other node.

A lab of three nodes and blocks of four addresses: every fourth ADD claims a new block. The clock runs from the start of
the plugin's process to the later of the two other nodes' route events.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from statistics import quantiles
from uuid import uuid4

from agent.lab import fabric, lab_processes, lifecycle
from agent.lab.lab_plan import Mode
from agent.lab.lab_processes import ip_route
from agent.lab.pods import Pod, call_plugin
from bench.events import Events
from bench.figures import OURS, Measure, Series

LAB = f"blocks{os.getpid() % 100_000}"
BLOCK_LENGTH = 30


def _pool(folder: Path) -> Path:
    document = json.loads(lifecycle.SEED_POOL.read_text())
    document["items"][0]["spec"]["blockSize"] = BLOCK_LENGTH
    file = folder / "pool.json"
    file.write_text(json.dumps(document))
    return file


def times(count: int, mode: Mode, progress: Callable[[str], None]) -> list[float]:
    """Seconds for each of `count` new blocks."""
    found: list[float] = []
    with tempfile.TemporaryDirectory(prefix="tortie-bench-") as folder:
        lab = lifecycle.up(LAB, 3, mode, progress, _pool(Path(folder)))
        try:
            here, *others = lab.plan.nodes
            listeners = [Events(partial(lab_processes.inside, node.namespace)) for node in others]
            # A tunnel's own address has claimed a block already.
            seen = {IPv4Network(line.split()[1]) for line in ip_route(here) if line.startswith("blackhole")}
            while len(found) < count:
                pod = Pod(f"f{len(seen)}-{uuid4().hex[:8]}", here.name, uuid4().hex)
                fabric.make_namespace(lab.plan.pod_namespace(pod.name))
                began = time.monotonic()
                result = json.loads(call_plugin(lab.plan, pod, "ADD"))
                address = IPv4Interface(result["ips"][0]["address"]).ip
                block = IPv4Network((address, BLOCK_LENGTH), strict=False)
                if block not in seen:
                    seen.add(block)
                    ends = [listener.until({f"+ {block}"}) for listener in listeners]
                    found.append(max(ends) - began)
            for listener in listeners:
                listener.end()
        finally:
            lifecycle.down(LAB)
    return found


def measure(count: int, rounds: int, progress: Callable[[str], None]) -> list[Measure]:
    """p50 and p99 in both kinds of route: from BGP and from the datastore; each round in a lab of its own.

    A node may have twenty blocks, so `count` is less.
    """
    found = []
    for mode in (Mode.NONE, Mode.VXLAN):
        values = [one for _ in range(rounds) for one in times(count, mode, progress)]
        cuts = quantiles(values, n=100, method="inclusive")
        found += [
            Measure(
                f"f-{mode.value}",
                f"first pod of a new block -> routes of the others, {mode.value}",
                (Series(OURS, "s", tuple(values)),),
            ),
            Measure(
                f"f-{mode.value}-99",
                f"first pod of a new block -> routes of the others, {mode.value}, p99 of {len(values)}",
                (Series(OURS, "s", (cuts[98],)),),
                "p99 <= 50 ms",
                limit=0.05,
            ),
        ]
    return found
