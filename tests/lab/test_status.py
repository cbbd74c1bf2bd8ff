"""What `tortie node` says: of an MTU that changed, a node whose address changed, and one who took another's."""

from __future__ import annotations

import json
import os
import socket
from time import monotonic

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode, gateway
from agent.lab.lifecycle import Lab
from ipam.keys import resource_key
from tests.scenes.datastore.damages import document
from tests.scenes.lab.lab_nodes import ip_on, lost_pings, tortie_on
from tests.scenes.lab.labs import MakeLab, tortie
from tests.scenes.lab.raw_store import raw_store

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("said", Mode.VXLAN, nodes=2, pods=2)


def says(node: LabNode, verb: str, text: str) -> None:
    lab_processes.wait_for(f"{text!r} of {node.name}", lambda: text in tortie_on(node, "node", verb), 20)


def test_an_underlay_that_shrinks_is_followed_and_pods_above_it_are_named(lab: Lab) -> None:
    node = lab.plan.nodes[0]
    ip_on(node, "link set eth0 mtu 1400")
    says(node, "status", "its MTU is 1450, the way to other nodes carries 1350; recreate it")
    done = tortie("node", "status", env={**os.environ, **node.environment})
    assert "trouble    pod p1 (cali" in done.stdout
    assert (done.returncode, done.stderr) == (1, "")
    assert "mtu 1350" in ip_on(node, "link show vxlan.calico")
    ip_on(node, "link set eth0 mtu 1500")
    lab_processes.wait_for(
        "the end of it", lambda: "recreate it" not in tortie_on(node, "node", "status"), 10
    )
    assert "mtu 1450" in ip_on(node, "link show vxlan.calico")


def page(node: LabNode, path: str) -> tuple[int, str]:
    """Status and body of a page of the agent's."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(node.run / "metrics.sock"))
        asked.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: asked.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def limits(node: LabNode) -> list[str]:
    status = lab_processes.agent_status(node)
    assert status is not None
    return [text for text in status["troubles"] if "docs/limits.md" in text]


def test_what_is_not_enforced_is_said_within_a_second_by_status_readyz_metric_and_log_and_so_is_its_end(
    lab: Lab,
) -> None:
    keys = {
        resource_key("networkpolicies", "deny", "default"): b"{}",
        resource_key("globalnetworkpolicies", "deny"): b"{}",
        resource_key("hostendpoints", "node1-eth0"): b"{}",
        resource_key("felixconfigurations", "default"): document(
            "FelixConfiguration", "default", {"wireguardEnabled": True}
        ),
    }
    said = "2 policies, 1 host endpoint in this datastore are not enforced by this agent"
    with raw_store(lab.plan) as store:
        store.write(keys)
        began = monotonic()
        for node in lab.plan.nodes:
            lab_processes.wait_for("the limits", lambda: said in str(limits(node)), 10)  # noqa: B023
        assert monotonic() - began < 1
        for node in lab.plan.nodes:
            assert any("wireguardEnabled is true" in text for text in limits(node))
            status, body = page(node, "/readyz")
            assert status == 200
            assert said in str(json.loads(body)["troubles"])
            metrics = page(node, "/metrics")[1]
            assert 'tortie_not_enforced{what="HostEndpoint"} 1' in metrics
            assert 'tortie_not_enforced{what="FelixConfiguration.wireguardEnabled"} 1' in metrics
        store.write(dict.fromkeys(keys))
        began = monotonic()
        for node in lab.plan.nodes:
            lab_processes.wait_for("their end", lambda: not limits(node), 10)  # noqa: B023
        assert monotonic() - began < 1
    for node in lab.plan.nodes:
        log = (node.directory / "agent.log").read_text()
        assert log.count("limits.not_enforced") == log.count("limits.not_asked_for_any_more") == 4


def renumber(lab: Lab, node: LabNode, before: str, after: str) -> None:
    """Another address on eth0, as after a new lease."""
    ip_on(node, f"addr del {before} dev eth0")
    ip_on(node, f"addr add {after} dev eth0")
    ip_on(node, f"route replace default via {gateway(lab.plan.segments[0])}")


def test_a_node_whose_address_changes_is_reached_again_and_one_that_takes_anothers_is_refused(
    lab: Lab,
) -> None:
    first, node = lab.plan.nodes
    other = f"{node.interface.ip + 50}/20"
    renumber(lab, node, str(node.interface), other)
    says(node, "status", f"{node.name}, {other} (route to")
    says(node, "addresses", other)

    def reached() -> bool:
        return lost_pings(lab, rounds=1) == 0

    lab_processes.wait_for("pings after the change", reached, 30)
    assert lost_pings(lab) == 0
    taken = f"{first.interface.ip}/20"
    renumber(lab, node, other, taken)
    address = f"node address {first.interface.ip}"
    says(node, "status", f"{address} is already used by node {first.name}; give one of them another")
    says(node, "addresses", f"is used by node {first.name}")
