"""Fresh network namespaces, joined by a cable, and processes in them; all of it vanishes with the holders.

Promises: nothing outside the namespaces is touched; a process started here is ended here, by its id.
Does not know: what is measured.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = resource.getpagesize()
WAIT_SECONDS = 120.0
ETCD_URL = "http://127.0.0.1:2379"


class BenchError(Exception):
    """A measure that cannot be taken; one sentence says what did not come."""


def main_prefixes(triestat: str) -> int:
    """The prefixes of the main table by /proc/net/fib_triestat (net/ipv4/fib_trie.c).

    Without rules of somebody's own the tables `main` and `local` are one trie, which the file shows twice.
    """
    _, _, main = triestat.partition("Main:")
    found = re.search(r"Prefixes:\s+(\d+)", main)
    return int(found[1]) if found else 0


@dataclass
class Space:
    """A network namespace, held by a process that only waits."""

    holder: subprocess.Popen[bytes]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The namespace as a file."""
        return Path(f"/proc/{self.holder.pid}/ns/net")

    def inside(self, command: list[str]) -> list[str]:
        """The command as one that runs there."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(self, *command: str, text: str | None = None) -> str:
        """Run to the end; its output. Raises BenchError."""
        done = subprocess.run(
            self.inside(list(command)), input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start(
        self, command: list[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process that lives until the space is closed, or `end`."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.inside(command), stdout=output, stderr=output, env={**os.environ, **(environment or {})}
            )
        self.running.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
        """Send a process a signal and wait for its end."""
        process.send_signal(number)
        process.wait(WAIT_SECONDS)
        if process in self.running:
            self.running.remove(process)

    def prefixes(self) -> int:
        """How many IPv4 prefixes the kernel's main trie holds here."""
        return main_prefixes(Path(f"/proc/{self.holder.pid}/net/fib_triestat").read_text())

    def close(self) -> None:
        """End everything; the namespace vanishes."""
        for process in reversed(list(self.running)):
            self.end(process)
        self.holder.kill()
        self.holder.communicate()


def space() -> Space:
    """A new namespace with lo up."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    made = Space(holder)
    made.run("ip", "link", "set", "lo", "up")
    return made


def cable(one: Space, other: Space, first: str, second: str, device: str = "eth0") -> None:
    """A veth pair with an address (a.b.c.d/len) at each end."""
    one.run(
        "ip", "link", "add", device, "type", "veth", "peer", "name", device, "netns", str(other.holder.pid)
    )
    for end, address in ((one, first), (other, second)):
        end.run("ip", "address", "add", address, "dev", device)
        end.run("ip", "link", "set", device, "up")


@contextmanager
def spaces(count: int) -> Iterator[list[Space]]:
    """Some namespaces for the length of a block."""
    made: list[Space] = []
    try:
        for _ in range(count):
            made.append(space())
        yield made
    finally:
        for one in reversed(made):
            one.close()


def start_etcd(space: Space, folder: Path) -> None:
    """Start etcd at ETCD_URL, its data and log in `folder`; it is healthy when this returns. Raises BenchError."""
    data = folder / "etcd"
    data.mkdir(mode=0o700)
    command = ["etcd", "--data-dir", str(data), "--logger", "zap", "--log-level", "error"]
    space.start(command, folder / "etcd.log")
    check, environment = space.inside(["etcdctl", "endpoint", "health"]), {**os.environ, "ETCDCTL_API": "3"}

    def is_healthy() -> bool:
        return not subprocess.run(check, capture_output=True, check=False, env=environment).returncode

    wait_for("etcd", is_healthy, 20)


def wait_for(what: str, ready: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
    """Ask until `ready`, at most a fifth of the time spent on asking; the clock when it was. Raises BenchError."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if ready():
            return asked
        cost = time.monotonic() - asked
        if asked > deadline:
            raise BenchError(f"{what} did not come within {seconds:g} s")
        time.sleep(max(0.002, 4 * cost))


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time that these processes have used so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_mib(pids: Sequence[int]) -> float:
    """Resident set of these processes together."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * PAGE / 2**20
