"""The Debian package on a machine with a real systemd: installed, upgraded under a pod, removed, purged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd import service
from tests.systemd.nodes import Machines, machines, wait_for
from tests.systemd.service import routes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

PACKAGES = "/srv/packages"
AGENT = "tortie-agent.service"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    wheels, built = service.build_wheels(), tmp_path_factory.mktemp("packages")
    for revision in (1, 2):
        package = service.build_package(wheels, built, revision)
        package.rename(built / f"{revision}.deb")
    with machines(tmp_path_factory.mktemp("nodes"), 1, {built: PACKAGES}) as made:
        yield made


def test_a_package_is_installed_upgraded_under_a_pod_removed_and_purged(found: Machines) -> None:
    (node,) = found.nodes
    before = service.picture(node)
    said = node.done(f"dpkg -i {PACKAGES}/1.deb 2>&1")
    assert "fill in /etc/tortie/agent.toml" in said
    assert node.show(AGENT, "ActiveState") == "inactive"
    service.start(node)
    assert node.show(AGENT, "FragmentPath") == f"/lib/systemd/system/{AGENT}"
    node.done(f"tortie apply -f - <<'END'\n{service.pools()}\nEND")
    node.done("tortie cni install --shim python")
    service.add_pod(node, "p1", "plain")
    wait_for("the pod's route and the blocks of both pools", lambda: len(routes(node)) == 3, 20)
    table, pid = routes(node), node.show(AGENT, "MainPID")

    node.done(f"dpkg -i {PACKAGES}/2.deb")
    service.wait_ready(node)
    assert node.show(AGENT, "MainPID") not in (pid, "0")
    assert routes(node) == table
    assert node.done("dpkg-query -W -f '${Version}' tortie").endswith("-2")
    assert service.SETTINGS in node.done("cat /etc/tortie/agent.toml")

    refused = node.run("dpkg -r tortie")
    assert refused.returncode != 0
    assert "pods are attached" in refused.stderr
    assert (node.show(AGENT, "ActiveState"), routes(node)) == ("active", table)

    service.remove_pod(node, "p1", "plain")
    removed = node.done("dpkg -r tortie 2>&1")
    assert "nft: as before" in removed
    assert "sysctls: as before" in removed
    assert node.done("cat /etc/tortie/agent.toml") == service.SETTINGS
    node.done("rm -r /etc/systemd/system/tortie-agent.service.d; dpkg -P tortie")
    now = service.picture(node)
    changed = {what: sorted(set(now[what]) ^ set(lines)) for what, lines in before.items()}
    assert {what: lines for what, lines in changed.items() if lines} == {}
