"""Nobody takes a living node's addresses by mistake; what is taken all the same it puts right; a gone one goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lab_processes import inside
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod, pods
from ipam.keys import handle_key, resource_key
from ipam.model import HandleId, NodeName
from tests.fixtures import program
from tests.scenes.lab.lab_nodes import lost_pings, resource
from tests.scenes.lab.lab_remains import datastore
from tests.scenes.lab.labs import COMMAND, MakeLab
from tests.scenes.lab.raw_store import RawStore, raw_store

pytestmark = pytest.mark.lab
AT_ONCE_SECONDS = 1.0


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("nodeend", Mode.VXLAN, nodes=3, pods=6)


@pytest.fixture
def store(lab: Lab) -> Iterator[RawStore]:
    with raw_store(lab.plan) as found:
        yield found


def tortie_in(node: LabNode, *words: str) -> subprocess.CompletedProcess[str]:
    command = inside(node.namespace, [*COMMAND, *words])
    environment = {**os.environ, **node.environment}
    return program.run(command, env=environment)


def record(store: RawStore, node: LabNode) -> dict[str, Any]:
    key = resource_key("nodes", node.name)
    found: dict[str, Any] = json.loads(store.below(key).get(key, b"{}"))
    return found


def tunnel_address(store: RawStore, node: LabNode) -> str:
    return str(record(store, node).get("spec", {}).get("ipv4VXLANTunnelAddr", ""))


def on_device(node: LabNode) -> str:
    """The tunnel's addresses; nothing while it has none or is made anew: then `ip` answers nothing, or fails."""
    words = inside(node.namespace, ["ip", "-j", "-4", "addr", "show", "dev", "vxlan.calico"])
    said = subprocess.run(words, check=False, capture_output=True, text=True).stdout
    return " ".join(one["local"] for link in json.loads(said or "[]") for one in link.get("addr_info", ()))


def holds_tunnel(store: RawStore, node: LabNode) -> bool:
    """Whether the node's tunnel address is allocated to it and stands in its record and on its device."""
    handle = handle_key(HandleId(f"vxlan-tunnel-addr-{node.name}"))
    blocks = [
        json.loads(value)["attributes"] for value in store.below("/calico/ipam/v2/assignment/").values()
    ]
    allocated = any(one["handle_id"].endswith(node.name) for some in blocks for one in some)
    named = tunnel_address(store, node)
    return handle in store.below(handle) and allocated and named != "" and on_device(node) == named


def test_a_living_node_is_refused_without_force_whatever_is_asked(lab: Lab, store: RawStore) -> None:
    asker, living = lab.plan.nodes[:2]
    before = store.below("/calico/")
    for words in (
        ("ipam", "release", "--node", living.name),
        ("delete", "node", living.name),
        ("ipam", "release", "--node", asker.name),
        ("ipam", "release", "--ip", tunnel_address(store, living)),
    ):
        done = tortie_in(asker, *words)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert " lives: " in done.stderr
        assert "--force" in done.stderr
    outside = program.run(
        inside(lab.plan.fabric, [*COMMAND, "ipam", "release", "--node", living.name]),
        env={**os.environ, "TORTIE_ETCD_ENDPOINTS": asker.environment["TORTIE_ETCD_ENDPOINTS"]},
    )
    assert "its BGP port takes connections" in outside.stderr
    assert store.below("/calico/") == before
    assert all(
        not one["troubles"]
        for one in (lab_processes.agent_status(node) for node in lab.plan.nodes)
        if one is not None
    )


