"""An older datastore is put in place: the pods that live are written back, and nobody is given their addresses."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import SystemClock
from agent.cni.leak_collector import LeakCollector
from agent.cni.put_back import RETRY_SECONDS, PutBack
from agent.datastore.state_cache import ENDPOINTS
from ipam.allocation.allocator import Allocator
from ipam.check.audit import audit, decode_snapshot
from ipam.check.leak_proof import PAUSE_SECONDS
from ipam.etcd.store import Delete
from ipam.keys import BLOCKS, IPAM
from ipam.model import AddressRequest, HandleId, NodeName, PoolRecord
from tests.fakes.clock import SetClock
from tests.scenes.cni.cni_world import NODE, POOL_KEY, World

OTHER = NodeName("node2")


class Restored(World):
    """A CNI server whose datastore is replaced; `look` is one look of everything that follows it."""

    has_pools = True

    def pools_now(self) -> tuple[PoolRecord, ...]:
        return super().pools_now() if self.has_pools else ()

    async def start(self, boot_id: str = "boot-1") -> None:
        await super().start(boot_id)
        self.put_back = PutBack(
            self.dependencies, self.cluster, lambda: True, SystemClock(), self.server.locked
        )

    async def look(self) -> None:
        await self.sync()
        await self.put_back.one_round()
        await self.sync()

    async def restore(self, backup: object) -> None:
        self.store.restore(backup)  # type: ignore[arg-type]
        pool = await self.store.get(POOL_KEY)
        assert pool is not None
        self.revision = pool.revision
        self.dependencies.allocator.forget()
        await self.sync()

    def troubles(self) -> list[str]:
        return [str(trouble) for trouble in self.put_back.troubles()]

    async def holders(self) -> dict[str, str]:
        """Address -> the handle that holds it."""
        found = {}
        for stored in (await self.store.list(BLOCKS)).values.values():
            block = json.loads(stored.value)
            base = stored.key.rpartition("/")[2].rpartition("-")[0].rpartition(".")
            for ordinal, index in enumerate(block["allocations"]):
                if index is not None:
                    address = f"{base[0]}.{int(base[2]) + ordinal}"
                    found[address] = block["attributes"][index]["handle_id"]
        return found

    async def faults(self) -> list[str]:
        stored = (await self.store.list(IPAM)).values
        return [finding.text for finding in audit(decode_snapshot(stored))]

    def addresses(self) -> dict[str, str]:
        """Address -> handle, of the pods that live."""
        return {ip: record.handle for record in self.living for ip in record.ips}


@pytest.fixture
async def world(tmp_path: Path) -> Restored:
    made = Restored(tmp_path)
    await made.start()
    return made


async def added(world: World, number: int) -> str:
    status, answer = await world.call("ADD", container=f"c{number}", pod=f"web{number}", netns="/run/netns/x")
    assert status == 0, answer
    text: str = answer["ips"][0]["address"]
    await world.sync()
    return text.partition("/")[0]


async def test_pods_newer_than_the_backup_are_written_back_and_keep_their_addresses(world: Restored) -> None:
    await added(world, 1)
    backup = world.store.backup()
    for number in (2, 3):
        await added(world, number)
    before = await world.holders()
    await world.restore(backup)
    assert len(world.cluster.endpoints) == 3, "their routes stand"
    later = await added(world, 4)
    assert later not in before, "an address of a living pod was given again"
    await world.look()
    assert await world.holders() == {**before, later: "net.c4"}
    assert len((await world.store.list(ENDPOINTS)).values) == 4
    assert (world.cluster.lost, world.troubles(), await world.faults()) == ({}, [], [])


async def test_a_second_look_writes_nothing(world: Restored) -> None:
    backup = world.store.backup()
    await added(world, 1)
    await world.restore(backup)
    await world.look()
    commits = world.store.commits
    await world.look()
    assert world.store.commits == commits


async def test_nothing_is_written_back_while_the_pods_stand_under_the_machines_older_name(
    world: Restored,
) -> None:
    older: list[str] = ["node9"]
    clock = SetClock()
    world.put_back = PutBack(
        world.dependencies,
        world.cluster,
        lambda: True,
        clock,
        world.server.locked,
        predecessor=lambda: older[0] if older else None,
    )
    backup = world.store.backup()
    await added(world, 1)
    await world.restore(backup)
    commits = world.store.commits
    for _ in range(2):
        await world.look()
        assert world.store.commits == commits
        older.clear()  # taken over just now: the watches are not in step
    clock.at += RETRY_SECONDS
    await world.look()
    assert len((await world.store.list(ENDPOINTS)).values) == 1


async def test_a_restarted_agent_knows_its_pods_by_its_records(world: Restored) -> None:
    backup = world.store.backup()
    address = await added(world, 1)
    world.store.restore(backup)
    await world.start()
    world.cluster.seed()
    await world.sync()
    assert [str(one) for endpoint in world.cluster.endpoints for one in endpoint.addresses] == [address]
    await world.look()
    assert (await world.holders(), await world.faults()) == ({address: "net.c1"}, [])


async def test_a_del_ends_what_is_known_of_a_pod_and_nothing_brings_it_back(world: Restored) -> None:
    backup = world.store.backup()
    await added(world, 1)
    await world.restore(backup)
    assert (await world.call("DEL", container="c1", pod="web1"))[0] == 0
    await world.look()
    assert (world.cluster.endpoints, await world.stored()) == ((), (0, 0, 0))


async def test_an_address_that_another_node_has_got_meanwhile_stays_its_own_and_is_told(
    world: Restored,
) -> None:
    backup = world.store.backup()
    address = await added(world, 1)
    await world.restore(backup)
    await taken_by_other_node(world, address)
    await world.look()
    (trouble,) = world.troubles()
    assert f"pod default/web1 ({address})" in trouble
    assert "is allocated to other" in trouble
    assert await world.holders() == {address: "other"}
    assert len(world.cluster.endpoints) == 1, "its route stands all the same"
    await world.call("DEL", container="c1", pod="web1")
    await world.look()
    assert (world.troubles(), await world.holders()) == ([], {address: "other"})


async def test_a_block_that_another_node_has_got_meanwhile_lends_the_address(world: Restored) -> None:
    backup = world.store.backup()
    address = await added(world, 1)
    await world.restore(backup)
    await taken_by_other_node(world, "192.168.0.9")
    await world.look()
    assert (await world.holders())[address] == "net.c1"
    assert (world.troubles(), await world.faults()) == ([], [])


async def taken_by_other_node(world: World, address: str) -> None:
    other = Allocator(world.store, SystemClock().wall, world.pools_now)
    wanted = AddressRequest(
        HandleId("other"), OTHER, exact=(ip_address(address),), secondary=(("node", OTHER),)
    )
    await other.assign(wanted)


async def test_an_address_whose_older_holder_here_is_gone_goes_to_the_pod_that_has_it(
    world: Restored,
) -> None:
    address = await added(world, 1)
    backup = world.store.backup()
    await world.call("DEL", container="c1", pod="web1")
    status, answer = await world.call(
        "ADD", container="c2", pod="web2", config={"args": {"cni": {"ips": [address]}}}
    )
    assert (status, answer["ips"][0]["address"]) == (0, f"{address}/32")
    await world.restore(backup)
    (endpoint,) = world.cluster.endpoints
    assert endpoint.spec.container_id == "c2", "the older container's endpoint is no fact"
    await world.look()
    assert await world.holders() == {address: "net.c2"}
    assert (world.troubles(), await world.faults()) == ([], [])


async def test_the_endpoint_of_an_older_container_of_the_same_pod_is_replaced(world: Restored) -> None:
    await world.call("ADD", container="c1", pod="web")
    await world.sync()
    backup = world.store.backup()
    await world.call("DEL", container="c1", pod="web")
    await world.call("ADD", container="c2", pod="web")
    await world.sync()
    await world.restore(backup)
    assert [one.spec.container_id for one in world.cluster.endpoints] == ["c2"]
    await world.look()
    (stored,) = (await world.store.list(ENDPOINTS)).values.values()
    assert b'"c2"' in stored.value
    assert world.cluster.lost == {}


async def test_one_endpoint_deleted_on_purpose_goes_and_a_range_of_them_comes_back(world: Restored) -> None:
    for number in (1, 2, 3):
        await added(world, number)
    keys = sorted((await world.store.list(ENDPOINTS)).values)

    async def deleted(*gone: str) -> None:
        outcome = await world.store.commit((), tuple(map(Delete, gone)))
        for key in gone:
            world.cluster.apply(key, None, outcome.revision)  # type: ignore[union-attr]
        await world.put_back.one_round()

    await deleted(keys[0])
    assert sorted((await world.store.list(ENDPOINTS)).values) == keys[1:]
    assert len(world.cluster.endpoints) == 2
    await deleted(*keys[1:])
    assert sorted((await world.store.list(ENDPOINTS)).values) == keys[1:]
    assert len(world.cluster.endpoints) == 2


async def test_without_their_pool_the_pods_are_told_by_name_until_it_is_back(world: Restored) -> None:
    backup = world.store.backup()
    await added(world, 1)
    await world.restore(backup)
    world.has_pools = False
    await world.look()
    (trouble,) = world.troubles()
    assert "pod default/web1" in trouble
    assert "is in no configured pool" in trouble
    assert len(world.cluster.endpoints) == 1
    world.has_pools = True
    await world.look()
    assert (world.troubles(), len(await world.holders())) == ([], 1)


async def test_the_collector_frees_no_address_that_a_living_pod_has(world: Restored) -> None:
    """By the backup it is an older pod's, of this node, without a namespace or a device."""
    netns = "/run/netns/no-such-namespace"
    await world.call("ADD", container="c1", pod="web1", netns=netns)
    await world.sync()
    ((address, _),) = (await world.holders()).items()
    backup = world.store.backup()
    await world.call("DEL", container="c1", pod="web1")
    await world.call("ADD", container="c2", pod="web2", config={"args": {"cni": {"ips": [address]}}})
    await world.restore(backup)
    collector = LeakCollector(world.dependencies, world.cluster, clock := SetClock())
    for _ in range(3):
        await collector.one_round()
        clock.at += PAUSE_SECONDS
    assert await world.holders() == {address: "net.c1"}


