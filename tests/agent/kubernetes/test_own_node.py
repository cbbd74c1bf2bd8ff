"""A node's labels come from Kubernetes, and that its network is in force goes there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.kubernetes.api import KubernetesApi
from agent.kubernetes.api_errors import ApiError
from agent.kubernetes.node_labels import MOST_LABELS, SYNCED, write_node
from agent.kubernetes.own_node import CONDITION_SECONDS, OwnNode
from tests.fakes.api_server import ApiFault, FakeApiServer
from tests.fakes.clock import SetClock


def fresh(**metadata: Any) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": "n1", **metadata}, "spec": {"bgp": {}}}


def test_labels_of_kubernetes_go_over_those_of_the_record_and_a_persons_own_stay() -> None:
    raw = fresh(labels={"mine": "1", "zone": "old"}, annotations={"other": "x"})
    write_node(raw, "k1", {"zone": "a"})
    assert raw["metadata"]["labels"] == {"mine": "1", "zone": "a"}
    assert raw["metadata"]["annotations"] == {"other": "x", SYNCED: '{"zone":"a"}'}
    assert raw["spec"] == {"bgp": {}, "orchRefs": [{"nodeName": "k1", "orchestrator": "k8s"}]}


def test_a_label_that_kubernetes_has_no_more_goes_unless_a_person_changed_it() -> None:
    raw = fresh()
    write_node(raw, "k1", {"zone": "a", "rack": "7"})
    raw["metadata"]["labels"]["rack"] = "8"
    write_node(raw, "k1", {})
    assert raw["metadata"]["labels"] == {"rack": "8"}


def test_written_twice_it_is_the_same_and_references_to_others_stay() -> None:
    raw = fresh()
    raw["spec"]["orchRefs"] = [{"nodeName": "o", "orchestrator": "openstack"}]
    write_node(raw, "k1", {"a": "b"})
    once = json.dumps(raw)
    write_node(raw, "k1", {"a": "b"})
    assert json.dumps(raw) == once
    assert {"nodeName": "o", "orchestrator": "openstack"} in raw["spec"]["orchRefs"]


@pytest.mark.parametrize("synced", ["[", "[]", "7", "{" * 100_000, '{"a": 7}', ""])
def test_an_annotation_that_cannot_be_read_takes_no_label_away(synced: str) -> None:
    raw = fresh(labels={"mine": "1"}, annotations={SYNCED: synced})
    write_node(raw, "k1", {"zone": "a"})
    assert raw["metadata"]["labels"] == {"mine": "1", "zone": "a"}


def test_very_many_labels_change_none() -> None:
    raw = fresh(labels={"mine": "1"})
    write_node(raw, "k1", {f"l{number}": "" for number in range(MOST_LABELS + 1)})
    assert raw["metadata"]["labels"] == {"mine": "1"}


class Node:
    """One node over a fake API server."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.clock = SetClock()
        self.in_force = False
        self.changes = 0
        self.own = OwnNode(
            KubernetesApi(server.address, self.clock), "k1", self.clock, lambda: self.in_force, self.changed
        )

    def changed(self) -> None:
        self.changes += 1

    def conditions(self) -> list[str]:
        bodies = [json.loads(body) for method, _, body in self.server.asked if method == "PATCH"]
        found = [condition for body in bodies for condition in body["status"]["conditions"]]
        assert {one["type"] for one in found} <= {"NetworkUnavailable"}
        return [one["status"] for one in found]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with FakeApiServer().serving() as server:
        server.node("k1", labels={"zone": "a"})
        yield Node(server)


async def test_labels_that_change_are_written_and_the_last_ones_hold_while_the_server_is_away(
    node: Node,
) -> None:
    await node.own.look()
    node.server.node("k1", labels={"zone": "b"})
    await node.own.look()
    await node.own.look()
    assert node.changes == 2
    node.server.faults.add(ApiFault.BUSY)
    with pytest.raises(ApiError):
        await node.own.look()
    raw = fresh()
    node.own.write(raw)
    assert raw["metadata"]["labels"] == {"zone": "b"}


async def test_what_is_no_node_of_kubernetes_is_never_called_one(node: Node) -> None:
    node.server.objects.clear()
    await node.own.look()
    raw = fresh()
    node.own.write(raw)
    assert raw == fresh()


async def test_the_network_is_available_once_it_is_in_force_and_said_again_after_a_while(node: Node) -> None:
    await node.own.look()
    assert node.conditions() == []
    node.in_force = True
    await node.own.look()
    await node.own.look()
    assert node.conditions() == ["False"]
    node.clock.at += CONDITION_SECONDS
    await node.own.look()
    assert node.conditions() == ["False", "False"]


async def test_when_the_agent_is_stopped_the_network_is_unavailable(node: Node) -> None:
    node.in_force = True
    task = asyncio.create_task(node.own.run())
    async with asyncio.timeout(5):
        await node.server.patched.wait()
    while node.own._said_at is None:
        await asyncio.wait({task}, timeout=0.01)
    task.cancel()
    await asyncio.wait({task})
    assert node.conditions() == ["False", "True"]
