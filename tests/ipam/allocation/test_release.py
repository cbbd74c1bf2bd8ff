"""Giving addresses back: by handle, one by one under guards, all of a node, all of a pool."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest

from ipam.allocation.release import GuardedAddress, NodeRelease, release_pool
from ipam.allocation.transaction import PiggybackedWrites
from ipam.etcd.store import Delete, Put, Unchanged
from ipam.failures import Conflict, Refused, Unreadable
from ipam.keys import block_key, handle_key, resource_key
from ipam.model import HandleId, NodeName
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import World, addresses_of, ask, endpoint, no_pause


async def test_releasing_an_unknown_handle_still_commits_the_attached_writes(
    world: World, store: FakeStore
) -> None:
    key = resource_key("workloadendpoints", "w1", "default")
    await world.write(key, b"{}")
    assert await world.allocator().release_handle(HandleId("h"), PiggybackedWrites((), (Delete(key),))) == ()
    assert key not in store.copy()
    assert await world.allocator().release_handle(HandleId("h")) == ()


async def test_a_release_whose_attached_guard_is_stale_changes_nothing(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    await allocator.assign(ask("h1"))
    with pytest.raises(Conflict):
        await allocator.release_handle(
            HandleId("h1"), PiggybackedWrites((Unchanged("/x", 7),), (Put("/x", b""),))
        )
    assert len(await world.held()) == 1


async def test_an_address_is_released_only_from_the_one_who_is_named(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    given = await allocator.assign(ask("h1", ipv4=2))
    block = await world.block(str(given[0].block))
    assert block is not None
    sequence = dict(block.sequence_of)[0]
    with pytest.raises(Conflict, match="held by h1, not by h2"):
        await allocator.release_addresses([GuardedAddress(given[0].address, HandleId("h2"))])
    with pytest.raises(Conflict, match="assigned anew"):
        await allocator.release_addresses([GuardedAddress(given[0].address, HandleId("h1"), sequence + 1)])
    nowhere, free = ip_address("10.9.9.9"), given[0].block.broadcast_address
    done = await allocator.release_addresses(
        [
            GuardedAddress(given[0].address, HandleId("h1"), sequence),
            GuardedAddress(nowhere),
            GuardedAddress(free),
        ]
    )
    assert addresses_of(done.released) == [str(given[0].address)]
    assert set(done.unallocated) == {nowhere, free}
    assert await world.faults() == []
    await allocator.release_addresses([GuardedAddress(given[1].address)])
    assert await allocator.assigned(HandleId("h1")) == ()
    assert await world.faults() == []


async def test_a_node_is_released_with_all_it_holds_and_nobody_elses(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/30")
    allocator = world.allocator()
    await allocator.assign(ask("h1", node="n1"))
    await allocator.assign(ask("h2", node="n2", ipv4=2))  # borrowed
    done = await allocator.release_node(NodeName("n1"))
    assert (len(done.addresses), addresses_of(done.blocks), done.unreadable) == (1, ["10.0.0.0/30"], ())
    block = await world.block("10.0.0.0/30")
    assert block is not None
    assert block.owner is None
    assert set((await world.held()).values()) == {"h2"}
    assert await world.faults() == []
    await allocator.release_node(NodeName("n2"))
    assert await world.block("10.0.0.0/30") is None
    assert [key for key in store.copy() if "/ipam/" in key] == []


async def test_a_tunnels_address_goes_whoever_has_its_block_and_so_do_the_marks_of_a_node(
    world: World, store: FakeStore
) -> None:
    """Calico's older tunnel addresses bear no word of their node but their handle."""
    await world.pool("p", "10.0.0.0/30")
    allocator = world.allocator()
    await allocator.assign(ask("h2", node="n2"))
    await allocator.assign(replace(ask("vxlan-tunnel-addr-n1", node="n2"), secondary=()))
    await world.write(handle_key(HandleId("ipip-tunnel-addr-n1")), b'{"block":{},"deleted":false}')
    await world.write(handle_key(HandleId("ipip-tunnel-addr-n11")), b'{"block":{},"deleted":false}')
    await world.write("/calico/ipam/v2/host/n1", b"{}")
    done = await allocator.release_node(NodeName("n1"))
    assert (len(done.addresses), done.blocks, done.handles) == (1, (), 1)
    assert set((await world.held()).values()) == {"h2"}
    assert not [key for key in store.copy() if key.endswith(("/n1", "addr-n1"))]
    assert handle_key(HandleId("ipip-tunnel-addr-n11")) in store.copy()
    assert await allocator.release_node(NodeName("n1")) == NodeRelease()


