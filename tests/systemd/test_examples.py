"""Each example of a command that changes the machine is run on one that is thrown away, as the help shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.scenes.cli.cli_examples import Place, at
from tests.systemd import service
from tests.systemd.nodes import SUITE, Machines, machines

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

FOLDER = "/srv/checkout"
ORDER = (
    r"PYTHONPATH=",
    r"tortie install",
    r"(tortie|systemctl) reload",
    r"tortie cni install",
    r"tortie cni check",
    r"tortie cni uninstall",
    r"tortie uninstall$",
    r"tortie uninstall",
)
"""In which an example finds what it needs; what uninstalls is preceded by an installation."""
INSTALL = "tortie install --wheels dist --start"


def _rank(line: str) -> int:
    return next(rank for rank, form in enumerate(ORDER) if re.match(form, line))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    binds = {service.build_wheels(): f"{FOLDER}/dist"}
    with machines(tmp_path_factory.mktemp("nodes"), (SUITE,), binds) as made:
        yield made


def test_the_examples_of_a_service_do_what_they_show(found: Machines) -> None:
    (node,) = found.nodes
    settings = f"mkdir -p /etc/tortie && cat >/etc/tortie/agent.toml <<'END'\n{service.SETTINGS}END"
    lines = sorted(at(Place.MACHINE), key=_rank)
    assert lines[0].startswith("PYTHONPATH=")
    assert INSTALL in lines
    for line in lines:
        if line.startswith("PYTHONPATH="):
            node.done(settings)
        elif line.startswith("tortie uninstall") and node.run("command -v tortie").returncode != 0:
            node.done(settings)
            node.done(f"cd {FOLDER} && {lines[0]}")
        done = node.run(f"cd {FOLDER} && {line}")
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip() or line.startswith("systemctl"), line
        if "--start" in line:
            service.wait_ready(node)
    assert node.run("command -v tortie").returncode != 0
    assert node.run("test -e /etc/tortie/agent.toml").returncode != 0
