"""A process that allocates and releases for ever, to be killed: `python -m tests.ipam.allocating ENDPOINT NODE`."""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress
from ipaddress import ip_network

from agent.clock import SystemClock
from agent.datastore.resources import Metadata, WorkloadEndpoint, WorkloadEndpointSpec, encode
from ipam.allocator import Allocator, Companion
from ipam.errors import IpamError
from ipam.etcd import EtcdConfig, EtcdStore
from ipam.keys import resource_key
from ipam.model import Assignment, HandleId, Pool, PoolRecord
from ipam.store import Delete, Put, Unchanged
from tests.ipam.world import ask


def pod(handle: str, node: str, assigned: tuple[Assignment, ...]) -> Companion:
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
    return Companion((Unchanged(key, 0),), (Put(key, encode(made)),), (Delete(key),))


async def allocate(url: str, node: str) -> None:
    """Say `ready` once, then go on until killed."""
    store = EtcdStore(EtcdConfig((url,)))
    stored = await store.get(resource_key("ippools", "p"))
    assert stored is not None
    pools = [PoolRecord(Pool("p", ip_network("10.0.0.0/26"), 29), stored.key, stored.revision)]
    allocator = Allocator(store, SystemClock(), lambda: pools)

    async def one(number: int) -> None:
        handle = f"{node}-{number}-{random.randrange(1 << 30)}"
        with suppress(IpamError):
            await allocator.assign(ask(handle, node), lambda assigned: pod(handle, node, assigned))
            await allocator.release_handle(HandleId(handle))

    await one(0)
    print("ready", flush=True)
    while True:
        await asyncio.gather(*(one(number) for number in range(4)))


if __name__ == "__main__":
    asyncio.run(allocate(*sys.argv[1:]))
