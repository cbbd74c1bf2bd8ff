"""What a lab holds: devices and routes of each node, and all that is allocated; the same before and after."""

from __future__ import annotations

import json
import os
import subprocess

from agent.lab.lab_plan import LabNode, etcd_endpoint
from agent.lab.lab_processes import inside
from agent.lab.lifecycle import Lab
from tests.fixtures import program
from tests.scenes.lab.labs import COMMAND


def kernel(node: LabNode) -> tuple[list[str], list[str]]:
    """Names of devices, and routes of a node but those of blocks, which stay with their nodes."""
    devices, routes = (
        subprocess.run(inside(node.namespace, words), capture_output=True, check=True).stdout
        for words in (["ip", "-j", "link"], ["ip", "route"])
    )
    others = [line for line in routes.decode().splitlines() if "/26" not in line]
    return sorted(link["ifname"] for link in json.loads(devices)), sorted(others)


def kernels(lab: Lab) -> list[tuple[list[str], list[str]]]:
    """Those of all nodes."""
    return [kernel(node) for node in lab.plan.nodes]


def datastore(lab: Lab) -> str:
    """What is allocated, and that it is consistent, as the command line reports it."""
    shown = []
    for words in (["ipam", "show"], ["ipam", "check"], ["get", "workloadendpoints"]):
        done = program.run(
            inside(lab.plan.fabric, [*COMMAND, *words]),
            env={**os.environ, "TORTIE_ETCD_ENDPOINTS": etcd_endpoint()},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        shown.append(done.stdout)
    return "".join(shown)
