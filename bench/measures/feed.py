"""Measure a: BGP feed to the last route in the kernel, and the withdrawal of it; a bare batched writer as the floor.

Each round starts every speaker afresh in new namespaces, in turn. The clock starts with the feed's first byte and stops
when the kernel's tries hold as many prefixes more; the same question is asked of all but those that keep a RIB alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.feeds import Feed, announcement, withdrawal
from bench.figures import OURS, Measure, Series
from bench.speakers import ADDRESS, FEEDER_ADDRESS, LENGTH, RIB_ONLY, SPEAKERS, Speaker
from bench.testbed import BenchError, Space, cable, cpu_seconds, memory_mib, spaces, wait_for

FEED_SECONDS = 300.0
BARE = "bare batched writer"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one feed through one speaker took: seconds both ways; memory and processor time of the speaker."""

    announced: float
    withdrawn: float
    memory_mib: float
    cpu_seconds: float


class Feeder:
    """`python -m bench.feeder` in a namespace, established when it is made."""

    def __init__(self, space: Space, folder: Path, source: str = FEEDER_ADDRESS) -> None:
        self._file = folder / f"feed-{source}"
        command = space.inside([sys.executable, "-m", "bench.feeder", ADDRESS, "179", source])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        space.running.append(self.process)  # type: ignore[arg-type]  # it is ended like the others
        self._expect("up")

    def _expect(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if not line or line[0] != word:
            raise BenchError(f"the feeder said {line or 'nothing'} instead of {word}")
        return line

    def send(self, data: bytes) -> float:
        """Send octets; the monotonic clock just before the first of them."""
        self._file.write_bytes(data)
        assert self.process.stdin is not None
        self.process.stdin.write(f"send {self._file}\n")
        return float(self._expect("began")[1])

    def sent(self) -> None:
        """Wait until all of it went."""
        self._expect("sent")


def through(make: Callable[[Space, Path], Speaker], feed: Feed) -> Outcome:
    """One feed through one speaker, in namespaces of its own."""
    with spaces(2) as (near, far), tempfile.TemporaryDirectory(prefix="tortie-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        cable(near, far, f"{ADDRESS}/{LENGTH}", f"{FEEDER_ADDRESS}/{LENGTH}")
        speaker = make(near, folder)
        speaker.start()
        feeder = Feeder(far, folder)
        before, used = speaker.held(), cpu_seconds(speaker.pids)
        began = feeder.send(announcement(feed))
        whole = before + feed.count
        done = wait_for(f"{speaker.name}: the feed", lambda: speaker.held() >= whole, FEED_SECONDS)
        feeder.sent()
        memory, used = memory_mib(speaker.pids), cpu_seconds(speaker.pids) - used
        again = feeder.send(withdrawal(feed))
        gone = wait_for(f"{speaker.name}: the withdrawal", lambda: speaker.held() <= before, FEED_SECONDS)
        feeder.sent()
        return Outcome(done - began, gone - again, memory, used)


def bare(feed: Feed) -> Outcome:
    """The feed's routes, written by our own batches from a list that is ready: no agent can be faster than that."""
    with spaces(2) as (near, far):
        cable(near, far, f"{ADDRESS}/{LENGTH}", f"{FEEDER_ADDRESS}/{LENGTH}")
        said = near.run(
            sys.executable, "-m", "bench.writer", feed.name, str(feed.count), str(feed.sets)
        ).split()
        return Outcome(float(said[0]), float(said[1]), 0.0, 0.0)


def measure(
    feeds: list[Feed], rounds: int, names: list[str], progress: Callable[[str], None]
) -> list[Measure]:
    """Every feed through every speaker, `rounds` times in turn."""
    found = []
    goals = {"host": 0.5, "table": 0.8, "cluster": 0.6}
    for feed in feeds:
        outcomes: dict[str, list[Outcome]] = {name: [] for name in [*names, BARE]}
        for number in range(rounds):
            for name in names:
                progress(f"(a) {feed.title}: {name}, round {number + 1} of {rounds}")
                outcomes[name].append(through(SPEAKERS[name], feed))
            outcomes[BARE].append(bare(feed))
        goal = goals[feed.name]
        found.append(
            Measure(
                f"a-{feed.name}",
                f"feed to kernel, {feed.title}",
                tuple(_series(name, outcomes[name], "announced") for name in outcomes),
                f"<= {goal:g} of bird",
                "bird",
                goal,
                notes=tuple(
                    f"{name} keeps a RIB alone: no route of it is written"
                    for name in names
                    if name in RIB_ONLY
                ),
            )
        )
        found.append(
            Measure(
                f"a-{feed.name}-w",
                f"withdrawal, {feed.title}",
                tuple(_series(name, outcomes[name], "withdrawn") for name in outcomes),
            )
        )
    return found


def _series(name: str, outcomes: list[Outcome], which: str) -> Series:
    values = tuple(float(getattr(outcome, which)) for outcome in outcomes)
    first = which == "announced" and name != BARE
    return Series(
        name,
        "s",
        values,
        median(outcome.memory_mib for outcome in outcomes) if first else None,
        median(outcome.cpu_seconds for outcome in outcomes) if first else None,
    )


__all__ = ["BARE", "OURS", "measure"]
