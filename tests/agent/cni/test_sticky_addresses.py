"""A named workload finds its address again, whatever removes its pod; nobody else gets it meanwhile."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.cni.leak_collector import LeakCollector
from ipam.check.leak_proof import PAUSE_SECONDS
from tests.scenes.cni.cni_world import World

KEEP: dict[str, object] = {"ipam": {"keep": "10m"}}
NOTHING = (0, 0, 0)


class LaterClock(SystemClock):
    """Everybody else's clock, and then some."""

    def __init__(self, seconds: float) -> None:
        self._later = seconds

    def now(self) -> float:
        return super().now() + self._later

    def wall(self) -> datetime:
        return super().wall() + timedelta(seconds=self._later)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


async def added(world: World, container: str, pod: str = "web", **config: object) -> str:
    status, result = await world.call("ADD", container, pod, config={**KEEP, **config})
    assert status == 0, result
    return str(result["ips"][0]["address"])


async def collected(world: World, *seconds: float) -> None:
    """A round of the collector at each of these times from now."""
    await world.sync()
    for later in seconds:
        collector = LeakCollector(world.dependencies, world.cluster, LaterClock(later))
        await collector.one_round()


async def test_a_pod_that_comes_back_under_its_name_has_its_address_again(world: World) -> None:
    first = await added(world, "c1")
    assert await world.call("DEL", "c1", config=KEEP) == (0, {})
    assert await world.stored() == (1, 0, 1)
    assert await added(world, "c2", "other") != first
    assert await added(world, "c3") == first
    for container, pod in (("c2", "other"), ("c3", "web")):
        await world.call("DEL", container, pod)  # a DEL needs no configuration to keep what ADD promised
    assert await world.stored() == (2, 0, 2)


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        ({"args": {"cni": {"keep": 600, "workload": "db"}}}, ""),
        ({}, "KEEP=10m;WORKLOAD=db"),
        ({"ipam": {"keep": "1h"}}, "WORKLOAD=db"),
    ],
)
async def test_without_an_orchestrator_the_runtime_tells_the_name(
    world: World, config: dict[str, Any], arguments: str
) -> None:
    found = []
    for container in ("c1", "c2"):
        given = {"CNI_ARGS": arguments}
        status, result = await world.call("ADD", container, config=config, environment=given)
        assert status == 0, result
        found.append(result["ips"][0]["address"])
        await world.call("ADD", f"beside-{container}", environment={"CNI_ARGS": ""})
        await world.call("DEL", container, environment={"CNI_ARGS": ""})
    assert found[0] == found[1]


async def test_a_workload_without_a_name_keeps_nothing(world: World) -> None:
    await world.call("ADD", config=KEEP, environment={"CNI_ARGS": ""})
    await world.call("DEL", config=KEEP, environment={"CNI_ARGS": ""})
    assert await world.stored() == NOTHING


async def test_each_interface_of_a_pod_has_its_own(world: World) -> None:
    found = []
    for container in ("c1", "c2"):
        for name in ("eth0", "net1"):
            _, result = await world.call("ADD", container, config=KEEP, environment={"CNI_IFNAME": name})
            found.append(result["ips"][0]["address"])
        for name in ("net1", "eth0"):
            await world.call("DEL", container, environment={"CNI_IFNAME": name})
    assert found[:2] == found[2:]


async def test_what_was_kept_long_enough_is_freed_and_not_a_second_before(world: World) -> None:
    await added(world, "c1")
    await world.call("DEL", "c1")
    await collected(world, 590)
    assert await world.stored() == (1, 0, 1)
    await collected(world, 601)
    assert await world.stored() == NOTHING


async def test_what_is_in_use_again_is_not_freed_by_its_former_time(world: World) -> None:
    first = await added(world, "c1")
    await world.call("DEL", "c1")
    assert await added(world, "c2") == first
    await collected(world, 601, 10_000)
    assert await world.stored() == (1, 1, 1)


async def test_gc_leaves_what_is_kept_and_a_pod_that_gc_removes_is_kept_too(world: World) -> None:
    await added(world, "c1")
    await added(world, "c2", "other")
    await world.call("DEL", "c1")
    assert await world.call("GC", config={"cni.dev/valid-attachments": []}) == (0, {})
    assert await world.stored() == (2, 0, 2)
    assert await world.call("GC", config={"cni.dev/valid-attachments": []}) == (0, {})
    assert await world.stored() == (2, 0, 2)


async def test_the_address_of_a_pod_that_nobody_deleted_is_kept_once_it_is_proved_gone(world: World) -> None:
    first = await added(world, "c1")
    world.pods.attached.clear()
    await world.sync()
    await world.start("boot-2")
    collector = LeakCollector(world.dependencies, world.cluster, clock := LaterClock(0))
    await collector.one_round()
    clock._later = PAUSE_SECONDS
    await collector.one_round()
    assert await world.stored() == (1, 0, 1)
    assert await added(world, "c2") == first


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"ipam": {"keep": "soon"}},
            "ipam.keep: 'soon' is no duration from 0 to 30 days; write 90s, 10m, 2h or 7d",
        ),
        ({"ipam": {"keep": "31d"}}, "ipam.keep: '31d' is no duration"),
        ({"ipam": {"keep": True}}, "ipam.keep: True is no duration"),
        ({"args": {"cni": {"keep": -1}}}, "args.cni.keep: -1 is no duration"),
        ({"args": {"cni": {"workload": "a b"}}}, "args.cni.workload: 'a b' is no name"),
        ({"args": {"cni": {"workload": "@x"}}}, "args.cni.workload: '@x' is no name"),
    ],
)
async def test_a_wrong_option_is_refused_by_its_name(
    world: World, config: dict[str, object], words: str
) -> None:
    status, error = await world.call("ADD", config=config)
    assert (status, error["code"]) == (1, 7)
    assert error["msg"].startswith(words)
    assert await world.stored() == NOTHING
