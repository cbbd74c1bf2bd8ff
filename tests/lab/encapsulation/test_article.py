"""The first half of the article: two machines with a docker0 each, and nobody types a route."""

from __future__ import annotations

import re
import subprocess
import time
from ipaddress import IPv4Address, IPv4Interface

import pytest
from pyroute2 import IPRoute

from agent.lab import fabric, icmp, lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lab_processes import ip_route
from agent.lab.lifecycle import Lab
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab

BRIDGES = (IPv4Interface("172.17.1.252/24"), IPv4Interface("172.17.2.252/24"))
"""`"bip"` of the article's two daemon.json files."""
BOXES = (IPv4Interface("172.17.1.2/24"), IPv4Interface("172.17.2.2/24"))
ROUTE_SECONDS = 20.0
PINGS = 5


def docker(lab: Lab, node: LabNode, number: int) -> str:
    """docker0 on a node, and a container-like namespace on it; answers its name."""
    box = lab.plan.pod_namespace(f"box{number + 1}")
    fabric.make_namespace(box)
    fabric.bridge(node.namespace, "docker0", [BRIDGES[number]])
    fabric.cable(node.namespace, "docker0", "veth0", box, [BOXES[number]], [str(BRIDGES[number].ip)])
    return box


def others_route(node: LabNode, number: int) -> list[str]:
    """A node's routes to the other's docker0."""
    wanted = rf"{BRIDGES[1 - number].network} via 172\.26\.0\.\d+ dev eth0 proto bird"
    return [line for line in ip_route(node) if re.fullmatch(wanted, line)]


def test_containers_on_docker0_reach_each_other_over_routes_that_nobody_typed(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both nodes have the same settings; each reports what it really has.
    monkeypatch.setenv("TORTIE_BGP_LOCAL_PREFIXES", ",".join(str(one.network) for one in BRIDGES))
    lab = make_lab("art", Mode.NONE, nodes=2, pods=2)
    nodes = lab.plan.nodes
    assert [others_route(node, number) for number, node in enumerate(nodes)] == [[], []]
    boxes = [docker(lab, node, number) for number, node in enumerate(nodes)]
    lab_processes.wait_for(
        "the route to the other docker0",
        lambda: all(others_route(node, number) for number, node in enumerate(nodes)),
        ROUTE_SECONDS,
    )
    assert {pair: (count.lost, count.ttl) for pair, count in pinged(boxes).items()} == {
        (boxes[0], boxes[1]): (0, 62),
        (boxes[1], boxes[0]): (0, 62),
    }
    # A docker0 that goes takes its route along, and only that.
    subprocess.run(
        lab_processes.inside(nodes[1].namespace, ["ip", "link", "del", "docker0"]), check=True, timeout=10
    )
    lab_processes.wait_for("the end of the route", lambda: not others_route(nodes[0], 0), ROUTE_SECONDS)
    assert others_route(nodes[1], 1)


def pinged(boxes: list[str]) -> dict[tuple[str, str], icmp.PingCount]:
    """Both containers ping each other."""
    for box, address in zip(boxes, reversed(BOXES), strict=True):
        with IPRoute(netns=box) as there:  # a route by the default gateway, as Docker's containers have it
            assert there.route("get", dst=str(address.ip))[0].get_attr("RTA_GATEWAY")
    addresses: dict[str, IPv4Address] = {box: one.ip for box, one in zip(boxes, BOXES, strict=True)}
    with icmp.pinger({box: fabric.NAMESPACES / box for box in boxes}, addresses) as pings:
        for _ in range(PINGS):
            pings.send_round([(boxes[0], boxes[1]), (boxes[1], boxes[0])])
            pings.receive(time.monotonic() + 1)
        return pings.counts
