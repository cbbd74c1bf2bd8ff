"""Processes that allocate and release for ever, to be killed: `python -m tests.scenes.ipam.allocating ENDPOINT NODE`.

Forks one for each line it reads, when the one before is dead; each writes `PID ready` when it has allocated once.
Everything is imported before the fork, so that one is there in a few milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import suppress
from ipaddress import ip_network

from agent.clock import SystemClock
from agent.datastore.resources.resource_types import Metadata, WorkloadEndpoint, WorkloadEndpointSpec, encode
from ipam.allocation.allocator import Allocator
from ipam.allocation.transaction import PiggybackedWrites
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Delete, Put, Unchanged
from ipam.failures import IpamError
from ipam.keys import resource_key
from ipam.model import Assignment, HandleId, Pool, PoolRecord
from tests.scenes.ipam.world import ask


def pod(handle: str, node: str, assigned: tuple[Assignment, ...]) -> PiggybackedWrites:
    """A whole workload endpoint, as the agent writes it along with the addresses."""
    key = resource_key("workloadendpoints", handle, "default")
    made = WorkloadEndpoint(
        metadata=Metadata(name=handle, namespace="default"),
        spec=WorkloadEndpointSpec(
            node=node,
            orchestrator="cni",
            endpoint="eth0",
            interface_name="cali0",
            ip_networks=[f"{item.address}/32" for item in assigned],
        ),
    )
    return PiggybackedWrites((Unchanged(key, 0),), (Put(key, encode(made)),), (Delete(key),))


async def allocate(url: str, node: str) -> None:
    """Say `PID ready` once, then go on until killed."""
    store = EtcdStore(EtcdConfig((url,)))
    stored = await store.get(resource_key("ippools", "p"))
    assert stored is not None
    pools = [PoolRecord(Pool("p", ip_network("10.0.0.0/26"), 29), stored.key, stored.revision)]
    allocator = Allocator(store, SystemClock().wall, lambda: pools)

    async def one(number: int) -> None:
        handle = f"{node}-{number}-{random.randrange(1 << 30)}"
        with suppress(IpamError):
            await allocator.assign(ask(handle, node), lambda assigned: pod(handle, node, assigned))
            await allocator.release_handle(HandleId(handle))

    await one(0)
    print(os.getpid(), "ready", flush=True)
    while True:
        await asyncio.gather(*(one(number) for number in range(4)))


def main(url: str, node: str) -> None:
    """One process after the other."""
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(allocate(url, node))
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
