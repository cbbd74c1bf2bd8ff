"""Real containers of real engines, on two nodes of a lab: they reach each other, and leave nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.lab import life
from agent.lab.life import Lab
from agent.lab.plan import LabNode, Mode, etcd_endpoint
from agent.lab.processes import inside, wait_for
from tests.cni.engines import Engines, Kind, engines
from tests.lab.conftest import COMMAND, MakeLab, make_lab, named

__all__ = ["make_lab"]

KERNEL_SECONDS = 10.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    """Two nodes with tunnels: each has a block from the start."""
    yield make_lab("engines", Mode.VXLAN, nodes=2, pods=0)
    life.down(named("engines"))


def kernel(node: LabNode) -> tuple[list[str], list[str]]:
    """Names of devices, and routes, of a node."""
    devices, routes = (
        subprocess.run(inside(node.namespace, words), capture_output=True, check=True).stdout
        for words in (["ip", "-j", "link"], ["ip", "route"])
    )
    return sorted(link["ifname"] for link in json.loads(devices)), sorted(routes.decode().splitlines())


def kernels(lab: Lab) -> list[tuple[list[str], list[str]]]:
    """Those of all nodes."""
    return [kernel(node) for node in lab.plan.nodes]


def datastore(lab: Lab) -> str:
    """What is allocated, and that it is consistent, as the command line tells it."""
    shown = []
    for words in (["ipam", "show", "--show-blocks"], ["ipam", "check"], ["get", "workloadendpoints"]):
        done = subprocess.run(
            inside(lab.plan.fabric, [*COMMAND, *words]),
            env={**os.environ, "TORTIE_ETCD_ENDPOINTS": etcd_endpoint()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        shown.append(done.stdout)
    return "".join(shown)


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_containers_of_containerd_and_podman_reach_each_other_across_nodes_and_leave_nothing(
    lab: Lab, version: str
) -> None:
    with engines(lab.plan.nodes, version) as both:
        before, stored = kernels(lab), datastore(lab)
        with ExitStack() as stack:
            running = [
                stack.enter_context(one.container(kind, f"{kind.value}-{one.node.name}"))
                for one in both
                for kind in Kind
            ]
            addresses = [container.address() for container in running]
            assert len(set(addresses)) == 4
            for container in running:
                for address in addresses:
                    assert "1 packets received" in container.run("ping", "-c1", "-w5", address)
            assert kernels(lab) != before
            assert datastore(lab) != stored
        wait_for("the end of the routes", lambda: kernels(lab) == before, KERNEL_SECONDS)
        assert datastore(lab) == stored
        for one in both:
            must_be_gone(one)


def must_be_gone(one: Engines) -> None:
    """No release to carry out, no container."""
    assert list((one.node.directory / "state").glob("releases/*")) == []
    assert one.run(Kind.CTR, "container", "list", "--quiet") == ""
    assert one.run(Kind.PODMAN, "ps", "--all", "--quiet") == ""