def test_what_is_released_under_a_living_node_it_takes_again_at_once(lab: Lab, store: RawStore) -> None:
    asker, living = lab.plan.nodes[:2]
    before = tunnel_address(store, living)
    began = monotonic()
    done = tortie_in(asker, "ipam", "release", "--node", living.name, "--force")
    assert done.returncode == 0, done.stderr
    released = monotonic()
    lab_processes.wait_for("the tunnel's address", lambda: holds_tunnel(store, living), 30)
    assert monotonic() - released < AT_ONCE_SECONDS, monotonic() - began
    assert tunnel_address(store, living) == before, "nobody had taken it"
    lab_processes.wait_for(
        "a sound datastore", lambda: tortie_in(living, "ipam", "check").returncode == 0, 10
    )
    assert lost_pings(lab, rounds=2) == 0


def test_a_tunnel_address_that_a_pod_bears_is_found_and_the_node_takes_another(
    lab: Lab, store: RawStore
) -> None:
    asker, living = lab.plan.nodes[:2]
    before = tunnel_address(store, living)
    lab_processes.stop_agent(living, signal.SIGTERM)
    assert tortie_in(asker, "ipam", "release", "--ip", before).returncode == 0
    network = {"cniVersion": "1.0.0", "name": "other", "type": "tortie"}
    thief = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "ab" * 32,
        "CNI_NETNS": "/nonexistent",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"IP={before}",
    }
    plugin = [*("/usr/bin/python3", "-IS"), "agent/cni/plugin/shim.py"]
    taken = subprocess.run(
        inside(asker.namespace, plugin),
        input=json.dumps({**network, "type": "bridge", "ipam": {"type": "tortie-ipam"}}),
        env={**os.environ, **asker.environment, **thief},
        capture_output=True,
        text=True,
        check=False,
    )
    assert taken.returncode == 0, taken.stdout
    found = tortie_in(asker, "ipam", "check").stdout
    assert f"tunnel-address-used-twice: address {before} is on a tunnel of node {living.name}" in found
    lab_processes.start_agents([living])
    lab_processes.wait_for(
        "another address", lambda: holds_tunnel(store, living) and on_device(living) != before, 30
    )
    assert "tunnel-address-used-twice" not in tortie_in(asker, "ipam", "check").stdout
    lab_processes.wait_for("pings", lambda: lost_pings(lab, rounds=1) == 0, 30)
    assert tortie_in(asker, "ipam", "release", "--ip", before).returncode == 0, "it is no tunnel's any more"


def test_a_node_that_is_gone_goes_with_everything_and_says_how_much(lab: Lab, store: RawStore) -> None:
    asker, _, gone = lab.plan.nodes
    lab_processes.stop_agent(gone, signal.SIGTERM)
    peer = resource("BGPPeer", "of-gone", node=gone.name, peerIP="172.26.0.99", asNumber=65001)
    mine = resource("BGPConfiguration", f"node.{gone.name}", logSeverityScreen="Info")
    documents = "\n---\n".join(map(json.dumps, (peer, mine)))
    done = program.run(
        inside(asker.namespace, [*COMMAND, "apply", "-f", "-"]),
        input=documents,
        env={**os.environ, **asker.environment},
    )
    assert done.returncode == 0, done.stderr
    before = store.below("/calico/")
    dry = tortie_in(asker, "delete", "node", gone.name, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert store.below("/calico/") == before
    done = tortie_in(asker, "delete", "node", gone.name)
    assert done.returncode == 0, done.stderr
    for text in (dry.stdout, done.stdout):
        assert "released: 3 addresses, 1 block, 2 endpoints, 1 BGP peer, 1 BGP configuration" in text
    left = {key: value for key, value in store.below("/calico/").items() if gone.name in f"{key}{value!r}"}
    assert left == {}
    lab_processes.wait_for(
        "no route to it",
        lambda: not any(str(gone.interface.ip) in line for line in lab_processes.ip_route(asker)),
        30,
    )
    assert [pod.name for pod in pods(lab.plan) if pod.node == gone.name]
    datastore(lab)
    assert add_pod(lab.plan, "after", lab.plan.nodes[1]).address
    assert NodeName(gone.name) not in json.dumps(tortie_in(asker, "get", "nodes").stdout)
