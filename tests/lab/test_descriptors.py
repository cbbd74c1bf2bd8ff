"""An agent without a descriptor left: nothing ends, it is told, and everything that waited is served afterwards."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.lab import lab_processes
from agent.lab.fabric import NAMESPACES
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod
from agent.netlink.namespaces import entered
from tests.scenes.lab.lab_nodes import ip_on, lost_pings, tortie_on
from tests.scenes.lab.labs import MakeLab

pytestmark = pytest.mark.lab

BGP = 179
HTTP = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
SECONDS = 20.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("empty", Mode.NONE, nodes=2, pods=2)


def pid_of(node: LabNode) -> int:
    status = lab_processes.agent_status(node)
    assert status is not None
    return int(status["pid"])


def unix(path: Path, octets: bytes) -> socket.socket:
    """A connection that has asked, and is not accepted yet."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(SECONDS)
    made.connect(str(path))
    made.sendall(octets)
    return made


def speaker(node: LabNode) -> socket.socket:
    """A socket of a node, with the TTL that its neighbours demand of a BGP speaker there (RFC 5082)."""
    with entered(NAMESPACES / node.namespace):
        made = socket.socket()
    made.settimeout(SECONDS)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
    return made


def log_of(node: LabNode) -> str:
    return (node.directory / "agent.log").read_text()


def test_a_node_without_descriptors_says_so_and_serves_afterwards_what_waited(lab: Lab) -> None:
    node = lab.plan.nodes[0]
    pid, other = pid_of(node), lab.plan.nodes[1]
    asked = {
        "metrics.sock": HTTP,
        "agent.sock": b"status\n",
        "cni.sock": b"CNI_COMMAND=VERSION\0\0{}",
    }
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
    with ExitStack() as stack:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        # The free numbers below the highest are taken by whoever comes first.
        idle = [unix(node.run / "metrics.sock", b"") for _ in range(60)]
        waiting = {name: unix(node.run / name, octets) for name, octets in asked.items()}
        bgp = speaker(other)
        bgp.connect((str(node.interface.ip), BGP))
        for one in (*idle, *waiting.values(), bgp):
            stack.enter_context(one)
        # A dump and a look at a link are wanted now, too: each needs a socket of its own.
        ip_on(node, "link set eth0 mtu 1400")
        lab_processes.wait_for("its word", lambda: 'about="part listeners"' in log_of(node), SECONDS)
        lab_processes.wait_for("the kernel's", lambda: "Too many open files" in log_of(node), SECONDS)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        for one in waiting.values():
            one.shutdown(socket.SHUT_WR)
        answers = {name: one.recv(1 << 16) for name, one in waiting.items()}
    assert answers["metrics.sock"].startswith(b"HTTP/1.1 200 OK\r\n")
    assert answers["cni.sock"].startswith(b"0{")
    assert answers["agent.sock"].startswith(b"{")
    assert "part listeners: failed" in tortie_on(node, "node", "status")
    ip_on(node, "link set eth0 mtu 1500")
    add_pod(lab.plan, "after", node)
    assert lost_pings(lab) == 0
    assert pid_of(node) == pid
    assert "Traceback" not in log_of(node)
    assert len(log_of(node)) < 100_000
