"""Pods with addresses of both families: a session per family, and each family's routes by its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

import pytest

from agent.lab import fabric, lab_processes, lifecycle, pods
from agent.lab.lab_plan import NETWORK, LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_nodes import resource
from tests.scenes.lab.labs import MakeLab, wait_until_quiet

pytestmark = pytest.mark.lab

SECONDS = 30.0
POOL = resource("IPPool", "six", cidr="fd01::/64", blockSize=122)


def inside(namespace: str, *words: str) -> str:
    done = subprocess.run(
        lab_processes.inside(namespace, list(words)), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def attach(lab: Lab, node: LabNode, name: str) -> list[str]:
    """A pod with an address of each family; answers them."""
    namespace = lab.plan.pod_namespace(name)
    fabric.make_namespace(namespace)
    ipam = {"type": "tortie-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}
    document = {"cniVersion": pods.CNI_VERSION, "name": NETWORK, "type": "tortie", "ipam": ipam}
    done = subprocess.run(
        lab_processes.inside(node.namespace, [pods.PYTHON, "-IS", str(pods.PLUGIN)]),
        input=json.dumps(document),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            **node.environment,
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": name * 8,
            "CNI_NETNS": str(fabric.NAMESPACES / namespace),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(pods.PLUGIN.parent),
        },
    )
    assert done.returncode == 0, done.stdout
    return [one["address"].partition("/")[0] for one in json.loads(done.stdout)["ips"]]


def sessions(node: LabNode) -> list[str]:
    status: dict[str, Any] = lab_processes.agent_status(node) or {"peers": []}
    return [peer["address"] for peer in status["peers"] if peer["state"] == "Established"]


def test_pods_of_two_nodes_reach_each_other_in_both_families(make_lab: MakeLab) -> None:
    lab = make_lab("dual", Mode.NONE, nodes=2, pods=2)
    nodes = lab.plan.nodes
    own6 = [str(node.interface6.ip) for node in nodes]
    lifecycle.apply(lab.plan, POOL)
    lab_processes.wait_for(
        "a session per family",
        lambda: [len(sessions(node)) for node in nodes] == [2, 2] and own6[1] in sessions(nodes[0]),
        SECONDS,
    )
    addresses = [attach(lab, node, f"both{number}") for number, node in enumerate(nodes, 1)]
    assert [[":" in one for one in some] for some in addresses] == [[False, True], [False, True]]
    lab_processes.wait_for(
        "the other's IPv6 block",
        lambda: all(
            re.search(
                rf"^fd01::\S*/122 via {own6[2 - number]} dev eth0 proto bird",
                inside(node.namespace, "ip", "-6", "route"),
                re.MULTILINE,
            )
            for number, node in enumerate(nodes, 1)
        ),
        SECONDS,
    )
    wait_until_quiet(lab)
    for own, others in ((1, addresses[1]), (2, addresses[0])):
        for address in others:
            said = inside(
                lab.plan.pod_namespace(f"both{own}"), "ping", "-c", "2", "-i", "0.2", "-W", "2", address
            )
            assert " 0% packet loss" in said
            assert "ttl=62" in said
