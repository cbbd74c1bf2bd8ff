"""Addresses that a named workload finds again: retained at release, taken over by its next pod, freed in the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from ipaddress import ip_address, ip_network

import pytest

from ipam import block as blocks
from ipam.allocation.assign import AddressSearch
from ipam.allocation.block_cache import BlockCache
from ipam.allocation.environment import Environment
from ipam.allocation.sticky import (
    KEEP_SECONDS,
    LONGEST_RETENTION_SECONDS,
    Retention,
    is_retained,
    is_retention_over,
    retained,
    retention_of,
)
from ipam.allocation.transaction import Transaction, read_block
from ipam.codec import encode_block
from ipam.etcd.store import GuardFailed, Put
from ipam.failures import AddressInUse, PoolExhausted, StoreUnavailable
from ipam.keys import block_key, handle_key
from ipam.model import AddressRequest, Attributes, HandleId
from tests.fakes.store import FakeStore, Fault
from tests.scenes.ipam.world import START, World, addresses_of, ask, no_pause

NAME = HandleId("net.@default@web-0")
RETENTION = Retention(NAME, 600)


def named(
    container: str, node: str = "n1", retention: Retention = RETENTION, **settings: object
) -> AddressRequest:
    """What the next pod of the name asks for."""
    words = (("node", node), ("netns", f"/run/{container}"), *retention.words())
    return ask(f"net.{container}", node, secondary=words, retained_for=retention.handle, **settings)


async def test_the_next_pod_of_a_name_has_the_address_of_the_last_one(world: World) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    allocator = world.allocator()
    (first,) = await allocator.assign(named("c1"))
    assert await allocator.release_handle(HandleId("net.c1")) == ()
    assert await world.held() == {first.address: NAME}
    await allocator.assign(ask("other"))
    (again,) = await allocator.assign(named("c2"))
    assert again.address == first.address
    assert (await world.held())[first.address] == "net.c2"
    assert await allocator.assign(named("c2")) == (again,)
    assert await world.store.get(handle_key(NAME)) is None
    assert await world.faults() == []


async def test_another_process_and_a_lost_reply_give_the_same(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    (first,) = await world.allocator().assign(named("c1"))
    await world.allocator().release_handle(HandleId("net.c1"))
    store.fail_next(Fault.LOST_REPLY)
    with pytest.raises(StoreUnavailable):
        await world.allocator().assign(named("c2"))
    assert addresses_of(await world.allocator().assign(named("c2"))) == [str(first.address)]
    assert await world.faults() == []


async def test_what_is_retained_is_given_to_nobody_else_and_a_refusal_says_so(world: World) -> None:
    await world.pool("p", "10.0.0.0/30", 30)
    allocator = world.allocator()
    given = [
        await allocator.assign(named(f"c{number}", retention=Retention(HandleId(f"net.@{number}"), 60)))
        for number in range(4)
    ]
    for number in range(4):
        await allocator.release_handle(HandleId(f"net.c{number}"))
    with pytest.raises(PoolExhausted, match=r"no free address \(4 retained for named workloads\)"):
        await allocator.assign(ask("other"))
    with pytest.raises(AddressInUse):
        await allocator.assign(ask("other", exact=(given[0][0].address,)))


async def test_a_second_pod_of_a_name_has_an_address_of_its_own_and_the_first_ones_is_the_names(
    world: World,
) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    allocator = world.allocator()
    (first,) = await allocator.assign(named("c1"))
    (second,) = await allocator.assign(named("c2"))
    assert second.address != first.address
    await allocator.release_handle(HandleId("net.c1"))
    assert await allocator.release_handle(HandleId("net.c2")) == (second.address,)
    assert await world.held() == {first.address: NAME}
    assert await world.faults() == []


async def test_of_two_pods_released_together_one_address_is_retained(world: World) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    allocator = world.allocator()
    for container in ("c1", "c2"):
        await allocator.assign(named(container))
    await asyncio.gather(*(allocator.release_handle(HandleId(f"net.{one}")) for one in ("c1", "c2")))
    assert list((await world.held()).values()) == [NAME]
    assert await world.faults() == []


async def test_both_families_come_back_together(world: World) -> None:
    await world.pool("p4", "10.0.0.0/28", 29)
    await world.pool("p6", "fd00::/120", 122)
    allocator = world.allocator()
    both = await allocator.assign(named("c1", ipv6=1))
    await allocator.release_handle(HandleId("net.c1"))
    assert set(await world.held()) == {item.address for item in both}
    again = await allocator.assign(named("c2", ipv6=1))
    assert {item.address for item in again} == {item.address for item in both}
    assert await world.faults() == []


async def test_what_does_not_fit_the_request_stays_retained(world: World) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    await world.pool("q", "10.9.0.0/28", 29)
    allocator = world.allocator()
    (first,) = await allocator.assign(named("c1", ipv4_pools=("p",)))
    await allocator.release_handle(HandleId("net.c1"))
    (other,) = await allocator.assign(named("c2", ipv4_pools=("q",)))
    assert other.pool == "q"
    (wished,) = await allocator.assign(named("c3", exact=(ip_address("10.9.0.5"),)))
    assert str(wished.address) == "10.9.0.5"
    assert (await world.held())[first.address] == NAME
    (same,) = await allocator.assign(named("c4", exact=(first.address,)))
    assert same.address == first.address


async def test_a_node_that_goes_takes_what_it_retains_along(world: World) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    allocator = world.allocator()
    await allocator.assign(named("c1"))
    await allocator.release_handle(HandleId("net.c1"))
    await allocator.release_node(ask("x").node)
    assert await world.held() == {}
    assert await world.faults() == []


async def test_a_damaged_record_of_the_name_stops_no_release(world: World) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    allocator = world.allocator()
    await allocator.assign(named("c1"))
    await world.store.commit((), (Put(handle_key(NAME), b"{"),))
    await allocator.release_handle(HandleId("net.c1"))
    assert await world.held() == {}


def test_a_transfer_leaves_a_block_sound_and_is_a_new_allocation() -> None:
    block = blocks.new_block(ip_network("10.0.0.0/29"), ask("x").node, "", 7)
    block, _ = blocks.assign(block, 2, Attributes(HandleId("a"), RETENTION.words()))
    before = dict(block.sequence_of)[0]
    after = blocks.transfer(block, [0], retained(block.attributes[0], RETENTION, START))
    assert blocks.broken_invariants(after) == ()
    assert dict(after.sequence_of)[0] > before
    assert [len(blocks.allocations_of(after, HandleId(one))) for one in ("a", NAME)] == [1, 1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (RETENTION.words(), RETENTION),
        ((("keepAs", NAME),), None),
        ((("keepAs", NAME), (KEEP_SECONDS, "soon")), None),
        (((KEEP_SECONDS, "600"),), None),
        ((("keepAs", NAME), (KEEP_SECONDS, "9" * 12)), Retention(NAME, LONGEST_RETENTION_SECONDS)),
        ((), None),
    ],
)
def test_words_that_cannot_be_read_retain_nothing(
    words: tuple[tuple[str, str], ...], found: Retention | None
) -> None:
    assert retention_of(Attributes(HandleId("h"), words)) == found


def test_a_retained_address_says_whose_it_is_and_until_when_and_nothing_of_its_container() -> None:
    attributes = Attributes(
        HandleId("net.c1"), (("netns", "/x"), ("boot", "b"), ("node", "n1"), *RETENTION.words())
    )
    waiting = retained(attributes, RETENTION, START)
    assert waiting.handle == NAME
    assert waiting.secondary == (("keepAs", NAME), ("keptUntil", "2026-01-02T03:14:05Z"), ("node", "n1"))
    assert (is_retained(attributes), is_retained(waiting)) == (False, True)
    assert not is_retention_over(waiting, START + timedelta(seconds=599))
    assert is_retention_over(waiting, START + timedelta(seconds=600))
    assert not is_retention_over(attributes, START)
    assert is_retention_over(Attributes(NAME, (("keptUntil", "never"),)), START), (
        "a moment nobody can read holds nothing for ever"
    )


async def test_a_transaction_that_remembers_a_block_as_it_was_is_refused_by_its_guard_and_by_nothing_else(
    world: World,
) -> None:
    """Another request of the moment drafted on the block as this node remembers it; the name lost its share since."""
    record = await world.pool("p", "10.0.0.0/28", 29)
    (first,) = await world.allocator().assign(named("c1"))
    await world.allocator().release_handle(HandleId("net.c1"))
    stored = await world.store.get(block_key(first.block))
    handle = await world.store.get(handle_key(NAME))
    assert stored is not None
    assert handle is not None
    remembered = read_block(stored)
    ordinal = int(first.address) - int(first.block.network_address)
    freed = blocks.release(remembered.block, [ordinal], None)
    await world.write(stored.key, encode_block(freed))
    transaction = Transaction()
    transaction.write_block(remembered, remembered.block)
    request, cache = named("c2"), BlockCache(ask("x").node)
    environment = Environment(world.store, world.clock.wall, lambda: [record], no_pause, world.random)
    search = AddressSearch(environment, request, cache, transaction)
    given = await search.reassign_retained(())
    assert addresses_of(given) == [str(first.address)]
    guards, operations = transaction.guards_and_operations
    assert isinstance(await world.store.commit(guards, operations), GuardFailed)
