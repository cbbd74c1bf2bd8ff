"""One interface of one container, called for with other arguments than before: found by what was left on it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.cni.endpoint_store import Waits
from agent.cni.release_journal import ReleaseJournal
from agent.datastore.state_cache import ENDPOINTS
from tests.fakes.pods import PodFault
from tests.scenes.cni.cni_world import World
from tests.scenes.cni.hanging_store import HangingStore

NOTHING, ONE = (0, 0, 0), (1, 1, 1)
NO_POD = {"CNI_ARGS": ""}
OTHER_POD = {"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=db"}
ONLY_NAME = {"CNI_ARGS": "K8S_POD_NAME=web"}
OTHER_NETWORK: dict[str, object] = {"name": "renamed"}
ADDRESSES_ONLY: dict[str, object] = {"type": "bridge", "ipam": {"type": "tortie-ipam"}}
EMPTY: dict[str, object] = {"cni.dev/valid-attachments": []}
PA, PB = "/run/netns/pa", "/run/netns/pb"


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.pods.namespaces = {PA, PB}
    await made.start()
    return made


def address_of(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"])


def must_work(world: World, netns: str, result: dict[str, Any], interface: str = "eth0") -> None:
    """The result's interface is in the namespace that it names, with the result's addresses."""
    host = world.pods.inside(netns, interface)
    assert host == result["interfaces"][0]["name"]
    assert result["interfaces"][1]["sandbox"] == netns
    assert [f"{one}/32" for one in world.pods.attached[host].addresses] == [address_of(result)]


# -- ADD --------------------------------------------------------------------------------------------------------------


async def test_an_add_with_another_namespace_moves_the_interface_there(world: World) -> None:
    assert (await world.call("ADD", netns=PA))[0] == 0
    status, result = await world.call("ADD", netns=PB)
    assert status == 0, result
    must_work(world, PB, result)
    assert (world.pods.inside(PA, "eth0"), await world.stored()) == (None, ONE)


async def test_an_add_with_another_namespace_that_is_none_takes_nothing_away(world: World) -> None:
    _, first = await world.call("ADD", netns=PA)
    status, error = await world.call("ADD", netns="/run/netns/gone")
    assert (status, error["code"]) == (1, 8)
    must_work(world, PA, first)
    assert await world.stored() == ONE


async def test_an_add_into_a_namespace_that_has_such_an_interface_of_others_takes_nothing_away(
    world: World,
) -> None:
    _, first = await world.call("ADD", "c1", "one", netns=PA)
    _, second = await world.call("ADD", "c2", "two", netns=PB)
    status, error = await world.call("ADD", "c1", "one", netns=PB)
    assert (status, error["code"]) == (1, 5)
    assert f"{PB} has an interface eth0 of others already" in error["msg"]
    must_work(world, PA, first)
    must_work(world, PB, second)


async def test_the_same_namespace_under_another_path_is_no_move(world: World) -> None:
    _, first = await world.call("ADD", netns=PA)
    made = dict(world.pods.attached)
    world.pods.paths["/proc/7/ns/net"] = PA
    status, again = await world.call("ADD", netns="/proc/7/ns/net")
    assert (status, again["ips"], world.pods.attached) == (0, first["ips"], made)


async def test_an_add_whose_namespace_went_meanwhile_is_made_in_the_new_one(world: World) -> None:
    await world.call("ADD", netns=PA)
    world.pods.remove_namespace(PA)
    status, result = await world.call("ADD", netns=PB)
    assert status == 0
    must_work(world, PB, result)
    assert await world.stored() == ONE


@pytest.mark.parametrize("environment", [NO_POD, OTHER_POD, ONLY_NAME], ids=str)
async def test_an_add_for_another_pod_leaves_the_container_one_interface_that_works(
    world: World, environment: dict[str, str]
) -> None:
    await world.call("ADD", netns=PA)
    for netns in (PA, PB):
        status, result = await world.call("ADD", netns=netns, environment=environment)
        assert status == 0, result
        must_work(world, netns, result)
        assert (len(world.pods.attached), await world.stored()) == (1, ONE)


async def test_an_add_that_asks_for_another_address_than_before_gives_that(world: World) -> None:
    await world.call("ADD", netns=PA)
    status, result = await world.call("ADD", netns=PA, config={"runtimeConfig": {"ips": ["192.168.0.9"]}})
    assert (status, address_of(result)) == (0, "192.168.0.9/32")
    must_work(world, PA, result)
    assert await world.stored() == ONE


async def test_an_add_of_a_living_interface_for_another_network_is_refused(world: World) -> None:
    _, first = await world.call("ADD", netns=PA)
    status, error = await world.call("ADD", netns=PB, config=OTHER_NETWORK)
    assert (status, error["code"]) == (1, 100)
    assert "eth0 of container c1 is cali" in error["msg"]
    assert "of network net, which needs a DEL first" in error["msg"]
    must_work(world, PA, first)


async def test_an_add_again_whose_route_does_not_stand_is_no_success(world: World) -> None:
    await world.call("ADD", netns=PA)
    world.unsettled = TimeoutError("not carried out within 10 s")
    status, error = await world.call("ADD", netns=PA)
    assert (status, error["code"]) == (1, 5)
    assert "eth0 is attached, and cannot be reached: not carried out within 10 s" in error["msg"]


async def test_an_add_that_cannot_enter_its_namespace_leaves_the_pods_older_container_alone(
    world: World,
) -> None:
    _, first = await world.call("ADD", "old", netns=PA)
    status, error = await world.call("ADD", "new", netns="/run/netns/gone")
    assert (status, error["code"]) == (1, 8)
    must_work(world, PA, first)
    assert await world.stored() == ONE


# -- another's device -------------------------------------------------------------------------------------------------


async def test_two_pods_whose_names_give_one_device_do_not_take_it_from_each_other(world: World) -> None:
    """Calico hashes `namespace.pod`: a made-up namespace with a dot in it gives what another pod's name gives."""
    one = {"CNI_ARGS": "K8S_POD_NAMESPACE=a.b;K8S_POD_NAME=c"}
    other = {"CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b.c"}
    _, first = await world.call("ADD", "c1", netns=PA, environment=one)
    status, error = await world.call("ADD", "c2", netns=PB, environment=other)
    assert (status, error["code"]) == (1, 100)
    assert "is the device of container c1 (pod a.b/c), whose name gives the same device" in error["msg"]
    assert await world.call("DEL", "c2", environment=other) == (0, {})
    must_work(world, PA, first)
    assert await world.stored() == ONE


