"""A forgotten address is freed with proof, and only then."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.cni.leak_collector import LeakCollector
from agent.datastore.state_cache import AFFINITIES, ENDPOINTS
from ipam.check.leak_proof import PAUSE_SECONDS
from ipam.etcd.store import Delete, Put
from ipam.keys import BLOCKS, HANDLES, affinity_key, block_key
from tests.scenes.cni.cni_world import World

NOTHING, ONE = (0, 0, 0), (1, 1, 1)


class HandClock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        """Monotonic seconds."""
        return self.seconds

    def wall(self) -> datetime:
        """Any moment."""
        return datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    await made.call("ADD", netns="/run/netns/no-such-namespace")
    await made.sync()
    return made


async def rounds(world: World, *pauses: float) -> None:
    """A first round, then one after each pause."""
    clock = HandClock()
    collector = LeakCollector(world.dependencies, world.cluster, clock)
    await collector.one_round()
    for pause in pauses:
        clock.seconds += pause
        await collector.one_round()


async def test_an_address_whose_pod_is_gone_is_freed_with_its_endpoint(world: World) -> None:
    world.pods.attached.clear()
    await rounds(world, PAUSE_SECONDS)
    assert await world.stored() == NOTHING
    assert world.cluster.endpoints == ()


async def test_one_look_and_two_looks_too_close_prove_nothing(world: World) -> None:
    world.pods.attached.clear()
    await rounds(world)
    await rounds(world, PAUSE_SECONDS / 2)
    assert await world.stored() == ONE


async def test_looks_between_the_first_and_the_last_do_not_put_the_proof_off(world: World) -> None:
    world.pods.attached.clear()
    await rounds(world, PAUSE_SECONDS / 2, PAUSE_SECONDS / 2)
    assert await world.stored() == NOTHING


async def test_a_pod_with_its_veth_is_never_touched(world: World) -> None:
    await rounds(world, PAUSE_SECONDS, 10 * PAUSE_SECONDS)
    assert await world.stored() == ONE


async def test_a_pod_with_its_namespace_is_never_touched(tmp_path: Path) -> None:
    made = World(tmp_path)
    await made.start()
    await made.call("ADD", netns=str(tmp_path))
    await made.sync()
    made.pods.attached.clear()
    await rounds(made, PAUSE_SECONDS)
    assert await made.stored() == ONE


async def test_after_a_power_loss_what_the_older_boot_assigned_is_freed(world: World) -> None:
    await world.start(boot_id="boot-2")
    await rounds(world, PAUSE_SECONDS)
    assert await world.stored() == NOTHING


async def test_while_the_datastore_is_away_nothing_is_freed(world: World) -> None:
    world.pods.attached.clear()
    world.why = "the datastore is away"
    await rounds(world, PAUSE_SECONDS)
    assert await world.stored() == ONE


async def test_an_address_that_another_containers_endpoint_names_is_not_freed(world: World) -> None:
    world.pods.attached.clear()
    (key,) = (await world.store.list(ENDPOINTS)).values
    stored = await world.store.get(key)
    assert stored is not None
    await world.store.commit((), (Put(key, stored.value.replace(b'"c1"', b'"c9"')),))
    await world.sync()
    await rounds(world, PAUSE_SECONDS)
    assert (await world.stored())[0] == 1


async def test_a_damaged_block_keeps_no_other_from_its_look(world: World) -> None:
    broken = block_key(ip_network("192.168.255.0/26"))
    claim = affinity_key(world.cluster.node, ip_network("192.168.255.0/26"))
    await world.store.commit(
        (), (Put(broken, b'{"cidr":"192.168.255.0/26","allocations":[5]}'), Put(claim, b""))
    )
    await world.sync()
    world.pods.attached.clear()
    await rounds(world, PAUSE_SECONDS)
    assert world.cluster.endpoints == ()
    assert (await world.store.get(broken)) is not None


async def test_whatever_of_one_pod_cannot_be_read_the_others_garbage_is_freed(tmp_path: Path) -> None:
    made = World(tmp_path)
    await made.start()
    for name in ("one", "two", "three"):
        status, _ = await made.call("ADD", f"{name}-{'0' * 20}", name, netns="/run/netns/no-such-namespace")
        assert status == 0
    await made.sync()
    made.pods.attached.clear()
    damaged = min((await made.store.list(HANDLES)).values)
    await made.store.commit((), (Put(damaged, b"{"),))
    await rounds(made, PAUSE_SECONDS, PAUSE_SECONDS)
    assert await made.stored() == ONE, "of the damaged one all is left"
    assert damaged in (await made.store.list(HANDLES)).values


async def test_a_claim_that_was_left_unfinished_is_given_up_at_the_second_look(world: World) -> None:
    key = affinity_key(world.cluster.node, ip_network("192.168.200.0/26"))
    await world.store.commit((), (Put(key, b'{"state":"pending","deleted":false}'),))
    await rounds(world, PAUSE_SECONDS / 2)
    assert await world.store.get(key) is not None, "somebody may be at it"
    await rounds(world, PAUSE_SECONDS)
    assert await world.store.get(key) is None
    assert await world.stored() == ONE


async def test_an_endpoint_without_a_device_goes_though_no_allocation_of_this_node_leads_to_it(
    world: World,
) -> None:
    """Its block is another node's now, or its address was given back alone."""
    for block in (await world.store.list(BLOCKS)).values.values():
        await world.store.commit((), (Delete(block.key),))
    for claim in (await world.store.list(AFFINITIES)).values:
        await world.store.commit((), (Delete(claim),))
    await world.sync()
    await rounds(world, PAUSE_SECONDS)
    assert (await world.stored())[1] == 1, "its device is there"
    world.pods.attached.clear()
    await rounds(world, PAUSE_SECONDS / 2)
    assert (await world.stored())[1] == 1, "two looks too close prove nothing"
    await rounds(world, PAUSE_SECONDS)
    assert await world.stored() == NOTHING
    assert world.cluster.endpoints == ()


