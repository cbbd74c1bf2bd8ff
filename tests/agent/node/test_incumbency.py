"""Cloned machines with one id and one name: the second one asks, is answered, and stays out; a boot asks in vain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.configuration.config import NodeSettings
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import NODES, POOLS, StateCache
from agent.node.incumbency import CLAIM_SECONDS
from agent.node.machine import ANNOTATION, CLAIM_ANNOTATION, LIFE_ANNOTATION, machine_life
from agent.node.node_controller import CLAIM_PAUSE_SECONDS, NodeController
from agent.node.node_resource import NodeResource
from agent.node.takeover import take_over
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Put
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fakes.clock import SetClock
from tests.fakes.kernel import FakeKernel
from tests.fakes.store import FakeStore, Fault

ME = NodeName("node2")
KEY = resource_key("nodes", ME)


class Clone:
    """An agent on a machine whose id another one has as well."""

    def __init__(self, store: FakeStore, address: str, life: str) -> None:
        self.store, self.clock, self.kernel = store, SetClock(), FakeKernel()
        self.state = StateCache(ME)
        self.resource = NodeResource(
            store,
            self.state,
            Allocator(store, self.clock.wall, lambda: self.state.pools),
            self.kernel,
            NodeSettings(address=address),
            (),
            self.clock,
            SetAside(Path("/nonexistent")),
            mesh_ttl_security=False,
            machine_id="one",
            machine_life=life,
        )
        self.controller = NodeController(
            self.resource,
            self.state,
            lambda: self.resource.other_machine is None,
            self.clock,
        )

    async def step(self) -> None:
        for prefix in (POOLS, NODES):
            self.state.replace(prefix, (await self.store.list(prefix)).values)
        await self.controller.step()
        self.clock.at += CLAIM_PAUSE_SECONDS


def annotations(store: FakeStore) -> dict[str, str]:
    found: dict[str, str] = json.loads(store.copy()[KEY])["metadata"]["annotations"]
    return found


def address(store: FakeStore) -> str:
    found: str = json.loads(store.copy()[KEY])["spec"]["bgp"]["ipv4Address"]
    return found


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["it looks first", "it looks second"])
async def test_a_clone_asks_once_is_answered_and_stays_out(order: tuple[int, int]) -> None:
    store = FakeStore()
    machines = [Clone(store, "10.0.0.1/24", "a"), Clone(store, "10.0.0.2/24", "b")]
    first, second = machines
    await first.step()
    for _ in range(1000):
        for number in order:
            await machines[number].step()
    assert store.commits <= 4
    assert (address(store), annotations(store)) == ("10.0.0.1/24", {ANNOTATION: "one", LIFE_ANNOTATION: "a"})
    (trouble,) = second.resource.troubles()
    assert "another machine with the same id (a clone of this one, or its original) lives" in str(trouble)
    assert list(first.resource.troubles()) == []


async def test_a_machine_that_has_booted_is_its_node_again_after_three_seconds() -> None:
    store = FakeStore()
    before, after = Clone(store, "10.0.0.1/24", "a"), Clone(store, "10.0.0.9/24", "b")
    await before.step()
    began = after.clock.at
    while annotations(store)[LIFE_ANNOTATION] != "b":
        await after.step()
        assert after.resource.other_machine is not None
    assert CLAIM_SECONDS <= after.clock.at - began <= CLAIM_SECONDS + 2
    await after.step()
    await after.step()
    assert (address(store), after.resource.other_machine) == ("10.0.0.9/24", None)
    assert CLAIM_ANNOTATION not in annotations(store)


async def test_an_agent_that_starts_anew_in_the_same_boot_asks_nobody() -> None:
    store = FakeStore()
    await Clone(store, "10.0.0.1/24", "a").step()
    again = Clone(store, "10.0.0.1/24", "a")
    await again.step()
    assert (store.commits, again.resource.other_machine) == (1, None)


async def test_a_claim_whose_writing_failed_is_made_again() -> None:
    store = FakeStore()
    await Clone(store, "10.0.0.1/24", "a").step()
    after = Clone(store, "10.0.0.1/24", "b")
    store.fail_next(Fault.UNAVAILABLE)
    for _ in range(20):
        await after.step()
    assert annotations(store)[LIFE_ANNOTATION] == "b"


async def test_two_clones_that_find_no_record_are_one_node() -> None:
    store = FakeStore()
    first, second = Clone(store, "10.0.0.1/24", "a"), Clone(store, "10.0.0.2/24", "b")
    await first.controller.step()
    await second.controller.step()  # has not seen the first one's record
    for _ in range(100):
        await first.step()
        await second.step()
    assert address(store) == "10.0.0.1/24"
    assert second.resource.other_machine is not None


async def test_a_takeover_decides_between_clones() -> None:
    store = FakeStore()
    first, second = Clone(store, "10.0.0.1/24", "a"), Clone(store, "10.0.0.2/24", "b")
    await first.step()
    await take_over(store, ME, "one", "b")
    for _ in range(20):
        await second.step()
        await first.step()
    assert address(store) == "10.0.0.2/24"
    assert (first.resource.other_machine is None, second.resource.other_machine) == (False, None)


@pytest.mark.parametrize("odd", [7, ["a"], None, ""])
async def test_a_life_that_is_none_is_nobodys(odd: object) -> None:
    store = FakeStore()
    record = {
        "kind": "Node",
        "metadata": {"name": ME, "annotations": {ANNOTATION: "one"}},
        "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}},
    }
    if odd is not None:
        record["metadata"]["annotations"][LIFE_ANNOTATION] = odd  # type: ignore[index]
    await store.commit((), (Put(KEY, json.dumps(record).encode()),))
    machine = Clone(store, "10.0.0.1/24", "a")
    assert machine.resource.incumbency.other_life(record["metadata"]["annotations"]) == ""  # type: ignore[index]


def test_a_life_is_kept_until_the_run_directory_goes(tmp_path: Path) -> None:
    first = machine_life(tmp_path / "run")
    assert machine_life(tmp_path / "run") == first
    assert machine_life(tmp_path / "after a boot") != first
