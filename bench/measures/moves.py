"""Measures c and d: one node moves, all its 5,000 prefixes get another next hop; restart to in-sync with 20,000 routes.

For (c) the clock starts with the first byte of the new announcement and stops at the kernel's event of the 5,000th
route through the new gateway, which there is for routes that follow a nexthop object, too; then the table is read.
For (d) the agent is killed and started again; the clock runs from the start of the process until it says that it is in
sync, has converged and has ended a pass. Every route event in that time is counted: there should be none.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from bench.events import Events, MovedRoutes
from bench.feeds import FEEDS, announcement
from bench.figures import OURS, Measure, Series
from bench.measures.feed import Feeder
from bench.speakers import ADDRESS, FEEDER_ADDRESS, LENGTH, SPEAKERS, Tortie
from bench.testbed import BenchError, cable, spaces, wait_for

MOVING = replace(FEEDS["cluster"], name="node", title="5k /26 of one node", count=5_000, sets=1)
MOVE_SECONDS = 120.0


def one_move(name: str) -> float:
    """Seconds until the kernel sends all 5,000 to the other gateway."""
    with spaces(2) as (near, far), tempfile.TemporaryDirectory(prefix="tortie-bench-") as folder_name:
        folder = Path(folder_name)
        folder.chmod(0o755)
        cable(near, far, f"{ADDRESS}/{LENGTH}", f"{FEEDER_ADDRESS}/{LENGTH}")
        speaker = SPEAKERS[name](near, folder)
        speaker.start()
        feeder = Feeder(far, folder)
        before = near.prefixes()
        feeder.send(announcement(MOVING))
        wait_for("the feed", lambda: near.prefixes() >= before + MOVING.count, MOVE_SECONDS)
        feeder.sent()
        gateway = str(IPv4Address(MOVING.next_hop(0, moved=1)))
        moved_routes = MovedRoutes(near.inside, gateway, MOVING.count)
        began = feeder.send(announcement(MOVING, moved=1))
        done = moved_routes.at(MOVE_SECONDS)
        feeder.sent()
        if (many := near.run("ip", "-o", "route", "show").count(f"via {gateway} ")) != MOVING.count:
            raise BenchError(f"{many} of {MOVING.count} routes go through {gateway}")
        return done - began


def one_restart() -> tuple[float, int]:
    """Seconds to in-sync, and the number of route events meanwhile."""
    feed = FEEDS["cluster"]
    with spaces(2) as (near, far), tempfile.TemporaryDirectory(prefix="tortie-bench-") as folder_name:
        folder = Path(folder_name)
        cable(near, far, f"{ADDRESS}/{LENGTH}", f"{FEEDER_ADDRESS}/{LENGTH}")
        agent = Tortie(near, folder)
        agent.start()
        feeder = Feeder(far, folder)
        before = near.prefixes()
        feeder.send(announcement(feed))
        wait_for("the feed", lambda: near.prefixes() >= before + feed.count, MOVE_SECONDS)
        feeder.sent()
        agent.kill()
        events = Events(near.inside)
        began = time.monotonic()
        agent.start_agent()

        def settled() -> bool:
            status = agent.status()
            kernel = status.get("kernel")
            return bool(status.get("in_sync")) and isinstance(kernel, dict) and bool(kernel.get("last_pass"))

        done = wait_for("the restart", settled, MOVE_SECONDS)
        if near.prefixes() < before + feed.count:
            raise BenchError(f"the restart lost routes: {near.prefixes()} of {before + feed.count}")
        return done - began, len(events.end())


def measure(rounds: int, names: list[str], progress: Callable[[str], None]) -> list[Measure]:
    """Measure c of every speaker named, measure d of ours, `rounds` times."""
    moved: dict[str, list[float]] = {name: [] for name in names}
    restarts, events = [], 0
    for number in range(rounds):
        for name in names:
            progress(f"(c) one node moves: {name}, round {number + 1} of {rounds}")
            moved[name].append(one_move(name))
        progress(f"(d) restart with 20,000 routes, round {number + 1} of {rounds}")
        seconds, count = one_restart()
        restarts.append(seconds)
        events += count
    return [
        Measure(
            "c",
            "one node moves, 5,000 routes",
            tuple(Series(name, "s", tuple(moved[name])) for name in names),
            "<= 50 ms",
            limit=0.05,
        ),
        Measure(
            "d",
            "restart to in-sync, 20,000 routes",
            (Series(OURS, "s", tuple(restarts)),),
            "<= 1 s, no route event",
            limit=1.0,
            notes=(f"route events during all restarts: {events}",),
        ),
    ]