async def test_a_container_named_as_a_pod_is_hashed_does_not_take_the_pods_device(world: World) -> None:
    _, first = await world.call("ADD", "c1", netns=PA, pod="web-0123456789")
    name = "default.web-0123456789"
    status, error = await world.call("ADD", name, netns=PB, environment=NO_POD)
    assert (status, error["code"]) == (1, 100)
    assert "container c1 (pod default/web-0123456789)" in error["msg"]
    assert await world.call("DEL", name, environment=NO_POD) == (0, {})
    must_work(world, PA, first)


# -- DEL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [NO_POD, OTHER_POD, ONLY_NAME], ids=str)
@pytest.mark.parametrize("config", [{}, OTHER_NETWORK], ids=str)
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_del_finds_what_the_container_has_whatever_its_arguments(
    world: World, environment: dict[str, str], config: dict[str, object], restarted: bool
) -> None:
    await world.call("ADD", netns=PA)
    if restarted:
        await world.start()
    _, beside = await world.call("ADD", "c2", "beside", netns=PB)
    assert await world.call("DEL", netns="", environment=environment, config=config) == (0, {})
    assert await world.stored() == ONE
    assert [one.container_id for one in world.pods.attached.values()] == ["c2"]
    must_work(world, PB, beside)
    assert await world.call("DEL", netns="", environment=environment, config=config) == (0, {})


async def test_a_del_without_the_pods_name_finds_an_endpoint_that_only_the_datastore_knows(
    world: World,
) -> None:
    await world.call("ADD", netns=PA)
    for record in tuple(world.living):
        world.living.remove(record.handle)
    assert await world.call("DEL", environment=NO_POD) == (0, {})
    assert (await world.stored(), world.pods.attached) == (NOTHING, {})


async def test_a_del_finds_the_device_of_an_add_that_died_by_what_is_written_on_it(world: World) -> None:
    await world.call("ADD", netns=PA)
    made = dict(world.pods.attached)
    await world.call("DEL")
    world.pods.attached = made  # the pair was made, nothing else
    assert await world.call("DEL", environment=NO_POD) == (0, {})
    assert world.pods.attached == {}


async def test_a_del_of_one_interface_leaves_the_containers_others_alone(world: World) -> None:
    _, first = await world.call("ADD", netns=PA)
    _, second = await world.call("ADD", netns=PA, environment={"CNI_IFNAME": "net1"})
    assert await world.call("DEL", environment={**NO_POD, "CNI_IFNAME": "net2"}) == (0, {})
    assert await world.call("DEL", environment={**NO_POD, "CNI_IFNAME": "net1"}) == (0, {})
    assert world.pods.inside(PA, "net1") is None
    must_work(world, PA, first)
    assert await world.stored() == ONE
    assert second["ips"] != first["ips"]


async def test_a_del_of_an_id_in_other_letters_is_another_containers(world: World) -> None:
    _, first = await world.call("ADD", "C1", netns=PA, environment=NO_POD)
    assert await world.call("DEL", "c1", environment=NO_POD) == (0, {})
    must_work(world, PA, first)
    assert await world.stored() == ONE


async def test_a_del_that_waits_for_the_datastore_is_written_down_in_the_words_of_its_add(
    world: World,
) -> None:
    secret: dict[str, object] = {"policy": {"type": "k8s", "k8s_auth_token": "s3cret"}, **OTHER_NETWORK}
    await world.call("ADD", netns=PA)
    world.store.away = True
    assert await world.call("DEL", environment=NO_POD, config=secret) == (0, {})
    releases = [ReleaseJournal(world.state).read(path) for path in world.journal()]
    assert releases[0].environment["CNI_ARGS"] == "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"
    assert ['"name": "net"' in release.config for release in releases] == [True, False]
    assert "s3cret" not in "".join(path.read_text() for path in world.journal())
    world.store.away = False
    await world.server.release_replay.replay()
    assert (await world.stored(), world.pods.attached, world.journal()) == (NOTHING, {}, [])


