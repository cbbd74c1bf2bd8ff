"""Labs for tests: brought up by the product's own code, always removed."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabError, Mode
from agent.lab.lab_processes import ip_route
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod
from tests.fixtures import program

SETTLE_SECONDS = 30.0
PROOF = "203.0.113.0/24"
"""TEST-NET-3 (RFC 5737): a route that nobody else makes."""
COMMAND = [sys.executable, "-m", "agent.cli.main"]
CHECKOUT = f"{zlib.crc32(str(Path(__file__).resolve()).encode()) & 0xFFFF:04x}"

MakeLab = Callable[..., Lab]


def named(word: str) -> str:
    """A lab name of this checkout's own: two checkouts can be tested at once on one machine."""
    return word[:8] + CHECKOUT


@pytest.fixture(scope="module")
def make_lab() -> Iterator[MakeLab]:
    """`make_lab(name, mode, nodes=3, pods=4)`: a lab whose blocks are routed everywhere."""
    with ExitStack() as stack:

        def make(
            name: str,
            mode: Mode,
            nodes: int = 3,
            pods: int = 4,
            pool: Path | None = None,
            *,
            dual_stack: bool = False,
        ) -> Lab:
            stack.callback(lifecycle.down, named(name))
            lab = lifecycle.up(
                named(name), nodes, mode, lambda _: None, pool, dual_stack=dual_stack, loaded=program.loaded()
            )
            for number in range(pods):
                add_pod(lab.plan, f"p{number + 1}", lab.plan.nodes[number % nodes])
            if pods:
                wait_until_routed(lab)
                wait_until_quiet(lab)
            return lab

        yield make


def remote_routes(lab: Lab) -> dict[str, list[str]]:
    """Node -> its routes to other nodes' blocks."""
    return {
        node.name: [line for line in ip_route(node) if " via 1" in line and "default" not in line]
        for node in lab.plan.nodes
    }


def wait_until_routed(lab: Lab, device: str = "") -> None:
    """Until every node has a route (over `device`) to a block of every other node, and none over another device."""
    others = len(lab.plan.nodes) - 1

    def routed() -> bool:
        tables = remote_routes(lab).values()
        return all(len(lines) >= others and all(device in line for line in lines) for lines in tables)

    lab_processes.wait_for(f"routes over {device or 'any device'}", routed, SETTLE_SECONDS)


def wait_until_quiet(lab: Lab) -> None:
    """Until the kernel has finished its own doings: duplicate address detection of each new interface (RFC 4862)."""

    def quiet() -> bool:
        commands = (
            lab_processes.inside(node.namespace, ["ip", "-6", "addr", "show", "tentative"])
            for node in lab.plan.nodes
        )
        return all(not subprocess.run(words, capture_output=True, check=True).stdout for words in commands)

    lab_processes.wait_for("the end of address detection", quiet, 10)


def tortie(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does."""
    return program.run([*COMMAND, *words], env=env)


class RouteMonitors:
    """`ip monitor route` on every node of a lab (and in other namespaces, by name), proved to be listening."""

    def __init__(self, lab: Lab, directory: Path, others: Mapping[str, str] | None = None) -> None:
        self._spaces = {node.name: node.namespace for node in lab.plan.nodes} | dict(others or {})
        self._files = {name: directory / name for name in self._spaces}
        self._running = []
        for name, namespace in self._spaces.items():
            command = lab_processes.inside(namespace, ["ip", "monitor", "route"])
            with self._files[name].open("w") as output:
                self._running.append(subprocess.Popen(command, stdout=output))
        try:
            for name in self._spaces:
                lab_processes.wait_for("the monitor", lambda: self._hears(name), 20)  # noqa: B023
        except LabError:
            self.close()
            raise

    def _hears(self, name: str) -> bool:
        """Whether the monitor reports a foreign route that comes and goes: then nothing that follows is missed."""
        for verb in ("add", "del"):
            words = lab_processes.inside(self._spaces[name], ["ip", "route", verb, PROOF, "dev", "lo"])
            subprocess.run(words, capture_output=True, check=False)
        return self._files[name].read_text().count(PROOF) >= 2

    def events(self) -> dict[str, list[str]]:
        """Node -> what was reported besides the proof."""
        return {
            name: [line for line in path.read_text().splitlines() if PROOF not in line]
            for name, path in self._files.items()
        }

    def close(self) -> None:
        """End them."""
        for process in self._running:
            process.kill()
            process.wait()