def moves() -> Iterator[st.SearchStrategy[tuple[str, int]]]:
    yield st.tuples(st.sampled_from(["add", "add", "del"]), st.integers(0, 5))
    yield st.tuples(st.sampled_from(["backup", "restore", "look", "restart", "other"]), st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(*moves()), max_size=25))
def test_whatever_backups_are_put_in_place_no_two_living_pods_have_one_address(
    steps: list[tuple[str, int]],
) -> None:
    async def history() -> None:
        with tempfile.TemporaryDirectory() as directory:
            world = Restored(Path(directory))
            await world.start()
            backups = [world.store.backup()]
            for step, number in steps:
                await taken_step(world, backups, step, number)
                assert len(world.addresses()) == len(list(world.living))
                facts = [str(one) for endpoint in world.cluster.endpoints for one in endpoint.addresses]
                assert set(world.addresses()) <= set(facts)
            await world.look()
            held, refused = await world.holders(), " ".join(world.troubles())
            for address, handle in world.addresses().items():
                assert held.get(address) == handle or f"({address})" in refused
            assert await world.faults() == []

    asyncio.run(history())


async def taken_step(world: Restored, backups: list[object], step: str, number: int) -> None:
    pod = {"container": f"c{number}", "pod": f"web{number}"}
    if step == "add":
        assert (await world.call("ADD", **pod))[0] == 0  # type: ignore[arg-type]
    elif step == "del":
        assert (await world.call("DEL", **pod))[0] == 0  # type: ignore[arg-type]
    elif step == "backup":
        backups.append(world.store.backup())
    elif step == "restore":
        await world.restore(backups[number % len(backups)])
    elif step == "look":
        await world.look()
    elif step == "restart":
        world.cluster = type(world.cluster)(NODE, world.living)
        await world.start()
        world.cluster.seed()
        await world.sync()
    else:
        await Allocator(world.store, SystemClock().wall, world.pools_now).assign(
            AddressRequest(HandleId(f"other{number}"), OTHER, secondary=(("node", OTHER),))
        )


