"""Runs every test, in shards side by side, and sums them up: `python -m tests.suite`.

Promises: nothing is skipped. A test marked `ipip` runs on this kernel where it has ipip, else in the guest kernel. The
output of a shard comes in one piece when it ends; the last line is `N passed, N failed`.
Does not know: what is tested.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass

SHARD_SECONDS = 1500
COUNT = re.compile(r"(\d+) (passed|failed|error|errors|skipped)\b")


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the suite in a process of its own."""

    name: str
    command: list[str]


def shards() -> list[Shard]:
    """The parts; the heavy ones are alone, so that two cores are enough."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    kills = "tests/cni/test_kills.py"
    elsewhere = ["--ignore", "tests/interop", "--ignore", kills]
    guest = [sys.executable, "-m", "tests.uml.guest", "--seconds", str(SHARD_SECONDS - 100), "--"]
    return [
        Shard("cores, contracts, kernel", [*pytest, "-m", "not lab and not ipip", *elsewhere]),
        Shard("interop: BIRD, FRR, GoBGP; kills", [*pytest, "-n", "2", "tests/interop", kills]),
        Shard("labs", [*pytest, "-m", "lab and not ipip", "tests/lab", "tests/bench"]),
        Shard("machines with systemd", [*pytest, "-m", "lab", "tests/systemd"]),
        Shard("IPIP, in User-Mode-Linux", [*guest, *pytest, "-o", "timeout=600", "-m", "ipip"]),
    ]


def counts(output: str) -> dict[str, int]:
    """Pytest's own closing line as numbers."""
    closing = output.strip().splitlines()[-1] if output.strip() else ""
    found = {"passed": 0, "failed": 0, "error": 0, "skipped": 0}
    for number, word in COUNT.findall(closing):
        found[word.removesuffix("s") if word == "errors" else word] += int(number)
    return found


def main() -> None:
    """Run all shards at once and exit with 1 if anything failed or was skipped."""
    started = time.monotonic()
    running = [
        (shard, subprocess.Popen(shard.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        for shard in shards()
    ]
    total = {"passed": 0, "failed": 0, "error": 0, "skipped": 0}
    broken = []
    for shard, process in running:
        try:
            output, _ = process.communicate(timeout=SHARD_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += f"\nended after {SHARD_SECONDS} s"
        print(f"== {shard.name} ({time.monotonic() - started:.0f} s)\n{output.rstrip()}\n", flush=True)
        found = counts(output)
        if process.returncode != 0 or not found["passed"]:
            broken.append(f"{shard.name}: exit {process.returncode}")
        total = {word: total[word] + found[word] for word in total}
    for line in broken:
        print(f"FAILED {line}")
    bad = total["failed"] + total["error"]
    print(f"{total['passed']} passed, {bad} failed, {total['skipped']} skipped")
    sys.exit(1 if bad or broken or total["skipped"] else 0)


if __name__ == "__main__":
    main()
