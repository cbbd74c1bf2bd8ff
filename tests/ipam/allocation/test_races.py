"""Many allocators on one etcd: a block has one owner, an address one holder, a killed process leaves no damage."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from ipam.allocation.transaction import PiggybackedWrites
from ipam.check.audit import audit, decode_snapshot
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.etcd.store import Delete
from ipam.failures import PoolExhausted
from ipam.keys import IPAM, IPAM_CONFIG, resource_key
from ipam.model import AffinityState, HandleId
from tests.fixtures.etcd import Etcd, start_etcd
from tests.scenes.ipam.world import World, ask

KILLS, LANES = 200, 4
LONGEST_SECONDS = 0.05
"""Several allocations long: a kill hits any step of one."""


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


@pytest.mark.parametrize("strict", [True, False], ids=["strict affinity", "borrowing"])
async def test_thirty_two_processes_race_for_sixteen_blocks(
    world: World, server: Etcd, *, strict: bool
) -> None:
    await world.pool("p", "10.0.0.0/26", 30)
    await world.rules(f'{{"strict_affinity":{str(strict).lower()},"auto_allocate_blocks":true}}')
    pipe = asyncio.subprocess.PIPE
    words = ("-m", "tests.scenes.ipam.racing", server.endpoint, "32")
    racers = await asyncio.create_subprocess_exec(sys.executable, *words, stdin=pipe, stdout=pipe)
    assert racers.stdout is not None
    for _ in range(32):
        assert await racers.stdout.readline() == b"ready\n"
    out, _ = await racers.communicate(b"")
    answers = out.decode().split()
    assert len(answers) == 32
    addresses = [answer for answer in answers if answer != "PoolExhausted"]
    assert len(set(addresses)) == len(addresses) == (16 if strict else 32)
    seen = decode_snapshot((await world.store.list(IPAM)).values)
    assert Counter(block.owner is not None for block in seen.blocks.values()) == {True: 16}
    assert {claim.state for claim in seen.claims} == {AffinityState.CONFIRMED}
    assert len({claim.node for claim in seen.claims}) == 16
    assert await world.faults() == []


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
    await asyncio.gather(
        *(allocators[node].release_handle(handle, PiggybackedWrites()) for node, handle in handles)
    )
    assert await world.held() == {}
    assert await world.faults() == []


@pytest.mark.timeout(600)
async def test_a_killed_process_leaves_nothing_torn(world: World, server: Etcd) -> None:
    pool = {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/26", "blockSize": 29}}
    await world.write(resource_key("ippools", "p"), json.dumps(pool).encode())
    for number in range(LANES):
        node = {"kind": "Node", "metadata": {"name": f"n{number}"}, "spec": {}}
        await world.write(resource_key("nodes", f"n{number}"), json.dumps(node).encode())
    dice = random.Random(1)

    async def lane(number: int) -> None:
        source = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.scenes.ipam.allocating", server.endpoint, f"n{number}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(KILLS // LANES):
            await kill_one(world, source, dice.random() * LONGEST_SECONDS)
        await source.communicate(b"")

    await asyncio.gather(*(lane(number) for number in range(LANES)))
    everything = (await world.store.list("/calico/")).values
    assert IPAM_CONFIG not in everything
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli.main", "--etcd-endpoints", server.endpoint, "ipam", "check"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await done.communicate()
    assert b"Check complete; found 0 problems." in said, said


async def kill_one(world: World, source: asyncio.subprocess.Process, after_seconds: float) -> None:
    """Kill a process while it allocates, at a random moment; what it leaves must be sound."""
    assert source.stdin is not None
    assert source.stdout is not None
    source.stdin.write(b"\n")
    pid, _, word = (await source.stdout.readline()).partition(b" ")
    assert word == b"ready\n"
    await asyncio.sleep(after_seconds)  # the random moment is the test
    os.kill(int(pid), signal.SIGKILL)
    listing = await world.store.list("/calico/")
    seen = decode_snapshot({key: value for key, value in listing.values.items() if key.startswith(IPAM)})
    assert audit(seen) == ()
    for handle in seen.handles:
        assert resource_key("workloadendpoints", handle, "default") in listing.values
