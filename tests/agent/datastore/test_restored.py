"""What a listing lacks goes later than what a watch says is deleted, and never while the datastore is another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from agent.cni.living_pods import LivingPods, record_of_endpoint
from agent.datastore.recovery import Loss
from agent.datastore.resources.resource_types import (
    IPPool,
    IPPoolSpec,
    Metadata,
    Node,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    encode,
)
from agent.datastore.state_cache import AFFINITIES, NODES, POOLS, StateCache
from agent.datastore.storage_layout import key_of
from agent.datastore.syncer import Syncer
from ipam.etcd.store import Delete, Put, Versioned
from ipam.keys import affinity_key
from ipam.model import NodeName
from tests.fakes.store import FakeStore

ME = NodeName("node1")
WAIT_SECONDS = 10.0
LONG = 1000.0


def pool(name: str, cidr: str) -> IPPool:
    return IPPool(metadata=Metadata(name=name), spec=IPPoolSpec(cidr=cidr, block_size=26))


def pod(name: str, address: str, container: str = "c1") -> WorkloadEndpoint:
    return WorkloadEndpoint(
        metadata=Metadata(name=f"node1-k8s-{name}-eth0", namespace="default"),
        spec=WorkloadEndpointSpec(
            node=ME,
            orchestrator="k8s",
            workload=name,
            pod=name,
            container_id=f"{container}-{name}",
            endpoint="eth0",
            interface_name=f"cali{name}",
            ip_networks=[f"{address}/32"],
            profiles=["net"],
        ),
    )


POOL, OTHERS = pool("pool", "10.0.0.0/16"), pool("others", "10.9.0.0/16")
WEB, DB = pod("web", "10.0.0.1"), pod("db", "10.0.0.2")
NODE2 = Node(metadata=Metadata(name="node2"))


class Followed:
    """A syncer of a machine on which pods live."""

    def __init__(self, directory: Path, hold_seconds: float) -> None:
        self.store = FakeStore()
        self.devices: set[str] = set()
        self.living = LivingPods(directory, "boot", self.devices.__contains__)
        self.state = StateCache(ME, self.living)
        self.changed = asyncio.Event()
        self.forgotten = 0
        self.syncer = Syncer(
            self.store, self.state, self.changed.set, hold_seconds=hold_seconds, forget=self.forget
        )

    def forget(self) -> None:
        self.forgotten += 1

    def lives(self, *pods: WorkloadEndpoint) -> None:
        for one in pods:
            self.devices.add(one.spec.interface_name)
            self.living.add(record_of_endpoint(one, "boot"))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await self.changed.wait()
                self.changed.clear()

    async def put(self, *resources: IPPool | Node | WorkloadEndpoint) -> int:
        outcome = await self.store.commit((), tuple(Put(key_of(one), encode(one)) for one in resources))
        return outcome.revision  # type: ignore[union-attr]

    @property
    def pods(self) -> set[str]:
        return {one.spec.interface_name for one in self.state.endpoints}


@pytest.fixture(params=[LONG])
async def followed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Followed]:
    made = Followed(tmp_path, request.param)
    await made.put(POOL, NODE2)
    task = asyncio.create_task(made.syncer.run())
    await made.until(lambda: made.syncer.in_sync)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


SOON = pytest.mark.parametrize("followed", [0.01], indirect=True)


async def went_back(followed: Followed, backup: object) -> None:
    before = followed.syncer.went_back
    followed.store.restore(backup)  # type: ignore[arg-type]
    await followed.until(lambda: followed.syncer.went_back > before and not followed.syncer._waiting)


async def test_what_an_older_datastore_lacks_stays_until_its_owner_has_written_it_back(
    followed: Followed,
) -> None:
    backup = followed.store.backup()
    late = Node(metadata=Metadata(name="late"))
    await followed.put(late)
    await followed.until(lambda: "late" in followed.state.nodes)
    await went_back(followed, backup)
    await followed.until(lambda: key_of(late) in followed.state.missing)
    assert {"late", "node2"} <= followed.state.nodes.keys()
    assert followed.forgotten >= 1
    await followed.put(late)
    await followed.until(lambda: not followed.state.missing)
    assert followed.syncer.in_sync


@SOON
async def test_what_nobody_writes_back_goes_after_a_while(followed: Followed) -> None:
    backup = followed.store.backup()
    await followed.put(Node(metadata=Metadata(name="late")))
    await followed.until(lambda: "late" in followed.state.nodes)
    await went_back(followed, backup)
    await followed.until(lambda: "late" not in followed.state.nodes)
    assert "node2" in followed.state.nodes


async def test_what_a_watch_says_is_deleted_goes_at_once(followed: Followed) -> None:
    await followed.store.commit((), (Delete(key_of(NODE2)),))
    await followed.until(lambda: "node2" not in followed.state.nodes)


async def test_living_pods_that_an_older_datastore_does_not_know_stay_and_are_lost(
    followed: Followed,
) -> None:
    backup = followed.store.backup()
    followed.syncer.follow_endpoints("default")
    followed.lives(WEB, DB)
    await followed.put(WEB, DB)
    await followed.until(lambda: followed.pods == {"caliweb", "calidb"})
    assert followed.state.lost == {}
    await went_back(followed, backup)
    await followed.until(lambda: len(followed.state.lost) == 2)
    assert followed.pods == {"caliweb", "calidb"}
    assert followed.syncer.in_sync, "its pool is there: it is an older one, not another cluster's"
    await followed.put(WEB)
    await followed.until(lambda: [*followed.state.lost] == [key_of(DB)])


@SOON
async def test_in_an_empty_datastore_nothing_goes_until_the_pools_are_back(followed: Followed) -> None:
    followed.syncer.follow_endpoints("default")
    followed.lives(WEB)
    await followed.put(WEB)
    await followed.until(lambda: followed.pods == {"caliweb"})
    await went_back(followed, ({}, 1))
    await followed.until(lambda: followed.syncer.foreign is not None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):  # longer than what is missing may stay
            await followed.syncer._drop_later(frozenset(followed.state.missing))
    assert not followed.syncer.in_sync
    assert (len(followed.state.pools), set(followed.state.nodes), followed.pods) == (
        1,
        {"node2"},
        {"caliweb"},
    )
    assert followed.state.usable_pools == ()
    troubles = [str(trouble) for trouble in followed.syncer.troubles()]
    assert "it is empty, or another cluster's: it knows none of this node's 1 pods" in troubles[0]
    await followed.put(OTHERS)
    await followed.until(lambda: len(followed.state.pools) == 2)
    assert not followed.syncer.in_sync, "another cluster's pools are not this one's"
    await followed.put(POOL)
    await followed.until(lambda: followed.syncer.in_sync)


def test_a_pool_that_an_older_datastore_lacks_is_told_and_gives_no_address(tmp_path: Path) -> None:
    followed = Followed(tmp_path, LONG)
    state, syncer = followed.state, followed.syncer
    syncer._waiting.clear()
    for one in (POOL, OTHERS):
        asyncio.run(followed.put(one))
    values = {value.key: value for value in followed.store.backup()[0].values()}
    state.replace(POOLS, values)
    state.replace(POOLS, {key_of(POOL): values[key_of(POOL)]}, keep=True)
    assert ([one.pool.name for one in state.usable_pools], len(state.pools)) == (["pool"], 2)
    (trouble,) = syncer.troubles()
    assert "pool others was in the datastore and is not" in str(trouble)


def test_nodes_and_claims_that_an_older_datastore_lacks_are_told_while_they_stay(tmp_path: Path) -> None:
    followed = Followed(tmp_path, LONG)
    state, syncer = followed.state, followed.syncer
    syncer._waiting.clear()
    asyncio.run(followed.put(POOL, NODE2))
    values = {value.key: value for value in followed.store.backup()[0].values()}
    for prefix in (POOLS, NODES):
        state.replace(prefix, {key: value for key, value in values.items() if key.startswith(prefix)})
    assert list(syncer.troubles()) == []
    state.replace(NODES, {}, keep=True)
    (trouble,) = syncer.troubles()
    assert str(trouble).startswith(
        f"{key_of(NODE2)}: 1 keys, of which this is the first, were in the datastore"
    )
    state.drop({key_of(NODE2)})
    assert list(syncer.troubles()) == []


def test_the_endpoint_of_another_container_is_no_fact_where_a_living_pod_has_name_or_address(
    tmp_path: Path,
) -> None:
    followed = Followed(tmp_path, LONG)
    followed.lives(WEB)
    store, state = followed.store, followed.state
    state.seed()
    older, dead = pod("web", "10.0.0.7", "old"), pod("dead", "10.0.0.1", "dead")
    asyncio.run(followed.put(older, dead))
    for value in store.backup()[0].values():
        state.apply(value.key, value)
    assert [one.spec.container_id for one in state.endpoints] == ["c1-web"]
    assert state.lost == {key_of(WEB): Loss(2)}
    followed.devices.clear()
    state.forget_lost()
    assert state.endpoints == ()
    assert not followed.living.has(ip_address("10.0.0.1"))


def test_the_later_owner_of_a_block_goes_before_the_one_that_an_older_datastore_names(tmp_path: Path) -> None:
    """Until the later one's claim is dropped; whichever order they come in."""
    state, block = Followed(tmp_path, LONG).state, ip_network("10.0.0.0/26")
    for later, earlier in (("a", "b"), ("b", "a")):
        was, now = (affinity_key(NodeName(node), block) for node in (earlier, later))
        state.replace(AFFINITIES, {now: Versioned(now, b"{}", 7)})
        assert state.block_owners == {block: later}
        state.replace(AFFINITIES, {was: Versioned(was, b"{}", 3)}, keep=True)
        assert state.block_owners == {block: later}
        state.drop({now})
        assert state.block_owners == {block: earlier}
