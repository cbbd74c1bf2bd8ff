"""The machines, reached by ssh as `vagrant ssh` does it, over one connection each that stays.

Promises: a command has a time limit, and its failure is one sentence with the machine's own words; closing ends the
connections. Does not know: what the commands are for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOM = Path(__file__).parent
CONNECT_SECONDS = 120.0
POLL_SECONDS = 1.0


class Unmet(Exception):
    """One sentence: what was expected, where, what came."""


@dataclass(frozen=True, slots=True)
class Machines:
    """Machines that are up."""

    settings: Path
    """ssh's, as `vagrant ssh-config` prints them."""

    def run(self, name: str, script: str, seconds: float = 120.0) -> str:
        """What a script prints that root's Bash runs on a machine. Raises Unmet."""
        words = ["ssh", "-F", str(self.settings), name, "sudo bash -euo pipefail -s"]
        try:
            done = subprocess.run(
                words, input=script, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unmet(f"{name}: no end after {seconds:g} s: {script.strip()[:100]}") from None
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
            raise Unmet(f"{name}: {script.strip()[:100]}: {said[-500:]}")
        return done.stdout

    def copy(self, file: Path, name: str, target: str) -> None:
        """Put a file on a machine. Raises Unmet."""
        words = ["scp", "-q", "-F", str(self.settings), str(file), f"{name}:{target}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=CONNECT_SECONDS)
        if done.returncode != 0:
            raise Unmet(f"{name}: copying {file.name}: {done.stderr.strip()}")

    def answers(self, name: str, seconds: float = 20.0) -> bool:
        """Whether a machine can be reached now."""
        try:
            self.run(name, "true", seconds)
        except Unmet:
            return False
        return True

    def drop_connection(self, name: str) -> None:
        """Give up the connection to a machine, such as one that restarts."""
        words = ["ssh", "-F", str(self.settings), "-O", "exit", name]
        subprocess.run(words, capture_output=True, check=False, timeout=CONNECT_SECONDS)


def vagrant(*words: str, seconds: float, shown: bool = False) -> str:
    """What a Vagrant command prints; nothing when it is shown, on standard error, as it comes. Raises Unmet."""
    environment = {"VAGRANT_CWD": str(ROOM), **os.environ}
    try:
        done = subprocess.run(
            ["vagrant", *words],
            stdout=sys.stderr if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            text=True,
            timeout=seconds,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        raise Unmet("vagrant is not installed: apt install vagrant vagrant-libvirt") from None
    except subprocess.TimeoutExpired:
        raise Unmet(f"vagrant {' '.join(words)}: no end after {seconds:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout or "see above").strip()
        raise Unmet(f"vagrant {' '.join(words)}: {said[-1000:]}")
    return done.stdout or ""


@contextmanager
def machines(names: list[str]) -> Iterator[Machines]:
    """The machines of the Vagrantfile. Raises Unmet when they are not up."""
    settings = vagrant("ssh-config", *names, seconds=CONNECT_SECONDS)
    with tempfile.TemporaryDirectory(prefix="tortie-ssh-") as name:
        shared = (
            f"Host *\n  ControlMaster auto\n  ControlPath {name}/%h\n  ControlPersist 600\n"
            "  ConnectTimeout 60\n  ConnectionAttempts 3\n  ServerAliveInterval 10\n  ServerAliveCountMax 6\n"
        )
        file = Path(name) / "settings"
        file.write_text(f"{settings}\n{shared}")
        made = Machines(file)
        try:
            yield made
        finally:
            for machine in names:
                made.drop_connection(machine)


def wait_until(what: str, true: Callable[[], bool], seconds: float) -> None:
    """Ask until it is so; a machine that does not answer is asked again. Raises Unmet with the last reason."""
    deadline = time.monotonic() + seconds
    while True:
        reason = ""
        try:
            if true():
                return
        except Unmet as unmet:
            reason = f" ({unmet})"
        if time.monotonic() > deadline:
            raise Unmet(f"{what}: not after {seconds:g} s{reason}")
        time.sleep(POLL_SECONDS)
