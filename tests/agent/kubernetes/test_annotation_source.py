"""A pod's annotations are asked of Kubernetes with its ADD; without an answer there is no address, never another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kubernetes import annotation_source as module
from agent.kubernetes.annotation_source import AnnotationSource
from agent.kubernetes.api import KubernetesApi
from tests.fakes.api_server import ApiFault, FakeApiServer
from tests.fakes.clock import SetClock
from tests.scenes.cni.cni_world import World

CALICO = "cni.projectcalico.org/"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeApiServer]:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    async with FakeApiServer().serving() as made:
        yield made


@pytest.fixture
async def world(tmp_path: Path, server: FakeApiServer) -> World:
    """A CNI server that asks the fake."""
    made = World(tmp_path)
    await made.start()
    source = AnnotationSource(KubernetesApi(server.address, SetClock()))
    made.server._dependencies = replace(made.server._dependencies, annotations=source)
    return made


async def add(
    world: World, pod: str = "web", container: str = "c1", uid: str = "u1"
) -> tuple[int, dict[str, object]]:
    arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}"
    status, answer = await world.call("ADD", container, pod, environment={"CNI_ARGS": arguments})
    return status, answer


def annotated(**annotations: object) -> dict[str, str]:
    return {f"{CALICO}{name}": json.dumps(value) for name, value in annotations.items()}


async def test_the_pods_annotation_gives_its_address(world: World, server: FakeApiServer) -> None:
    server.pod("default", "web", annotated(ipAddrs=["192.168.0.77"]))
    status, answer = await add(world)
    assert status == 0
    assert "192.168.0.77/32" in str(answer["ips"])


async def test_the_namespaces_pools_are_those_of_pods_that_name_none(
    world: World, server: FakeApiServer
) -> None:
    server.pod("default", "web", {})
    server.objects["/api/v1/namespaces/default"] = {
        "metadata": {"name": "default", "annotations": annotated(ipv4pools=["no-such-pool"])}
    }
    status, answer = await add(world)
    assert status == 1
    assert "no-such-pool" in str(answer)
    server.pod("default", "own", annotated(ipv4pools=["p"]))
    assert (await add(world, "own", "c2"))[0] == 0


@pytest.mark.parametrize("name", ["ipAddrsNoIpam", "floatingIPs"])
async def test_what_is_not_done_is_refused_by_name(world: World, server: FakeApiServer, name: str) -> None:
    server.pod("default", "web", annotated(**{name: ["192.168.0.9"]}))
    status, answer = await add(world)
    assert (status, answer["code"]) == (1, 7)
    assert name in str(answer["msg"])


@pytest.mark.parametrize("value", ["192.168.0.9", "[", '[["a"]]', '{"a": 1}', "[1]"])
async def test_an_annotation_that_cannot_be_read_gives_no_address(
    world: World, server: FakeApiServer, value: str
) -> None:
    server.pod("default", "web", {f"{CALICO}ipAddrs": value})
    status, answer = await add(world)
    assert (status, answer["code"]) == (1, 7)
    assert await world.stored() == (0, 0, 0)


@pytest.mark.parametrize(
    "fault", [ApiFault.BUSY, ApiFault.HANGS, ApiFault.GARBAGE, ApiFault.NO_JSON, ApiFault.FORBIDDEN]
)
async def test_without_an_answer_an_add_fails_in_time_with_try_again_and_a_sentence(
    world: World, server: FakeApiServer, fault: ApiFault
) -> None:
    server.pod("default", "web", annotated(ipAddrs=["192.168.0.77"]))
    server.faults.add(fault)
    status, answer = await add(world)
    assert (status, answer["code"]) == (1, 11)
    assert "pod default/web: its annotations cannot be read from Kubernetes" in str(answer["msg"])
    assert await world.stored() == (0, 0, 0)
    server.faults.clear()
    assert (await add(world))[0] == 0


async def test_what_was_read_of_this_very_pod_holds_while_the_server_is_away(
    world: World, server: FakeApiServer
) -> None:
    server.pod("default", "web", annotated(ipAddrs=["192.168.0.77"]))
    assert (await add(world))[0] == 0
    await world.call("DEL", "c1", "web")
    server.faults.add(ApiFault.BUSY)
    status, answer = await add(world, container="c2")
    assert status == 0
    assert "192.168.0.77" in str(answer)
    assert (await add(world, container="c3", uid="u2"))[0] == 1, "another pod of this name"


async def test_a_pod_of_the_same_name_that_is_another_one_by_now_gets_nothing(
    world: World, server: FakeApiServer
) -> None:
    server.pod("default", "web", annotated(ipAddrs=["192.168.0.77"]), uid="u2")
    status, answer = await add(world)
    assert (status, answer["code"]) == (1, 11)
    assert "another one of this name" in str(answer["msg"])


async def test_a_static_pod_is_known_by_the_uid_that_its_mirror_names(
    world: World, server: FakeApiServer
) -> None:
    server.pod("default", "web", {"kubernetes.io/config.hash": "u1"}, uid="of-the-mirror")
    assert (await add(world))[0] == 0


async def test_a_pod_that_kubernetes_does_not_have_gets_nothing(world: World) -> None:
    status, answer = await add(world)
    assert (status, answer["code"]) == (1, 11)
    assert "none of this name" in str(answer["msg"])


async def test_a_del_and_a_container_that_is_no_pod_ask_nobody(world: World, server: FakeApiServer) -> None:
    await world.call("DEL", "c1", "web")
    status, _ = await world.call("ADD", "c7", environment={"CNI_ARGS": ""})
    assert status == 0
    assert server.asked == []
