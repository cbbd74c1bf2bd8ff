"""Three nodes with two uplinks and their address on lo: what they have, and what breaks without costing a ping."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode
from agent.lab.pods import pods
from tests.scenes.lab.lab_nodes import ip_on, lost_pings
from tests.scenes.lab.pinging import pinging
from tests.scenes.rack.losses import Losses
from tests.scenes.rack.racks import SPINE, Rack, rack

pytestmark = pytest.mark.lab

CHANGE_SECONDS = 30.0


@pytest.fixture(scope="module")
def standing() -> Iterator[Rack]:
    with rack("rack", Mode.NONE) as found:
        yield found


@pytest.fixture
def losses(standing: Rack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Losses]:
    with pinging(standing.lab, tmp_path) as pings:
        yield (found := Losses(pings))
    with capsys.disabled():
        print(f"\nrack: {found}")


def test_each_node_speaks_over_each_cable_and_its_address_is_known_to_the_spine(standing: Rack) -> None:
    for number, node in enumerate(standing.nodes, 1):
        assert standing.established(node) == {f"10.{number}.1.0", f"10.{number}.2.0"}
        status = lab_processes.agent_status(node)
        assert status is not None
        assert (status["address"], status["troubles"]) == (f"10.255.0.{number}/32", [])
        assert standing.reaches(standing.spine.namespace, standing.own(node), source=SPINE)


def test_a_nodes_host_reaches_pods_and_nodes_from_its_own_address_whatever_cable_it_takes(
    standing: Rack,
) -> None:
    pod = {one.node: one.address for one in pods(standing.lab.plan)}
    for node in standing.nodes:
        for other in standing.nodes:
            if other is not node:
                for host in (pod[other.name], standing.own(other)):
                    assert standing.source_towards(node, host) == standing.own(node)
                    assert standing.reaches(node.namespace, host)


def test_daemons_and_agents_that_end_and_come_again_cost_no_ping(standing: Rack, losses: Losses) -> None:
    tor, node = standing.tors[0], standing.nodes[0]
    losses.of("ToR's daemon killed", tor.kill)
    losses.of("restarted with graceful restart", lambda: _started(standing, again=True))
    losses.of("agent killed", lambda: lab_processes.stop_agent(node, signal.SIGKILL))
    losses.of("agent started", lambda: standing.start_agent(node))
    losses.of("ToR's daemon stopped", tor.stop)
    losses.of("started", lambda: _started(standing))
    assert not any(losses.milliseconds.values()), losses


def test_an_address_that_is_taken_from_lo_takes_its_routes_and_they_come_again_with_or_without_it(
    standing: Rack,
) -> None:
    """The kernel takes every route with that source, and says nothing of it (fib_sync_down_addr)."""
    node = standing.nodes[0]

    def sources() -> set[bool]:
        return {f"src {standing.own(node)}" in line for line in standing.routes(node).values()}

    assert sources() == {True}
    ip_on(node, f"address del {standing.own(node)}/32 dev lo")
    lab_processes.wait_for("routes without it", lambda: sources() == {False}, CHANGE_SECONDS)
    ip_on(node, f"address add {standing.own(node)}/32 dev lo")
    lab_processes.wait_for("routes with it", lambda: sources() == {True}, CHANGE_SECONDS)
    standing.wait_for_routes()


def _started(standing: Rack, *, again: bool = False) -> None:
    standing.tors[0].start(again=again)
    standing.wait_for_sessions()


def test_in_vxlan_the_tunnels_end_is_that_address_and_its_packets_take_either_cable(standing: Rack) -> None:
    lab = lifecycle.change_mode(standing.lab, Mode.VXLAN)
    try:
        lab_processes.wait_for(
            "routes over VXLAN",
            lambda: all(
                ip_on(node, "route").count("dev vxlan.calico onlink") == 2 for node in standing.nodes
            ),
            CHANGE_SECONDS,
        )
        for node in standing.nodes:
            words = ip_on(node, "-d link show vxlan.calico").split()
            assert words[words.index("local") + 1] == standing.own(node)
            assert words[words.index("mtu") + 1] == "1450"
            assert words[words.index("local") - 2 : words.index("local")] == ["id", "4096"]  # no `dev`
        assert lost_pings(lab) == 0
    finally:
        lifecycle.change_mode(standing.lab, Mode.NONE)
