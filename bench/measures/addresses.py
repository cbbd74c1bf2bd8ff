"""Measure h: IPAM allocations per second on a real etcd: one node, and 32 nodes of 100 requests each at once.

All allocators run in this process, on a connection of their own each; etcd runs beside on a disk in memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

from agent.clock import SystemClock
from bench.figures import OURS, Measure, Series
from bench.testbed import ETCD_URL, spaces, start_etcd
from ipam.allocation.allocator import Allocator
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Committed, Put
from ipam.keys import resource_key
from ipam.model import AddressRequest, HandleId, NodeName, Pool, PoolRecord


async def _rate(nodes: int, requests: int, lanes: int) -> float:
    stores = [EtcdStore(EtcdConfig((ETCD_URL,))) for _ in range(nodes)]
    key = resource_key("ippools", "p")
    outcome = await stores[0].commit((), (Put(key, json.dumps({"round": time.time_ns()}).encode()),))
    assert isinstance(outcome, Committed)
    pools = [PoolRecord(Pool("p", ip_network("10.0.0.0/12"), 26), key, outcome.revision)]
    allocators = [Allocator(store, SystemClock().wall, lambda: pools) for store in stores]
    tag = time.time_ns()

    async def one(number: int, request: int) -> None:
        ask = AddressRequest(
            handle=HandleId(f"b{tag}-{number}-{request}"), node=NodeName(f"bench-{number}"), ipv4=1
        )
        await allocators[number].assign(ask)

    async def lane(number: int, first: int) -> None:
        for request in range(first, requests, lanes):
            await one(number, request)

    await asyncio.gather(
        *(one(number, requests) for number in range(nodes))
    )  # the first block, the connection
    began = time.monotonic()
    await asyncio.gather(*(lane(number, first) for number in range(nodes) for first in range(lanes)))
    rate = nodes * requests / (time.monotonic() - began)
    for store in stores:
        await store.close()
    return rate


def rates(nodes: int, requests: int, lanes: int, rounds: int) -> tuple[float, ...]:
    """Allocations a second, `lanes` under way at once on each node; a fresh etcd for each round."""
    found = []
    for _ in range(rounds):
        # The program itself enters no namespace: it runs again inside one.
        with (
            spaces(1) as (space,),
            tempfile.TemporaryDirectory(prefix="tortie-bench-", dir="/dev/shm") as name,
        ):
            start_etcd(space, Path(name))
            words = [sys.executable, "-m", "bench.measures.addresses", str(nodes), str(requests), str(lanes)]
            found.append(float(space.run(*words)))
    return tuple(found)


def measure(rounds: int, progress: Callable[[str], None]) -> list[Measure]:
    """Allocations a second: one after the other on one node, 16 at once on one node, 32 nodes with 4 at once each."""
    cases = (
        (1, 500, 1, "one node, one at a time"),
        (1, 1000, 16, "one node, 16 at once"),
        (32, 100, 4, "32 nodes, 4 at once each"),
    )
    found = []
    for nodes, requests, lanes, title in cases:
        progress(f"(h) {title}")
        values = rates(nodes, requests, lanes, rounds)
        limit = None if lanes == 1 else 2000.0
        found.append(
            Measure(
                f"h-{nodes}-{lanes}",
                f"IPAM allocations, {title}",
                (Series(OURS, "/s", values),),
                ">= 2,000/s" if limit else "",
                limit=limit,
                at_least=True,
            )
        )
    return found


if __name__ == "__main__":
    print(asyncio.run(_rate(*(int(word) for word in sys.argv[1:4]))))
