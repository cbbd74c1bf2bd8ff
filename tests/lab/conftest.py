"""What every test of a lab starts from (tests/scenes/lab/labs.py), and what a failure shows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import ROOT, LabError, LabNode
from tests.scenes.lab.labs import CHECKOUT, make_lab

__all__ = ["make_lab"]

SAID_LINES = 60
"""What a failure shows of each agent's log."""


def said(node: LabNode) -> list[str]:
    """The end of an agent's log; nothing where another worker's lab is only coming up, or has gone."""
    try:
        return (node.directory / "agent.log").read_text(errors="replace").splitlines()[-SAID_LINES:]
    except FileNotFoundError:
        return []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Beside a failure: the routes of each node of this checkout's labs, and the end of what its agent said."""
    report = yield
    if report.failed and call.when == "call":
        for directory in sorted(ROOT.glob(f"*{CHECKOUT}")):
            try:
                plan = lifecycle.find(directory.name).plan
            except LabError:  # another worker's, that comes up or goes
                continue
            for node in plan.nodes:
                routes = [
                    subprocess.run(
                        lab_processes.inside(node.namespace, ["ip", version, "route"]),
                        capture_output=True,
                        text=True,
                        check=False,
                    ).stdout
                    for version in ("-4", "-6")
                ]
                report.sections.append((f"{plan.name}: {node.name}", "\n".join([*routes, *said(node)])))
    return report
