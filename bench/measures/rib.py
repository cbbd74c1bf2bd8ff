"""Measure b: memory of a million prefixes from one peer, and the time to decode and choose them.

`python -m bench.measures.rib COUNT SETS` does it once, in a process of its own, through the speaker's core, without
I/O: Adj-RIB-In and Loc-RIB both hold every prefix. Prints MiB gained and processor seconds spent.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from ipaddress import IPv4Address

from bench.feeder import opening
from bench.feeds import END_OF_RIB, FEEDER, Feed, announcement, message
from bench.figures import OURS, Measure, Series
from bench.testbed import BenchError, memory_mib

KEEPALIVE = 4
CHUNK_BYTES = 65536
"""As much as the speaker takes from a socket at once."""


def feed(count: int, sets: int) -> bytes:
    """A feed of that many prefixes and attribute sets, with its End-of-RIB."""
    return announcement(Feed("rib", "", 0x30000000, 24, count, sets, many_next_hops=False)) + END_OF_RIB


def once(data: bytes, count: int) -> tuple[float, float]:
    """MiB and processor seconds of a speaker that takes a feed. Raises BenchError unless it then holds `count`."""
    import os

    from bgp.events import Dial
    from bgp.instance import Instance
    from bgp.peer_config import PeerConfig, SpeakerConfig
    from bgp.wire.families import Family

    feeder, own = IPv4Address(FEEDER), IPv4Address(FEEDER - 1)
    router = Instance(SpeakerConfig(64512, own, own, maximum_octets=0), lambda: 0.0, 0.0)
    router.configure({feeder: PeerConfig(feeder, 64512, maximum_prefixes=0, maximum_octets=0)}, 0.0)
    router.announce(())
    router.handle_timer(10.0)
    wire, _ = router.flush(10.0)
    (dial,) = [one for _, one in wire if isinstance(one, Dial)]
    router.connected(dial.connection, own, 10.0, outgoing=True)
    router.received(dial.connection, opening() + message(KEEPALIVE, b""), 10.0)
    router.flush(10.0)
    gc.collect()
    before, began = memory_mib([os.getpid()]), time.process_time()
    for start in range(0, len(data), CHUNK_BYTES):
        router.received(dial.connection, data[start : start + CHUNK_BYTES], 11.0)
    router.flush(11.0)
    spent = time.process_time() - began
    gc.collect()
    if len(router.ribs[Family.IPV4]) != count:
        raise BenchError(f"the RIB holds {len(router.ribs[Family.IPV4])} of {count} prefixes")
    return memory_mib([os.getpid()]) - before, spent


def measure(rounds: int, count: int) -> list[Measure]:
    """Memory and processor time of `count` prefixes, each round in a fresh process."""
    memory, seconds = [], []
    for _ in range(rounds):
        said = subprocess.run(
            [sys.executable, "-m", "bench.measures.rib", str(count), str(max(1, count // 20))],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        memory.append(float(said[0]))
        seconds.append(float(said[1]))
    return [
        Measure(
            "b",
            f"memory of {count:,} prefixes in {max(1, count // 20):,} attribute sets",
            (Series(OURS, "MiB", tuple(memory)),),
            "<= 400 MiB per million",
            limit=400 * count / 1e6,
        ),
        Measure("b-t", "decode and choose them", (Series(OURS, "s", tuple(seconds)),)),
    ]


if __name__ == "__main__":
    prefixes = int(sys.argv[1])
    print(*once(feed(prefixes, int(sys.argv[2])), prefixes))
