"""Processes of a race: `python -m tests.scenes.ipam.racing ENDPOINT COUNT`; all assign when standard input ends.

Each is a node of its own, `n0` and so on. Everything is imported before they are forked.
"""

from __future__ import annotations

import asyncio
import os
import sys
from ipaddress import ip_network

from agent.clock import SystemClock
from ipam.allocation.allocator import Allocator
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.failures import IpamError
from ipam.keys import resource_key
from ipam.model import Pool, PoolRecord
from tests.scenes.ipam.world import ask


def say(word: str) -> None:
    """A line in one piece: all write to the same pipe."""
    os.write(1, f"{word}\n".encode())


async def race(url: str, node: str) -> None:
    """Assign one address at the end of standard input; print it, or the name of the refusal."""
    store = EtcdStore(EtcdConfig((url,)))
    stored = await store.get(resource_key("ippools", "p"))
    assert stored is not None
    pools = [PoolRecord(Pool("p", ip_network("10.0.0.0/26"), 30), stored.key, stored.revision)]
    allocator = Allocator(store, SystemClock().wall, lambda: pools)
    say("ready")
    sys.stdin.read()
    try:
        (assigned,) = await allocator.assign(ask(f"h-{node}", node))
        say(str(assigned.address))
    except IpamError as error:
        say(type(error).__name__)
    await store.close()


def main(url: str, count: int) -> None:
    """Fork them, and wait for all."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            asyncio.run(race(url, f"n{number}"))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
