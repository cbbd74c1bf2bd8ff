"""A node of the tests is the Debian that it says, whatever machine runs them; and how its tree is made and kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.lab import kernel_defaults
from tests import ROOT
from tests.fixtures import debian_root
from tests.fixtures.debian_root import SUITES, RootFailed, digest, kept
from tests.fixtures.namespace import fresh_namespace
from tests.systemd.nodes import MASKED, Machines, Node, machines, wait_for

NUMBERS = {"bookworm": "12", "trixie": "13"}
ENABLED = {
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "remote-fs.target",
    "systemd-pstore.service",
}
MORE_ENABLED = {"bookworm": {"e2scrub_all.timer", "e2scrub_reap.service"}, "trixie": set[str]()}
VARIABLES = {"LANG", "PATH"}
"""What systemd gives a service without being asked."""
PACKAGES = ("udev",)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """From an environment as a machine behind a dead proxy has it, with an umask of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv("PYTHONPATH", "/opt/another/python")
        umask = os.umask(0o077)
        try:
            with machines(tmp_path_factory.mktemp("nodes"), SUITES, {}) as made:
                yield made
        finally:
            os.umask(umask)


@pytest.fixture(params=SUITES)
def node(found: Machines, request: pytest.FixtureRequest) -> Node:
    (node,) = (node for node in found.nodes if node.suite == request.param)
    return node


@pytest.mark.lab
def test_a_node_has_the_release_and_the_sources_of_its_suite(node: Node) -> None:
    release = dict(line.split("=", 1) for line in node.done("cat /etc/os-release").splitlines())
    assert (release["VERSION_CODENAME"], release["VERSION_ID"]) == (node.suite, f'"{NUMBERS[node.suite]}"')
    sources = node.done("cat /etc/apt/sources.list $(find /etc/apt/sources.list.d -type f)").split("\n")
    suites = {line.split()[3] for line in sources if line}
    assert suites == {node.suite, f"{node.suite}-updates", f"{node.suite}-security"}
    assert set(
        node.done("ls /etc/apt/apt.conf.d /etc/apt/preferences.d /etc/dpkg/dpkg.cfg.d -1").split()
    ) == {
        "/etc/apt/apt.conf.d:",
        "01autoremove",
        "70debconf",
        "/etc/apt/preferences.d:",
        "/etc/dpkg/dpkg.cfg.d:",
    }


@pytest.mark.lab
def test_a_node_lets_packages_start_their_services(node: Node) -> None:
    assert node.run("test -e /usr/sbin/policy-rc.d").returncode != 0
    assert node.done("ls -A /usr/local/bin /usr/local/sbin").split() == [
        "/usr/local/bin:",
        "/usr/local/sbin:",
    ]
    assert node.done("start-stop-daemon --version | head -n 1").startswith("start-stop-daemon ")


@pytest.mark.lab
def test_a_node_has_one_python(node: Node) -> None:
    place = "$(echo $PATH | tr : ' ')"
    names = node.done(f"find -H {place} -maxdepth 1 -name 'python3*' -printf '%f\\n' | sort -u").split()
    minor = {"bookworm": "3.11", "trixie": "3.13"}[node.suite]
    assert names == ["python3", f"python{minor}"]
    assert node.done("command -v python3").strip() == "/usr/bin/python3"


@pytest.mark.lab
def test_a_node_has_its_own_names_and_no_resolver(node: Node) -> None:
    assert node.done("cat /etc/hostname; hostname").split() == [node.hostname, node.hostname]
    assert node.done("cat /etc/resolv.conf") == ""
    assert "127.0.0.1\tlocalhost\n" in node.done("cat /etc/hosts")
    assert node.done("cat /etc/default/locale /etc/locale.conf 2>/dev/null || true") == ""


@pytest.mark.lab
def test_a_nodes_services_have_the_variables_and_the_umask_that_systemd_gives(node: Node) -> None:
    shown = {line.split("=")[0] for line in node.done("systemctl show-environment").splitlines()}
    assert shown == VARIABLES
    said = node.done("systemd-run --quiet --wait --pipe sh -c 'umask; env'").splitlines()
    assert said[0] == "0022"
    assert [line for line in said if "proxy" in line.lower() or line.startswith("PYTHON")] == []


@pytest.mark.lab
def test_a_node_has_the_units_enabled_that_debian_enables_and_came_up_with_all_of_them(node: Node) -> None:
    linked = {Path(line).name for line in node.done("find /etc/systemd/system -path '*.wants/*'").split()}
    assert linked == ENABLED | MORE_ENABLED[node.suite]
    assert node.done("systemctl is-system-running").strip() == "running"
    masked = node.done("systemctl list-unit-files --state=masked-runtime --no-legend --plain").splitlines()
    assert {line.split()[0] for line in masked} == set(MASKED)


