"""Measure i, second part: one agent in a cluster of 5,000 nodes behind two route reflectors.

etcd holds 5,000 node records; the two reflectors send the same 20,000 blocks with 5,000 next hops. Measured: the time
from the first byte to the last route in the kernel, then memory and processor time at rest.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from bench.feeds import Feed, announcement
from bench.figures import OURS, Measure, Series
from bench.measures.feed import Feeder
from bench.speakers import ADDRESS, AS_NUMBER, FEEDER_ADDRESS, LENGTH, Tortie, node
from bench.testbed import cable, cpu_seconds, memory_mib, spaces, wait_for

SECOND_ADDRESS = "10.0.0.3"
FEED_SECONDS = 120.0


def _peer(number: int, address: str) -> dict[str, object]:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPPeer",
        "metadata": {"name": f"reflector{number}"},
        "spec": {"peerIP": address, "asNumber": AS_NUMBER},
    }


def documents(feed: Feed) -> tuple[object, ...]:
    """No mesh, two reflectors for all, and the other nodes."""
    configuration = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "BGPConfiguration",
        "metadata": {"name": "default"},
        "spec": {"asNumber": AS_NUMBER, "nodeToNodeMeshEnabled": False},
    }
    nodes = [node(f"node{number}", str(IPv4Address(feed.next_hop(number)))) for number in range(feed.sets)]
    listed = {"apiVersion": "projectcalico.org/v3", "kind": "NodeList", "items": nodes}
    return (configuration, _peer(1, FEEDER_ADDRESS), _peer(2, SECOND_ADDRESS), listed)


def once(feed: Feed, rest_seconds: float) -> tuple[float, float, float]:
    """Seconds of the feed, per cent of a core at rest, MiB."""
    with spaces(2) as (near, far), tempfile.TemporaryDirectory(prefix="tortie-bench-") as name:
        folder = Path(name)
        cable(near, far, f"{ADDRESS}/{LENGTH}", f"{FEEDER_ADDRESS}/{LENGTH}")
        far.run("ip", "address", "add", f"{SECOND_ADDRESS}/{LENGTH}", "dev", "eth0")
        agent = Tortie(near, folder, {"TORTIE_KERNEL_NEXTHOP_OBJECTS": "true"})
        agent.documents = documents(feed)
        agent.start()
        feeders = [Feeder(far, folder, source) for source in (FEEDER_ADDRESS, SECOND_ADDRESS)]
        before = near.prefixes()
        began = min(feeder.send(announcement(feed)) for feeder in feeders)
        done = wait_for("the feed", lambda: near.prefixes() >= before + feed.count, FEED_SECONDS)
        for feeder in feeders:
            feeder.sent()
        time.sleep(rest_seconds / 3)  # what the feed left to do is done
        used, since = cpu_seconds(agent.pids), time.monotonic()
        time.sleep(rest_seconds)
        share = 100 * (cpu_seconds(agent.pids) - used) / (time.monotonic() - since)
        return done - began, share, memory_mib(agent.pids)


def measure(rounds: int, feed: Feed, rest_seconds: float, progress: Callable[[str], None]) -> list[Measure]:
    """As many rounds as asked for; the figures of each."""
    found = []
    for number in range(rounds):
        progress(f"(i) {feed.sets:,} nodes behind two reflectors, round {number + 1} of {rounds}")
        found.append(once(feed, rest_seconds))
    times, shares, memory = zip(*found, strict=True)
    what = f"one agent among {feed.sets:,} nodes behind two reflectors"
    return [
        Measure("i-feed", f"{what}: feed", (Series(OURS, "s", times),)),
        Measure(
            "i-rest",
            f"{what}: processor at rest",
            (Series(OURS, "% of a core", shares),),
            "<= 1 %",
            limit=1.0,
        ),
        Measure("i-size", f"{what}: memory", (Series(OURS, "MiB", memory),)),
    ]
