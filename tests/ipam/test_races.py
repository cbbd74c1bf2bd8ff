"""Many allocators on one etcd: a block has one owner, an address one holder, a killed process leaves no damage."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from ipam.audit import audit, picture
from ipam.draft import Companion
from ipam.errors import PoolExhausted
from ipam.etcd import EtcdConfig, EtcdStore
from ipam.keys import IPAM, IPAM_CONFIG, resource_key
from ipam.model import AffinityState, HandleId
from ipam.store import Delete
from tests.fixtures.etcd import Etcd, start_etcd
from tests.ipam.world import World, ask

KILLS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Etcd]:
    with start_etcd() as running:
        yield running


@pytest.fixture
async def world(server: Etcd) -> AsyncIterator[World]:
    store = EtcdStore(EtcdConfig((server.endpoint,)))
    yield World(store)
    everything = list((await store.list("/calico/")).values)
    for start in range(0, len(everything), 100):
        await store.commit((), [Delete(key) for key in everything[start : start + 100]])
    await store.close()


async def test_thirty_two_nodes_race_for_sixteen_blocks(world: World, server: Etcd) -> None:
    await world.pool("p", "10.0.0.0/26", 30)
    await world.rules('{"strict_affinity":true}')
    stores = [EtcdStore(EtcdConfig((server.endpoint,))) for _ in range(32)]
    nodes = [World(store) for store in stores]
    for node in nodes:
        node.pools = world.pools
    outcomes = await asyncio.gather(
        *(node.allocator().assign(ask(f"h{number}", f"n{number}")) for number, node in enumerate(nodes)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, PoolExhausted) for outcome in outcomes) == 16
    seen = picture((await world.store.list(IPAM)).values)
    assert Counter(block.owner is not None for block in seen.blocks.values()) == {True: 16}
    assert {claim.state for claim in seen.claims} == {AffinityState.CONFIRMED}
    assert len({claim.node for claim in seen.claims}) == 16
    assert await world.faults() == []
    await asyncio.gather(*(store.close() for store in stores))


async def test_borrowing_nodes_fill_a_pool_to_the_last_address(world: World) -> None:
    await world.pool("p", "10.0.0.0/26", 30)
    allocators = [world.allocator() for _ in range(32)]
    outcomes = await asyncio.gather(
        *(allocators[number % 32].assign(ask(f"h{number}", f"n{number % 32}")) for number in range(70)),
        return_exceptions=True,
    )
    addresses = [item.address for outcome in outcomes if isinstance(outcome, tuple) for item in outcome]
    assert len(addresses) == len(set(addresses)) == 64
    assert sum(isinstance(outcome, PoolExhausted) for outcome in outcomes) == 6
    assert await world.faults() == []


async def test_a_pool_filled_and_emptied_by_many_is_empty_again(world: World) -> None:
    await world.pool("p", "10.0.0.0/23", 28)
    allocators = [world.allocator() for _ in range(8)]
    handles = [(number % 8, HandleId(f"h{number}")) for number in range(200)]
    await asyncio.gather(*(allocators[node].assign(ask(handle, f"n{node}")) for node, handle in handles))
    assert len(await world.held()) == 200
    await asyncio.gather(*(allocators[node].release_handle(handle, Companion()) for node, handle in handles))
    assert await world.held() == {}
    assert await world.faults() == []


async def test_a_killed_process_leaves_nothing_torn(world: World, server: Etcd) -> None:
    await world.pool("p", "10.0.0.0/26", 29)
    dice = random.Random(1)
    for number in range(KILLS):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.ipam.allocating", server.endpoint, f"n{number % 3}"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        await asyncio.sleep(dice.random() * 0.1)  # the random moment is the test
        process.kill()
        await process.wait()
        listing = await world.store.list("/calico/")
        seen = picture({key: value for key, value in listing.values.items() if key.startswith(IPAM)})
        assert audit(seen) == ()
        for handle in seen.handles:
            assert resource_key("workloadendpoints", handle, "default") in listing.values
    assert IPAM_CONFIG not in listing.values