@pytest.mark.lab
def test_a_nodes_switches_are_the_kernels_own(node: Node) -> None:
    for switch in ("ip_forward", "conf/default/rp_filter", "conf/eth0/proxy_arp"):
        assert node.done(f"cat /proc/sys/net/ipv4/{switch}").strip() == "0", switch
    assert node.done("cat /proc/sys/net/ipv4/conf/eth0/send_redirects").strip() == "1"


def test_switches_that_a_namespace_took_over_are_set_back() -> None:
    odd = "ipv4.ip_forward=1 ipv4.conf.default.rp_filter=2 ipv4.conf.all.proxy_arp=1 ipv4.conf.all.send_redirects=0"
    odd += (
        " ipv4.conf.default.accept_source_route=0 ipv6.conf.default.disable_ipv6=1 ipv6.conf.all.forwarding=1"
    )
    with fresh_namespace():
        kernel_defaults.reset_sysctls(Path("/proc/thread-self/ns/net"))
        fresh = shown_sysctls()
        subprocess.run(["sysctl", "-q", "-w", *(f"net.{switch}" for switch in odd.split())], check=True)
        assert len(fresh ^ shown_sysctls()) >= 2 * len(odd.split())
        kernel_defaults.reset_sysctls(Path("/proc/thread-self/ns/net"))
        assert fresh ^ shown_sysctls() == set()


def shown_sysctls() -> set[str]:
    """Of the namespace that the thread is in."""
    done = subprocess.run(["sysctl", "-a"], check=True, capture_output=True, text=True)
    return set(re.findall(r"^net\.ipv[46]\.conf\.(?:all|default|lo)\..*$", done.stdout, re.MULTILINE))


def test_a_tree_that_stands_is_not_made_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def maker(suite: str, _: Sequence[str], directory: Path) -> None:
        calls.append(suite)
        directory.mkdir()

    first = kept("trixie", PACKAGES, tmp_path, maker)
    assert kept("trixie", PACKAGES, tmp_path, maker) == first
    assert kept("trixie", (*PACKAGES, "kmod"), tmp_path, maker) != first
    assert calls == ["trixie", "trixie"]


def test_what_a_failure_left_is_no_tree(tmp_path: Path) -> None:
    def broken(_: str, __: Sequence[str], directory: Path) -> None:
        (directory / "half").mkdir(parents=True)
        raise RootFailed("no network")

    def maker(_: str, __: Sequence[str], directory: Path) -> None:
        directory.mkdir()

    with pytest.raises(RootFailed):
        kept("trixie", PACKAGES, tmp_path, broken)
    assert list(kept("trixie", PACKAGES, tmp_path, maker).iterdir()) == []


def test_two_that_want_the_same_tree_at_once_make_it_once(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.fixtures.debian_root import kept\n"
        "def maker(suite, packages, directory):\n"
        "    print('made', flush=True)\n"
        "    directory.mkdir()\n"
        "    sys.stdin.readline()\n"
        f"kept('trixie', {PACKAGES!r}, Path({str(tmp_path / 'cache')!r}), maker)\n"
        "print('there', flush=True)\n"
    )
    words = [sys.executable, str(program)]
    running = [
        subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    lock = tmp_path / "cache" / f".trixie-{digest('trixie', PACKAGES)}.lock"
    wait_for("both are at the lock", lambda: all(has_open(one.pid, lock) for one in running), 20)
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
    printed = sorted(process.communicate(timeout=20)[0] for process in running)
    assert printed == ["made\nthere\n", "there\n"]


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    return any(link.is_symlink() and link.resolve() == path for link in Path(f"/proc/{pid}/fd").iterdir())


def test_a_recipe_has_a_name_that_does_not_depend_on_the_order_of_its_packages() -> None:
    assert digest("trixie", ("udev", "kmod")) == digest("trixie", ("kmod", "udev", "kmod"))
    assert digest("trixie", ("udev",)) != digest("bookworm", ("udev",))


def test_a_proxy_that_leads_nowhere_is_told_of_and_a_failure_says_what_mmdebstrap_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    (programs / "unshare").symlink_to("/usr/bin/unshare")
    monkeypatch.setitem(debian_root.ENVIRONMENT, "PATH", str(programs))
    for name in ("https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(RootFailed, match=r"no tree of trixie: unshare: .*mmdebstrap: No such file"):
        kept("trixie", PACKAGES, cache, debian_root.made)
    assert "trixie: nothing came through http_proxy" in capfd.readouterr().err
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
