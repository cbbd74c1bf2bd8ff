"""The same lab in every mode: pods reach each other, by routes of the article's form."""

from __future__ import annotations

import re
import time

import pytest

from agent.lab import icmp, life, processes
from agent.lab.fabric import NAMESPACES
from agent.lab.life import Lab
from agent.lab.plan import Mode, gateway
from agent.lab.pods import pods, remove
from agent.lab.routes import table
from tests.lab.conftest import MakeLab, remote_routes, wait_until_routed

pytestmark = pytest.mark.lab

BLOCK = r"192\.168\.\d+\.\d+/26"
FORMS = {
    Mode.NONE: rf"{BLOCK} via 172\.26\.0\.\d+ dev eth0 proto bird",
    Mode.VXLAN: rf"{BLOCK} via 192\.168\.\d+\.\d+ dev vxlan\.calico onlink",
    Mode.IPIP: rf"{BLOCK} via 172\.26\.0\.\d+ dev tunl0 proto bird onlink",
}
MODES = [
    pytest.param(Mode.NONE, id="none"),
    pytest.param(Mode.VXLAN, id="vxlan"),
    pytest.param(Mode.IPIP, id="ipip", marks=pytest.mark.ipip),
]


@pytest.mark.parametrize("mode", MODES)
def test_pods_ping_each_other_through_routes_the_agents_made(mode: Mode, make_lab: MakeLab) -> None:
    lab = make_lab(f"m{mode.value}", mode)
    counts = life.ping(lab, rounds=3).counts
    assert [pair for pair, count in counts.items() if count.lost] == []
    node_of = {pod.name: pod.node for pod in pods(lab.plan)}
    for (one, other), count in counts.items():
        assert count.ttl == (63 if node_of[one] == node_of[other] else 62), (one, other)
    for node in lab.plan.nodes:
        lines = table(node)
        assert sum(re.fullmatch(FORMS[mode], line) is not None for line in lines) == 2, lines
        assert sum(re.fullmatch(rf"blackhole {BLOCK} proto bird", line) is not None for line in lines) == 1, (
            lines
        )
        local = [pod for pod in pods(lab.plan) if pod.node == node.name]
        for pod in local:
            found = [line for line in lines if line.startswith(f"{pod.address} ")]
            assert [
                re.fullmatch(rf"{pod.address} dev cali[0-9a-f]{{11}} scope link", line) is not None
                for line in found
            ] == [True]
    assert_nat_outgoing(lab)
    life.down(lab.plan.name)


def assert_nat_outgoing(lab: Lab) -> None:
    """The fabric knows no way to a pod: its answer comes back only to the node's own address.

    Without nftables' ip family (the guest kernel has none) the agent says that natOutgoing is not in force, and the
    routes are there all the same.
    """
    pod, status = pods(lab.plan)[0], processes.agent_status(lab.plan.nodes[0])
    assert status is not None
    space = {pod.name: NAMESPACES / lab.plan.pod_namespace(pod.name)}
    pings = icmp.pinger(space, {"outside": gateway(lab.plan.segments[0])})
    try:
        pings.send_round([(pod.name, "outside")])
        pings.receive(time.monotonic() + 1)
        (count,) = pings.counts.values()
    finally:
        icmp.close(pings)
    missing = status["kernel"]["not_in_force"]
    assert (count.received, list(missing)) == ((1, []) if not missing else (0, ["masquerade"])), missing


def test_nodes_of_two_subnets_use_the_tunnel_only_between_them(make_lab: MakeLab) -> None:
    lab = make_lab("cross", Mode.CROSS_SUBNET, nodes=3)
    assert sum(count.lost for count in life.ping(lab, rounds=2).counts.values()) == 0
    routes = remote_routes(lab)
    # node1 and node3 share the first subnet, node2 is alone on the second
    assert sorted("vxlan.calico" in line or "tunl0" in line for line in routes["node1"]) == [False, True]
    assert [("vxlan.calico" in line or "tunl0" in line) for line in routes["node2"]] == [True, True]


def test_a_removed_pod_leaves_no_route_and_its_address_is_free_again(make_lab: MakeLab) -> None:
    lab = make_lab("gone", Mode.NONE, nodes=1, pods=2)
    pod = pods(lab.plan)[0]
    remove(lab.plan, pod)
    node = lab.plan.nodes[0]
    processes.wait_for(
        "the end of its route", lambda: not any(pod.address + " " in line for line in table(node)), 5
    )
    assert [other.name for other in pods(lab.plan)] == ["p2"]


def test_a_live_switch_moves_every_route_without_a_restart(make_lab: MakeLab) -> None:
    lab = make_lab("move", Mode.VXLAN)
    before = [processes.agent_status(node) for node in lab.plan.nodes]
    lab = life.switch(lab, Mode.NONE)
    wait_until_routed(lab, " dev eth0 proto bird")
    assert sum(count.lost for count in life.ping(lab, rounds=2).counts.values()) == 0
    after = [processes.agent_status(node) for node in lab.plan.nodes]
    assert [status and status["pid"] for status in before] == [status and status["pid"] for status in after]
    lab = life.switch(lab, Mode.VXLAN)
    wait_until_routed(lab, " dev vxlan.calico")
    assert sum(count.lost for count in life.ping(lab, rounds=2).counts.values()) == 0
