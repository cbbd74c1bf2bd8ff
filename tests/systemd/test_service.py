"""The service under a real systemd, on a Debian 12 and a Debian 13: whatever happens to it, routes are as promised."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.debian_root import SUITES
from tests.systemd import service
from tests.systemd.nodes import Machines, Node, machines, wait_for
from tests.systemd.service import SETTINGS, Watched, routes
from tests.systemd.units import exposed, reasons

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

PODS = (("p1", "plain", 0), ("p2", "plain", 1), ("v1", "tunnelled", 0), ("v2", "tunnelled", 1))
AGENT = "tortie-agent.service"


class Cluster:
    """Two machines with the service and four pods."""

    def __init__(self, found: Machines, directory: Path) -> None:
        self.machines, self.directory = found, directory
        self.first, self.second = found.nodes
        self.before = service.machine_state(self.first)
        self.said = service.at_once(found.nodes, service.installer())
        for node in found.nodes:
            service.start(node)
        self.first.done(f"tortie apply -f - <<'END'\n{service.pools()}\nEND")
        for node in found.nodes:
            node.done("tortie cni install --shim python")
        self.addresses = {pod: service.add_pod(found.nodes[at], pod, pool) for pod, pool, at in PODS}
        service.wait_peering(found)
        wait_for("routes to each other's blocks", self.is_routed, service.SETTLE_SECONDS)

    def is_routed(self) -> bool:
        """Whether pods of both pools reach each other."""
        return all(
            service.reaches(self.first, mine, self.addresses[other])
            for mine, other in (("p1", "p2"), ("v1", "v2"))
        )

    def of(self, suite: str) -> Node:
        """The machine of a suite."""
        (node,) = (node for node in self.machines.nodes if node.suite == suite)
        return node

    def watched(self) -> Watched:
        """Every route that goes, on both nodes."""
        return Watched(self.machines, self.directory)

    def tables(self) -> list[list[str]]:
        """Both nodes' routes about pods."""
        return [routes(node) for node in self.machines.nodes]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("nodes")
    with machines(directory, SUITES, {service.build_wheels(): service.WHEELS}) as found:
        yield Cluster(found, directory)


def test_an_installed_service_is_ready_says_how_it_stands_and_routes(cluster: Cluster) -> None:
    node = cluster.first
    assert (
        "fill in /etc/tortie/agent.toml, then: systemctl enable --now tortie-agent.service" in cluster.said[0]
    )
    assert node.show(AGENT, "ActiveState") == "active"
    wait_for("its status", lambda: node.show(AGENT, "StatusText") == "2 pods; 1 of 1 peer up", 10)
    assert node.show("tortie-drain", "ActiveState") == "active"
    lines = node.wait_journal(AGENT, "agent.ready").splitlines()
    assert [line for line in lines if "agent.ready" in line and line.rstrip().endswith("why_not=")], lines
    kinds = " ".join(routes(node))
    assert "proto bird" in kinds
    assert "dev vxlan.calico" in kinds


@pytest.mark.parametrize("suite", SUITES)
def test_the_hardening_is_in_force_and_everything_works_behind_it(cluster: Cluster, suite: str) -> None:
    node = cluster.of(suite)
    pid = node.show(AGENT, "MainPID")
    status = dict(
        line.split(":\t", 1) for line in node.done(f"cat /proc/{pid}/status").splitlines() if ":\t" in line
    )
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Umask"] == "0077"
    assert status["CapBnd"] == f"{1 << 12 | 1 << 13 | 1 << 10 | 1 << 21 | 1 << 19:016x}"
    assert node.run(f"nsenter -t {pid} -m touch /etc/written").returncode != 0
    assert node.run(f"journalctl -u {AGENT} -o cat | grep -iE 'denied|not permitted|read-only'").stdout == ""


@pytest.mark.parametrize("suite", SUITES)
def test_the_systemd_of_each_debian_finds_in_the_units_what_they_give_reasons_for_and_nothing_else(
    cluster: Cluster, suite: str
) -> None:
    node = cluster.of(suite)
    units = f"/etc/systemd/system/{AGENT} /etc/systemd/system/tortie-drain.service"
    units += " /etc/systemd/system/tortie-bfd.service"
    assert node.done(f"systemd-analyze verify --man=no {units} 2>&1") == ""
    listed = node.done(f"systemd-analyze security --offline=true --json=short {units.split()[0]}")
    assert exposed(listed) == set(reasons())


