"""A full node borrows an address from another node's block: everybody reaches it, the block's owner included."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.pods import add_pod, pods, remove_pod
from tests.scenes.lab.lab_nodes import lost_pings, resource
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("mode", [Mode.NONE, Mode.VXLAN], ids=["none", "vxlan"])
def test_a_borrowed_address_is_reachable_from_every_node_and_from_its_blocks_owner(
    mode: Mode, make_lab: MakeLab, tmp_path: Path
) -> None:
    document = json.loads(lifecycle.SEED_POOL.read_text())
    # Two blocks of four addresses for two nodes: the fourth or fifth pod of a node has to borrow.
    document["items"][0]["spec"] |= {"cidr": "192.168.0.0/29", "blockSize": 30}
    file = tmp_path / "pool.json"
    file.write_text(json.dumps(document))
    lab = make_lab(f"borrow{mode.value}", mode, nodes=2, pods=2, pool=file)
    first, second = lab.plan.nodes
    for number in range(4 if mode is Mode.NONE else 3):
        add_pod(lab.plan, f"more{number}", first)
    (own,) = [
        ip_network(line.split()[1]) for line in lab_processes.ip_route(first) if line.startswith("blackhole")
    ]
    (borrowed,) = [pod for pod in pods(lab.plan) if pod.node == first.name and pod.ip not in own]
    lab_processes.wait_for(
        "the owner's route to it",
        lambda: any(line.startswith(f"{borrowed.address} via ") for line in lab_processes.ip_route(second)),
        10,
    )
    assert lost_pings(lab) == 0
    if (
        mode is Mode.VXLAN
    ):  # without a mesh nobody announces it: the contents of its block say it, by themselves
        lifecycle.apply(lab.plan, resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False))
        for node in lab.plan.nodes:
            lab_processes.wait_for("no peer", lambda: not peers(node), 10)  # noqa: B023
        lab_processes.wait_for("the pod without BGP", lambda: lost_pings(lab, 1) == 0, 10)
        again = add_pod(lab.plan, "again", first)
        assert again.ip not in own
        lab_processes.wait_for("a pod that came later", lambda: lost_pings(lab, 1) == 0, 10)
        remove_pod(lab.plan, again)
        lab_processes.wait_for(
            "the end of its route",
            lambda: not any(line.startswith(again.address) for line in lab_processes.ip_route(second)),
            10,
        )


def peers(node: LabNode) -> list[object]:
    status = lab_processes.agent_status(node)
    return list(status["peers"]) if status is not None else [None]
