"""A node that Calico had before: the rules its Felix left are named, stop new pods, are taken away and put back."""

from __future__ import annotations

import os
import subprocess
from itertools import count
from pathlib import Path
from time import monotonic

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lab_processes import inside
from agent.lab.lifecycle import Lab, LabError
from agent.lab.pods import add_pod
from tests.fixtures import program
from tests.scenes.felix.left_rules import felix_rules
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.labs import COMMAND, MakeLab

pytestmark = pytest.mark.lab
NAMES = (f"new{number}" for number in count())
NOTICE_SECONDS = 1.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("calico", Mode.VXLAN, nodes=2, pods=2)


@pytest.fixture
def node(lab: Lab) -> LabNode:
    return lab.plan.nodes[0]


def tortie_in(node: LabNode, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line inside a node: the kernel it looks at is the node's."""
    command = inside(node.namespace, [*COMMAND, "node", *words])
    environment = {**os.environ, **node.environment}
    return program.run(command, env=environment)


def said_in(node: LabNode, *words: str) -> str:
    done = tortie_in(node, *words)
    assert done.returncode == (1 if words == ("status",) and "\ntrouble " in done.stdout else 0), done.stderr
    return done.stdout


def troubles(node: LabNode) -> str:
    status = lab_processes.agent_status(node)
    assert status is not None
    return " ".join(text for text in status["troubles"] if "left by Calico" in text)


def seconds_until(node: LabNode, *, named: bool) -> float:
    began = monotonic()
    lab_processes.wait_for("the trouble", lambda: bool(troubles(node)) is named, 30)
    return monotonic() - began


def leave(node: LabNode, mode: str) -> None:
    words, text = felix_rules(mode)
    subprocess.run(inside(node.namespace, words), check=True, input=text, text=True)


@pytest.mark.parametrize("mode", ["nft ip", "iptables-nft", "iptables-legacy"])
def test_left_rules_are_named_stop_an_add_and_go_on_request(
    lab: Lab, node: LabNode, mode: str, tmp_path: Path
) -> None:
    leave(node, mode)
    assert seconds_until(node, named=True) < NOTICE_SECONDS
    assert "Unknown interface" in troubles(node)
    assert "Unknown interface" in said_in(node, "status")
    with pytest.raises(LabError, match=r"Unknown interface.*remove-calico"):
        add_pod(lab.plan, next(NAMES), node)
    check = tortie_in(node, "checksystem")
    assert check.returncode == 1
    assert "rules that Calico left drop the packets of new pods" in check.stdout

    shown = said_in(node, "remove-calico")
    assert "New pods cannot speak" in shown
    assert troubles(node), "showing changes nothing"
    undo = tmp_path / "undo"
    said = said_in(node, "remove-calico", "--yes", "--undo-file", str(undo))
    assert "read back: nothing of Calico's filters packets here." in said
    assert seconds_until(node, named=False) < NOTICE_SECONDS
    add_pod(lab.plan, next(NAMES), node)
    assert lost_pings(lab, rounds=1) == 0

    said_in(node, "remove-calico", "--undo", str(undo))
    assert seconds_until(node, named=True) < NOTICE_SECONDS
    assert lost_pings(lab, rounds=1) > 0, "they do drop"
    said_in(node, "remove-calico", "--yes", "--undo-file", str(tmp_path / "again"))
    assert seconds_until(node, named=False) < NOTICE_SECONDS
    assert lost_pings(lab, rounds=1) == 0


def test_nothing_is_removed_while_felix_runs(node: LabNode) -> None:
    leave(node, "nft ip")
    script = "import ctypes,sys;ctypes.CDLL(None).prctl(15,b'calico-node',0,0,0);print(flush=True);sys.stdin.read()"
    words = inside(node.namespace, ["python3", "-c", script])
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as felix:
        assert felix.stdout is not None
        felix.stdout.readline()
        done = tortie_in(node, "remove-calico", "--yes")
        felix.kill()
    assert done.returncode == 1
    assert f"calico-node (pid {felix.pid}) runs: stop it first" in done.stderr
    assert seconds_until(node, named=True) < NOTICE_SECONDS
    said_in(node, "remove-calico", "--yes")