async def test_an_endpoint_whose_namespace_is_there_stays(tmp_path: Path) -> None:
    made = World(tmp_path)
    await made.start()
    await made.call("ADD", netns=str(tmp_path))
    for claim in (await made.store.list(AFFINITIES)).values:
        await made.store.commit((), (Delete(claim),))
    await made.sync()
    made.pods.attached.clear()
    await rounds(made, PAUSE_SECONDS, PAUSE_SECONDS)
    assert await made.stored() == ONE


async def test_an_endpoint_that_was_written_anew_between_two_looks_stays(world: World) -> None:
    for block in (await world.store.list(BLOCKS)).values.values():
        await world.store.commit((), (Delete(block.key),))
    world.pods.attached.clear()
    await world.sync()
    collector = LeakCollector(world.dependencies, world.cluster, clock := HandClock())
    await collector.one_round()
    clock.seconds += PAUSE_SECONDS
    ((key, stored),) = (await world.store.list(ENDPOINTS)).values.items()
    await world.store.commit((), (Put(key, stored.value),))
    await world.sync()
    await collector.one_round()
    assert (await world.stored())[1] == 1


async def again_after_a_wipe(world: World, netns: str) -> None:
    """The runtime's store was wiped: no DEL ever comes for c1, and the same pod is made anew in another container."""
    older = next(iter(world.pods.attached.values()))
    assert (await world.call("ADD", "c2", "web", netns=netns))[0] == 0
    await world.sync()
    assert next(iter(world.pods.attached.values())).host_interface == older.host_interface
    assert await world.stored() == (2, 1, 2)


async def test_the_veth_of_a_later_container_of_the_pod_keeps_no_earlier_ones_address(world: World) -> None:
    await again_after_a_wipe(world, "/run/netns/no-such-namespace-2")
    await rounds(world, PAUSE_SECONDS)
    assert await world.stored() == ONE
    (living,) = world.pods.attached.values()
    assert world.cluster.endpoints[0].addresses == living.addresses


async def test_a_namespace_that_outlived_its_veth_keeps_no_address_for_a_container_that_was_replaced(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    world.pods.namespaces = {str(tmp_path), "/run/netns/new"}
    await world.call("ADD", netns=str(tmp_path))
    await world.sync()
    await again_after_a_wipe(world, "/run/netns/new")
    await rounds(world, PAUSE_SECONDS)
    assert await world.stored() == ONE


async def test_an_interface_in_the_older_containers_namespace_keeps_its_address(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    world.pods.namespaces = {str(tmp_path), "/run/netns/new"}
    await world.call("ADD", netns=str(tmp_path))
    await world.sync()
    (older,) = world.pods.attached.values()
    await again_after_a_wipe(world, "/run/netns/new")
    world.pods.attached["vethother"] = older
    await rounds(world, PAUSE_SECONDS)
    assert (await world.stored())[0] == 2
