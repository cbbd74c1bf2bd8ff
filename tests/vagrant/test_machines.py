"""The virtual machines and `tortie lab` are made from one file, and what makes them can be read by Ruby and Bash."""

from __future__ import annotations

import json
import subprocess

import pytest

from agent.lab.lab_plan import TOPOLOGY, Mode, gateway, plan
from tests import ROOT

ROOM = ROOT / "vagrant"
SCRIPTS = ("build-box", "without-kvm", "machine/node", "machine/router")


def ruby(*words: str) -> str:
    return subprocess.run(["ruby", *words], capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_vagrantfile_puts_the_nodes_where_a_lab_across_subnets_has_them() -> None:
    lab = plan("lab", TOPOLOGY.virtual_machines, Mode.CROSS_SUBNET)
    machines = json.loads(ruby(str(ROOM / "topology.rb")))
    assert machines["nodes"] == {
        node.name: {"segment": node.segment, "address": str(node.interface)} for node in lab.nodes
    }
    assert machines["router"] == [f"{gateway(segment)}/{segment.prefixlen}" for segment in lab.segments]
    assert machines["etcd"] == f"http://{lab.nodes[0].interface.ip}:{TOPOLOGY.etcd_port}"


def test_both_segments_have_a_node_and_one_has_two() -> None:
    lab = plan("lab", TOPOLOGY.virtual_machines, Mode.CROSS_SUBNET)
    assert sorted(node.segment for node in lab.nodes) == [0, 0, 1]


def test_ruby_can_read_the_vagrantfile() -> None:
    assert ruby("-c", str(ROOM / "Vagrantfile")).strip() == "Syntax OK"


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_read_each_script(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(ROOM / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
