"""A node stays what it is: its address beside others, its pods under another name, its record against a clone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.lab import lab_processes
from agent.lab.lab_plan import LabNode, Mode
from agent.lab.lifecycle import Lab
from tests.fixtures import program
from tests.scenes.lab.lab_nodes import ip_on, lost_pings, tortie_on
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors, wait_until_quiet
from tests.scenes.lab.pinging import pinging

pytestmark = pytest.mark.lab

SETTLE_SECONDS = 30.0
VIP, ANOTHER = "fd26::99/128", "fd26::abcd/64"


@pytest.fixture(scope="module", params=[Mode.VXLAN, Mode.NONE], ids=["vxlan", "none"])
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Lab:
    """Two nodes of both versions of IP, two pods on each; routes from the datastore, or from BGP."""
    return make_lab(f"id{request.param.value}", request.param, 2, 4, dual_stack=True)


in_one_mode = pytest.mark.parametrize("lab", [Mode.VXLAN], indirect=True)


def run_on(node: LabNode, *words: str) -> str:
    """What `tortie WORDS` prints in a node's namespace, where etcd is; it must succeed."""
    command = lab_processes.inside(node.namespace, [*COMMAND, *words])
    environment = {**os.environ, **node.environment}
    done = program.run(command, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def record(lab: Lab, name: str) -> dict[str, Any]:
    """A node's record, as the first node's command line prints it."""
    found: dict[str, Any] = json.loads(run_on(lab.plan.nodes[0], "get", "node", name, "-o", "json"))
    return found


def said(node: LabNode, word: str) -> bool:
    """Whether a trouble of the node has a word."""
    status = lab_processes.agent_status(node)
    return status is not None and any(word in trouble for trouble in status["troubles"])


def content(node: LabNode) -> bool:
    status = lab_processes.agent_status(node)
    return status is not None and bool(status["in_sync"]) and not status["troubles"]


def sessions(node: LabNode) -> Mapping[str, str]:
    status = lab_processes.agent_status(node) or {"peers": []}
    return {peer["address"]: peer["since"] for peer in status["peers"]}


@in_one_mode
def test_a_vip_and_a_newer_address_displace_nothing(lab: Lab) -> None:
    """Kernels list a newer IPv6 address first, and take it as the source of routes."""
    first, _ = lab.plan.nodes
    before, since = record(lab, first.name)["spec"], sessions(first)
    for address in (VIP, ANOTHER):
        ip_on(first, f"-6 addr add {address} dev eth0 nodad")
    try:
        lab_processes.stop_agent(first, signal.SIGTERM)
        lab_processes.start_agents([first])
        lab_processes.wait_for("the address", lambda: content(first), SETTLE_SECONDS)
        assert record(lab, first.name)["spec"] == before
        assert sessions(first).keys() == since.keys()
        rows = tortie_on(first, "node", "addresses").splitlines()
        assert [row.split("|")[3].strip() for row in rows if "| *" in row] == [
            before["bgp"]["ipv4Address"],
            before["bgp"]["ipv6Address"],
        ]
    finally:
        for address in (VIP, ANOTHER):
            ip_on(first, f"-6 addr del {address} dev eth0")


@in_one_mode
def test_a_node_that_loses_ipv6_says_so_and_ipv4_goes_on(lab: Lab, tmp_path: Path) -> None:
    _, second = lab.plan.nodes
    with pinging(lab, tmp_path) as pings:
        before = pings.lost()
        ip_on(second, f"-6 addr del {second.interface6} dev eth0")
        lab_processes.wait_for("the trouble", lambda: said(second, "IPv4 goes on"), SETTLE_SECONDS)
        assert pings.lost() == before
        ip_on(second, f"-6 addr add {second.interface6} dev eth0 nodad")
        lab_processes.wait_for("its end", lambda: content(second), SETTLE_SECONDS)
        assert pings.lost() == before


def test_a_renamed_machine_takes_over_its_older_record_and_no_pod_loses_a_ping(
    lab: Lab, tmp_path: Path
) -> None:
    first, second = lab.plan.nodes
    renamed = replace(second, name="node2.site.example")
    wait_until_quiet(lab)
    monitors = RouteMonitors(lab, tmp_path)
    try:
        with pinging(lab, tmp_path) as pings:
            before = pings.lost()
            for now, was in ((renamed, second), (second, renamed)):
                take_over(now, was)
                lab_processes.wait_for("peace", lambda: content(first), SETTLE_SECONDS)
            assert pings.lost() == before
            assert pod_events(monitors) == []
    finally:
        monitors.close()
    assert lost_pings(lab) == 0


def take_over(now: LabNode, was: LabNode) -> None:
    """Start the machine's agent under another name, and do what its trouble says."""
    lab_processes.stop_agent(was, signal.SIGTERM)
    lab_processes.start_agents([now])
    verb = f"takeover --from {was.name}"
    lab_processes.wait_for("the sentence", lambda: said(now, verb), SETTLE_SECONDS)
    assert f"node {was.name} is node {now.name} now" in run_on(now, "node", *verb.split())
    lab_processes.wait_for("peace", lambda: content(now), SETTLE_SECONDS)
    run_on(now, "ipam", "check")


def pod_events(monitors: RouteMonitors) -> list[str]:
    """Events of routes to pods and blocks that are gone, on any node."""
    return [line for lines in monitors.events().values() for line in lines if line.startswith("Deleted")]


@in_one_mode
def test_a_clone_with_a_nodes_id_and_name_is_answered_and_stays_out(lab: Lab) -> None:
    first, second = lab.plan.nodes
    clone = replace(second, name=first.name, directory=second.directory / "clone")
    lab_processes.stop_agent(second, signal.SIGTERM)
    lab_processes.start_agents([clone], {"TORTIE_NODE_MACHINE_ID": first.namespace})
    try:
        lab_processes.wait_for(
            "the clone's trouble", lambda: said(clone, "a clone of this one"), SETTLE_SECONDS
        )
        assert content(first)
        assert record(lab, first.name)["spec"]["bgp"]["ipv4Address"] == str(first.interface)
        assert lost_pings(lab) == 0
    finally:
        lab_processes.stop_agent(clone, signal.SIGTERM)
        lab_processes.start_agents([second])
    lab_processes.wait_for("peace", lambda: content(second), SETTLE_SECONDS)
