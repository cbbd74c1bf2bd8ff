"""Every step of docs/migration.md: from Calico node by node with pods running, back to Calico, and from flannel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from time import monotonic

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.fabric import make_namespace, remove_namespace
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lab_processes import inside, ip_route, write_json
from agent.lab.lifecycle import Lab
from agent.lab.pods import Pod, add_pod
from ipam.keys import RESOURCES
from tests.fixtures import program
from tests.scenes.felix.left_rules import felix_rules
from tests.scenes.lab.flannel import IPTABLES, NFTABLES, Flannel
from tests.scenes.lab.lab_nodes import ip_on, lost_pings
from tests.scenes.lab.labs import COMMAND, MakeLab
from tests.scenes.lab.pinging import Pinging, pinging
from tests.scenes.lab.raw_store import RawStore, raw_store

pytestmark = pytest.mark.lab
NAMES = (f"new{number}" for number in count())
NAMED_POD = "cali12345678901"
"""In the rules that a Felix left."""
SECOND = 1.0
MORE = 100
"""Pings."""


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    return make_lab("migrate", Mode.VXLAN, nodes=2, pods=2)


@pytest.fixture
def store(lab: Lab) -> Iterator[RawStore]:
    with raw_store(lab.plan) as made:
        yield made


def run_in(node: LabNode, words: list[str], text: str | None = None) -> str:
    done = subprocess.run(
        inside(node.namespace, words), capture_output=True, text=True, input=text, check=False
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def tortie_in(node: LabNode, *words: str) -> str:
    """The command line inside a node: the kernel it looks at is the node's."""
    environment = {**os.environ, **node.environment}
    done = program.run(inside(node.namespace, [*COMMAND, *words]), env=environment)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def findings(node: LabNode) -> dict[str, dict[str, str]]:
    return {row["what"]: row for row in json.loads(tortie_in(node, "node", "checksystem", "-o", "json"))}


def is_back(node: LabNode) -> bool:
    status = lab_processes.agent_status(node)
    return (
        status is not None
        and status["address"] is not None
        and bool(status["converged"])
        and [peer["state"] for peer in status["peers"]] == ["Established"]
    )


def troubles(node: LabNode) -> list[str]:
    status = lab_processes.agent_status(node)
    assert status is not None
    return list(status["troubles"])


class Steady:
    """Pings of all pods to all others, from the moment on that all are answered."""

    def __init__(self, pings: Pinging) -> None:
        self._pings = pings
        self._more()
        self._before = pings.settled()

    def _more(self) -> None:
        before = self._pings.sent()
        lab_processes.wait_for("more pings", lambda: self._pings.sent() > before + MORE, 20)

    def none_lost(self) -> None:
        """Some more pings, and none was lost until now; one of a pair may be under way."""
        self._more()
        now = self._pings.settled()
        assert {pair: lost for pair in now if (lost := now[pair] - self._before[pair]) > 1} == {}


def our_tables(node: LabNode) -> list[str]:
    return [line for line in run_in(node, ["nft", "list", "tables"]).splitlines() if "tortie" in line]


def calico_has(lab: Lab, node: LabNode, store: RawStore) -> None:
    """A node as calico-node leaves it: its records and routes bear no mark of ours, Felix's rules name its pods."""
    lab_processes.stop_agent(node, signal.SIGKILL)
    for table in our_tables(node):
        run_in(node, ["nft", "delete", *table.split()])
    shutil.rmtree(node.run / "attachments")
    shutil.rmtree(node.directory / "state")
    (interface,) = {
        line.split()[2] for line in ip_route(node) if line.split()[1:2] == ["dev"] and "cali" in line
    }
    for line in ip_route(node):
        bare = line.split(" proto ")[0]
        if " dev cali" in line:
            run_in(
                node,
                [
                    "ip",
                    "route",
                    "replace",
                    *bare.replace(" scope link", "").split(),
                    "scope",
                    "link",
                    "proto",
                    "boot",
                ],
            )
        elif line.startswith("blackhole"):
            run_in(node, ["ip", "route", "replace", *bare.split(), "proto", "80"])
        elif "vxlan.calico" in line:
            run_in(
                node,
                ["ip", "route", "replace", *bare.replace(" onlink", "").split(), "proto", "80", "onlink"],
            )
    words, rules = felix_rules("nft ip")
    run_in(node, words, rules.replace(NAMED_POD, interface))
    for key, value in store.below(RESOURCES).items():
        raw = json.loads(value)
        is_own = key == f"{RESOURCES}nodes/{node.name}" or raw["spec"].get("node") == node.name
        if is_own and raw["metadata"].pop("annotations", None):
            store.write({key: json.dumps(raw).encode()})


