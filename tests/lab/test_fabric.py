"""What a lab stands on: namespaces like machines that have just booted; nodes that know each other without asking."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Interface

import pytest

from agent.lab import fabric, kernel_defaults
from agent.netlink.namespaces import entered
from tests.scenes.lab.labs import named

PREFIX = f"tortie-{named('met')}-"
NODES = {f"{PREFIX}{number}": IPv4Interface(f"10.77.0.{number}/24") for number in (1, 2, 3)}


@pytest.fixture
def nodes() -> Iterator[None]:
    middle = f"{PREFIX}fabric"
    try:
        fabric.make_namespace(middle)
        fabric.bridge(middle, "br0", [IPv4Interface("10.77.0.254/24")])
        for number, (name, address) in enumerate(NODES.items()):
            fabric.make_namespace(name)
            fabric.cable(middle, "br0", f"node{number}", name, [address], ["10.77.0.254"])
        yield
    finally:
        for name in fabric.namespaces(PREFIX):
            fabric.remove_namespace(name)


@pytest.mark.lab
@pytest.mark.usefixtures("nodes")
def test_acquainted_nodes_have_each_other_as_permanent_neighbours_and_reach_each_other() -> None:
    fabric.add_permanent_neighbours({name: address.ip for name, address in NODES.items()})
    for name, own in NODES.items():
        inside = ["ip", "netns", "exec", name]
        said = subprocess.run(
            [*inside, "ip", "neigh", "show", "nud", "permanent"], capture_output=True, text=True, check=True
        ).stdout
        others = {str(one.ip) for one in NODES.values()} - {str(own.ip)}
        assert {line.split()[0] for line in said.splitlines()} == others
        for other in others:
            subprocess.run([*inside, "ping", "-c1", "-W2", other], capture_output=True, check=True)


@pytest.mark.ipip  # in the guest kernel, whose own sysctls nobody else needs
def test_a_node_begins_with_the_kernels_own_sysctls_whatever_the_machines_are() -> None:
    machines = {"all/forwarding": "1", "default/rp_filter": "2", "default/arp_ignore": "2"}
    conf = kernel_defaults.PROC_SYS_NET / "ipv4/conf"
    before = {name: (conf / name).read_text() for name in machines}
    for name, value in machines.items():
        (conf / name).write_text(value)
    node = f"{PREFIX}odd"
    try:
        fabric.make_namespace(node)
        with entered(fabric.NAMESPACES / node):
            found = {name: (conf / name).read_text().strip() for name in machines}
        assert found == dict.fromkeys(machines, "0")
    finally:
        fabric.remove_namespace(node)
        for name, value in before.items():
            (conf / name).write_text(value)
