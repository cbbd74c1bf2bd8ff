"""ADD is all or nothing, DEL is local first; both may be said twice and in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.cni.endpoint_store import Waits
from agent.datastore.state_cache import ENDPOINTS
from ipam.etcd.store import Put, Versioned
from ipam.keys import BLOCKS
from tests.fakes.pods import PodFault
from tests.fakes.store import Fault
from tests.scenes.cni.cni_world import World
from tests.scenes.cni.hanging_store import HangingStore

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


@pytest.mark.parametrize("fault", [PodFault.MAKE_REFUSED, PodFault.CONFIGURE_REFUSED, None], ids=str)
async def test_an_add_that_fails_leaves_nothing(world: World, fault: PodFault | None) -> None:
    if fault is None:
        world.unsettled = TimeoutError("not carried out within 10 s")
    else:
        world.pods.faults.add(fault)
    status, error = await world.call("ADD")
    assert (status, error["code"]) == (1, 5)
    assert (await world.stored(), world.pods.attached, world.cluster.endpoints) == (NOTHING, {}, ())


ELSEWHERE = {"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IP=10.99.0.1"}
"""An address of no pool."""


async def test_a_pair_whose_addresses_are_refused_is_removed(world: World) -> None:
    status, error = await world.call("ADD", environment=ELSEWHERE)
    assert status == 1
    assert "10.99.0.1" in str(error["msg"])
    assert (await world.stored(), world.pods.attached, world.cluster.endpoints) == (NOTHING, {}, ())


async def test_an_add_without_an_address_to_give_leaves_an_older_container_of_the_pod_alone(
    world: World,
) -> None:
    await world.call("ADD", "old")
    status, _ = await world.call("ADD", "new", environment=ELSEWHERE)
    assert status == 1
    assert [attachment.container_id for attachment in world.pods.attached.values()] == ["old"]
    assert await world.stored() == ONE


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
    await world.server.release_replay.replay()
    assert len(world.journal()) == 1
    world.why = None
    await world.server.release_replay.replay()
    assert world.journal() == []
    assert await world.stored() == NOTHING


async def test_many_pods_at_once_get_distinct_addresses(world: World) -> None:
    answers = await asyncio.gather(*(world.call("ADD", f"c{number}", f"pod{number}") for number in range(60)))
    addresses = {answer["ips"][0]["address"] for _, answer in answers}  # type: ignore[index]
    assert len(addresses) == 60
    await asyncio.gather(*(world.call("DEL", f"c{number}", f"pod{number}") for number in range(60)))
    assert await world.stored() == NOTHING


async def test_a_release_that_waits_is_carried_out_before_the_same_container_is_attached_again(
    world: World,
) -> None:
    await world.call("ADD")
    world.why = "the datastore is away"
    assert await world.call("DEL") == (0, {})
    _, error = await world.call("ADD")
    assert error["code"] == 11
    world.why = None
    assert (await world.call("ADD"))[0] == 0
    assert world.journal() == []
    await world.server.release_replay.replay()
    assert len(world.pods.attached) == 1
    assert await world.stored() == ONE


async def test_a_late_del_spares_the_new_container_even_before_the_datastore_was_read(world: World) -> None:
    await world.call("ADD", "old")
    await world.call("ADD", "new")
    world.cluster.replace(ENDPOINTS, {})
    world.why = "the datastore has not been read yet"
    assert await world.call("DEL", "old") == (0, {})
    assert [attachment.container_id for attachment in world.pods.attached.values()] == ["new"]
    await world.sync()
    world.why = None
    await world.server.release_replay.replay()
    assert await world.stored() == ONE
    assert (await world.call("ADD", "new"))[0] == 0


async def test_a_release_that_can_never_be_carried_out_is_set_aside_and_holds_up_no_other(
    world: World,
) -> None:
    world.why = "the datastore is away"
    await world.call("DEL", "c1")
    (first,) = world.journal()
    first.write_text(first.read_text().replace('\\"name\\"', '\\"nome\\"'))
    first.with_name("1-broken-eth0.json").write_text("no JSON")
    await world.call("DEL", "c2")
    world.why = None
    await world.server.release_replay.replay()
    assert [path.name for path in first.parent.iterdir()] == ["refused"]
    assert sorted(path.name for path in (first.parent / "refused").iterdir()) == [
        "1-broken-eth0.json",
        "1-broken-eth0.json.reason",
        first.name,
        f"{first.name}.reason",
    ]


async def test_an_add_that_fails_while_the_datastore_goes_away_is_taken_back_later(world: World) -> None:
    async def gone(addresses: Iterable[IPv4Address], timeout: float) -> None:
        world.why = "the datastore is away"
        raise TimeoutError("not carried out within 10 s")

    world.settled = gone  # type: ignore[method-assign]
    await world.start()
    status, error = await world.call("ADD")
    assert (status, error["code"]) == (1, 5)
    assert world.pods.attached == {}
    assert len(world.journal()) == 1
    world.why = None
    await world.server.release_replay.replay()
    assert (await world.stored(), world.journal()) == (NOTHING, [])


async def test_an_endpoint_that_cannot_be_read_does_not_keep_the_addresses(world: World) -> None:
    await world.call("ADD")
    (key,) = (await world.store.list(ENDPOINTS)).values
    await world.store.commit((), (Put(key, b'{"kind": 5}'),))
    assert await world.call("DEL") == (0, {})
    assert (await world.stored())[2] == 0


async def test_a_namespace_that_is_none_has_its_own_code(world: World) -> None:
    world.pods.faults.add(PodFault.NO_NAMESPACE)
    _, error = await world.call("ADD")
    assert error["code"] == 8
    assert await world.stored() == NOTHING


async def test_an_attachment_whose_device_was_lost_is_made_anew(world: World) -> None:
    await world.call("ADD")
    world.pods.attached.clear()
    await world.start(boot_id="boot-2")
    assert (await world.call("ADD"))[0] == 0
    assert len(world.pods.attached) == 1
    (block,) = (await world.store.list(BLOCKS)).values.values()
    assert b"boot-2" in block.value
    assert b"boot-1" not in block.value
    assert await world.stored() == ONE


async def test_an_add_whose_answer_was_lost_gives_the_same_address_when_said_again(world: World) -> None:
    world.store.fail_next(Fault.LOST_REPLY)
    _, error = await world.call("ADD")
    assert error["code"] == 11
    assert await world.stored() == ONE
    assert (await world.call("ADD"))[0] == 0
    assert await world.stored() == ONE


@pytest.fixture
async def hanging(tmp_path: Path) -> World:
    made = World(tmp_path, store=HangingStore(), waits=Waits(release=0.01))
    await made.start()
    await made.call("ADD")
    return made


async def test_a_del_is_answered_before_a_datastore_that_hangs(hanging: World) -> None:
    answers = hanging.store.answers  # type: ignore[attr-defined]
    answers.clear()
    assert await hanging.call("DEL") == (0, {})
    assert (hanging.pods.attached, len(hanging.journal())) == ({}, 1)
    again = asyncio.create_task(hanging.call("ADD"))
    await asyncio.sleep(0)
    assert await hanging.stored() == ONE
    answers.set()
    assert (await again)[0] == 0  # it waited for the release to end, and so was not hit by it
    assert (await hanging.stored(), hanging.journal()) == (ONE, [])


async def test_a_del_that_is_interrupted_is_written_down_once(hanging: World) -> None:
    hanging.store.answers.clear()  # type: ignore[attr-defined]
    await hanging.call("DEL")
    for task in tuple(hanging.server._deleting):
        task.cancel()
    await asyncio.gather(*hanging.server._deleting, return_exceptions=True)
    assert len(hanging.journal()) == 1
    hanging.store.answers.set()  # type: ignore[attr-defined]
    await hanging.server.release_replay.replay()
    assert (await hanging.stored(), hanging.journal()) == (NOTHING, [])


DOUBTFUL = Waits(release=5.0, assignment=0.02)


class SilentStore(HangingStore):
    """Answers nothing at all, until it is let."""

    async def get(self, key: str) -> Versioned | None:
        """See Store."""
        await self.answers.wait()
        return await super().get(key)


async def test_an_add_does_not_wait_long_for_a_datastore_that_is_silent(tmp_path: Path) -> None:
    store = SilentStore()
    made = World(tmp_path, store=store, waits=DOUBTFUL)
    await made.start()
    store.answers.clear()
    status, error = await made.call("ADD")
    assert (status, error["code"], error["msg"]) == (1, 11, "the datastore is away: no answer within 0.02 s")
    store.answers.set()
    assert (await made.call("ADD"))[0] == 0
    assert await made.stored() == ONE


async def test_an_add_waits_for_a_datastore_that_is_only_slow(tmp_path: Path) -> None:
    store = HangingStore()
    made = World(tmp_path, store=store, waits=DOUBTFUL)
    await made.start()
    store.answers.clear()
    asyncio.get_running_loop().call_later(0.1, store.answers.set)
    assert (await made.call("ADD"))[0] == 0
    assert await made.stored() == ONE
