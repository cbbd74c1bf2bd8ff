"""What no watch reports and this node depends on is looked at, and each damaged value is named."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest

from agent.datastore.own_values import OwnValues
from agent.datastore.state_cache import StateCache
from ipam.etcd.store import Delete, Put, Versioned
from ipam.keys import IPAM_CONFIG, block_key, resource_key
from tests.fakes.store import FakeStore
from tests.scenes.datastore.damages import AFFINITY, IPAM, ME, Good, damages

ANOTHER = resource_key("ipreservations", "another")


class World:
    """A node with one block, two allocations in it, and rules."""

    def __init__(self) -> None:
        self.store, self.state = FakeStore(), StateCache(ME)
        self.values = OwnValues(self.store, self.state, lambda: True)

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
    await world.values.look_again()
    assert world.named() == []


async def test_the_handles_of_a_block_that_cannot_be_read_any_more_are_looked_at_all_the_same() -> None:
    world = await World().filled()
    block, handle = (good.key for good in IPAM[:2])
    await world.put(block, b"{")
    await world.put(handle, b"{")
    await world.values.look()
    assert world.named() == [block, handle]
    await world.store.commit((), (Delete(handle), Delete(block)))
    await world.values.look_again()
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


async def test_blocks_that_overlap_are_a_trouble_as_long_as_both_are_there() -> None:
    store = FakeStore()
    ours, other = IPv4Network("10.9.0.0/26"), IPv4Network("10.9.0.0/28")
    values = OwnValues(store, StateCache(ME), lambda: True, lambda: {ours: other})
    assert len(list(values.troubles())) == 1, "the allocator has seen it just now"
    await values.look_at_overlaps()
    assert list(values.troubles()) == []
    await store.commit((), (Put(block_key(other), b"{}"),))
    await values.look_at_overlaps()
    (trouble,) = values.troubles()
    assert str(trouble).startswith("block 10.9.0.0/26: it overlaps block 10.9.0.0/28, of another size")
    await store.commit((), (Delete(block_key(other)),))
    await values.look_at_overlaps()
    assert list(values.troubles()) == []


async def test_a_block_of_another_size_than_its_key_says_costs_nothing() -> None:
    world = await World().filled()
    raw = json.loads(IPAM[0].value) | {"cidr": "0.0.0.0/0"}
    await world.put(IPAM[0].key, json.dumps(raw).encode())
    await world.values.look()
    assert world.named() == [IPAM[0].key]
    assert IPv4Network("10.9.0.0/26") in world.state.block_owners
