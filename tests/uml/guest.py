"""Runs a command under its own User-Mode-Linux kernel: `python -m tests.uml.guest [options] -- CMD ...`.

Promises: the command's standard output, standard error and exit status are this program's own; the guest's whole tree
is an overlay, so nothing it writes reaches this machine; killing this program kills the guest. Exit 124: it ran past
its time; 125: the guest did not come up in time, panicked, or ended without a status; the end of its console follows.
Does not know: what is run.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.suite.isolation import SHARED
from tests.uml import xstate

KERNEL = Path("/usr/bin/linux.uml")
MODULES = Path("/usr/lib/uml/modules")
INIT = Path(__file__).parent / "init"
NEEDED_MODULES = "veth bridge vxlan"
"""Not ipip: whoever needs it has to make the kernel load it, as on a stock machine."""
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "CI", "VIRTUAL_ENV")
LATE, DIED = 124, 125
UP_SECONDS = 30.0
"""Within so long a guest has said that it is up, on a loaded machine too; two seconds on an idle one."""
END_SECONDS = 10.0
"""A guest that has written its command's status and flushed its output has nothing left to do but to power off."""
LOOK_SECONDS = 0.1
CONSOLE_LINES = 40
PANIC = b"Kernel panic"
"""After it the guest kernel does not end: it spins."""


@contextmanager
def one_cpu() -> Iterator[int]:
    """A CPU that no other guest of ours is pinned to: pinned, a guest's system calls cost half."""
    SHARED.mkdir(parents=True, exist_ok=True)
    for cpu in sorted(os.sched_getaffinity(0)):
        lock = os.open(SHARED / f"guest-on-cpu{cpu}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        try:
            yield cpu
        finally:
            os.close(lock)
        return
    yield min(os.sched_getaffinity(0))


def write_job(job: Path, command: list[str], memory_for_files: str) -> None:
    """The guest's init, and what it reads: command, environment, directory.

    A copy of the init: the checkout's path may have blanks, and on a kernel's command line these part words.
    """
    shutil.copy2(INIT, job / "init")
    environment = {name: value for name, value in os.environ.items() if name in KEPT_ENVIRONMENT}
    (job / "argv").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in command))
    (job / "env").write_bytes(
        b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())
    )
    version = max(path.name for path in MODULES.iterdir())
    settings = {"CWD": os.getcwd(), "KVER": version, "MODULES": NEEDED_MODULES, "FILES": memory_for_files}
    (job / "conf").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
    (job / "uml").mkdir()


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest is given."""

    seconds: float = 300.0
    memory: str = "1G"
    files: str = "512M"
    """Bound of what it may write."""
    libraries: str = ""
    """Preloaded into its kernel, instead of what this CPU needs."""
    up_seconds: float = UP_SECONDS
    end_seconds: float = END_SECONDS
    kernel: Path = KERNEL


def run(command: list[str], given: Guest) -> int:
    """The command's exit status, or LATE or DIED."""
    job = Path(tempfile.mkdtemp(prefix="tortie-uml-"))
    out, err = os.dup(1), os.dup(2)
    try:
        write_job(job, command, given.files)
        words = ["unshare", "--pid", "--fork", "--kill-child=KILL", str(given.kernel), f"mem={given.memory}"]
        words += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={job}/init"]
        words += ["con0=fd:0,fd:1", "con=null", f"ssl0=null,fd:{out}", f"ssl1=null,fd:{err}", "ssl=null"]
        words += [f"uml_dir={job}/uml", "umid=guest", "noreboot", "panic=-1", f"JOB={job}"]
        preloaded = {"LD_PRELOAD": given.libraries} if given.libraries else xstate.preload(job)
        with one_cpu() as cpu, open(job / "console", "wb") as console:
            guest = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=(out, err),
                env={**os.environ, "TMPDIR": "/dev/shm", **preloaded},
                preexec_fn=lambda: _prepare(cpu),
                start_new_session=True,
            )
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: guest.kill())
            fault = _watched(guest, job, given)
            guest.kill()
            guest.wait()
        return fault if fault is not None else _status(job)
    finally:
        os.close(out)
        os.close(err)
        shutil.rmtree(job, ignore_errors=True)


def _prepare(cpu: int) -> None:
    """Called in the child before it becomes the guest kernel, which opens a file here for each that is open in it."""
    os.sched_setaffinity(0, {cpu})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _watched(guest: subprocess.Popen[bytes], job: Path, given: Guest) -> int | None:
    """Until the guest has ended: None; or until it is known that it will not: LATE or DIED, with the reason printed."""
    started = time.monotonic()
    finished: float | None = None
    with open(job / "console", "rb") as console:
        said = b""
        while True:
            with suppress(subprocess.TimeoutExpired):
                guest.wait(LOOK_SECONDS)
                return None
            # The word may be cut in two by the end of what is there so far.
            said = said[-len(PANIC) :] + console.read()
            passed = time.monotonic() - started
            if finished is None and (job / "rc").exists():
                finished = passed
            if finished is not None and passed > finished + given.end_seconds:
                return None  # the kernel hangs powering off: its command's work is done
            if PANIC in said:
                _tell("the guest kernel panicked", job)
                return DIED
            if passed > given.up_seconds and not (job / "up").exists():
                _tell(f"the guest was not up within {given.up_seconds:g} s", job)
                return DIED
            if passed > given.seconds:
                _tell(f"the guest did not end within {given.seconds:g} s", job)
                return LATE


def _tell(what: str, job: Path) -> None:
    lines = (job / "console").read_text(errors="replace").splitlines()
    last = [number for number, line in enumerate(lines) if PANIC.decode() in line][:1] or [-CONSOLE_LINES]
    print(f"{what}; the end of its console:", *lines[last[0] :][:CONSOLE_LINES], sep="\n", file=sys.stderr)


def _status(job: Path) -> int:
    try:
        return int((job / "rc").read_text())
    except (OSError, ValueError):
        _tell("the guest ended without a status", job)
        return DIED


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--files", default="512M", help="bound of what the guest may write")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    sys.exit(run(command, Guest(arguments.seconds, arguments.memory, arguments.files)))


if __name__ == "__main__":
    main()
