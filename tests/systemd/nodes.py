"""Machines for tests: each a Debian with a real systemd (nspawn) in a network namespace of its own, on one bridge.

Promises: a node is Debian as its suite has it, whatever machine the tests run on; it writes to memory; nothing of this
machine's network, units or files is touched; every process and namespace is gone afterwards. Does not know: the agent.
"""

from __future__ import annotations

import os
import platform
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from agent.lab import kernel_defaults
from tests.fixtures import debian_root

PREFIX = f"sd{secrets.token_hex(3)}"
"""Other suites may run at the same time, with the same process ids in namespaces of their own."""
HERE = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
SUITE = HERE if HERE in debian_root.SUITES else debian_root.SUITES[0]
"""What a test gets that does not care."""
SUBNET = "172.30.0"
FABRIC_ADDRESS = f"{SUBNET}.254"
UP_SECONDS = 60.0
END_SECONDS = 10.0
COMMAND_SECONDS = 300.0
JOURNAL_LINES = 30
HIERARCHIES = [
    path for name in ("unified", "systemd") if (path := Path("/sys/fs/cgroup") / name).is_dir()
] or [Path("/sys/fs/cgroup")]
BOOT = """\
set -e
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=755 tortie-node /run/systemd/nspawn
mount -t tmpfs -o mode=755 tortie-node {work}
mkdir {work}/upper {work}/work {work}/root
mount -t overlay -o lowerdir={tree},upperdir={work}/upper,workdir={work}/work overlay {work}/root
echo {hostname} >{work}/root/etc/hostname
exec systemd-nspawn -q -D {work}/root --boot --register=no --keep-unit -M {name} --hostname={hostname} \\
  --network-namespace-path=/run/netns/{name} --console=pipe --link-journal=no --resolv-conf=off --timezone=off \\
  --capability=CAP_NET_ADMIN,CAP_SYS_ADMIN,CAP_NET_RAW --tmpfs=/tmp {binds} {words}
"""
MASKED = ("console-getty.service", "apt-daily.timer", "apt-daily-upgrade.timer")
"""There is no console, and no network to look for upgrades in."""
PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def ip(words: str) -> None:
    """Run ip(8); an error is the test's."""
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, timeout=COMMAND_SECONDS)


def wait_for(what: str, holds: Callable[[], bool], seconds: float) -> float:
    """Wait until something holds; after how many seconds it did."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return time.monotonic() - started


class Node:
    """One machine."""

    def __init__(self, number: int, suite: str, fabric: str, directory: Path, binds: dict[Path, str]) -> None:
        self.suite = suite
        self.name, self.hostname = f"{PREFIX}n{number}", f"node{number}"
        self.address = f"{SUBNET}.{number}"
        self._fabric, self._directory, self._binds = fabric, directory, binds
        self._number = number
        self._leader = 0
        self._process: subprocess.Popen[bytes] | None = None
        ip(f"netns add {self.name}")
        kernel_defaults.reset_sysctls(Path("/run/netns") / self.name)
        ip(f"-n {self.name} link set lo up")
        ip(f"-n {fabric} link add p{number} type veth peer name eth0 netns {self.name}")
        ip(f"-n {fabric} link set p{number} master br0 up")
        ip(f"-n {self.name} addr add {self.address}/24 dev eth0")
        ip(f"-n {self.name} link set eth0 up")
        ip(f"-n {self.name} route add default via {FABRIC_ADDRESS}")

    def boot(self) -> None:
        """Start it; `wait_up` waits."""
        work = self._directory / self.name
        work.mkdir(exist_ok=True)
        binds = " ".join(f"--bind-ro={source}:{target}" for source, target in self._binds.items())
        script = BOOT.format(
            work=work,
            tree=debian_root.root(self.suite),
            name=self.name,
            hostname=self.hostname,
            binds=binds,
            words=" ".join(f"systemd.mask={unit}" for unit in MASKED),
        )
        with (self._directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                umask=0o022,
                start_new_session=True,
                preexec_fn=self._own_cgroup,
            )

    def _own_cgroup(self) -> None:
        for hierarchy in HIERARCHIES:  # so that nspawn's own groups lie below
            with suppress(OSError):
                (hierarchy / self.name).mkdir(exist_ok=True)
                (hierarchy / self.name / "cgroup.procs").write_text("0")

    @property
    def is_up(self) -> bool:
        """Whether its systemd has come to rest."""
        if self._process is None or self._process.poll() is not None:
            raise AssertionError((self._directory / f"{self.name}.log").read_text(errors="replace")[-3000:])
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        return self.said("systemctl is-system-running").strip() in ("running", "degraded")

    def wait_up(self) -> float:
        """Until `is_up`."""
        seconds = wait_for(f"{self.hostname} is up", lambda: self.is_up, UP_SECONDS)
        # nspawn leaves the switches of a namespace that it did not make read-only; a real machine's are not.
        self.done(
            "mkdir /tmp/proc && mount -t proc proc /tmp/proc && mount --bind /tmp/proc/sys/net /proc/sys/net"
        )
        quiet = 'test -z "$(ip -6 addr show tentative)"'
        wait_for("the end of address detection", lambda: self.run(quiet).returncode == 0, END_SECONDS)
        return seconds

    @property
    def root(self) -> Path:
        """Its file system as this machine sees it."""
        return Path(f"/proc/{self._leader}/root")

    def start(self, script: str) -> subprocess.Popen[str]:
        """A command in the node, in the background."""
        return subprocess.Popen(
            ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "--", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=PATH,
            umask=0o022,
        )

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """A command in the node, whatever becomes of it."""
        process = self.start(script)
        out, err = process.communicate(timeout=COMMAND_SECONDS)
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    def said(self, script: str) -> str:
        """What a command printed."""
        return self.run(script).stdout

    def done(self, script: str) -> str:
        """What a command printed that must go well; else the end of the journal is part of the failure."""
        done = self.run(script)
        if done.returncode != 0:
            journal = self.said(f"journalctl --no-pager -o short-monotonic -n {JOURNAL_LINES}")
            raise AssertionError(f"{self.hostname}: {script}: {done.stdout}{done.stderr}\n{journal}")
        return done.stdout

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.said(f"systemctl show {unit} -p {key} --value").strip()

    def wait_journal(self, unit: str, text: str, seconds: float = 20.0) -> str:
        """A unit's journal, once it holds a text: what a service has written comes there a little later."""

        def holds() -> bool:
            return text in self.said(f"journalctl -u {unit} -o cat")

        wait_for(f"{text!r} in the journal of {unit} on {self.hostname}", holds, seconds)
        return self.said(f"journalctl -u {unit} -o cat")

    def has_ended(self) -> bool:
        """Whether the machine is off."""
        return self._process is None or self._process.poll() is not None

    def end(self) -> None:
        """Pull the plug, and remove its namespace."""
        if self._process is not None:
            if self._leader and self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(self._leader, signal.SIGKILL)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(END_SECONDS)
        with suppress(subprocess.CalledProcessError):
            ip(f"netns del {self.name}")
        for hierarchy in HIERARCHIES:
            _remove_cgroup(hierarchy / self.name)


