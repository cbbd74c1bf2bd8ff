"""When the node's resource is compared, and when it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.configuration.config import NodeSettings
from agent.datastore.datastore_lock import LOCK_KEY, LockableStore, with_ready
from agent.datastore.resources.resource_types import Metadata, Node, NodeBGPSpec, NodeSpec, encode
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import NODES, POOLS, StateCache
from agent.netlink.kernel_errors import Incomplete, KernelError
from agent.netlink.objects import Link
from agent.node.node_controller import RESYNC_SECONDS, NodeController
from agent.node.node_resource import NodeResource
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Put, Versioned
from ipam.keys import HANDLES, resource_key
from ipam.model import NodeName
from tests.fakes.clock import SetClock
from tests.fakes.kernel import FakeKernel
from tests.fakes.store import FakeStore

ME, FAR = NodeName("node1"), ip_address("10.9.9.9")


class OneLink(FakeKernel):
    """A kernel with an interface."""

    def __init__(self) -> None:
        super().__init__()
        self.add_link("eth0", "172.26.0.11/20")


class World:
    """A controller of a node that knows another one behind a gateway."""

    def __init__(self, kernel: OneLink | None = None, *, in_sync: bool = True) -> None:
        self.in_sync = in_sync
        self.store, self.kernel, self.clock = FakeStore(), kernel or OneLink(), SetClock()
        self.state = StateCache(ME)
        far = Node(metadata=Metadata(name="far"), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address=f"{FAR}/24")))
        key = resource_key("nodes", "far")
        self.state.apply(key, Versioned(key, encode(far), 1))
        self.resource = NodeResource(
            self.store,
            self.state,
            Allocator(self.store, self.clock.wall, lambda: self.state.pools),
            self.kernel,
            NodeSettings(address="172.26.0.11/20"),
            (),
            self.clock,
            SetAside(Path("/nonexistent")),
        )
        self.controller = NodeController(self.resource, self.state, lambda: self.in_sync, self.clock)
        self.controller.set_links(dict(self.kernel.link_table))

    @property
    def registered(self) -> bool:
        return resource_key("nodes", ME) in self.store.copy()


async def test_before_the_datastore_was_read_nothing_is_written() -> None:
    world = World(in_sync=False)
    await world.controller.step()
    assert not world.registered
    world.in_sync = True
    await world.controller.step()
    assert world.registered


async def test_with_the_same_inputs_the_resource_is_compared_again_only_when_it_is_time() -> None:
    world = World()
    await world.controller.step()
    written = await world.store.list(NODES)
    world.state.replace(NODES, {**written.values})
    await world.controller.step()  # the cache has the resource now: an input has changed
    world.resource.detected.clear()
    await world.controller.step()
    assert world.resource.detected == {}
    world.clock.at += RESYNC_SECONDS
    await world.controller.step()
    assert world.resource.detected.keys() == {4}


async def test_a_step_that_failed_is_taken_again_though_nothing_changed() -> None:
    world = World()
    world.store.away = True
    await world.controller.step()
    assert world.resource.trouble is not None
    assert not world.registered
    world.store.away = False
    await world.controller.step()
    assert world.registered
    assert world.resource.trouble is None


class Exhausted(OneLink):
    """A kernel that cannot be asked for its links now."""

    error: Exception | None = KernelError("opening a netlink socket of protocol 0: Too many open files")

    async def links(self) -> Mapping[str, Link]:
        if self.error is not None:
            raise self.error
        return await super().links()


@pytest.mark.parametrize("error", [KernelError("Too many open files"), Incomplete("interrupted 8 times")])
async def test_a_kernel_that_cannot_be_asked_is_a_trouble_and_is_asked_again(error: KernelError) -> None:
    world = World(Exhausted())
    assert isinstance(world.kernel, Exhausted)
    world.kernel.error = error
    await world.controller.step()
    assert world.resource.trouble == str(error)
    world.kernel.error = None
    await world.controller.step()
    assert (world.registered, world.resource.trouble) == (True, None)


async def test_a_step_that_a_mistake_ended_is_taken_again_though_nothing_changed() -> None:
    world = World(Exhausted())
    assert isinstance(world.kernel, Exhausted)
    world.kernel.error = ValueError("of a foreign value")
    with pytest.raises(ValueError, match="foreign"):
        await world.controller.step()
    world.kernel.error = None
    await world.controller.step()
    assert world.registered


async def test_a_tunnel_address_that_somebody_released_is_put_right_with_the_next_step() -> None:
    """Before, only the look of every RESYNC_SECONDS found it, and a pod could have the address by then."""
    world = World()
    pool = {"cidr": "10.5.0.0/24", "vxlanMode": "Always", "blockSize": 26}
    document = {
        "kind": "IPPool",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "p"},
        "spec": pool,
    }
    key = resource_key("ippools", "p")
    await world.store.commit((), (Put(key, json.dumps(document).encode()),))

    async def look() -> None:
        for prefix in (POOLS, NODES, HANDLES):
            world.state.replace(prefix, (await world.store.list(prefix)).values)
        await world.controller.step()

    for _ in range(4):
        await look()
    assert world.resource.trouble is None
    (handle,) = [key for key in world.store.copy() if key.startswith(HANDLES)]
    settled = world.store.copy()
    await look()
    assert world.store.copy() == settled
    released = await Allocator(world.store, world.clock.wall, list).release_node(ME)
    assert len(released.addresses) == 1
    assert handle not in world.store.copy()
    await look()
    assert handle in world.store.copy()
    assert json.loads(world.store.copy()[resource_key("nodes", ME)]) == json.loads(
        settled[resource_key("nodes", ME)]
    )


async def test_a_lock_that_comes_between_is_no_trouble_of_the_nodes_and_the_next_step_goes_on() -> None:
    world = World()
    world.resource._store = LockableStore(world.store)
    await world.store.commit((), (Put(LOCK_KEY, with_ready(None, "now", ready=False)),))
    await world.controller.step()
    assert (world.registered, world.resource.trouble) == (False, None)
    stored = await world.store.get(LOCK_KEY)
    await world.store.commit((), (Put(LOCK_KEY, with_ready(stored, "now", ready=True)),))
    await world.controller.step()
    assert world.registered
