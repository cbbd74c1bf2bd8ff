"""A rack's router that is FRR: an agent's kill -9 and return move no route in its kernel, a drain takes them away."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.lab import lab_processes, lifecycle
from agent.lab.lab_plan import Mode, gateway
from agent.lab.lifecycle import Lab
from tests.scenes.lab.lab_nodes import converged, resource, session
from tests.scenes.lab.labs import COMMAND, MakeLab, RouteMonitors, tortie

pytestmark = pytest.mark.lab

CONFIG = """
frr defaults datacenter
router bgp 65001
 bgp router-id {own}
 no bgp ebgp-requires-policy
 bgp graceful-restart
 {neighbours}
 address-family ipv4 unicast
  maximum-paths 1
"""
"""One path each: a node announces the whole cluster to another AS, as Calico's do; FRR would spread over both."""
DRAINED_SECONDS = 1.0


@contextmanager
def frr(lab: Lab) -> Iterator[None]:
    """zebra and bgpd in the lab's fabric; they end with the block."""
    own, owner = gateway(lab.plan.segments[0]), pwd.getpwnam("frr")
    with tempfile.TemporaryDirectory(prefix="tortie-frr-") as name:
        home = Path(name)
        neighbours = "\n ".join(f"neighbor {node.interface.ip} remote-as 64512" for node in lab.plan.nodes)
        (home / "bgpd.conf").write_text(CONFIG.format(own=own, neighbours=neighbours))
        (home / "zebra.conf").write_text("")
        Path("/run/frr").mkdir(exist_ok=True)
        for path in (Path("/run/frr"), home, *home.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        running = []
        try:
            for daemon, more in (("zebra", []), ("bgpd", ["-l", str(own)])):
                command = [
                    f"/usr/lib/frr/{daemon}",
                    "-f",
                    str(home / f"{daemon}.conf"),
                    "-z",
                    str(home / "api"),
                ]
                command += ["-i", str(home / f"{daemon}.pid"), "-A", "127.0.0.1", "--vty_socket", name, *more]
                running.append(subprocess.Popen(lab_processes.inside(lab.plan.fabric, command)))
                if daemon == "zebra":
                    lab_processes.wait_for("zebra", (home / "api").exists, 20)
            yield
        finally:
            for process in reversed(running):
                process.kill()
                process.wait()


def learned(lab: Lab) -> set[str]:
    """What FRR put into the kernel of its namespace."""
    command = lab_processes.inside(lab.plan.fabric, ["ip", "route", "show", "proto", "bgp"])
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    return {line.split()[0] for line in shown.splitlines()}


def test_an_agent_restarts_unnoticed_and_drains_at_once_beside_frr(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("frr", Mode.NONE, nodes=2, pods=2)
    first = lab.plan.nodes[0]
    with frr(lab):
        own = str(gateway(lab.plan.segments[0]))
        lifecycle.apply(lab.plan, resource("BGPPeer", "tor", peerIP=own, asNumber=65001))
        lab_processes.wait_for("both blocks in FRR's kernel", lambda: len(learned(lab)) == 2, 40)
        lab_processes.wait_for("convergence", lambda: all(map(converged, lab.plan.nodes)), 60)
        before = learned(lab)
        monitors = RouteMonitors(lab, tmp_path, {"fabric": lab.plan.fabric})
        try:
            lab_processes.stop_agent(first, signal.SIGKILL)
            lab_processes.start_agents([first])
            lab_processes.wait_for("its session with FRR", lambda: session(first)[0] == "Established", 60)
            lab_processes.wait_for("convergence", lambda: converged(first), 60)
            assert learned(lab) == before
            assert monitors.events() == {name: [] for name in ("node1", "node2", "fabric")}
        finally:
            monitors.close()
        drained = tortie("lab", "exec", "--name", lab.plan.name, "node1", "--", *COMMAND, "drain")
        assert drained.returncode == 0, drained.stderr
        left = time.monotonic()
        lab_processes.wait_for("the drained node's block to go", lambda: len(learned(lab)) == 1, 20)
        assert time.monotonic() - left < DRAINED_SECONDS * 5  # a loaded machine; `bench` measures