def _remove_cgroup(path: Path) -> None:
    """A control group empties a moment after its last process has gone."""

    def gone() -> bool:
        for folder, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        return not path.exists()

    wait_for(f"{path} is empty", gone, END_SECONDS)


class Machines:
    """Nodes on a bridge, in a namespace that has room for an etcd."""

    def __init__(self, directory: Path, suites: Sequence[str], binds: dict[Path, str]) -> None:
        self._directory = directory
        self.fabric = f"{PREFIX}f"
        self.nodes: list[Node] = []
        self._suites, self._binds = suites, binds
        self._etcd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machines:
        ip(f"netns add {self.fabric}")
        try:
            ip(f"-n {self.fabric} link set lo up")
            ip(f"-n {self.fabric} link add br0 type bridge")
            ip(f"-n {self.fabric} addr add {FABRIC_ADDRESS}/24 dev br0")
            ip(f"-n {self.fabric} link set br0 up")
            for number, suite in enumerate(self._suites, 1):
                self.nodes.append(Node(number, suite, self.fabric, self._directory, self._binds))
            for node in self.nodes:
                node.boot()
            self.start_etcd()
            for node in self.nodes:
                node.wait_up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_etcd()
        for node in self.nodes:
            node.end()
        with suppress(subprocess.CalledProcessError):
            ip(f"netns del {self.fabric}")

    def start_etcd(self) -> None:
        """The cluster's datastore."""
        url = f"http://{FABRIC_ADDRESS}:2379"
        peer = f"http://{FABRIC_ADDRESS}:2380"
        words = f"--name one --data-dir {self._directory}/etcd --listen-client-urls {url} --advertise-client-urls {url}"
        words += (
            f" --listen-peer-urls {peer} --initial-advertise-peer-urls {peer} --initial-cluster one={peer}"
        )
        with (self._directory / "etcd.log").open("ab") as log:
            self._etcd = subprocess.Popen(
                ["ip", "netns", "exec", self.fabric, "etcd", *words.split(), "--unsafe-no-fsync"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**PATH, "ETCD_UNSUPPORTED_ARCH": "arm64"},
            )

    def stop_etcd(self) -> None:
        """The datastore is away."""
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait(END_SECONDS)
            self._etcd = None


@contextmanager
def machines(directory: Path, suites: Sequence[str], binds: dict[Path, str]) -> Iterator[Machines]:
    """A machine of each suite that are up, with an etcd; gone afterwards."""
    with Machines(directory, suites, binds) as found:
        yield found
