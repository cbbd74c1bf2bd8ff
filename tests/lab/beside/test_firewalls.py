"""Neither what Docker and firewalld do to forwarded packets nor strict reverse path filters stop pods."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.lab import lab_processes
from agent.lab.fabric import NAMESPACES
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from agent.netlink.namespaces import entered
from tests.scenes.lab.lab_nodes import lost_pings
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab

FIREWALLD = """
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state established,related accept
    reject with icmpx admin-prohibited
  }
}
"""


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("hosts", Mode.VXLAN, nodes=2, pods=3)


def on(node: LabNode, *words: str, text: str | None = None) -> None:
    subprocess.run(lab_processes.inside(node.namespace, list(words)), check=True, input=text, text=True)


def opened(lab: Lab, count: int) -> bool:
    found = [lab_processes.agent_status(node) for node in lab.plan.nodes]
    return all(status is not None and status["kernel"]["objects"]["forward"] == count for status in found)


def test_a_policy_to_drop_what_is_forwarded_does_not_stop_pods(lab: Lab) -> None:
    for node in lab.plan.nodes:
        on(node, "iptables-nft", "-P", "FORWARD", "DROP")
        on(node, "ip6tables-nft", "-P", "FORWARD", "DROP")
    lab_processes.wait_for("both chains to be opened", lambda: opened(lab, 2), 5)
    assert lost_pings(lab) == 0
    for node in lab.plan.nodes:
        on(node, "iptables-nft", "-F", "FORWARD")
    lab_processes.wait_for("the rules to be back", lambda: opened(lab, 2) and lost_pings(lab) == 0, 5)


def test_a_reload_of_firewalld_does_not_stop_pods(lab: Lab) -> None:
    for _ in range(2):
        for node in lab.plan.nodes:
            on(node, "nft", "flush", "ruleset")
            on(node, "nft", "-f", "-", text=FIREWALLD)
        lab_processes.wait_for("firewalld's chain to be opened", lambda: opened(lab, 1), 5)
        assert lost_pings(lab) == 0


def test_strict_reverse_path_filters_do_not_stop_pods(lab: Lab) -> None:
    for node in lab.plan.nodes:
        for name in ("all", "default", "eth0", "vxlan.calico"):
            with entered(NAMESPACES / node.namespace):
                Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("1")
    assert lost_pings(lab) == 0
