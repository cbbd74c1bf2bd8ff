"""The same lab in every mode: pods reach each other, by routes of the article's form."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.fabric import has_ipip
from agent.lab.lab_plan import LabNode, Mode, gateway
from agent.lab.lab_processes import ip_route
from agent.lab.lifecycle import Lab
from agent.lab.pods import pods, remove_pod
from tests.fixtures import program
from tests.scenes.lab import traffic
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.labs import MakeLab, wait_until_routed
from tests.scenes.lab.traffic import host, pod

pytestmark = pytest.mark.lab

BLOCK = r"192\.168\.\d+\.\d+/26"
FORMS = {
    "vxlan.calico": rf"{BLOCK} via 192\.168\.\d+\.\d+ dev vxlan\.calico onlink",
    "tunl0": rf"{BLOCK} via 172\.26\.\d+\.\d+ dev tunl0 proto bird onlink",
}
IP_AND_TCP_BYTES, IP_AND_UDP_BYTES = 52, 28
"""With TCP's timestamps."""
TUNNELS = {Mode.NONE: None, Mode.VXLAN: "vxlan.calico", Mode.IPIP: "tunl0"}
MODES = [
    pytest.param(Mode.NONE, id="none"),
    pytest.param(Mode.VXLAN, id="vxlan"),
    pytest.param(Mode.CROSS_SUBNET, id="across subnets"),
    pytest.param(Mode.IPIP, id="ipip", marks=pytest.mark.ipip),
]
BULK_BYTES = 4 << 20


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Iterator[Lab]:
    """One lab a mode, for every test below that takes it."""
    made = make_lab(f"m{request.param.value}", request.param)
    yield made
    lifecycle.down(made.plan.name)


def way(lab: Lab, one: str, other: str) -> str | None:
    """The tunnel device between two nodes, None where they need none."""
    if lab.mode is not Mode.CROSS_SUBNET:
        return TUNNELS[lab.mode]
    if lab.plan.node(one).segment == lab.plan.node(other).segment:
        return None
    return "tunl0" if has_ipip() else "vxlan.calico"


def test_nodes_of_one_subnet_demand_ttl_255_of_each_other_and_of_others_say_why_not(lab: Lab) -> None:
    by_name = {node.name: node for node in lab.plan.nodes}

    def as_they_should(node: LabNode) -> bool:
        status = lab_processes.agent_status(node)
        peers = status["peers"] if status is not None else []
        expected = {
            peer["description"]: "TTL security, 1 hops"
            if by_name[peer["description"]].segment == node.segment
            else "no TTL security: it is on another subnet"
            for peer in peers
        }
        return len(expected) == len(by_name) - 1 and all(
            peer["state"] == "Established" and expected[peer["description"]] in peer["options"]
            for peer in peers
        )

    for node in lab.plan.nodes:
        lab_processes.wait_for(f"TTL security at {node.name}", lambda node=node: as_they_should(node), 20)  # type: ignore[misc]


def test_pods_ping_each_other_and_hops_are_counted(lab: Lab) -> None:
    counts = lifecycle.ping(lab, rounds=3).counts
    assert [pair for pair, count in counts.items() if count.lost] == []
    node_of = {one.name: one.node for one in pods(lab.plan)}
    for (one, other), count in counts.items():
        same = lab.plan.node(node_of[one]).segment == lab.plan.node(node_of[other]).segment
        routed = 1 if not same and way(lab, node_of[one], node_of[other]) is None else 0
        assert count.ttl == (63 if node_of[one] == node_of[other] else 62 - routed), (one, other)


def test_the_routes_are_those_of_the_article(lab: Lab) -> None:
    for node in lab.plan.nodes:
        lines = ip_route(node)
        for other in lab.plan.nodes:
            device = way(lab, node.name, other.name)
            own = other.interface.ip
            form = FORMS[device] if device else rf"{BLOCK} via {own} dev eth0 proto (bird|80 onlink)"
            found = [line for line in lines if re.fullmatch(form, line)]
            assert other is node or found, (node.name, other.name, lines)
        assert sum(re.fullmatch(rf"blackhole {BLOCK} proto bird", line) is not None for line in lines) == 1
        for one in pods(lab.plan):
            of_it = [line for line in lines if line.startswith(f"{one.address} ")]
            form = rf"{one.address} dev cali[0-9a-f]{{11}} scope link"
            assert [re.fullmatch(form, line) is not None for line in of_it] == [True] * (
                one.node == node.name
            )


def test_host_and_pods_reach_each_other_with_the_address_of_the_way(lab: Lab) -> None:
    """A host's packet to a remote pod bears the tunnel's address: to it the answer finds its way back."""
    by_name = {one.name: one for one in pods(lab.plan)}
    node1 = lab.plan.node("node1")
    assert traffic.transfer(host(lab, "node1"), pod(lab, "p1"), by_name["p1"].ip, 1000).intact
    for name, node in (("p2", "node2"), ("p3", "node3")):
        device = way(lab, "node1", node)
        expected = traffic.device_address(lab, "node1", device) if device else node1.interface.ip
        done = traffic.transfer(host(lab, "node1"), pod(lab, name), by_name[name].ip, 1000)
        assert (done.peer, done.intact) == (expected, True), name
        there = lab.plan.node(node)
        assert traffic.transfer(pod(lab, "p1"), host(lab, node), there.interface.ip, 1000).intact


