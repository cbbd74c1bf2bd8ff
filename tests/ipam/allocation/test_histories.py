"""Random histories of a small cluster under faults: after every single write nothing is twice, torn or lost.

A failing seed is in the message of the failing test, and replays (see tests/scenes/ipam/history.py).
"""

from __future__ import annotations

import asyncio
import random

import pytest

from ipam.allocation.allocator import Allocator
from ipam.keys import resource_key
from tests.fakes.store import FakeStore
from tests.scenes.ipam.history import STEPS, History
from tests.scenes.ipam.world import World, ask, endpoint

HISTORIES = 30
REPLAYED = range(10)


def history_of(seed: int) -> History:
    return History(seed, FakeStore(random.Random(seed)))


async def idle(allocator: Allocator) -> None:
    """Wait until no queue has work: what a cancelled caller left is taken back by then."""
    await asyncio.gather(*(queue.worker for queue in allocator._queues.values() if queue.worker is not None))


@pytest.mark.parametrize("group", range(5))
async def test_no_history_gives_an_address_twice_or_loses_one(group: int) -> None:
    writes = 0
    for seed in range(group * HISTORIES, (group + 1) * HISTORIES):
        history = history_of(seed)
        try:
            await history.run()
        except Exception as error:
            error.add_note(f"history {seed}")
            raise
        writes += history.writes
    assert writes > HISTORIES * STEPS / 2


async def test_the_same_seed_gives_the_same_history_and_another_seed_another() -> None:
    histories = [history_of(seed) for seed in (*REPLAYED, *REPLAYED)]
    for history in histories:
        await history.run()
    once, again = histories[: len(REPLAYED)], histories[len(REPLAYED) :]
    assert [history.states for history in once] == [history.states for history in again]
    assert len({str(history.states) for history in once}) == len(REPLAYED)


@pytest.mark.parametrize("moment", range(30))
async def test_a_cancelled_request_leaves_nothing_behind(moment: int) -> None:
    store = FakeStore(random.Random(moment))
    world = World(store)
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    before = store.copy()
    task = asyncio.create_task(allocator.assign(ask("h1"), lambda _: endpoint("w1")))
    for _ in range(moment):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await idle(allocator)
    if task.cancelled():
        left = {key for key in store.copy() if key not in before}
        assert all("/block/" in key for key in left)  # the claimed block may stay, empty, for the next
        assert await world.held() == {}
    else:
        assert len(await world.held()) == 1
    assert await world.faults() == []


async def test_a_request_cancelled_in_the_moment_of_its_answer_leaves_nothing_behind() -> None:
    store = FakeStore()
    world = World(store)
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    task = asyncio.create_task(allocator.assign(ask("h1"), lambda _: endpoint("w1")))

    def cancel_soon(_: object) -> None:
        asyncio.get_running_loop().call_soon(task.cancel)  # before the task wakes up with its answer

    store.committed = cancel_soon
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await idle(allocator)
    assert await world.held() == {}
    assert resource_key("workloadendpoints", "w1", "default") not in store.copy()
    assert await world.faults() == []
