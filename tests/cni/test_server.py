"""ADD is all or nothing, DEL is local first; both may be said twice and in any order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.cni.journal import Journal
from agent.cni.server import CniServer, ServerPorts
from agent.datastore.cluster import Cluster
from ipam.allocator import Allocator
from ipam.keys import BLOCKS, HANDLES, resource_key, resource_prefix
from ipam.model import NodeName, Pool, PoolRecord
from ipam.store import Put
from tests.fakes.pods import FakePods, PodFault
from tests.fakes.store import FakeStore

NODE = NodeName("node1")
POOL_KEY = resource_key("ippools", "p")


class World:
    """A server over fakes."""

    def __init__(self, state: Path) -> None:
        self.store = FakeStore()
        self.cluster = Cluster(NODE)
        self.pods = FakePods()
        self.state = state
        self.why: str | None = None
        self.unsettled: Exception | None = None
        self.revision = 0

    async def start(self) -> None:
        outcome = await self.store.commit((), (Put(POOL_KEY, b"{}"),))
        self.revision = outcome.revision  # type: ignore[union-attr]
        record = PoolRecord(Pool("p", IPv4Network("192.168.0.0/24"), 26), POOL_KEY, self.revision)
        ports = ServerPorts(
            allocator=Allocator(self.store, SystemClock(), lambda: (record,)),
            store=self.store,
            node=NODE,
            labels=tuple,
            mtu=lambda: 1450,
            not_ready=lambda: self.why,
            known=self.cluster.endpoint,
            adopt=self.cluster.adopt,
            forget=self.cluster.forget,
            settled=self.settled,
            pods=self.pods,
        )
        self.server = CniServer(self.state / "cni.sock", ports, Journal(self.state), SystemClock())

    async def settled(self, addresses: Iterable[IPv4Address], timeout: float) -> None:
        if self.unsettled is not None:
            raise self.unsettled

    async def call(
        self, verb: str, container: str = "c1", pod: str = "web", netns: str = "/run/netns/x"
    ) -> tuple[int, dict[str, object]]:
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}",
        }
        config = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "tortie"}).encode()
        status, output = await self.server.call(environment, config)
        return status, json.loads(output) if output else {}

    async def stored(self) -> tuple[int, int, int]:
        """How many handles, endpoints and allocated addresses there are."""
        blocks = (await self.store.list(BLOCKS)).values.values()
        used = sum(
            sum(index is not None for index in json.loads(block.value)["allocations"]) for block in blocks
        )
        handles = len((await self.store.list(HANDLES)).values)
        return handles, len((await self.store.list(resource_prefix("workloadendpoints"))).values), used

    def journal(self) -> list[Path]:
        return sorted((self.state / "releases").glob("*.json"))


NOTHING = (0, 0, 0)
ONE = (1, 1, 1)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


async def test_an_add_gives_address_device_and_endpoint_and_a_del_takes_them_back(world: World) -> None:
    status, result = await world.call("ADD")
    assert status == 0
    (attached,) = world.pods.attached.values()
    assert (attached.mtu, attached.interface, attached.netns) == (1450, "eth0", "/run/netns/x")
    assert await world.stored() == ONE
    assert [str(item) for item in world.cluster.endpoints[0].addresses] == [result["ips"][0]["address"][:-3]]  # type: ignore[index]
    assert await world.call("DEL", netns="") == (0, {})
    assert (await world.stored(), world.pods.attached, world.cluster.endpoints) == (NOTHING, {}, ())


async def test_the_same_add_again_gives_the_same_result_and_nothing_more(world: World) -> None:
    first = await world.call("ADD")
    assert await world.call("ADD") == first
    assert await world.stored() == ONE


async def test_a_del_of_what_never_was_succeeds_and_so_does_a_second_one(world: World) -> None:
    assert await world.call("DEL") == (0, {})
    await world.call("ADD")
    await world.call("DEL")
    assert await world.call("DEL") == (0, {})
    assert await world.stored() == NOTHING


async def test_a_late_del_of_an_older_container_leaves_the_new_one_alone(world: World) -> None:
    await world.call("ADD", "old")
    _, result = await world.call("ADD", "new")
    assert await world.call("DEL", "old") == (0, {})
    assert len(world.pods.attached) == 1
    assert [endpoint.spec.container_id for endpoint in world.cluster.endpoints] == ["new"]
    assert await world.stored() == ONE
    assert await world.call("ADD", "new") == (0, result)


@pytest.mark.parametrize("late", [False, True], ids=["no device", "no route"])
async def test_an_add_that_fails_leaves_nothing(world: World, late: bool) -> None:
    if late:
        world.unsettled = TimeoutError("not carried out within 10 s")
    else:
        world.pods.faults.add(PodFault.ATTACH_REFUSED)
    status, error = await world.call("ADD")
    assert (status, error["code"]) == (1, 5)
    assert (await world.stored(), world.pods.attached, world.cluster.endpoints) == (NOTHING, {}, ())


async def test_an_add_that_is_cancelled_leaves_nothing(world: World) -> None:
    reached = asyncio.Event()

    async def forever(addresses: Iterable[IPv4Address], timeout: float) -> None:
        reached.set()
        await asyncio.Event().wait()

    world.settled = forever  # type: ignore[method-assign]
    await world.start()
    task = asyncio.create_task(world.call("ADD"))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await world.stored(), world.pods.attached, world.cluster.endpoints) == (NOTHING, {}, ())


async def test_without_the_datastore_an_add_says_try_again(world: World) -> None:
    world.why = "the datastore is away: no answer"
    status, error = await world.call("ADD")
    assert (status, error["code"]) == (1, 11)
    assert "the datastore is away" in str(error["msg"])


async def test_without_the_datastore_a_del_is_written_down_and_carried_out_when_it_is_back(
    world: World,
) -> None:
    await world.call("ADD")
    world.why = "the datastore is away"
    assert await world.call("DEL") == (0, {})
    assert world.pods.attached == {}
    assert await world.stored() == ONE
    assert len(world.journal()) == 1
    await world.server.replay()
    assert len(world.journal()) == 1
    world.why = None
    await world.server.replay()
    assert world.journal() == []
    assert await world.stored() == NOTHING


async def test_many_pods_at_once_get_distinct_addresses(world: World) -> None:
    answers = await asyncio.gather(*(world.call("ADD", f"c{number}", f"pod{number}") for number in range(60)))
    addresses = {answer["ips"][0]["address"] for _, answer in answers}  # type: ignore[index]
    assert len(addresses) == 60
    await asyncio.gather(*(world.call("DEL", f"c{number}", f"pod{number}") for number in range(60)))
    assert await world.stored() == NOTHING
