"""Runs every test, in shards side by side, and sums them up: `python -m tests.suite [--only NAME ...]`.

Promises: each shard but the one that tests this has a machine's copy of its own (isolation.py), so two suites do not
disturb each other. The output of a shard comes in one piece when it ends; then a table of their times; the last line is
`N passed, N failed`.
Does not know: what is tested.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT
from tests.suite.isolation import environment, isolated, prepare
from tests.suite.shards import PYTEST, SHARDS, Shard

SHARD_SECONDS = 1500.0
"""None takes so long on a loaded machine; the guest kernel's have a shorter limit of their own."""
MOST_AT_ONCE = 2 * (os.cpu_count() or 1)
"""Shards wait more than they compute: for timers, for a settled route, for the kernel."""
COUNT = re.compile(r"(\d+) (passed|failed|error|errors|skipped)\b")


@dataclass(frozen=True, slots=True)
class Done:
    """A shard that has ended."""

    shard: Shard
    status: int
    seconds: float
    cpu_seconds: float
    counts: dict[str, int]

    @property
    def is_good(self) -> bool:
        """Whether it ran, and nothing in it failed or was skipped."""
        bad = self.counts["failed"] + self.counts["error"] + self.counts["skipped"]
        return self.status == 0 and bad == 0 and self.counts["passed"] > 0


class Running:
    """A shard at work."""

    def __init__(self, shard: Shard, directory: Path) -> None:
        self._shard = shard
        self._started = time.monotonic()
        self._output = directory / f"{shard.name}.out"
        work = directory / shard.name
        work.mkdir()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                isolated(shard.command, work) if shard.is_isolated else shard.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(os.environ) | ({} if shard.is_isolated else {"TMPDIR": str(work)}),
                preexec_fn=prepare,
            )
        self.descriptor = os.pidfd_open(self._process.pid)
        """Readable when it has ended."""

    @property
    def seconds_left(self) -> float:
        """Until it has had its time."""
        return max(0.0, self._started + SHARD_SECONDS - time.monotonic())

    def ended(self) -> Done | None:
        """What became of it, once it has ended; past its time it is ended."""
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if pid == 0:
            if not self.seconds_left:
                self._process.kill()
            return None
        os.close(self.descriptor)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self._started
        text = self._output.read_text(errors="replace").rstrip()
        if seconds > SHARD_SECONDS:
            text += f"\nended after {SHARD_SECONDS:g} s"
        print(f"== {self._shard.name}: {self._shard.meaning} ({seconds:.0f} s)\n{text}\n", flush=True)
        cpu = usage.ru_utime + usage.ru_stime
        return Done(self._shard, self._process.returncode, seconds, cpu, counts(text))

    def end(self) -> None:
        """Pull the plug."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()


def counts(output: str) -> dict[str, int]:
    """Pytest's own closing line as numbers."""
    closing = output.strip().splitlines()[-1] if output.strip() else ""
    found = {"passed": 0, "failed": 0, "error": 0, "skipped": 0}
    for number, word in COUNT.findall(closing):
        found[word.removesuffix("s") if word == "errors" else word] += int(number)
    return found


def run(shards: list[Shard]) -> list[Done]:
    """All of them, side by side; what became of each."""
    waiting, running, done = list(shards), list[Running](), list[Done]()
    with tempfile.TemporaryDirectory(prefix="tortie-suite-") as directory:
        try:
            while waiting or running:
                while waiting and len(running) < MOST_AT_ONCE:
                    running.append(Running(waiting.pop(0), Path(directory)))
                for each in list(running):
                    if (ended := each.ended()) is not None:
                        running.remove(each)
                        done.append(ended)
                if running:
                    longest = min(each.seconds_left for each in running)
                    select.select([each.descriptor for each in running], [], [], longest)
        finally:
            for each in running:
                each.end()
    return done


def table(done: list[Done], seconds: float) -> str:
    """Which shard took how long."""
    lines = ["shard           passed    time  of a core"]
    for each in sorted(done, key=lambda each: -each.seconds):
        word = "" if each.is_good else f"  FAILED, exit {each.status}"
        lines.append(
            f"{each.shard.name:14} {each.counts['passed']:7} {each.seconds:5.0f} s {each.cpu_seconds:8.0f} s{word}"
        )
    cpu = sum(each.cpu_seconds for each in done)
    return "\n".join([*lines, f"{'all':14} {'':7} {seconds:5.0f} s {cpu:8.0f} s"])


def compiled() -> int:
    """Compile every file into the checkout, the tests as pytest does: else each shard and each guest does it anew."""
    for folder in ("agent", "bgp", "ipam", "bench"):
        compileall.compile_dir(ROOT / folder, quiet=2)
    words = [*PYTEST, "--collect-only", "tests"]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(words, cwd=ROOT, env=usual, stdout=subprocess.DEVNULL, check=False).returncode


def main() -> None:
    """Run the shards and exit with 1 if anything failed or was skipped."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [shard.name for shard in SHARDS]
    flags.add_argument("--only", nargs="+", choices=names, default=names, help="these shards alone")
    flags.add_argument(
        "--compile", action="store_true", help="only write down what Python makes of each file"
    )
    arguments = flags.parse_args()
    if arguments.compile:
        sys.exit(compiled())
    if os.geteuid() != 0:
        sys.exit("the tests make namespaces: run them as root, for example with sudo")
    started = time.monotonic()
    done = run([shard for shard in SHARDS if shard.name in arguments.only])
    print(table(done, time.monotonic() - started))
    total = {
        word: sum(each.counts[word] for each in done) for word in ("passed", "failed", "error", "skipped")
    }
    print(f"{total['passed']} passed, {total['failed'] + total['error']} failed, {total['skipped']} skipped")
    sys.exit(0 if all(each.is_good for each in done) else 1)


if __name__ == "__main__":
    main()
