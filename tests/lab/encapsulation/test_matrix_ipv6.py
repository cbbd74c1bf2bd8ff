"""Labs whose pods have both addresses: the IPv6 half is reached in every mode that IPv6 has."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode, gateway6
from agent.lab.lifecycle import Lab
from agent.lab.pods import Pod, pods
from tests.scenes.lab import traffic
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.labs import MakeLab
from tests.scenes.lab.traffic import host, pod

pytestmark = pytest.mark.lab

MODES = [
    pytest.param(Mode.NONE, id="none"),
    pytest.param(Mode.VXLAN, id="vxlan"),
    pytest.param(Mode.CROSS_SUBNET, id="across subnets"),
]
BLOCK = r"fd10:244::[0-9a-f:]*/122"
BULK_BYTES = 1 << 20
IP6_AND_TCP_BYTES = 72
"""With TCP's timestamps."""


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Iterator[Lab]:
    made = make_lab(f"v6{request.param.value[:6]}", request.param, dual_stack=True)
    others = len(made.plan.nodes) - 1

    def routed() -> bool:
        return all(len(remote(made, node.name)) >= others for node in made.plan.nodes)

    lab_processes.wait_for("IPv6 routes to every block", routed, 30)
    yield made
    lifecycle.down(made.plan.name)


def table6(lab: Lab, node: str) -> list[str]:
    words = lab_processes.inside(lab.plan.node(node).namespace, ["ip", "-6", "route"])
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.removesuffix(" pref medium") for line in lines]


def remote(lab: Lab, node: str) -> list[str]:
    return [line for line in table6(lab, node) if re.match(rf"{BLOCK} via ", line)]


def way(lab: Lab, one: str, other: str) -> str:
    same = lab.plan.node(one).segment == lab.plan.node(other).segment
    direct = lab.mode is Mode.NONE or (lab.mode is Mode.CROSS_SUBNET and same)
    return "eth0" if direct else "vxlan-v6.calico"


def test_the_ipv6_table_is_that_of_a_calico_node(lab: Lab) -> None:
    for node in lab.plan.nodes:
        lines = table6(lab, node.name)
        assert (
            sum(
                re.match(rf"blackhole {BLOCK} dev lo proto bird metric 1024", line) is not None
                for line in lines
            )
            == 1
        )
        for one in pods(lab.plan):
            local = [line for line in lines if line.startswith(f"{one.ip6} dev cali")]
            assert len(local) == (one.node == node.name)
        for other in lab.plan.nodes:
            device = way(lab, node.name, other.name)
            via = str(other.interface6.ip) if device == "eth0" else BLOCK.removesuffix("/122")
            form = rf"{BLOCK} via {via} dev {device} "
            assert other is node or any(re.match(form, line) for line in remote(lab, node.name)), (
                node.name,
                lines,
            )


def test_pods_hosts_and_the_outside_reach_each_other_over_ipv6(lab: Lab) -> None:
    found = pods(lab.plan)
    mtu = 1500 if lab.mode is Mode.NONE else 1430
    for one in found:
        for other in found:
            if one.name != other.name:
                done = traffic.transfer(pod(lab, one.name), pod(lab, other.name), other.ip6, BULK_BYTES)
                assert (done.intact, done.peer, done.segment) == (True, one.ip6, mtu - IP6_AND_TCP_BYTES)
    for other in found:
        check_host(lab, other)
    first = lab.plan.node("node1")
    for node in lab.plan.nodes[1:]:
        assert traffic.transfer(pod(lab, "p1"), host(lab, node.name), node.interface6.ip, 1000).intact
    seen = traffic.datagram(pod(lab, "p1"), traffic.fabric(lab), gateway6(0), 100)
    assert seen == first.interface6.ip, "natOutgoing hides the pod"


def check_host(lab: Lab, other: Pod) -> None:
    """node1 to a pod: with the address of the way."""
    done = traffic.transfer(host(lab, "node1"), pod(lab, other.name), other.ip6, 1000)
    assert done.intact
    if other.node != "node1":
        device = way(lab, "node1", other.node)
        assert done.peer == traffic.device_address(lab, "node1", device, 6)


def test_both_versions_work_side_by_side(lab: Lab) -> None:
    assert lost_pings(lab, rounds=2) == 0
