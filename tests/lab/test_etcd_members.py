"""A lab on three etcd members over TLS: members die, certificates expire, and pods notice nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.fabric import NAMESPACES
from agent.lab.icmp import Pinger
from agent.lab.lab_plan import LabError, Mode
from agent.lab.lifecycle import Lab
from agent.lab.pods import add_pod, remove_pod
from tests.fixtures import program
from tests.fixtures.certificates import Authority
from tests.fixtures.etcd_cluster import Member, start_cluster
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors, wait_until_quiet, wait_until_routed

pytestmark = pytest.mark.lab

ADDRESSES = ("172.26.0.2", "172.26.0.3", "172.26.0.4")
"""Of the fabric, where no node of a small lab is."""
MOST_ROUNDS = 1000
WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Secured:
    """A lab whose agents know three members over TLS, and the certificate that they all show."""

    lab: Lab
    authority: Authority
    members: Sequence[Member]

    def status(self) -> list[dict[str, Any]]:
        found = [lab_processes.agent_status(node) for node in self.lab.plan.nodes]
        return [status for status in found if status is not None]

    def wait_for_trouble(self) -> None:
        lab_processes.wait_for("trouble", lambda: all(one["troubles"] for one in self.status()), WAIT_SECONDS)

    def a_pod_comes_and_goes(self) -> None:
        for node in self.lab.plan.nodes:
            remove_pod(self.lab.plan, add_pod(self.lab.plan, "brief", node))


@pytest.fixture(scope="module")
def secured(make_lab: MakeLab) -> Iterator[Secured]:
    lab = make_lab("members", Mode.NONE, pods=0)
    for node in lab.plan.nodes:
        lab_processes.stop_agent(node, signal.SIGTERM)
    lab_processes.stop_etcd(lab.plan)
    fabric = NAMESPACES / lab.plan.fabric
    for address in ADDRESSES:
        words = ["ip", "addr", "add", f"{address}/32", "dev", "br0"]
        subprocess.run(lab_processes.inside(lab.plan.fabric, words), check=True)
    with start_cluster(ADDRESSES, fabric) as (authority, members):
        authority.issue("agents", days=30)
        environment = {
            "TORTIE_ETCD_ENDPOINTS": ",".join(member.endpoint for member in members),
            "TORTIE_ETCD_CA_FILE": authority.file("ca.pem"),
            "TORTIE_ETCD_CERT_FILE": authority.file("agents.pem"),
            "TORTIE_ETCD_KEY_FILE": authority.file("agents.key"),
        }
        program.run(
            lab_processes.inside(lab.plan.fabric, [*COMMAND, "apply", "-f", "-"]),
            input=json.dumps(lifecycle.pool_document(None, Mode.NONE)),
            env={**os.environ, **environment},
            check=True,
        )
        for node in lab.plan.nodes:
            lab_processes.start_agents([node], environment)
        lab_processes.wait_for_agents(lab.plan)
        for number, node in enumerate(lab.plan.nodes):
            add_pod(lab.plan, f"p{number}", node)
        wait_until_routed(lab)
        wait_until_quiet(lab)
        yield Secured(lab, authority, members)
        for node in lab.plan.nodes:
            lab_processes.stop_agent(node, signal.SIGTERM)


@contextmanager
def unnoticed(lab: Lab, directory: Path) -> Iterator[None]:
    """While the block runs no ping between the pods that there are is lost, and no route event is reported."""
    monitors, over = RouteMonitors(lab, directory), Future[None]()
    names = [f"p{number}" for number in range(len(lab.plan.nodes))]
    try:
        with ThreadPoolExecutor(1) as aside:
            pings: Future[Pinger] = aside.submit(lifecycle.ping, lab, names, MOST_ROUNDS, over.done)
            try:
                yield
            finally:
                over.set_result(None)
            counts = pings.result().counts
        assert min(count.sent for count in counts.values()) > 0
        assert {pair: count.lost for pair, count in counts.items() if count.lost} == {}
        events = {
            node: [line for line in lines if "/26" in line] for node, lines in monitors.events().items()
        }
        assert events == {node.name: [] for node in lab.plan.nodes}
    finally:
        monitors.close()


def test_members_die_one_by_one_while_pods_come_and_go_and_no_other_pod_notices(
    secured: Secured, tmp_path: Path
) -> None:
    with unnoticed(secured.lab, tmp_path):
        for member in secured.members:
            member.kill()
            secured.a_pod_comes_and_goes()
            member.start()
            member.until_healthy()


def test_a_lost_quorum_is_said_and_changes_nothing_and_work_goes_on_after_it(
    secured: Secured, tmp_path: Path
) -> None:
    with unnoticed(secured.lab, tmp_path):
        for member in secured.members[:2]:
            member.kill()
        secured.wait_for_trouble()
        for member in secured.members[:2]:
            member.start()
        for member in secured.members:
            member.until_healthy()
        lab_processes.wait_for_agents(secured.lab.plan)
        secured.a_pod_comes_and_goes()


def test_a_certificate_that_expired_is_said_and_its_successor_is_taken_while_the_agents_run(
    secured: Secured, tmp_path: Path
) -> None:
    before = [status["pid"] for status in secured.status()]
    with unnoticed(secured.lab, tmp_path):
        secured.authority.issue("agents", days=0)
        for node in (
            secured.lab.plan.nodes
        ):  # the next call takes the new files, and closes what the former ones opened
            with pytest.raises(LabError, match="the datastore is away"):
                add_pod(secured.lab.plan, "early", node)
        secured.wait_for_trouble()
        assert all("has expired at" in " ".join(status["troubles"]) for status in secured.status())
        secured.authority.issue("agents", days=30)
        lab_processes.wait_for_agents(secured.lab.plan)
        secured.a_pod_comes_and_goes()
    assert [status["pid"] for status in secured.status()] == before