def test_a_pod_is_reached_by_its_process_as_some_runtimes_name_it(cluster: Cluster) -> None:
    node = cluster.first
    sleeper = node.start("echo $$; exec unshare -n sleep 60")
    assert sleeper.stdout is not None
    pid = sleeper.stdout.readline().strip()
    try:
        own = "test $(readlink /proc/$$/ns/net) != $(readlink /proc/{}/ns/net)"
        wait_for("the pod's namespace", lambda: node.run(own.format(pid)).returncode == 0, 10)
        namespace = f"/proc/{pid}/ns/net"
        answer = json.loads(service.call(node, "ADD", "byname", "plain", namespace))
        assert answer["ips"][0]["address"].startswith("10.65.")
        service.call(node, "DEL", "byname", "plain", namespace)
    finally:
        node.run(f"kill {pid}")
        sleeper.communicate(timeout=10)


def test_a_killed_agent_is_back_and_no_route_was_touched(cluster: Cluster) -> None:
    before, node = cluster.tables(), cluster.first
    starts = int(node.show(AGENT, "NRestarts"))
    with cluster.watched() as watched:
        node.done(f"systemctl kill -s KILL {AGENT}")
        wait_for("another start", lambda: int(node.show(AGENT, "NRestarts")) == starts + 1, 10)
        assert cluster.is_routed()
        service.wait_peering(cluster.machines)
    assert (watched.removed, cluster.tables()) == ([], before)


def test_a_hung_agent_is_killed_by_the_watchdog_and_no_route_was_touched(cluster: Cluster) -> None:
    before, node = cluster.tables(), cluster.second
    starts = int(node.show(AGENT, "NRestarts"))
    with cluster.watched() as watched:
        node.done(f"kill -STOP {node.show(AGENT, 'MainPID')}")
        wait_for("another start", lambda: int(node.show(AGENT, "NRestarts")) == starts + 1, 20)
        service.wait_peering(cluster.machines)
    node.wait_journal(AGENT, "Watchdog timeout")
    assert (watched.removed, cluster.tables()) == ([], before)


def test_bad_settings_are_refused_with_a_sentence_and_the_old_ones_stay(cluster: Cluster) -> None:
    node, pid = cluster.first, cluster.first.show(AGENT, "MainPID")
    node.done("printf '[bgp]\\nhold_second = 30\\n' >>/etc/tortie/agent.toml")
    assert node.run(f"systemctl reload {AGENT}").returncode != 0
    sentence = "bgp.hold_second: unknown key; did you mean hold_seconds?"
    node.wait_journal(AGENT, sentence)
    wait_for("its status", lambda: sentence in node.show(AGENT, "StatusText"), 10)
    assert (node.show(AGENT, "MainPID"), node.show(AGENT, "ActiveState")) == (pid, "active")
    assert service.peers_up(node) == 1


def test_good_settings_are_in_force_after_a_reload_and_no_route_was_touched(cluster: Cluster) -> None:
    before, node = cluster.tables(), cluster.first
    process = node.show(AGENT, "MainPID"), node.show(AGENT, "NRestarts")
    node.done(f"cat >/etc/tortie/agent.toml <<'END'\n{SETTINGS}[bgp]\nhold_seconds = 30\nEND")
    with cluster.watched() as watched, service.slow_python(node):
        node.done(f"systemctl reload {AGENT}")
        node.wait_journal(AGENT, "in force now: bgp.hold_seconds")
        service.wait_peering(cluster.machines)
    assert (node.show(AGENT, "MainPID"), node.show(AGENT, "NRestarts")) == process
    assert (watched.removed, cluster.tables()) == ([], before)
    assert "nothing differs" in node.done("tortie reload")


def test_a_stopped_agent_leaves_its_routes_and_its_peers_keep_theirs(cluster: Cluster) -> None:
    before, node = cluster.tables(), cluster.first
    with cluster.watched() as watched:
        node.done(f"systemctl stop {AGENT}")
        assert cluster.is_routed()
        assert cluster.tables() == before
        assert node.show("tortie-drain", "ActiveState") == "active"
        node.done(f"systemctl start {AGENT}")
        service.wait_peering(cluster.machines)
    assert (watched.removed, cluster.tables()) == ([], before)