def wait_until_left_rules_are_named(node: LabNode) -> None:
    lab_processes.wait_for("the agent", lambda: lab_processes.agent_status(node) is not None, 20)
    lab_processes.wait_for(
        "the left rules", lambda: any("left by Calico" in text for text in troubles(node)), 20
    )


def test_from_calico_node_by_node_with_pods_running(lab: Lab, store: RawStore, tmp_path: Path) -> None:
    for node in lab.plan.nodes:
        calico_has(lab, node, store)
    with pinging(lab, tmp_path) as pings:
        steady = Steady(pings)
        for node in lab.plan.nodes:
            assert "rules that Calico left drop the packets of new pods" in findings(node)
            lab_processes.start_agents([node])
            wait_until_left_rules_are_named(node)
            tortie_in(node, "node", "remove-calico", "--yes", "--undo-file", str(tmp_path / node.name))
            steady.none_lost()
        for node in lab.plan.nodes:
            lab_processes.wait_for("the sessions", lambda: is_back(node), 30)  # noqa: B023
        steady.none_lost()
    for node in lab.plan.nodes:
        add_pod(lab.plan, next(NAMES), node)
        assert troubles(node) == []
        assert "proto boot" not in " ".join(line for line in ip_route(node) if "blackhole" in line)
    assert lost_pings(lab, rounds=1) == 0
    report = tmp_path / "findings"
    tortie_in(lab.plan.nodes[0], "ipam", "check", "-o", str(report))
    assert json.loads(report.read_text())["findings"] == []


def calicos_new_pod(lab: Lab, node: LabNode, address: str) -> None:
    """A pod that Calico's plugin attaches: a name of its form, a route of protocol boot."""
    space = lab.plan.pod_namespace("ofcalico")
    make_namespace(space)
    lines = [
        f"link add calidead0000001 mtu 1450 type veth peer name eth0 mtu 1450 netns {space}",
        "link set calidead0000001 address ee:ee:ee:ee:ee:ee up",
        f"route add {address}/32 dev calidead0000001 scope link",
    ]
    run_in(node, ["ip", "-batch", "-"], "\n".join(lines) + "\n")
    run_in(node, ["sysctl", "-qw", "net.ipv4.conf.calidead0000001.proxy_arp=1"])
    inner = [
        f"addr add {address}/32 dev eth0",
        "link set eth0 up",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1",
    ]
    subprocess.run(inside(space, ["ip", "-batch", "-"]), check=True, input="\n".join(inner) + "\n", text=True)
    write_json(
        lab.plan.directory / "pods" / "ofcalico.json", asdict(Pod("ofcalico", node.name, "f" * 64, address))
    )


def reached(lab: Lab, name: str) -> bool:
    """Whether every other pod's ping to this one is answered."""
    counts = lifecycle.ping(lab, rounds=2).counts
    return all(not number.lost for (_, other), number in counts.items() if other == name)


