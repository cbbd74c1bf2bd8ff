"""What a person is told: of an MTU that changed, a node whose address changed, and one who took another's."""

from __future__ import annotations

import os
import subprocess

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode, gateway
from agent.lab.lifecycle import Lab
from tests.scenes.labs import MakeLab, tortie

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("said", Mode.VXLAN, nodes=2, pods=2)


def ip(node: LabNode, words: str) -> str:
    command = lab_processes.inside(node.namespace, ["ip", *words.split()])
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def said(node: LabNode, verb: str) -> str:
    done = tortie("node", verb, env={**os.environ, **node.environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def says(node: LabNode, verb: str, text: str) -> None:
    lab_processes.wait_for(f"{text!r} of {node.name}", lambda: text in said(node, verb), 20)


def test_an_underlay_that_shrinks_is_followed_and_pods_above_it_are_named(lab: Lab) -> None:
    node = lab.plan.nodes[0]
    ip(node, "link set eth0 mtu 1400")
    says(node, "status", "has 1450, the way to other nodes carries 1350: recreate it")
    assert "trouble    mtu: pod p1 (cali" in said(node, "status")
    assert "mtu 1350" in ip(node, "link show vxlan.calico")
    ip(node, "link set eth0 mtu 1500")
    lab_processes.wait_for("the end of it", lambda: "recreate it" not in said(node, "status"), 10)
    assert "mtu 1450" in ip(node, "link show vxlan.calico")


def renumber(lab: Lab, node: LabNode, before: str, after: str) -> None:
    """Another address on eth0, as after a new lease."""
    ip(node, f"addr del {before} dev eth0")
    ip(node, f"addr add {after} dev eth0")
    ip(node, f"route replace default via {gateway(lab.plan.segments[0])}")


def test_a_node_whose_address_changes_is_reached_again_and_one_that_takes_anothers_is_refused(
    lab: Lab,
) -> None:
    first, node = lab.plan.nodes
    other = f"{node.interface.ip + 50}/20"
    renumber(lab, node, str(node.interface), other)
    says(node, "status", f"{node.name}, {other} (route to")
    says(node, "addresses", other)

    def reached() -> bool:
        return sum(count.lost for count in lifecycle.ping(lab).counts.values()) == 0

    lab_processes.wait_for("pings after the change", reached, 30)
    assert sum(count.lost for count in lifecycle.ping(lab, rounds=3).counts.values()) == 0
    taken = f"{first.interface.ip}/20"
    renumber(lab, node, other, taken)
    address = f"node address {first.interface.ip}"
    says(node, "status", f"{address} is already used by node {first.name}; give one of them another")
    says(node, "addresses", f"is used by node {first.name}")
