"""One Debian package on a Debian 12 and a Debian 13: installed, a cluster, upgraded under pods, removed, purged.

The tests are one story, in this order.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.debian_root import SUITES
from tests.systemd import service
from tests.systemd.nodes import Machines, Node, machines, wait_for
from tests.systemd.service import routes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

PACKAGES = "/srv/packages"
AGENT = "tortie-agent.service"
POOLS = ("plain", "tunnelled")
PYTHONS = {"bookworm": "py3.11", "trixie": "py3.13"}
OLD, NEW = SUITES
AGAIN = """\
set -e
rm -rf /tmp/again && mkdir -p /tmp/again/DEBIAN && cd /tmp/again
dpkg-query -s python3-minimal | sed '/^Status:/d' >DEBIAN/control
for script in postinst prerm; do cp /var/lib/dpkg/info/python3-minimal.$script DEBIAN/$script; done
dpkg-query -L python3-minimal | tar -C / --no-recursion -cf - -T - 2>/dev/null | tar -xf -
dpkg-deb --build /tmp/again /tmp/again.deb
dpkg -i /tmp/again.deb
"""
"""In a node: the package that has /usr/bin/python3 is unpacked once more, as an upgrade of Debian unpacks another."""


def pod(node: Node, pool: str) -> str:
    """The name of a node's pod in a pool."""
    return f"{node.hostname}-{pool}"


class Cluster:
    """A node of each suite with the package, and on each a pod in each pool."""

    def __init__(self, found: Machines) -> None:
        self.nodes = {node.suite: node for node in found.nodes}
        self.before = {node.suite: service.machine_state(node) for node in found.nodes}
        said = service.at_once(found.nodes, f"dpkg -i {PACKAGES}/1.deb && ! systemctl is-active {AGENT}")
        self.said = dict(zip(self.nodes, said, strict=True))
        for node in found.nodes:
            service.start(node)
        self.nodes[OLD].done(f"tortie apply -f - <<'END'\n{service.pools()}\nEND")
        service.at_once(found.nodes, "tortie cni install --shim python")
        self.addresses = {
            (node.suite, pool): service.add_pod(node, pod(node, pool), pool)
            for node in found.nodes
            for pool in POOLS
        }
        service.wait_peering(found)
        wait_for("routes to each other's blocks", self.is_routed, service.SETTLE_SECONDS)

    def is_routed(self) -> bool:
        """Whether the pods of each pool reach each other, both directions."""
        return all(
            service.reaches(self.nodes[here], pod(self.nodes[here], pool), self.addresses[there, pool])
            for here, there in ((OLD, NEW), (NEW, OLD))
            for pool in POOLS
        )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("packages")
    for revision in (1, 2):
        service.build_package(built, revision)
    return built


@pytest.fixture(scope="module")
def cluster(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with machines(tmp_path_factory.mktemp("nodes"), SUITES, {packages: PACKAGES}) as made:
        yield Cluster(made)


@pytest.fixture(params=SUITES)
def node(cluster: Cluster, request: pytest.FixtureRequest) -> Node:
    return cluster.nodes[request.param]


def environment(node: Node) -> str:
    """The one in use."""
    return node.done("readlink /opt/tortie/current").strip()


def pythons(package: Path) -> list[str]:
    """What a package says of the Python that it needs."""
    words = ["dpkg-deb", "--field", str(package), "Depends"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return [word for word in done.stdout.strip().split(", ") if word.startswith("python3 ")]


def test_the_package_asks_for_a_python_whose_wheels_it_has(packages: Path, tmp_path: Path) -> None:
    both = ["python3 (>= 3.11~)", "python3 (<< 3.12~) | python3 (>= 3.13~)", "python3 (<< 3.14~)"]
    assert pythons(packages / "1.deb") == both
    lacking = service.build_package(tmp_path, 1, without="msgspec-*-cp311-*")
    assert pythons(lacking) == ["python3 (>= 3.13~)", "python3 (<< 3.14~)"]


def test_an_installation_makes_the_environment_with_the_nodes_python_and_starts_nothing(
    cluster: Cluster, node: Node
) -> None:
    assert "fill in /etc/tortie/agent.toml" in cluster.said[node.suite]
    assert cluster.said[node.suite].splitlines()[-1] == "inactive"
    assert environment(node).endswith(PYTHONS[node.suite])
    assert node.show(AGENT, "FragmentPath").removeprefix("/usr") == f"/lib/systemd/system/{AGENT}"


def test_pods_of_a_debian_12_and_a_debian_13_reach_each_other_routed_and_tunnelled(cluster: Cluster) -> None:
    assert cluster.is_routed()
    for node in cluster.nodes.values():
        remote = [line for line in routes(node) if " via " in line]
        assert [line.split(" dev ")[1].split()[0] for line in remote] == ["eth0", "vxlan.calico"], remote


def test_an_upgrade_restarts_the_agent_and_keeps_routes_and_settings(cluster: Cluster, node: Node) -> None:
    table, pid = routes(node), node.show(AGENT, "MainPID")
    node.done(f"dpkg -i {PACKAGES}/2.deb")
    service.wait_ready(node)
    assert node.show(AGENT, "MainPID") not in (pid, "0")
    assert routes(node) == table
    assert cluster.is_routed()
    assert node.done("dpkg-query -W -f '${Version}' tortie").endswith("-2")
    assert service.SETTINGS in node.done("cat /etc/tortie/agent.toml")


def test_another_python_of_debian_has_the_environment_made_anew_and_the_agent_restarted(
    cluster: Cluster,
) -> None:
    old, new = cluster.nodes[OLD], cluster.nodes[NEW]
    table, pid, made = routes(new), new.show(AGENT, "MainPID"), environment(new)
    new.done("rm -r /opt/tortie")
    subprocess.run(["cp", "-a", f"{old.root}/opt/tortie", f"{new.root}/opt/tortie"], check=True)
    assert new.run("tortie node status").returncode != 0  # a Debian 12 that became a 13
    new.done(AGAIN)
    assert environment(new) == made
    service.wait_ready(new)
    assert new.show(AGENT, "MainPID") not in (pid, "0")
    assert routes(new) == table
    assert cluster.is_routed()


def test_the_same_python_once_more_restarts_nothing(node: Node) -> None:
    pid = node.show(AGENT, "MainPID")
    node.done(AGAIN)
    assert node.show(AGENT, "MainPID") == pid


def test_a_node_with_pods_keeps_its_package(node: Node) -> None:
    table = routes(node)
    refused = node.run("dpkg -r tortie")
    assert refused.returncode != 0
    assert "pods are attached" in refused.stderr
    assert (node.show(AGENT, "ActiveState"), routes(node)) == ("active", table)


def test_after_removal_and_purge_the_node_is_as_it_was(cluster: Cluster, node: Node) -> None:
    for pool in POOLS:
        service.remove_pod(node, pod(node, pool), pool)
    removed = node.done("dpkg -r tortie 2>&1")
    assert "nft: as before" in removed
    assert "sysctls: as before" in removed
    assert node.done("cat /etc/tortie/agent.toml") == service.SETTINGS
    node.done("rm -r /etc/systemd/system/tortie-agent.service.d; dpkg -P tortie")
    now = service.machine_state(node)
    changed = {
        what: sorted(set(now[what]) ^ set(lines)) for what, lines in cluster.before[node.suite].items()
    }
    assert {what: lines for what, lines in changed.items() if lines} == {}
