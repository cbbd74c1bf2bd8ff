"""A rack's router (BIRD) beside the mesh: peered with by resources alone, with a password from a file and a filter."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode, gateway
from agent.lab.lab_processes import ip_route
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_nodes import bgp_routes, converged, resource, session
from tests.scenes.lab.labs import MakeLab, RouteMonitors

pytestmark = pytest.mark.lab

SESSION_SECONDS = 30.0
PASSWORD = "hunter2"
WANTED, REFUSED = "10.50.0.0/16", "10.60.0.0/16"
REFUSE = {"action": "Reject", "cidr": REFUSED, "matchOperator": "In"}


class Tor:
    """BIRD in the lab's fabric."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self._socket = directory / "bird.ctl"
        own = gateway(lab.plan.segments[0])
        peers = "\n".join(
            f"protocol bgp {node.name} from rack {{ neighbor {node.interface.ip} as 64512; }}"
            for node in lab.plan.nodes
        )
        config = directory / "bird.conf"
        config.write_text(
            f"""
            router id {own};
            protocol device {{}}
            protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
            protocol static {{ ipv4; route {WANTED} blackhole; route {REFUSED} blackhole; }}
            template bgp rack {{
              local {own} as 65001;
              password "{PASSWORD}";
              connect retry time 1;
              error wait time 1, 2;
              ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
            }}
            {peers}
            """
        )
        command = ["bird", "-f", "-c", str(config), "-s", str(self._socket)]
        self.process = subprocess.Popen(lab_processes.inside(lab.plan.fabric, command))

    def said(self, *words: str) -> str:
        """An answer of BIRD's; empty while it does not answer."""
        command = lab_processes.inside(self._lab.plan.fabric, ["birdc", "-s", str(self._socket), *words])
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout

    def routes(self) -> set[tuple[str, str]]:
        """(prefix, next hop) of what the nodes announced."""
        found, prefix = set(), ""
        for line in self.said("show", "route", "where", "source", "=", "RTS_BGP").splitlines():
            if line[:1].isdigit():
                prefix = line.split()[0]
            if "via " in line:
                found.add((prefix, line.split("via ")[1].split()[0]))
        return found


@contextmanager
def tor(lab: Lab, directory: Path) -> Iterator[Tor]:
    running = Tor(lab, directory)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def restart_unnoticed(lab: Lab, router: Tor, directory: Path) -> None:
    """An agent is killed and comes back: neither the router's kernel nor the other node's loses or gains a route."""
    victim, before = lab.plan.nodes[0], router.routes()
    monitors = RouteMonitors(lab, directory, {"fabric": lab.plan.fabric})
    try:
        lab_processes.stop_agent(victim, signal.SIGKILL)
        lab_processes.start_agents([victim])
        lab_processes.wait_for("its session with the router", lambda: session(victim)[0] == "Established", 30)
        lab_processes.wait_for("convergence", lambda: converged(victim), 60)
        assert router.routes() == before
        assert monitors.events() == {name: [] for name in ("node1", "node2", "fabric")}
    finally:
        monitors.close()


def test_a_router_is_peered_with_by_resources_and_filtered_without_a_reset(
    make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secrets" / "bgp" / "tor"
    secret.parent.mkdir(parents=True)
    secret.touch(0o600)
    secret.write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("TORTIE_PATHS_SECRETS", str(tmp_path / "secrets"))
    lab = make_lab("tor", Mode.NONE, nodes=2, pods=2)
    nodes = lab.plan.nodes
    own = gateway(lab.plan.segments[0])
    with tor(lab, tmp_path) as router:
        lifecycle.apply(lab.plan, resource("BGPFilter", "rack", importV4=[REFUSE]))
        peer = {"peerIP": str(own), "asNumber": 65001, "filters": ["rack"]}
        password = {"secretKeyRef": {"name": "bgp", "key": "tor"}}
        lifecycle.apply(lab.plan, resource("BGPPeer", "tor", **peer, password=password))
        route = f"{WANTED} via {own} dev eth0 proto bird"
        lab_processes.wait_for(
            "the router's route", lambda: all(route in ip_route(node) for node in nodes), SESSION_SECONDS
        )
        assert not [line for node in nodes for line in ip_route(node) if line.startswith("10.60.")]
        blocks = {
            (line.split()[1], str(node.interface.ip))
            for node in nodes
            for line in ip_route(node)
            if line.startswith("blackhole")
        }
        assert len(blocks) == 2
        lab_processes.wait_for("the blocks at the router", lambda: blocks <= router.routes(), SESSION_SECONDS)
        received = bgp_routes(nodes[0], "--received", "tor")
        assert {row["prefix"]: row["reason"] for row in received} == {
            WANTED: "in use",
            REFUSED: "refused: BGPFilter rack, rule 1",
        }
        before = [session(node) for node in nodes]
        assert [state for state, _ in before] == ["Established", "Established"]
        closed = resource("BGPFilter", "rack", importV4=[REFUSE], exportV4=[{"action": "Reject"}])
        lifecycle.apply(lab.plan, closed)
        lab_processes.wait_for(
            "the end of the blocks at the router", lambda: not router.routes(), SESSION_SECONDS
        )
        lifecycle.apply(lab.plan, resource("BGPFilter", "rack"))
        lab_processes.wait_for(
            "everything in both directions",
            lambda: (
                blocks <= router.routes()
                and all(any(line.startswith(REFUSED) for line in ip_route(node)) for node in nodes)
            ),
            SESSION_SECONDS,
        )
        assert [session(node) for node in nodes] == before
        restart_unnoticed(lab, router, tmp_path)
        # The password is really asked for: with another one the session cannot come up again.
        secret.write_text("wrong\n")
        lifecycle.apply(lab.plan, resource("BGPPeer", "tor", **peer, password=password, keepaliveTime="3s"))
        lab_processes.wait_for(
            "the end of the sessions",
            lambda: all(session(node)[0] not in ("Established", "") for node in nodes),
            SESSION_SECONDS,
        )
        secret.write_text(f"{PASSWORD}\n")
        lifecycle.apply(lab.plan, resource("BGPPeer", "tor", **peer, password=password))
        lab_processes.wait_for(
            "the sessions again",
            lambda: all(session(node)[0] == "Established" for node in nodes),
            SESSION_SECONDS,
        )
