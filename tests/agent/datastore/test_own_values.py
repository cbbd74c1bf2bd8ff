"""What no watch reports and this node depends on is looked at, and each damaged value is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network

import pytest

from agent.datastore.own_values import MOST_WATCHES, OwnValues
from agent.datastore.state_cache import StateCache
from ipam.block import assign
from ipam.codec import decode_block, encode_block, encode_handle
from ipam.etcd.store import Delete, Put, Versioned
from ipam.keys import IPAM_CONFIG, handle_key, resource_key
from ipam.model import Attributes, Handle, HandleId
from tests.fakes.store import FakeStore
from tests.scenes.datastore.damages import AFFINITY, IPAM, ME, Good, damages

ANOTHER = resource_key("ipreservations", "another")


class Heard(OwnValues):
    """Wakes whoever waits for what it has read."""

    def __init__(self, store: FakeStore, state: StateCache) -> None:
        super().__init__(store, state, lambda: True)
        self.has_read = asyncio.Event()

    async def look(self) -> int:
        found = await super().look()
        self.has_read.set()
        return found

    def _read_changed(self) -> None:
        super()._read_changed()
        self.has_read.set()


class World:
    """A node with one block, two allocations in it, and rules."""

    def __init__(self) -> None:
        self.store, self.state = FakeStore(), StateCache(ME)
        self.values = Heard(self.store, self.state)

    async def filled(self) -> World:
        for good in IPAM:
            await self.store.commit((), (Put(good.key, good.value),))
        self.state.apply(AFFINITY.key, Versioned(AFFINITY.key, AFFINITY.value, 1))
        await self.values.look()
        assert self.named() == []
        return self

    def named(self) -> list[str]:
        return [trouble.about for trouble in self.values.troubles()]

    async def put(self, key: str, value: bytes) -> None:
        await self.store.commit((), (Put(key, value),))

    async def says(self, *keys: str, seconds: float = 5.0) -> None:
        """Until these are named, and no others; within a second, which tests/chaos/junk_fields.py demands."""
        async with asyncio.timeout(seconds):
            while sorted(self.named()) != sorted(keys):
                await self.values.has_read.wait()
                self.values.has_read.clear()


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    task = asyncio.create_task(world.values.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("good", IPAM, ids=lambda good: good.kind)
async def test_a_damage_is_named_and_its_end_seen_while_the_agent_runs(good: Good) -> None:
    async with running(await World().filled()) as world:
        for value in (b"{", b"[]"):
            await world.put(good.key, value)
            await world.says(good.key)
            await world.put(good.key, good.value)
            await world.says()


async def test_what_becomes_ones_own_is_watched_too() -> None:
    world = World()
    async with running(world):
        await world.filled()
        block, handle = (good.key for good in IPAM[:2])
        await asyncio.sleep(0)
        await world.put(handle, b"{")
        await world.says(handle, seconds=8)
        await world.put(block, b"{")
        await world.says(block, handle)


async def test_the_handle_of_a_pod_attached_a_moment_ago_is_watched_however_many_came_before() -> None:
    async with running(await World().filled()) as world:
        block = decode_block(Versioned(IPAM[0].key, IPAM[0].value, 0))
        for number in range(MOST_WATCHES + 2):
            pod = HandleId(f"pod-{number}")
            block = assign(block, 1, Attributes(pod))[0]
            key, value = handle_key(pod), encode_handle(Handle(pod, ((block.cidr, 1),)))
            await world.store.commit((), (Put(IPAM[0].key, encode_block(block)), Put(key, value)))
            await world.put(key, b"{")
            await world.says(key, seconds=1.0)
            await world.put(key, value)
            await world.says(seconds=1.0)


async def test_a_watch_that_ends_is_made_again() -> None:
    async with running(await World().filled()) as world:
        await asyncio.sleep(0)
        world.store.break_watches()
        await asyncio.sleep(0)
        world.store.watches_break = False
        await world.put(IPAM_CONFIG, b"{")
        await world.says(IPAM_CONFIG, seconds=8)


@pytest.mark.parametrize("good", IPAM, ids=lambda good: good.kind)
async def test_whatever_is_wrong_with_a_value_it_is_named_until_it_is_mended(good: Good) -> None:
    world = await World().filled()
    tried = 0
    for damage in damages(good):
        await world.put(good.key, damage.value)
        await world.values.look()
        if damage.is_certain:
            assert world.named() == [good.key], damage.name
            tried += 1
        assert set(world.named()) <= {good.key}, damage.name
    assert tried > 40
    await world.put(good.key, good.value)
    await world.values.look()
    assert world.named() == []


async def test_the_handles_of_a_block_that_cannot_be_read_any_more_are_looked_at_all_the_same() -> None:
    world = await World().filled()
    block, handle = (good.key for good in IPAM[:2])
    await world.put(block, b"{")
    await world.put(handle, b"{")
    await world.values.look()
    assert world.named() == [block, handle]
    await world.store.commit((), (Delete(handle), Delete(block)))
    await world.values.look()
    assert world.named() == []


async def test_what_is_gone_and_what_is_no_more_ones_own_is_forgotten() -> None:
    world = await World().filled()
    for key in (IPAM_CONFIG, ANOTHER, IPAM[0].key):
        await world.put(key, b"[]")
    await world.values.look()
    assert sorted(world.named()) == sorted([IPAM_CONFIG, ANOTHER, IPAM[0].key])
    await world.store.commit((), (Delete(ANOTHER), Delete(IPAM_CONFIG)))
    world.state.apply(AFFINITY.key, None)
    await world.values.look()
    assert world.named() == []


async def test_a_block_of_another_size_than_its_key_says_costs_nothing() -> None:
    world = await World().filled()
    raw = json.loads(IPAM[0].value) | {"cidr": "0.0.0.0/0"}
    await world.put(IPAM[0].key, json.dumps(raw).encode())
    await world.values.look()
    assert world.named() == [IPAM[0].key]
    assert IPv4Network("10.9.0.0/26") in world.state.block_owners
