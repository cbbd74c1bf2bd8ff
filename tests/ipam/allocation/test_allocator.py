"""One allocation after the other: which address, which block, what is written, what is refused and why."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest

from ipam.allocation.allocator import FRESH_SECONDS
from ipam.allocation.transaction import PiggybackedWrites
from ipam.etcd.store import Delete
from ipam.failures import AddressInUse, BlockLimit, Conflict, NoPool, PoolExhausted, Refused, StoreUnavailable
from ipam.keys import IPAM_CONFIG, RESERVATIONS, affinity_key, block_key, handle_key, resource_key
from ipam.model import AssignmentMode, HandleId, NodeName, Use
from tests.fakes.store import FakeStore, Fault
from tests.scenes.ipam.world import World, addresses_of, ask, endpoint


async def test_the_first_address_claims_a_block_in_one_transaction(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/29")
    before = store.commits
    given = await world.allocator().assign(ask("h1"), lambda _: endpoint("w1"))
    assert store.commits == before + 1
    stored = store.copy()
    cidr = given[0].block
    assert json.loads(stored[affinity_key(NodeName("n1"), cidr)]) == {"state": "confirmed", "deleted": False}
    assert json.loads(stored[handle_key(HandleId("h1"))]) == {"block": {str(cidr): 1}, "deleted": False}
    assert json.loads(stored[block_key(cidr)])["affinity"] == "host:n1"
    assert resource_key("workloadendpoints", "w1", "default") in stored
    assert await world.faults() == []


async def test_a_warm_allocation_is_one_round_trip(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    await allocator.assign(ask("h1"))
    before = store.calls
    await allocator.assign(ask("h2"))
    assert store.calls == before + 1


async def test_requests_that_wait_together_share_transactions(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/24", 26)
    allocator = world.allocator()
    await allocator.assign(ask("h"))
    before = store.commits
    given = await asyncio.gather(*(allocator.assign(ask(f"h{number}")) for number in range(60)))
    assert store.commits - before <= 3
    assert len({item.address for items in given for item in items}) == 60
    assert await world.faults() == []


async def test_asking_again_with_the_same_handle_gives_the_same(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    first = await world.allocator().assign(ask("h1", ipv4=2))
    assert await world.allocator().assign(ask("h1", ipv4=2)) == first
    both = await asyncio.gather(*(world.allocator().assign(ask("h2")) for _ in range(3)))
    assert both[0] == both[1] == both[2]
    assert len(await world.held()) == 3


async def test_a_lost_reply_is_adopted_with_its_piggybacked_writes(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    store.fail_next(Fault.LOST_REPLY)
    with pytest.raises(StoreUnavailable):
        await allocator.assign(ask("h1"), lambda _: endpoint("w1"))
    given = await allocator.assign(ask("h1"), lambda _: endpoint("w1"))
    assert list(await world.held()) == [given[0].address]
    assert await world.faults() == []


async def test_a_handle_that_counts_what_it_does_not_hold_is_used_and_mended(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    await world.write(handle_key(HandleId("h1")), b'{"block":{"10.0.0.0/30":2},"deleted":false}')
    await world.allocator().assign(ask("h1"))
    assert await world.faults() == []


async def test_an_attached_guard_that_is_broken_stops_the_allocation_at_once(
    world: World, store: FakeStore
) -> None:
    await world.pool("p", "10.0.0.0/29")
    await world.write(resource_key("workloadendpoints", "w1", "default"), b"another's")
    before = store.copy()
    with pytest.raises(Conflict, match="w1 was changed meanwhile"):
        await world.allocator().assign(ask("h1"), lambda _: endpoint("w1"))
    assert store.copy() == before


async def test_a_piggyback_that_fails_harms_only_its_own_request(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()

    def broken(_: object) -> PiggybackedWrites:
        raise RuntimeError("the caller's fault")

    results = await asyncio.gather(
        allocator.assign(ask("h1")),
        allocator.assign(ask("h2"), broken),
        allocator.assign(ask("h3"), lambda _: endpoint("w3")),
        return_exceptions=True,
    )
    assert isinstance(results[1], RuntimeError)
    assert len(await world.held()) == 2


async def test_dual_stack_is_all_or_nothing(world: World, store: FakeStore) -> None:
    await world.pool("v4", "10.0.0.0/29")
    with pytest.raises(NoPool, match="IPv6"):
        await world.allocator().assign(ask("h1", ipv6=1))
    assert await world.held() == {}
    await world.pool("v6", "fd00::/64", 122)
    given = await world.allocator().assign(ask("h1", ipv6=1))
    assert [item.address.version for item in given] == [4, 6]
    assert await world.faults() == []


@pytest.mark.parametrize(("cidr", "length", "count"), [("10.0.0.0/28", 32, 3), ("10.0.0.0/20", 20, 5)])
async def test_several_addresses_may_come_from_several_blocks(
    world: World, cidr: str, length: int, count: int
) -> None:
    await world.pool("p", cidr, length)
    given = await world.allocator().assign(ask("h1", ipv4=count))
    assert len(set(addresses_of(given))) == count
    assert sorted(await world.allocator().release_handle(HandleId("h1"))) == sorted(
        item.address for item in given
    )
    assert await world.faults() == []


async def test_the_longest_idle_address_is_given_out_first(world: World) -> None:
    await world.pool("p", "10.0.0.0/30")
    allocator = world.allocator()
    first = await allocator.assign(ask("h1"))
    await allocator.release_handle(HandleId("h1"))
    rest = [await allocator.assign(ask(f"h{number}")) for number in range(2, 6)]
    assert rest[-1][0].address == first[0].address


async def test_a_full_pool_says_what_was_looked_at(world: World) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.pool("other", "10.1.0.0/24", 26, node_selector="rack == 'r2'")
    allocator = world.allocator()
    await allocator.assign(ask("h1", ipv4=4))
    with pytest.raises(PoolExhausted) as refused:
        await allocator.assign(ask("h2"))
    for part in (
        "block 10.0.0.0/30 of p: no free address",
        "p (10.0.0.0/30): every block is taken",
        "does not select",
    ):
        assert part in str(refused.value)


async def test_pools_are_chosen_by_use_name_mode_and_selector(world: World) -> None:
    await world.pool("a-off", "10.0.0.0/29", disabled=True)
    await world.pool("b-tunnel", "10.0.1.0/29", allowed_uses=frozenset({Use.TUNNEL}))
    await world.pool("c-manual", "10.0.2.0/29", assignment_mode=AssignmentMode.MANUAL)
    await world.pool("d-rack", "10.0.3.0/29", node_selector="rack == 'r2'")
    await world.pool("e-any", "10.0.4.0/27")
    allocator = world.allocator()

    async def pool_of(number: int, **settings: Any) -> str:
        return (await allocator.assign(ask(f"h{number}", f"n{number}", **settings)))[0].pool

    assert await pool_of(1) == "e-any"
    assert await pool_of(2, use=Use.TUNNEL) == "b-tunnel"
    assert await pool_of(3, ipv4_pools=("c-manual",)) == "c-manual"
    assert await pool_of(4, ipv4_pools=("10.0.3.0/29",)) == "d-rack"
    assert await pool_of(5, labels=(("rack", "r2"),)) == "d-rack"
    with pytest.raises(NoPool, match="error parsing pool 'nowhere'"):
        await pool_of(6, ipv4_pools=("nowhere",))
    with pytest.raises(NoPool, match="is disabled"):
        await pool_of(7, ipv4_pools=("a-off",))
    assert await pool_of(8, ipv4_pools=("a-off",), use=Use.TUNNEL) == "a-off", "its pods need the tunnel"


async def test_an_allocation_waits_for_the_watch_when_the_pool_has_changed(
    world: World, store: FakeStore
) -> None:
    record = await world.pool("p", "10.0.0.0/29")
    await world.pool("p", "10.0.0.0/29", disabled=True)
    fresh, world.pools = world.pools, [record]
    task = asyncio.create_task(world.allocator().assign(ask("h1")))
    for _ in range(10):
        await asyncio.sleep(0)
    world.pools = fresh
    with pytest.raises(NoPool, match="is disabled"):
        await task
    assert await world.held() == {}


async def test_a_node_takes_no_more_blocks_than_it_may(world: World) -> None:
    await world.pool("p", "10.0.0.0/24")
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":2}')
    allocator = world.allocator()
    await allocator.assign(ask("h1", ipv4=8))
    with pytest.raises(BlockLimit, match=r"has 2 blocks and may have 2; .*--max-blocks-per-host 4"):
        await allocator.assign(ask("h2"))
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":3}')
    await allocator.assign(ask("h2"))


async def test_no_block_is_claimed_when_blocks_are_given_by_hand(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    await world.rules('{"auto_allocate_blocks":false,"strict_affinity":true}')
    with pytest.raises(PoolExhausted, match="autoAllocateBlocks is off"):
        await world.allocator().assign(ask("h1"))


async def test_addresses_are_borrowed_only_without_strict_affinity(world: World) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.allocator().assign(ask("h1", node="n1"))
    borrowed = await world.allocator().assign(ask("h2", node="n2"))
    block = await world.block("10.0.0.0/30")
    assert block is not None
    assert block.owner == "n1"
    assert borrowed[0].block == block.cidr
    assert await world.faults() == []
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true}')
    with pytest.raises(PoolExhausted, match="strictAffinity is on"):
        await world.allocator().assign(ask("h3", node="n2"))


async def test_a_change_of_the_rules_is_honoured_by_a_warm_allocator(world: World) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.allocator().assign(ask("h1", node="n1"))
    warm = world.allocator()
    await warm.assign(ask("h2", node="n2"))
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true}')
    with pytest.raises(PoolExhausted, match="strictAffinity is on"):
        await warm.assign(ask("h3", node="n2"))


async def test_which_abandoned_block_is_taken_is_up_to_the_chance_that_was_given_and_to_nothing_else() -> (
    None
):
    async def taken(seed: int) -> object:
        world = World(FakeStore(), Random(seed).random)
        await world.pool("p", "10.0.0.0/27")
        for number in range(8):
            await world.allocator().assign(ask(f"h{number}", node=f"n{number}"))
        for number in range(8):
            await world.allocator().release_handle(HandleId(f"h{number}"))
        world.clock.advance(61)
        (given,) = await world.allocator().assign(ask("late", node="late"))
        return given.block

    found = [await taken(seed) for seed in (*range(10), *range(10))]
    assert found[:10] == found[10:]
    assert len(set(found)) > 3


async def test_an_empty_block_of_another_node_is_taken_after_a_minute(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true}')
    await world.allocator().assign(ask("h1", node="n1"))
    await world.allocator().release_handle(HandleId("h1"))
    with pytest.raises(PoolExhausted):
        await world.allocator().assign(ask("h2", node="n2"))
    world.clock.advance(61)
    await world.allocator().assign(ask("h2", node="n2"))
    block = await world.block("10.0.0.0/30")
    assert block is not None
    assert block.owner == "n2"
    assert affinity_key(NodeName("n1"), block.cidr) not in store.copy()
    assert await world.faults() == []


async def test_an_address_in_use_is_never_reclaimed_or_given_twice(world: World) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.allocator().assign(ask("h1", node="n1"))
    world.clock.advance(3600)
    await world.allocator().assign(ask("h2", node="n2", ipv4=3))
    block = await world.block("10.0.0.0/30")
    assert block is not None
    assert block.owner == "n1"
    assert len(await world.held()) == 4


async def test_reserved_addresses_are_not_given_out_but_may_be_asked_for(world: World) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.write(f"{RESERVATIONS}r", b'{"spec":{"reservedCIDRs":["10.0.0.0/31","10.0.0.2"]}}')
    allocator = world.allocator()
    assert addresses_of(await allocator.assign(ask("h1"))) == ["10.0.0.3"]
    with pytest.raises(PoolExhausted):
        await allocator.assign(ask("h2"))
    assert addresses_of(await allocator.assign(ask("h2", exact=(ip_address("10.0.0.1"),)))) == ["10.0.0.1"]


async def test_a_reservation_holds_from_the_moment_it_is_written_and_until_it_is_read_as_gone(
    world: World, store: FakeStore
) -> None:
    await world.pool("p", "10.0.0.0/30")
    allocator = world.allocator()
    assert addresses_of(await allocator.assign(ask("h1"))) == ["10.0.0.0"]
    await world.write(f"{RESERVATIONS}r", b'{"spec":{"reservedCIDRs":["10.0.0.1"]}}')
    assert addresses_of(await allocator.assign(ask("h2"))) == ["10.0.0.2"]
    await world.write(f"{RESERVATIONS}r", b'{"spec":{"reservedCIDRs":["10.0.0.1", "10.0.0.3"]}}')
    with pytest.raises(PoolExhausted):
        await allocator.assign(ask("h3"))
    await world.write(f"{RESERVATIONS}s", b"{")
    with pytest.raises(Refused, match="rules that nobody can read"):
        await allocator.assign(ask("h3"))
    await store.commit((), (Delete(f"{RESERVATIONS}r"), Delete(f"{RESERVATIONS}s")))
    world.clock.advance(2 * FRESH_SECONDS)
    assert addresses_of(await allocator.assign(ask("h3"))) == ["10.0.0.1"]


async def test_a_chosen_address_is_given_or_refused(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    await world.pool("off", "10.0.1.0/29", disabled=True)
    allocator = world.allocator()
    wish = ip_address("10.0.0.6")
    assert addresses_of(await allocator.assign(ask("h1", exact=(wish,)))) == ["10.0.0.6"]
    assert addresses_of(await allocator.assign(ask("h1", exact=(wish,)))) == ["10.0.0.6"]
    with pytest.raises(AddressInUse, match=r"10\.0\.0\.6 is allocated to h1"):
        await allocator.assign(ask("h2", node="n2", exact=(wish,)))
    with pytest.raises(NoPool, match="in no configured pool"):
        await allocator.assign(ask("h2", exact=(ip_address("10.9.0.1"),)))
    with pytest.raises(NoPool, match="which is disabled"):
        await allocator.assign(ask("h2", exact=(ip_address("10.0.1.1"),)))
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true}')
    with pytest.raises(Refused, match=r"in block 10\.0\.0\.4/30 of node n1, and strictAffinity"):
        await world.allocator().assign(ask("h2", node="n2", exact=(ip_address("10.0.0.5"),)))
    assert await world.faults() == []


async def test_a_released_address_cools_down_when_the_rules_say_so(world: World) -> None:
    await world.pool("p", "10.0.0.0/32", 32)
    await world.rules('{"auto_allocate_blocks":true,"ipCooldownSeconds":30}')
    allocator = world.allocator()
    await allocator.assign(ask("h1"))
    await allocator.release_handle(HandleId("h1"))
    assert await world.held() == {}
    with pytest.raises(PoolExhausted):
        await allocator.assign(ask("h2"))
    with pytest.raises(AddressInUse, match="cools down"):
        await allocator.assign(ask("h2", exact=(ip_address("10.0.0.0"),)))
    world.clock.advance(31)
    assert addresses_of(await allocator.assign(ask("h2"))) == ["10.0.0.0"]
    assert await world.faults() == []


async def test_empty_blocks_of_a_pool_that_stopped_selecting_the_node_are_given_up(
    world: World, store: FakeStore
) -> None:
    await world.pool("a", "10.0.0.0/29")
    await world.pool("b", "10.0.1.0/29", node_selector="rack == 'r1'")
    allocator = world.allocator()
    kept = await allocator.assign(ask("h1", labels=(("rack", "r1"),), ipv4_pools=("b",)))
    gone = await allocator.assign(ask("h2", labels=(("rack", "r1"),), ipv4_pools=("b",), ipv4=4))
    await allocator.release_handle(HandleId("h2"))
    await world.pool("b", "10.0.1.0/29", node_selector="rack == 'r2'")
    await allocator.assign(ask("h3", labels=(("rack", "r1"),)))
    assert await world.block(str(kept[0].block)) is not None
    assert await world.block(str(gone[-1].block)) is None
    assert affinity_key(NodeName("n1"), gone[-1].block) not in store.copy()
    assert await world.faults() == []
    await allocator.assign(ask("h4", labels=(("rack", "r1"),)))


async def test_one_damaged_block_stops_nobody_and_is_named(world: World) -> None:
    await world.pool("p", "10.0.0.0/29")
    allocator = world.allocator()
    given = await allocator.assign(ask("h1"))
    await world.write(block_key(given[0].block), b'{"cidr":')
    await world.allocator().assign(ask("h2", ipv4=4))
    with pytest.raises(PoolExhausted, match="not JSON"):
        await world.allocator().assign(ask("h3"))


async def test_a_request_larger_than_a_transaction_is_refused(world: World) -> None:
    await world.pool("p", "10.0.0.0/24", 32)
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":200}')
    with pytest.raises(Conflict, match="more than one transaction takes"):
        await world.allocator().assign(ask("h1", ipv4=130))


# -- Calico's own writing ---------------------------------------------------------------------------------------------


async def test_blocks_that_calico_claimed_are_used(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/29")
    cidr = ip_network("10.0.0.0/30")
    raw = {"cidr": str(cidr), "hostAffinity": "n1", "allocations": [None] * 4, "unallocated": [0, 1, 2, 3]}
    await world.write(block_key(cidr), json.dumps({**raw, "attributes": None, "new": 1}).encode())
    await world.write(affinity_key(NodeName("n1"), cidr), b"")
    assert (await world.allocator().assign(ask("h1")))[0].block == cidr
    written = json.loads(store.copy()[block_key(cidr)])
    assert written["affinity"] == "host:n1"
    assert written["new"] == 1


async def test_a_claim_that_calico_left_half_done_is_finished(world: World, store: FakeStore) -> None:
    await world.pool("p", "10.0.0.0/30")
    await world.allocator().assign(ask("h1"))
    cidr = ip_network("10.0.0.0/30")
    await world.write(affinity_key(NodeName("n1"), cidr), b'{"state":"pending","deleted":false}')
    await world.allocator().assign(ask("h2"))
    assert json.loads(store.copy()[affinity_key(NodeName("n1"), cidr)])["state"] == "confirmed"
    await store.commit((), (Delete(affinity_key(NodeName("n1"), cidr)),))
    await world.allocator().assign(ask("h3"))
    assert await world.faults() == []


async def test_nothing_is_assigned_by_rules_that_were_never_read_and_as_before_by_those_that_were(
    world: World,
) -> None:
    await world.pool("p", "10.0.0.0/28")
    await world.rules("{")
    fresh = world.allocator()
    with pytest.raises(Refused, match="rules that nobody can read"):
        await fresh.assign(ask("h1"))
    await world.rules('{"strict_affinity":true,"auto_allocate_blocks":true}')
    (first,) = await fresh.assign(ask("h1"))
    await world.write(IPAM_CONFIG, b"[" * 5000)
    world.clock.advance(2 * FRESH_SECONDS)
    assert await fresh.assign(ask("h2"))
    assert await fresh.assign(ask("h1")) == (first,)
    with pytest.raises(Refused, match="rules that nobody can read"):
        await world.allocator().assign(ask("h3"))


async def test_a_clock_that_was_set_back_makes_no_hint_fresh(world: World) -> None:
    await world.pool("p", "10.0.0.0/30", block_length=30)
    allocator = world.allocator()
    await allocator.assign(ask("h1"))
    await world.write(f"{RESERVATIONS}r", b'{"spec":{"reservedCIDRs":["10.0.0.0/30"]}}')
    world.clock.advance(-3600)
    with pytest.raises(Refused, match=r"10\.0\.0\.0/30"):
        await allocator.assign(ask("h2"))


async def test_nothing_is_taken_from_a_pool_that_cannot_be_read_any_more(world: World) -> None:
    record = await world.pool("p", "10.0.0.0/28")
    allocator = world.allocator()
    (held,) = await allocator.assign(ask("h1"))
    world.pools = [replace(record, unreadable="it is not JSON")]
    for exact in ((), (ip_address("10.0.0.9"),)):
        with pytest.raises(NoPool, match="it is not JSON"):
            await allocator.assign(ask("h2", exact=exact))
    assert await allocator.assigned(HandleId("h1")) == (held,)
    assert await allocator.release_handle(HandleId("h1")) == (held.address,)
