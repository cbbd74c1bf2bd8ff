"""Runs a command under its own User-Mode-Linux kernel: `python -m tests.uml.guest [options] -- CMD ...`.

Promises: the command's standard output, standard error and exit status are this program's own; the guest's whole tree
is an overlay, so nothing it writes reaches this machine; killing this program kills the guest. Exit 124: it ran past
its time; 125: the guest died without a status, the end of its console follows.
Does not know: what is run.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KERNEL = Path("/usr/bin/linux.uml")
MODULES = Path("/usr/lib/uml/modules")
INIT = Path(__file__).parent / "init"
NEEDED_MODULES = "veth bridge vxlan"
"""Not ipip: whoever needs it has to make the kernel load it, as on a stock machine."""
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "CI", "VIRTUAL_ENV")
LATE, DIED = 124, 125
CONSOLE_LINES = 25


@contextmanager
def one_cpu() -> Iterator[int]:
    """A CPU that no other guest of ours is pinned to: pinned, a guest's system calls cost half."""
    for cpu in sorted(os.sched_getaffinity(0)):
        lock = os.open(f"/tmp/tortie-uml-cpu{cpu}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
    """What the guest's init reads: command, environment, directory."""
    environment = {name: value for name, value in os.environ.items() if name in KEPT_ENVIRONMENT}
    (job / "argv").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in command))
    (job / "env").write_bytes(
        b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())
    )
    version = max(path.name for path in MODULES.iterdir())
    settings = {"CWD": os.getcwd(), "KVER": version, "MODULES": NEEDED_MODULES, "FILES": memory_for_files}
    (job / "conf").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
    (job / "uml").mkdir()


def run(command: list[str], seconds: float, memory: str, memory_for_files: str) -> int:
    """The command's exit status, or LATE or DIED."""
    job = Path(tempfile.mkdtemp(prefix="tortie-uml-"))
    out, err = os.dup(1), os.dup(2)
    try:
        write_job(job, command, memory_for_files)
        words = ["unshare", "--pid", "--fork", "--kill-child=KILL", str(KERNEL), f"mem={memory}"]
        words += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={INIT}"]
        words += ["con0=fd:0,fd:1", "con=null", f"ssl0=null,fd:{out}", f"ssl1=null,fd:{err}", "ssl=null"]
        words += [f"uml_dir={job}/uml", "umid=guest", "noreboot", "panic=-1", f"JOB={job}"]
        with one_cpu() as cpu, open(job / "console", "wb") as console:
            guest = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=(out, err),
                env={**os.environ, "TMPDIR": "/dev/shm"},
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
                start_new_session=True,
            )
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: guest.kill())
            try:
                guest.wait(seconds)
            except subprocess.TimeoutExpired:
                guest.kill()
                guest.wait()
                print(f"the guest did not end within {seconds:g} s", file=sys.stderr)
                return LATE
        return _status(job)
    finally:
        os.close(out)
        os.close(err)
        shutil.rmtree(job, ignore_errors=True)


def _status(job: Path) -> int:
    try:
        return int((job / "rc").read_text())
    except (OSError, ValueError):
        last = (job / "console").read_text(errors="replace").splitlines()[-CONSOLE_LINES:]
        print("the guest ended without a status; the end of its console:", *last, sep="\n", file=sys.stderr)
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
    sys.exit(run(command, arguments.seconds, arguments.memory, arguments.files))


if __name__ == "__main__":
    main()
