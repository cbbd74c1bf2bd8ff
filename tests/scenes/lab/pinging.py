"""Every pod of a lab pings every other, every 20 ms, in a process of its own: `python -m tests.scenes.lab.pinging LAB`.

Each line of its output is the count so far: what was sent, and what was lost pair by pair. It ends with its input.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.lab import icmp, lab_processes, lifecycle
from agent.lab.fabric import NAMESPACES
from agent.lab.pods import pods
from tests.fixtures import program

ROUND_SECONDS, QUIET_SECONDS = 0.02, 0.2
ANSWERED_SECONDS = 60.0
"""Until which every ping has its answer again; a guest kernel beside others on two cores takes tens of seconds."""
LOOKS = 8


def main() -> None:
    """Ping until the input ends."""
    lab = lifecycle.find(sys.argv[1])
    found = pods(lab.plan)
    spaces = {one.name: NAMESPACES / lab.plan.pod_namespace(one.name) for one in found}
    with icmp.pinger(spaces, {one.name: one.ip for one in found}) as pinger:
        pairs = [(one, other) for one in spaces for other in spaces if one != other]
        due = time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            pinger.send_round(pairs)
            due += ROUND_SECONDS
            pinger.receive(due)
            # When every request is answered, only the input is waited for.
            if (left := due - time.monotonic()) > 0:
                select.select([sys.stdin], [], [], left)
            say(pinger)
        pinger.receive(time.monotonic() + 1)
        say(pinger)


def say(pinger: icmp.Pinger) -> None:
    """One line."""
    lost = {f"{one} {other}": count.lost for (one, other), count in pinger.counts.items()}
    print(json.dumps({"sent": sum(count.sent for count in pinger.counts.values()), "lost": lost}), flush=True)


@dataclass
class Pinging:
    """The process, seen from a test."""

    said: Path

    def count(self) -> dict[str, int]:
        """Pair -> lost so far, those under way included."""
        found: dict[str, int] = self._last()["lost"]
        return found

    def sent(self) -> int:
        """All requests so far."""
        return int(self._last()["sent"])

    def _last(self) -> Any:
        whole, _, _ = self.said.read_text().rpartition("\n")
        return json.loads(whole.splitlines()[-1])

    def lost(self) -> dict[str, int]:
        """Pair -> pings lost so far: the least of some looks, a round apart, for those of the last may be under way."""
        looks = []
        for _ in range(LOOKS):
            looks.append(self.count())
            sent = self.sent()
            lab_processes.wait_for("another round of pings", lambda: self.sent() > sent, 20)  # noqa: B023
        return {pair: min(look[pair] for look in looks) for pair in looks[0]}

    def settled(self) -> dict[str, int]:
        """The count once no request but those of the last round is without its answer for a fifth of a second."""
        before: dict[str, int] = {}
        growing: dict[str, int] = {}

        def quiet() -> bool:
            nonlocal before, growing
            last, before = before, self.count()
            time.sleep(QUIET_SECONDS)
            grown = {pair: number - last.get(pair, -99) for pair, number in before.items()}
            growing = {pair: number for pair, number in grown.items() if number > 1}
            return not growing

        def hint() -> str:
            return f": more are lost in each {QUIET_SECONDS} s, {growing}"

        lab_processes.wait_for("every ping's answer", quiet, ANSWERED_SECONDS, hint)
        return before


@contextmanager
def pinging(lab: lifecycle.Lab, directory: Path) -> Iterator[Pinging]:
    """Ping as long as the block lasts."""
    said = directory / "pinging"
    words = [sys.executable, "-m", "tests.scenes.lab.pinging", lab.plan.name]
    given, writing = os.pipe()
    with open(given, "rb") as reading, said.open("wb") as output, open(2, "wb", closefd=False) as errors:
        process = program.spawn(words, reading, output, errors)
    try:
        lab_processes.wait_for("the first pings", lambda: said.read_text().count("\n") > 2, 20)
        yield Pinging(said)
    finally:
        os.close(writing)
        process.wait(20)


if __name__ == "__main__":
    main()
