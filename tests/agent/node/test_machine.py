"""Two machines with one name: one is the node, the other stays out, and neither writes in turn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.configuration.config import NodeSettings
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import NODES, POOLS, StateCache
from agent.node.machine import ANNOTATION, machine_id, other_machine
from agent.node.node_controller import RETRY_SECONDS, NodeController
from agent.node.node_resource import NodeResource
from agent.node.takeover import take_over
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Put, Unchanged
from ipam.failures import Malformed, Refused
from ipam.keys import resource_key
from ipam.model import NodeName
from tests.fakes.clock import SetClock
from tests.fakes.kernel import FakeKernel
from tests.fakes.store import FakeStore

ME = NodeName("node1")
KEY = resource_key("nodes", ME)
RAW = "0123456789abcdef0123456789abcdef"


def test_an_id_is_the_same_at_every_start_and_does_not_reveal_the_machines(tmp_path: Path) -> None:
    source = tmp_path / "machine-id"
    source.write_text(f"{RAW}\n")
    first = machine_id("", tmp_path, source)
    assert machine_id("", tmp_path / "elsewhere", source) == first
    assert (len(first), RAW in first) == (32, False)
    source.write_text(RAW.replace("0", "1"))
    assert machine_id("", tmp_path, source) != first
    assert machine_id("chosen", tmp_path, source) == "chosen"


@pytest.mark.parametrize("content", [None, b"", b"uninitialized\n", b"\xff" * 500])
def test_a_machine_without_an_id_keeps_a_random_one(tmp_path: Path, content: bytes | None) -> None:
    source = tmp_path / "etc"
    if content is not None:
        source.write_bytes(content)
    first = machine_id("", tmp_path, source)
    assert machine_id("", tmp_path, source) == first
    other = tmp_path / "other"
    other.mkdir()
    assert machine_id("", other, source) != first


@pytest.mark.parametrize(
    ("annotations", "other"),
    [
        (None, None),
        ({}, None),
        ("odd", None),
        ({ANNOTATION: "mine"}, None),
        ({ANNOTATION: ""}, None),
        ({ANNOTATION: 7}, None),
        ({ANNOTATION: "theirs"}, "theirs"),
    ],
)
def test_only_an_id_that_is_another_ones_keeps_a_machine_out(annotations: object, other: str | None) -> None:
    assert other_machine(annotations, "mine") == other
    assert other_machine(annotations, "") is None


class Machine:
    """One agent's view of the node, in time that a test moves."""

    def __init__(self, store: FakeStore, address: str, name: str) -> None:
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
            machine_id=name,
        )
        self.controller = NodeController(
            self.resource,
            self.state,
            lambda: self.resource.other_machine is None,
            self.clock,
        )

    async def look(self) -> None:
        for prefix in (POOLS, NODES):
            self.state.replace(prefix, (await self.store.list(prefix)).values)

    async def step(self) -> None:
        await self.look()
        await self.controller.step()
        self.clock.at += RETRY_SECONDS


def record(store: FakeStore) -> dict[str, object]:
    found: dict[str, object] = json.loads(store.copy()[KEY])
    return found


def address(store: FakeStore) -> object:
    return record(store)["spec"]["bgp"]["ipv4Address"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize("blind", [False, True], ids=["watching", "before the watch reports"])
async def test_two_machines_of_one_name_write_a_handful_of_times_in_a_thousand_rounds(*, blind: bool) -> None:
    store = FakeStore()
    first, second = Machine(store, "10.0.0.1/24", "m1"), Machine(store, "10.0.0.2/24", "m2")
    for _ in range(1000):
        for one in (first, second):
            await (one.controller.step() if blind and one is second else one.step())
            one.clock.at += RETRY_SECONDS
    assert store.commits <= 3
    assert address(store) == "10.0.0.1/24"
    await second.look()
    (trouble,) = second.resource.troubles()
    assert "node node1 is another machine (m1, 10.0.0.1/24); this one is m2" in str(trouble)
    assert "tortie node takeover" in str(trouble)
    assert list(first.resource.troubles()) == []


@pytest.mark.parametrize("annotations", [None, {"other": "kept"}])
async def test_a_record_without_an_id_gets_it_silently_and_nothing_else_changes(
    annotations: dict[str, str] | None,
) -> None:
    store = FakeStore()
    metadata = {"name": ME, "annotations": annotations}
    before = {"kind": "Node", "metadata": metadata, "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}}
    await store.commit((Unchanged(KEY, 0),), (Put(KEY, json.dumps(before).encode()),))
    machine = Machine(store, "10.0.0.1/24", "m1")
    await machine.step()
    expected = {**before, "metadata": {**metadata, "annotations": {**(annotations or {}), ANNOTATION: "m1"}}}
    assert record(store) == expected
    assert machine.resource.trouble is None


async def test_a_takeover_is_one_write_and_the_machine_that_was_the_node_stays_out() -> None:
    store = FakeStore()
    first, second = Machine(store, "10.0.0.1/24", "m1"), Machine(store, "10.0.0.2/24", "m2")
    await first.step()
    commits = store.commits
    assert await take_over(store, ME, "m2") == "m1"
    assert await take_over(store, ME, "m2") == "m2"
    assert store.commits == commits + 1
    for _ in range(10):
        await second.step()
        await first.step()
    assert address(store) == "10.0.0.2/24"
    assert "m2" in str(first.resource.other_machine)
    # The first machine was dead, and comes back.
    again = Machine(store, "10.0.0.1/24", "m1")
    await again.step()
    assert (again.resource.other_machine is None, address(store)) == (False, "10.0.0.2/24")


async def test_a_takeover_needs_a_record_that_can_be_read() -> None:
    store = FakeStore()
    with pytest.raises(Refused, match="there is no node node1"):
        await take_over(store, ME, "m2")
    for value in (b"{", b"[]", b'{"metadata":[]}', b'{"metadata":{"annotations":"x"}}', b"[" * 100_000):
        await store.commit((), (Put(KEY, value),))
        with pytest.raises(Malformed, match=KEY):
            await take_over(store, ME, "m2")
    assert store.copy()[KEY] == b"[" * 100_000
