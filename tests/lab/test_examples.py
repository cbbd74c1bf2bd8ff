"""Each example of a command that needs a lab, or a node's agent, is run in a shell, as the help shows it.

Names of labs alone are replaced: a lab of the person at this machine stays what it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode
from agent.lab.pods import add_pod
from tests.scenes.cli.cli_examples import Place, at
from tests.scenes.lab.labs import named, wait_until_routed

pytestmark = pytest.mark.lab

EXAMPLE_SECONDS = 120
LAB, OTHER = named("help"), named("help2")
PREPARED = "tortie lab up"
"""Before it come the other ways to start a lab; after it all is run in the lab that it has started."""
ORDER = (
    r"lab up .*other",
    r"lab (?!down).*other",
    r"lab down .*other",
    r"lab up .+",
    r"lab up$",
    r"lab pod add",
    r"lab (ping|exec|status)",
    r"(?!lab).*(?<!drain)$",
    r"drain",
    r"undrain",
    r"lab agent kill",
    r"lab agent",
    r"lab mode",
    r"lab etcd stop",
    r"lab etcd",
    r"lab pod rm",
    r"lab down",
)
"""In which an example of each kind finds what it needs."""


def _rank(line: str) -> int:
    return next(rank for rank, form in enumerate(ORDER) if re.match(form, line.removeprefix("tortie ")))


LINES = sorted([*at(Place.LAB), *at(Place.NODE)], key=_rank)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("examples")
    shutil.copy(lifecycle.SEED_POOL, made / "my-pool.json")
    yield made
    lifecycle.down(LAB)
    lifecycle.down(OTHER)


def renamed(line: str) -> str:
    """An example's line with the names of this checkout's labs in place of those it shows."""
    if "--name other" in line:
        return line.replace("--name other", f"--name {OTHER}")
    return re.sub(r"tortie lab (\w+)", rf"tortie lab \1 --name {LAB}", line)


def shell(line: str, folder: Path, around: list[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(
        [*around, "bash", "-o", "pipefail", "-ec", line],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_examples_of_a_lab_do_what_they_show(folder: Path) -> None:
    assert LINES.count(PREPARED) == 1
    for line in LINES:
        around: list[str] = []
        environment: Mapping[str, str] = {}
        if not line.startswith("tortie lab"):
            node = lifecycle.find(LAB).plan.node("node1")
            around, environment = lab_processes.inside(node.namespace, []), node.environment
        code, out, err = shell(renamed(line), folder, around, environment)
        is_status = "node status" in line  # ends with 1 where there is a trouble
        assert code == 0 or (is_status and code == 1 and not err), f"{line}\n{out}{err}"
        assert out.strip(), line
        assert "Traceback" not in err
        if line == PREPARED:
            lab = lifecycle.find(LAB)
            assert lab.mode is Mode.VXLAN
            for number in (1, 2, 3):
                add_pod(lab.plan, f"p{number}", lab.plan.nodes[number - 1])
            wait_until_routed(lab)