def test_a_start_without_etcd_touches_no_route_says_what_it_waits_for_and_is_ready_when_etcd_is_back(
    cluster: Cluster,
) -> None:
    before, node = cluster.tables(), cluster.first
    with cluster.watched() as watched:
        cluster.machines.stop_etcd()
        node.done(f"systemctl --no-block restart {AGENT}")
        waits = "routes stay as they were: the datastore has not been read yet ("
        wait_for("what it waits for", lambda: waits in node.show(AGENT, "StatusText"), 20)
        assert node.show(AGENT, "ActiveState") == "activating"
        assert cluster.is_routed()
        assert cluster.tables() == before
        cluster.machines.start_etcd()
        service.wait_peering(cluster.machines)
    assert node.show(AGENT, "NRestarts") == "0"  # a start by hand counts anew, and nothing ended it since
    assert (watched.removed, cluster.tables()) == ([], before)


def test_an_upgrade_keeps_traffic_and_settings(cluster: Cluster) -> None:
    before, node = cluster.tables(), cluster.first
    old = node.done("readlink /opt/tortie/current").strip()
    node.done(
        f"mkdir /tmp/new && cp {service.WHEELS}/*.whl /tmp/new/ && cd /tmp/new && "
        "python3 -c \"import glob, zipfile as z; z.ZipFile(glob.glob('tortie-*')[0], 'a').writestr('agent/new', '')\""
    )
    ping = node.start(
        f"ip netns exec p1 ping -i 0.1 -W1 -c 900 {cluster.addresses['p2']} & "
        "while [ ! -e /tmp/upgraded ]; do sleep 0.1; done; kill -INT $!; wait $!"
    )
    with cluster.watched() as watched:
        said = node.done(service.installer("/tmp/new"))
        service.wait_peering(cluster.machines)
    node.done("touch /tmp/upgraded")
    out, _ = ping.communicate(timeout=30)
    assert " 0% packet loss" in out, out
    assert "tortie-agent.service: restarted" in said
    assert "/etc/tortie/agent.toml: left as it is" in said
    assert node.done("readlink /opt/tortie/current").strip() != old
    assert (watched.removed, cluster.tables()) == ([], before)


def test_a_shutdown_makes_peers_forget_the_node_before_its_pods_are_gone(cluster: Cluster) -> None:
    node, other = cluster.second, cluster.first
    assert [line for line in routes(other) if f"via {node.address} " in line]
    started = time.monotonic()
    node.run("systemctl poweroff --no-wall")
    wait_for(
        "the end of its routes",
        lambda: not [line for line in routes(other) if f"via {node.address} " in line],
        10,
    )
    print(f"its routes were gone {time.monotonic() - started:.1f} s after poweroff")
    wait_for("the machine is off", node.has_ended, 20)
    (peer,) = json.loads(other.run("tortie node status --json").stdout)["peers"]
    assert peer["last_error"].endswith("the machine goes down"), peer


def test_an_agent_with_pods_is_not_uninstalled(cluster: Cluster) -> None:
    done = cluster.first.run("tortie uninstall --purge")
    assert done.returncode == 1
    assert "2 in all); remove them first" in done.stderr
    assert cluster.first.show(AGENT, "ActiveState") == "active"


def test_after_an_uninstall_the_machine_is_as_it_was(cluster: Cluster) -> None:
    node = cluster.first
    for pod, pool, at in PODS:
        if at == 0:
            service.remove_pod(node, pod, pool)
    now = service.machine_state(node)
    assert [
        what for what in ("links", "routes", "nft", "sysctl", "files") if now[what] == cluster.before[what]
    ] == []
    node.done("rm -r /etc/systemd/system/tortie-agent.service.d")
    said = node.done("tortie uninstall --purge")
    print(said)
    proof = [line for line in said.splitlines() if " as before" in line]
    kinds = ["links", "routes", "rules", "nft", "sysctls", "files"]
    assert [line.split(":")[0] for line in proof] == kinds
    assert [line for line in proof if "not as before" in line] == []
    now = service.machine_state(node)
    changed = {what: sorted(set(now[what]) ^ set(lines)) for what, lines in cluster.before.items()}
    assert {what: lines for what, lines in changed.items() if lines} == {}
    assert now == cluster.before