async def test_a_claim_whose_block_cannot_be_read_stays_and_keeps_nothing_else(
    world: World, store: FakeStore
) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    given = await allocator.assign(ask("h1", node="n1", ipv4=5))
    first, last = block_key(given[0].block), block_key(given[-1].block)
    await world.write(first, b"{")
    done = await allocator.release_node(NodeName("n1"))
    assert (len(done.addresses), len(done.blocks), len(done.unreadable)) == (1, 1, 1)
    assert first in done.unreadable[0]
    assert (first in store.copy(), last in store.copy()) == (True, False)


async def test_a_pool_is_given_up_only_when_disabled_and_its_addresses_survive(world: World) -> None:
    record = await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    given = await allocator.assign(ask("h1", ipv4=5))
    await allocator.release_addresses([GuardedAddress(given[4].address)])
    with pytest.raises(Refused, match="disable it first"):
        await release_pool(world.store, record, no_pause)
    record = await world.pool("p", "10.0.0.0/29", disabled=True)
    assert await release_pool(world.store, record, no_pause) == 2
    assert len(await world.held()) == 4
    assert await world.block(str(given[4].block)) is None
    assert await world.faults() == []
    await allocator.release_handle(HandleId("h1"))
    assert await world.block(str(given[0].block)) is None


async def test_releases_of_one_moment_share_transactions(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/24", 26)
    allocator = world.allocator()
    await asyncio.gather(*(allocator.assign(ask(f"h{number}")) for number in range(64)))
    before = store.commits
    freed = await asyncio.gather(
        *(allocator.release_handle(HandleId(f"h{number}"), endpoint(f"w{number}")) for number in range(64))
    )
    assert len({address for part in freed for address in part}) == 64
    assert store.commits - before == 2
    assert await world.held() == {}
    assert await world.faults() == []


async def test_a_release_that_cannot_be_done_fails_alone(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    for name in ("h1", "h2", "h3"):
        await allocator.assign(ask(name))
    await world.write(handle_key(HandleId("h3")), b"{")
    stale = PiggybackedWrites((Unchanged("/x", 7),), (Put("/x", b""),))
    done = await asyncio.gather(
        allocator.release_handle(HandleId("h1"), stale),
        allocator.release_handle(HandleId("h2")),
        allocator.release_handle(HandleId("h2")),
        allocator.release_handle(HandleId("h3")),
        return_exceptions=True,
    )
    assert [type(one).__name__ for one in done] == ["Conflict", "tuple", "tuple", "Unreadable"]
    assert sorted(len(one) for one in done if isinstance(one, tuple)) == [0, 1]
    assert sorted((await world.held()).values()) == ["h1", "h3"]


async def test_a_release_whose_caller_goes_away_harms_no_other(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    for name in ("h1", "h2"):
        await allocator.assign(ask(name))
    leaving = asyncio.create_task(allocator.release_handle(HandleId("h1")))
    staying = asyncio.create_task(allocator.release_handle(HandleId("h2")))
    await asyncio.sleep(0)
    leaving.cancel()
    assert len(await staying) == 1
    assert await world.faults() == []


async def test_a_warm_release_is_two_round_trips_and_stale_hints_are_noticed(
    world: World, store: FakeStore
) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator, other = world.allocator(), world.allocator()
    for name in ("h1", "h2"):
        await allocator.assign(ask(name))
    before = store.calls
    assert len(await allocator.release_handle(HandleId("h1"))) == 1
    assert store.calls - before == 2
    await other.assign(ask("h3"))
    await world.rules('{"auto_allocate_blocks":true}')
    assert len(await allocator.release_handle(HandleId("h2"))) == 1
    assert set((await world.held()).values()) == {"h3"}
    assert await world.faults() == []


async def test_what_a_handle_holds_in_a_damaged_block_is_not_taken_for_nothing(world: World) -> None:
    await world.pool("p", "10.0.0.0/28", 29)
    allocator = world.allocator()
    (held,) = await allocator.assign(ask("h1"))
    await world.write(block_key(held.block), b"{")
    with pytest.raises(Unreadable, match="block/10"):
        await allocator.assigned(HandleId("h1"))
    with pytest.raises(Unreadable, match="block/10"):
        await world.allocator().assign(ask("h1"))