async def test_backups_and_adds_at_the_same_time_give_no_address_twice(world: Restored) -> None:
    backup = world.store.backup()
    adds = [asyncio.create_task(added(world, number)) for number in range(12)]
    for _ in range(4):
        await asyncio.sleep(0)
    await world.restore(backup)
    await asyncio.gather(*adds, return_exceptions=True)
    later = [await added(world, number) for number in range(20, 25)]
    await world.look()
    assert len(world.addresses()) == len(list(world.living)) >= len(later)
    assert (await world.holders()).items() >= world.addresses().items()
    assert await world.faults() == []


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"ipam": {"type": "tortie-ipam", "assign_ipv6": "true"}}, id="both families"),
        pytest.param(
            {"ipam": {"type": "tortie-ipam", "keep": "10m"}}, id="retained for its name by the backup"
        ),
        pytest.param({"type": "bridge", "ipam": {"type": "tortie-ipam"}}, id="another plugin's interface"),
    ],
)
async def test_every_kind_of_attachment_is_written_back_as_it_was(
    world: Restored, tmp_path: Path, config: dict[str, object]
) -> None:
    pod = {"config": config, "netns": str(tmp_path)}
    backups = [world.store.backup()]
    await world.call("ADD", container="c1", **pod)  # type: ignore[arg-type]
    await world.call("DEL", container="c1", **pod)  # type: ignore[arg-type]
    backups.append(world.store.backup())
    status, _ = await world.call("ADD", container="c2", **pod)  # type: ignore[arg-type]
    await world.sync()
    (record,), before = list(world.living), await world.stored()
    assert (status, record.handle) == (0, "net.c2")
    for backup in backups:
        await world.restore(backup)
        await world.look()
        assert await world.dependencies.allocator.unrecorded({record.handle: record.addresses}) == frozenset()
        assert (await world.stored(), world.troubles(), await world.faults()) == (before, [], [])
