"""An assignment that is carried out late leaves nothing behind a release that found nothing."""

from __future__ import annotations

import pytest

from agent.datastore.state_cache import AFFINITIES, StateCache
from ipam.allocation.allocator import Allocator
from ipam.allocation.transaction import PiggybackedWrites
from ipam.etcd.store import Committed, GuardFailed, Put, Unchanged
from ipam.failures import StoreUnavailable
from ipam.keys import fence_key
from ipam.model import AddressRequest, Assignment, HandleId, NodeName
from tests.fakes.store import FakeStore, Fault
from tests.scenes.ipam.world import World, no_pause

NODE, HANDLE = NodeName("n1"), HandleId("net.c1")
ENDPOINT = "/calico/resources/v3/projectcalico.org/workloadendpoints/default/web"


class Node:
    """A node whose agent may be killed and started again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.start()

    def start(self) -> None:
        world = self.world
        self.allocator = Allocator(
            world.store, world.clock.wall, lambda: world.pools, no_pause, world.random, node=NODE
        )

    async def add(self, handle: HandleId = HANDLE) -> None:
        def endpoint(_: tuple[Assignment, ...]) -> PiggybackedWrites:
            return PiggybackedWrites((), (Put(f"{ENDPOINT}-{handle}", b"{}"),))

        await self.allocator.assign(AddressRequest(handle, NODE), endpoint)

    async def delete(self) -> None:
        await self.allocator.release_handle(HANDLE)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def node(store: FakeStore) -> Node:
    world = World(store)
    await world.pool("p", "10.0.0.0/24")
    made = Node(world)
    await made.add(HandleId("net.before"))
    return made


def left(store: FakeStore) -> list[str]:
    """Everything of the attachment that is stored."""
    return [key for key in store.copy() if HANDLE in key]


@pytest.mark.parametrize("killed", [False, True], ids=["by the same agent", "by one that was started since"])
async def test_an_add_that_is_carried_out_after_its_del_leaves_nothing(
    store: FakeStore, node: Node, *, killed: bool
) -> None:
    store.fail_next(Fault.LATE)
    with pytest.raises(StoreUnavailable):
        await node.add()
    if killed:
        node.start()
    await node.delete()
    (outcome,) = store.deliver_late()
    assert isinstance(outcome, GuardFailed)
    assert left(store) == []


@pytest.mark.parametrize("killed", [False, True], ids=["by the same agent", "by one that was started since"])
async def test_an_add_that_was_carried_out_before_its_del_is_found_by_it(
    store: FakeStore, node: Node, *, killed: bool
) -> None:
    store.fail_next(Fault.LATE)
    with pytest.raises(StoreUnavailable):
        await node.add()
    (outcome,) = store.deliver_late()
    assert isinstance(outcome, Committed)
    if killed:
        node.start()
    await node.delete()
    assert [key for key in left(store) if ENDPOINT not in key] == []


async def test_the_fence_is_written_once_and_after_each_answer_that_was_lost(
    store: FakeStore, node: Node
) -> None:
    async def revision() -> int:
        stored = await store.get(fence_key(NODE))
        assert stored is not None
        return stored.revision

    first = await revision()
    for number in range(3):
        await node.add(HandleId(f"net.{number}"))
    await node.delete()
    assert await revision() == first
    store.fail_next(Fault.LOST_REPLY)
    with pytest.raises(StoreUnavailable):
        await node.add()
    await node.add()
    assert await revision() > first


async def test_a_fence_that_somebody_else_removed_is_set_anew(store: FakeStore, node: Node) -> None:
    await store.commit((Unchanged("/x", 0),), (Put(fence_key(NODE), b"other"),))
    await node.add()
    assert left(store) != []
    await node.allocator.release_node(NODE)
    assert fence_key(NODE) not in store.copy()
    await node.add()
    assert fence_key(NODE) in store.copy()


async def test_a_process_that_shares_its_node_sets_none(store: FakeStore) -> None:
    world = World(store)
    await world.pool("p", "10.0.0.0/24")
    await world.allocator().assign(AddressRequest(HANDLE, NODE))
    assert fence_key(NODE) not in store.copy()


async def test_a_fence_is_no_claim_and_no_inconsistency(store: FakeStore, node: Node) -> None:
    assert await node.world.faults() == []
    state = StateCache(NODE)
    state.replace(AFFINITIES, (await store.list(AFFINITIES)).values)
    assert (list(state.block_owners.values()), [*state.unreadable.keys()]) == ([NODE], [])
