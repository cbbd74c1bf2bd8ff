"""The agent as a service on machines of a test: installed, configured, with pods; and how its routes stand."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests import ROOT
from tests.systemd.nodes import FABRIC_ADDRESS, Machines, Node, ip, wait_for

WHEELS = "/srv/wheels"
SETTINGS = f'[etcd]\nendpoints = ["http://{FABRIC_ADDRESS}:2379"]\n[kernel]\nnexthop_objects = true\n'
DROP_IN = "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n"
"""A test does not wait as long as an operator."""
SLOW_START_SECONDS = 3.5
POOLS = {"plain": "10.65.0.0/16", "tunnelled": "10.66.0.0/16"}
SETTLE_SECONDS = 60.0
BUILD_SECONDS = 200.0
"""A busy machine of two cores takes so long; an idle one a tenth."""
OTHERS = ("/run/systemd/*", "/var/lib/systemd/*", "/run/log/*", "/run/netns", "/var/lib/dpkg*")
"""What systemd and a runtime write all the time."""
PROOF = "203.0.113.0/24"


@cache
def build_wheels() -> Path:
    """Ours and all it needs, as an operator makes them; once for all tests of a run, and not in the checkout."""
    directory = Path(tempfile.mkdtemp(prefix="tortie-wheels-"))
    atexit.register(shutil.rmtree, directory)
    _build(["make", "--no-print-directory", "wheels", f"DIST={directory}"])
    return directory


def build_package(directory: Path, revision: int, without: str = "") -> Path:
    """The Debian package of these wheels, or of all but some."""
    kept = directory / f"revision-{revision}"
    kept.mkdir()
    for wheel in set(build_wheels().glob("*.whl")) - set(build_wheels().glob(without or "nothing")):
        (kept / wheel.name).symlink_to(wheel)
    _build([sys.executable, "packaging/deb.py", "--wheels", str(kept), "--revision", str(revision)])
    (made,) = kept.glob("*.deb")
    return made.rename(directory / f"{revision}.deb")


def _build(words: list[str]) -> None:
    done = subprocess.run(
        words, cwd=ROOT, check=False, capture_output=True, text=True, timeout=BUILD_SECONDS, umask=0o022
    )
    assert done.returncode == 0, done.stdout + done.stderr


def installer(wheels: str = WHEELS, *flags: str) -> str:
    """The command for a machine where nothing is installed."""
    words = " ".join(flags)
    return (
        f"PYTHONPATH=$(echo {wheels}/tortie-*.whl) python3 -m agent.service.install --wheels {wheels} {words}"
    )


def start(node: Node) -> None:
    """What an operator does after the installation: settings, then the first start."""
    node.done("mkdir /etc/systemd/system/tortie-agent.service.d")
    node.done(f"cat >/etc/systemd/system/tortie-agent.service.d/test.conf <<'END'\n{DROP_IN}END")
    node.done(f"cat >/etc/tortie/agent.toml <<'END'\n{SETTINGS}END")
    node.done("systemctl daemon-reload && systemctl enable --now tortie-agent")


@contextmanager
def slow_python(node: Node) -> Iterator[None]:
    """Our program starts as it does on a machine with no time for it: later than the watchdog of `DROP_IN` waits."""
    (slow,) = node.done("echo /opt/tortie/current/lib/python3*/site-packages").split()
    node.done(f"echo 'import time; time.sleep({SLOW_START_SECONDS})' >{slow}/slow.pth")
    try:
        yield
    finally:
        node.done(f"rm {slow}/slow.pth")


def machine_state(node: Node) -> dict[str, list[str]]:
    """What a stranger sees of a machine: interfaces, routes, rules, nft, sysctls, files."""
    commands = {
        "links": "ip -details -o link; ip -o addr",
        "routes": "ip -4 route show table all; ip -6 route show table all",
        "nexthops": "ip nexthop",
        "rules": "ip -4 rule; ip -6 rule",
        "nft": "nft list ruleset",
        "sysctl": "sysctl -a 2>/dev/null | grep ^net | grep -v nf_conntrack_count",
        "files": "find /etc /opt /usr/local /usr/lib/systemd /var/lib /run /root -xdev "
        f"{' '.join(f'-not -path {path!r}' for path in OTHERS)} -printf '%p %y %m %l\\n'",
    }
    return {what: sorted(node.done(script).splitlines()) for what, script in commands.items()}


def at_once(nodes: Sequence[Node], script: str) -> list[str]:
    """A command that must go well on all nodes side by side; what each said."""
    running = [node.start(f"{{ {script}\n}} 2>&1") for node in nodes]
    said = [process.communicate(timeout=BUILD_SECONDS)[0] for process in running]
    for node, process, text in zip(nodes, running, said, strict=True):
        assert process.returncode == 0, f"{node.suite}: {script}: {text}"
    return said


def pools() -> str:
    """One pool without encapsulation, whose routes BGP brings, and one with VXLAN; both are masqueraded."""
    items = [
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {"name": name},
            "spec": {
                "cidr": cidr,
                "vxlanMode": "Always" if name == "tunnelled" else "Never",
                "ipipMode": "Never",
                "natOutgoing": True,
                "blockSize": 26,
            },
        }
        for name, cidr in POOLS.items()
    ]
    return json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "IPPoolList", "items": items})


def call(node: Node, verb: str, pod: str, pool: str, namespace: str = "") -> str:
    """Run the installed plugin as a runtime does; what it answered."""
    config = {
        "cniVersion": "1.0.0",
        "name": "k8s-pod-network",
        "type": "tortie",
        "ipam": {"type": "tortie-ipam", "ipv4_pools": [pool]},
    }
    environment = (
        f"CNI_COMMAND={verb} CNI_CONTAINERID={pod} CNI_NETNS={namespace or f'/run/netns/{pod}'} CNI_IFNAME=eth0 "
        f"CNI_PATH=/opt/cni/bin CNI_ARGS='K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}'"
    )
    return node.done(f"{environment} /opt/cni/bin/tortie <<'END'\n{json.dumps(config)}\nEND")


def add_pod(node: Node, pod: str, pool: str) -> str:
    """A pod; its address."""
    node.done(f"ip netns add {pod} && ip -n {pod} link set lo up")
    answer = json.loads(call(node, "ADD", pod, pool))
    return str(answer["ips"][0]["address"]).split("/")[0]


def remove_pod(node: Node, pod: str, pool: str) -> None:
    """As a runtime does it."""
    call(node, "DEL", pod, pool)
    node.done(f"ip netns del {pod}")


def routes(node: Node) -> list[str]:
    """The routes that are about pods."""
    lines = node.done("ip route show table main").splitlines()
    return sorted(line.strip() for line in lines if re.search(r"\b10\.6[56]\.", line))


def reaches(node: Node, pod: str, address: str) -> bool:
    """Whether a pod's ping is answered."""
    return node.run(f"ip netns exec {pod} ping -c1 -W1 {address}").returncode == 0