def test_bulk_runs_both_ways_in_full_segments_and_the_largest_packet_passes_whole(lab: Lab) -> None:
    by_name = {one.name: one for one in pods(lab.plan)}
    mtu = {Mode.NONE: 1500, Mode.IPIP: 1480}.get(
        lab.mode, 1480 if way(lab, "node1", "node2") == "tunl0" else 1450
    )
    for source, target in (("p1", "p4"), ("p1", "p2"), ("p3", "p1")):
        done = traffic.transfer(pod(lab, source), pod(lab, target), by_name[target].ip, BULK_BYTES)
        assert (done.intact, done.peer) == (True, by_name[source].ip)
        assert done.segment == mtu - IP_AND_TCP_BYTES
        seen = traffic.datagram(
            pod(lab, source), pod(lab, target), by_name[target].ip, mtu - IP_AND_UDP_BYTES
        )
        assert seen == by_name[source].ip
        with pytest.raises(OSError, match="Message too long"):
            traffic.datagram(
                pod(lab, source), pod(lab, target), by_name[target].ip, mtu - IP_AND_UDP_BYTES + 1
            )


def test_the_articles_iperf3_run_from_a_host_to_a_remote_pod(lab: Lab) -> None:
    target = next(one for one in pods(lab.plan) if one.name == "p2")
    words = ["iperf3", "--server", "--one-off", "--bind", target.address, "--forceflush"]
    with subprocess.Popen(
        lab_processes.inside(lab.plan.pod_namespace("p2"), words), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            while "listening" not in server.stdout.readline():
                assert server.poll() is None
            client = ["iperf3", "--client", target.address, "--time", "1", "--json"]
            done = subprocess.run(
                lab_processes.inside(lab.plan.node("node1").namespace, client),
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        finally:
            server.kill()
    sums = json.loads(done.stdout)["end"]
    assert sums["sum_received"]["bytes"] > 1_000_000
    print(
        f"iperf3 host to remote pod, {lab.mode.value}: {sums['sum_received']['bits_per_second'] / 1e9:.2f} Gbit/s"
    )


def test_pods_leave_with_the_nodes_address_only_where_nat_outgoing_is_on(lab: Lab) -> None:
    """Without nftables (as in the guest kernel) the agent says that natOutgoing is not in force, and does no harm."""
    one = next(found for found in pods(lab.plan) if found.name == "p1")
    node, outside = lab.plan.node("node1"), gateway(lab.plan.segments[0])
    status = lab_processes.agent_status(node)
    assert status is not None
    missing = "masquerade" in status["kernel"]["not_in_force"]
    seen = traffic.datagram(pod(lab, "p1"), traffic.fabric(lab), outside, 100)
    assert seen == (one.ip if missing else node.interface.ip)
    pool = json.loads(tortie_in(lab, "get", "ippools", "-o", "json"))
    for wanted in (False, True):
        for item in pool["items"]:
            item["spec"]["natOutgoing"] = wanted
            item["metadata"].pop("resourceVersion", None)  # the second write follows our own first
        lifecycle.apply(lab.plan, pool)
        lab_processes.wait_for("natOutgoing", lambda: nat_is(lab, wanted and not missing), 10)  # noqa: B023
        seen = traffic.datagram(pod(lab, "p1"), traffic.fabric(lab), outside, 100)
        assert seen == (node.interface.ip if wanted and not missing else one.ip)


def nat_is(lab: Lab, wanted: bool) -> bool:
    status = lab_processes.agent_status(lab.plan.node("node1"))
    return status is not None and status["kernel"]["objects"]["masquerade"] == int(wanted)


def tortie_in(lab: Lab, *words: str) -> str:
    """What the command line says in the fabric, where the datastore is."""
    command = lab_processes.inside(lab.plan.fabric, [sys.executable, "-m", "agent.cli.main", *words])
    environment = {**os.environ, **lab.plan.nodes[0].environment}
    return program.run(command, check=True, env=environment, timeout=60).stdout


def test_a_removed_pod_leaves_no_route_and_its_address_is_free_again(make_lab: MakeLab) -> None:
    lab = make_lab("gone", Mode.NONE, nodes=1, pods=2)
    pod = pods(lab.plan)[0]
    remove_pod(lab.plan, pod)
    node = lab.plan.nodes[0]
    lab_processes.wait_for(
        "the end of its route", lambda: not any(pod.address + " " in line for line in ip_route(node)), 5
    )
    assert [other.name for other in pods(lab.plan)] == ["p2"]


def test_a_live_switch_moves_every_route_without_a_restart(make_lab: MakeLab) -> None:
    lab = make_lab("move", Mode.VXLAN)
    before = [lab_processes.agent_status(node) for node in lab.plan.nodes]
    lab = lifecycle.change_mode(lab, Mode.NONE)
    wait_until_routed(lab, " dev eth0 proto bird")
    assert lost_pings(lab, rounds=2) == 0
    after = [lab_processes.agent_status(node) for node in lab.plan.nodes]
    assert [status and status["pid"] for status in before] == [status and status["pid"] for status in after]
    lab = lifecycle.change_mode(lab, Mode.VXLAN)
    wait_until_routed(lab, " dev vxlan.calico")
    assert lost_pings(lab, rounds=2) == 0
