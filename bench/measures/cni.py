"""Measure e: CNI calls beside Debian's ptp with host-local, agent and etcd idle otherwise; and 100 ADDs at once.

Each round makes and removes the same pods with each plugin in turn. A call's time is that of its process from its start
to its end, as a container runtime waits for it. `python -m bench.measures.cni [ROUNDS]` prints the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from agent.cni.plugin.plugin_install import PluginPaths, install
from agent.lab import lifecycle
from agent.lab.fabric import NAMESPACES
from agent.lab.lab_plan import LabNode, Mode
from agent.netlink.namespaces import entered
from bench.figures import OURS, Measure, Series, markdown
from bench.testbed import BenchError

PTP = "ptp + host-local"
PYTHON = f"{OURS}, Python shim"
DEBIAN = Path("/usr/lib/cni")
CALLS, AT_ONCE = 40, 100
"""Pods that are made one after the other in a round, and pods that are made at once."""
GOALS = {
    "ADD": ((OURS, 0.5), (PYTHON, 1.1)),
    "DEL": ((OURS, 0.25), (PYTHON, 0.5)),
}
AT_ONCE_SECONDS = 1.5


@dataclass(frozen=True)
class Plugin:
    """A plugin and its configuration."""

    name: str
    program: Path
    config: bytes

    def call(self, verb: str, pod: str) -> float:
        """Seconds of one call. Raises BenchError."""
        words = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": str(NAMESPACES / pod),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(DEBIAN),
        }
        began = time.perf_counter()
        done = subprocess.run([self.program], env=words, input=self.config, capture_output=True, check=False)
        took = time.perf_counter() - began
        if done.returncode:
            raise BenchError(f"{self.name}: {verb} of {pod}: {done.stdout.decode()}{done.stderr.decode()}")
        return took


@dataclass
class Times:
    """What a plugin's calls took, a figure for each round."""

    middle: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})
    slowest: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})
    """The 99th of a hundred; of fewer calls the slowest."""
    at_once: list[float] = field(default_factory=list)


@contextmanager
def _pods(count: int) -> Iterator[list[str]]:
    """Names of empty namespaces, which go when the block ends."""
    names = [f"tortie-bench{os.getpid()}-{number}" for number in range(count)]
    try:
        _batch(f"netns add {name}" for name in names)
        yield names
    finally:
        _batch(f"netns del {name}" for name in names)


def _batch(lines: Iterator[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True, capture_output=True)


def _plugins(node: LabNode, folder: Path) -> list[Plugin]:
    found = []
    for shim in ("c", "python"):
        home = folder / shim
        for _ in install(
            PluginPaths(home, home, node.run / "cni.sock", node.directory / "state"), shim, "pods"
        ):
            pass
        config = {"cniVersion": "1.0.0", "name": "pods", "type": "tortie"}
        found.append(Plugin(OURS if shim == "c" else PYTHON, home / "tortie", json.dumps(config).encode()))
    ipam = {"type": "host-local", "subnet": "10.77.0.0/20", "dataDir": str(folder / "host-local")}
    theirs = {"cniVersion": "1.0.0", "name": "bench", "type": "ptp", "ipam": ipam}
    return [*found, Plugin(PTP, DEBIAN / "ptp", json.dumps(theirs).encode())]


def _one_by_one(plugin: Plugin, times: Times, calls: int) -> None:
    took: dict[str, list[float]] = {"ADD": [], "DEL": []}
    with _pods(calls) as pods:
        for verb, seconds in took.items():
            seconds += [plugin.call(verb, pod) for pod in pods]
            times.middle[verb].append(median(seconds))
            times.slowest[verb].append(sorted(seconds)[min(calls - 1, calls * 99 // 100)])


def _at_once(plugin: Plugin, times: Times, many: int) -> None:
    with _pods(many) as pods, ThreadPoolExecutor(many) as callers:
        began = time.perf_counter()
        list(callers.map(lambda pod: plugin.call("ADD", pod), pods))
        times.at_once.append(time.perf_counter() - began)
        list(callers.map(lambda pod: plugin.call("DEL", pod), pods))


def measure(
    rounds: int, progress: Callable[[str], None] = lambda _: None, calls: int = CALLS, many: int = AT_ONCE
) -> list[Measure]:
    """CNI calls one by one and at once, in a lab of one node. Raises BenchError, LabError."""
    name = f"bench{os.getpid() % 100000}"
    progress("(e) CNI: starting an agent and an etcd")
    lab = lifecycle.up(name, 1, Mode.NONE, lambda _: None)
    try:
        node = lab.plan.nodes[0]
        with tempfile.TemporaryDirectory(prefix="tortie-bench-") as folder:
            plugins = _plugins(node, Path(folder))
            times = {plugin.name: Times() for plugin in plugins}
            with entered(NAMESPACES / node.namespace):  # threads and children start where their parent is
                for plugin in plugins:  # the first block, the first files
                    _one_by_one(plugin, Times(), 1)
                for number in range(rounds):
                    progress(f"(e) CNI: round {number + 1} of {rounds}")
                    for plugin in plugins:
                        _one_by_one(plugin, times[plugin.name], calls)
                    for plugin in plugins:
                        _at_once(plugin, times[plugin.name], many)
    finally:
        lifecycle.down(name)
    return _measures(times, calls, many)


def _measures(times: dict[str, Times], calls: int, many: int) -> list[Measure]:
    found = []
    for verb, goals in GOALS.items():
        for plugin, limit in goals:
            key = f"e-{verb.lower()}{'-python' if plugin == PYTHON else ''}"
            compared = [(OURS, times[plugin]), (PTP, times[PTP])]
            found.append(
                Measure(
                    key,
                    f"CNI {verb}, {'Python' if plugin == PYTHON else 'C'} shim, p50 of {calls}",
                    tuple(Series(subject, "s", tuple(one.middle[verb])) for subject, one in compared),
                    f"<= {limit:g} of {PTP}",
                    against=PTP,
                    limit=limit,
                )
            )
            series = tuple(Series(subject, "s", tuple(one.slowest[verb])) for subject, one in compared)
            found.append(
                Measure(
                    f"{key}-p99",
                    f"CNI {verb}, {'Python' if plugin == PYTHON else 'C'} shim, p99 of {calls}",
                    series,
                )
            )
    at_once = [Series(subject, "s", tuple(one.at_once)) for subject, one in times.items()]
    goal = f"<= {AT_ONCE_SECONDS:g} s"
    found.append(Measure("e-crowd", f"{many} ADDs at once", tuple(at_once), goal, limit=AT_ONCE_SECONDS))
    return found


if __name__ == "__main__":
    print(
        markdown(
            measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5, lambda what: print(what, file=sys.stderr))
        )
    )
