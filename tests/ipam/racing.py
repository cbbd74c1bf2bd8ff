"""One process of a race: `python -m tests.ipam.racing ENDPOINT NODE`; it assigns when a line comes."""

from __future__ import annotations

import asyncio
import sys
from ipaddress import ip_network

from agent.clock import SystemClock
from ipam.allocator import Allocator
from ipam.errors import IpamError
from ipam.etcd import EtcdConfig, EtcdStore
from ipam.keys import resource_key
from ipam.model import Pool, PoolRecord
from tests.ipam.world import ask


async def race(url: str, node: str) -> None:
    """Assign one address as soon as a line comes; print it, or the name of the refusal."""
    store = EtcdStore(EtcdConfig((url,)))
    stored = await store.get(resource_key("ippools", "p"))
    assert stored is not None
    pools = [PoolRecord(Pool("p", ip_network("10.0.0.0/26"), 30), stored.key, stored.revision)]
    allocator = Allocator(store, SystemClock(), lambda: pools)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        (assigned,) = await allocator.assign(ask(f"h-{node}", node))
        print(assigned.address)
    except IpamError as error:
        print(type(error).__name__)
    await store.close()


if __name__ == "__main__":
    asyncio.run(race(*sys.argv[1:]))