def test_back_to_calico_nothing_of_ours_stops_its_pods_or_its_sessions(
    lab: Lab, store: RawStore, tmp_path: Path
) -> None:
    node = lab.plan.nodes[1]
    key = f"{RESOURCES}nodes/{node.name}"

    def session() -> str:
        """What the other node says of its session with this one."""
        return tortie_in(lab.plan.nodes[0], "bgp", "peers", str(node.interface.ip))

    assert "TTL security, 1 hops" in session()
    assert "tortie-bgp-ttl" in store.below(key)[key].decode()
    refused = program.run(
        inside(node.namespace, [*COMMAND, "node", "return-to-calico", "--yes"]),
        env={**os.environ, **node.environment},
    )
    assert refused.returncode == 1
    assert "another agent (pid" in refused.stderr
    with pinging(lab, tmp_path) as pings:
        steady = Steady(pings)
        lab_processes.stop_agent(node, signal.SIGTERM)
        block = next(line.split()[1] for line in ip_route(node) if line.startswith("blackhole"))
        calicos_new_pod(lab, node, str(ip_network(block)[40]))
        assert not reached(lab, "ofcalico"), "the workload filter of a stopped agent does not know it"
        shown = tortie_in(node, "node", "return-to-calico")
        assert "workload filter" in shown
        assert "tortie-bgp-ttl" in shown
        assert our_tables(node)
        tortie_in(node, "node", "return-to-calico", "--yes")
        assert our_tables(node) == []
        assert "annotations" not in json.loads(store.below(key)[key])["metadata"]
        assert reached(lab, "ofcalico")
        assert "its agent does not say that it sends TTL 255" in session()
        steady.none_lost()
        assert "nothing of Tortie's" in tortie_in(node, "node", "return-to-calico", "--yes")
    run_in(node, ["ip", "link", "del", "calidead0000001"])
    remove_namespace(lab.plan.pod_namespace("ofcalico"))
    (lab.plan.directory / "pods" / "ofcalico.json").unlink()
    lab_processes.start_agents([node])
    lab_processes.wait_for("the session", lambda: is_back(node), 30)
    assert lost_pings(lab, rounds=1) == 0


def test_from_flannel_both_networks_work_side_by_side_until_the_last_pod_has_moved(
    lab: Lab, tmp_path: Path
) -> None:
    flannel = Flannel(lab.plan, ip_network("10.244.0.0/16"))
    flannel.up(dict(zip(lab.plan.nodes, (NFTABLES, IPTABLES), strict=True)))
    files = {node: lab.plan.directory / "pods" / f"f{node.name}.json" for node in lab.plan.nodes}
    for node, file in files.items():
        address = flannel.add_pod(node, file.stem)
        write_json(file, asdict(Pod(file.stem, node.name, "0" * 64, address)))
    with pinging(lab, tmp_path) as pings:
        Steady(pings).none_lost()
    for node, file in files.items():
        assert troubles(node) == []
        remove_namespace(lab.plan.pod_namespace(file.stem))
        file.unlink()
        add_pod(lab.plan, next(NAMES), node)
    with pinging(lab, tmp_path) as pings:
        steady = Steady(pings)
        for node in lab.plan.nodes:
            found = {what: row for what, row in findings(node).items() if "flannel" in what}
            assert len(found) == 2, found
            for row in found.values():
                run_in(node, ["sh", "-c", row["fix"]])
            assert not any("flannel" in what for what in findings(node))
        steady.none_lost()
    for node in lab.plan.nodes:
        assert "flannel" not in ip_on(node, "route")
        assert troubles(node) == []


def test_an_address_of_flannels_in_a_pool_is_a_trouble_within_a_second_and_so_is_its_end(lab: Lab) -> None:
    node = lab.plan.nodes[0]
    pool = ip_network("192.168.0.0/16")
    ip_on(node, "link add cni0 type bridge")
    ip_on(node, "link set cni0 up")
    ip_on(node, f"addr add {pool[1]}/24 dev cni0")
    began = monotonic()
    lab_processes.wait_for(
        "the trouble", lambda: any("interface cni0" in text for text in troubles(node)), 10
    )
    assert monotonic() - began < SECOND
    ip_on(node, "link del cni0")
    began = monotonic()
    lab_processes.wait_for("its end", lambda: not troubles(node), 10)
    assert monotonic() - began < SECOND
