"""While a new pod's packets would be dropped no ADD succeeds, and all else of CNI goes on."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.scenes.cni.cni_world import World

WHY = "the rule `drop` of chain cali-from-wl-dispatch drops packets from a pod that Calico did not know"
NOTHING, ONE = (0, 0, 0), (1, 1, 1)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


async def test_an_add_says_try_again_with_the_rule_and_leaves_nothing(world: World) -> None:
    world.dropped = WHY
    status, error = await world.call("ADD")
    assert (status, error["code"]) == (1, 11)
    assert error["msg"] == f"the pod could not be reached: {WHY}"
    assert (await world.stored(), world.pods.attached) == (NOTHING, {})
    world.dropped = None
    assert (await world.call("ADD"))[0] == 0


async def test_rules_that_come_during_an_add_end_it_and_leave_nothing(world: World) -> None:
    async def settled(addresses: Iterable[IPv4Address], timeout: float) -> None:
        world.dropped = WHY

    world.settled = settled  # type: ignore[method-assign]
    await world.start()
    status, error = await world.call("ADD")
    assert (status, error["code"]) == (1, 11)
    assert (await world.stored(), world.pods.attached, world.journal()) == (NOTHING, {}, [])


async def test_a_pod_that_was_there_before_is_answered_checked_and_released(world: World) -> None:
    _, result = await world.call("ADD")
    world.dropped = WHY
    assert await world.call("ADD") == (0, result)
    assert await world.call("CHECK", config={"prevResult": result}) == (0, {})
    assert (await world.stored()) == ONE
    assert await world.call("DEL") == (0, {})
    assert (await world.stored(), world.journal()) == (NOTHING, [])


async def test_status_says_that_new_pods_must_wait(world: World) -> None:
    world.dropped = WHY
    _, error = await world.call("STATUS")
    assert (error["code"], error["msg"]) == (50, f"this node cannot attach pods now: {WHY}")