def wait_ready(node: Node) -> None:
    """Until systemd takes the agent for started."""
    wait_for(
        "the service is active", lambda: node.show("tortie-agent", "ActiveState") == "active", SETTLE_SECONDS
    )


def peers_up(node: Node) -> int:
    """Established sessions."""
    answer = node.run("tortie node status --json")
    if not answer.stdout:  # exit code 1 with an answer: there is a trouble
        return 0
    return sum(peer["state"] == "Established" for peer in json.loads(answer.stdout)["peers"])


def wait_peering(machines: Machines) -> None:
    """Until every node has its session, and it was not only the old one that nobody missed."""
    for node in machines.nodes:
        wait_ready(node)
        wait_for("the session", lambda node=node: peers_up(node) == 1, SETTLE_SECONDS)  # type: ignore[misc]


class Watched:
    """What the kernels of all nodes say of pods' routes while a block runs; `removed` is complete when it has ended."""

    def __init__(self, machines: Machines, directory: Path) -> None:
        self._logs = {node.name: directory / f"{node.name}.routes" for node in machines.nodes}
        self._monitors: list[subprocess.Popen[bytes]] = []
        self.removed: list[str] = []

    def __enter__(self) -> Watched:
        for name, log in self._logs.items():
            with log.open("wb") as file:
                monitor = subprocess.Popen(["ip", "-n", name, "monitor", "route"], stdout=file)
            self._monitors.append(monitor)
            wait_for("the monitor listens", lambda: self._hears(name, "192.0.2.0/24"), SETTLE_SECONDS)  # noqa: B023
        return self

    def _hears(self, name: str, prefix: str) -> bool:
        """A route that nobody else makes proves that the monitor listens, and at the end that it has said all."""
        ip(f"-n {name} route add blackhole {prefix}")
        ip(f"-n {name} route del blackhole {prefix}")
        return f"Deleted blackhole {prefix}" in self._logs[name].read_text()

    def __exit__(self, *error: object) -> None:
        try:
            for name, log in self._logs.items():
                wait_for("its last word", lambda: self._hears(name, PROOF), SETTLE_SECONDS)  # noqa: B023
                lines = log.read_text().splitlines()
                self.removed += [f"{name}: {line}" for line in lines if line.startswith("Deleted 10.6")]
        finally:
            for monitor in self._monitors:
                monitor.kill()
                monitor.wait()