async def test_a_del_that_the_datastore_confirms_a_moment_later_is_no_warning(tmp_path: Path) -> None:
    store = HangingStore()
    world = World(tmp_path, store=store, waits=Waits(release=0.0))
    await world.start()
    await world.call("ADD")
    with capture_logs() as logs:
        assert await world.call("DEL") == (0, {})
        async with asyncio.timeout(10):
            while world.server._deleting:
                await asyncio.wait(world.server._deleting)
    assert (await world.stored(), world.journal()) == (NOTHING, [])
    assert [one for one in logs if one["log_level"] in ("warning", "error")] == []


async def test_a_del_that_the_datastore_does_not_confirm_is_one(world: World) -> None:
    await world.call("ADD", netns=PA)
    world.store.away = True
    with capture_logs() as logs:
        assert await world.call("DEL") == (0, {})
    assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["cni.release_recorded"]


# -- CHECK ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [NO_POD, OTHER_POD, ONLY_NAME], ids=str)
async def test_a_check_finds_what_the_container_has_whatever_its_arguments(
    world: World, environment: dict[str, str]
) -> None:
    _, result = await world.call("ADD", netns=PA)
    previous: dict[str, object] = {"prevResult": result}
    assert await world.call("CHECK", netns=PA, environment=environment, config=previous) == (0, {})
    _, error = await world.call("CHECK", netns=PB, environment=environment, config=previous)
    assert (error["code"], "eth0 is not in the pod" in error["msg"]) == (101, True)
    _, error = await world.call("CHECK", netns=PA, config={**previous, **OTHER_NETWORK})
    assert error["code"] == 101


async def test_a_check_tells_an_interface_of_others_from_ours(world: World) -> None:
    _, result = await world.call("ADD", "c1", "one", netns=PA)
    await world.call("ADD", "c2", "two", netns=PB)
    _, error = await world.call("CHECK", "c1", "one", netns=PB, config={"prevResult": result})
    assert (error["code"], "eth0 is not the other end of cali" in error["msg"]) == (101, True)


# -- two networks with one name ---------------------------------------------------------------------------------------


async def test_two_networks_of_one_name_do_not_take_each_others_addresses(
    world: World, tmp_path: Path
) -> None:
    _, ours = await world.call("ADD", netns=PA)
    status, error = await world.call("ADD", netns=PA, config=ADDRESSES_ONLY)
    assert (status, error["code"]) == (1, 100)
    assert "in network net already, by another configuration of that name" in error["msg"]
    assert await world.call("DEL", netns=PA, config=ADDRESSES_ONLY) == (0, {})
    assert await world.call("GC", config={**ADDRESSES_ONLY, **EMPTY}) == (0, {})
    must_work(world, PA, ours)
    assert await world.stored() == ONE


async def test_an_address_of_another_plugins_living_interface_is_not_freed_by_our_del(
    world: World, tmp_path: Path
) -> None:
    netns = tmp_path / "pod"
    netns.touch()
    assert (await world.call("ADD", netns=str(netns), config=ADDRESSES_ONLY))[0] == 0
    status, error = await world.call("ADD", netns=PA)
    assert (status, error["code"]) == (1, 100)
    for verb, config in (("DEL", {}), ("GC", EMPTY)):
        assert await world.call(verb, netns=str(netns), config=config) == (0, {})
        assert await world.stored() == (1, 0, 1)
    assert await world.call("DEL", netns=str(netns), config=ADDRESSES_ONLY) == (0, {})
    assert await world.stored() == NOTHING


async def test_a_second_add_of_addresses_that_is_cancelled_leaves_the_first_its_addresses(
    world: World, tmp_path: Path
) -> None:
    netns = tmp_path / "pod"
    netns.touch()
    assert (await world.call("ADD", netns=str(netns), config=ADDRESSES_ONLY))[0] == 0
    again = asyncio.create_task(world.call("ADD", netns=str(netns), config=ADDRESSES_ONLY))
    for _ in range(3):
        await asyncio.sleep(0)
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert await world.stored() == (1, 0, 1)


async def test_a_gc_of_one_network_leaves_an_interface_that_says_it_is_anothers(world: World) -> None:
    _, first = await world.call("ADD", netns=PA)
    assert await world.call("GC", config={**OTHER_NETWORK, **EMPTY}) == (0, {})
    must_work(world, PA, first)
    world.pods.faults.add(PodFault.DETACH_REFUSED)
    assert (await world.call("GC", config=EMPTY))[0] == 1
    assert await world.call("GC", config=EMPTY) == (0, {})
    assert await world.stored() == NOTHING
    assert (await world.store.list(ENDPOINTS)).values == {}
