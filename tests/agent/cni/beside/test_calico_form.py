"""What a WorkloadEndpoint and its profile must be so that Calico's tools and Felix can work with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import SystemClock
from agent.cni.endpoint_update import EndpointUpdate
from agent.cni.gc import garbage
from agent.cni.leak_collector import LeakCollector
from agent.cni.plugin import spec
from agent.cni.put_back import PutBack
from agent.datastore.resources.resource_types import WorkloadEndpoint
from ipam.check.leak_proof import PAUSE_SECONDS
from ipam.etcd.store import CommitOutcome, Delete, Operation, Put, Unchanged
from ipam.failures import StoreRefused
from ipam.keys import resource_key, resource_prefix
from tests.fakes.clock import SetClock
from tests.fakes.store import FakeStore
from tests.scenes.cni.cni_world import NODE, World

ENDPOINTS, PROFILE = resource_prefix("workloadendpoints"), resource_key("profiles", "net")
UNNAMED = {"CNI_ARGS": ""}
"""Not a pod of Kubernetes."""
NAMES = {"k8s": "node1-k8s-web-eth0", "cni": "node1-cni-c1-eth0"}
WARM_CALLS, WARM_COMMITS = 1, 1
"""Of an ADD whose block, rules and profile are known: one transaction."""


class Calico(World):
    """A CNI server, and what looks after the form of its endpoints."""

    async def start(self, boot_id: str = "boot-1") -> None:
        await super().start(boot_id)
        self.update = EndpointUpdate(
            self.dependencies,
            self.cluster,
            self.server.profiles,
            lambda: True,
            SystemClock(),
            self.server.locked,
        )

    async def documents(self) -> dict[str, dict[str, Any]]:
        return {key: json.loads(v.value) for key, v in (await self.store.list(ENDPOINTS)).values.items()}

    async def document(self) -> dict[str, Any]:
        (found,) = (await self.documents()).values()
        return found

    async def profile(self) -> dict[str, Any] | None:
        stored = await self.store.get(PROFILE)
        return json.loads(stored.value) if stored is not None else None

    async def write(self, document: dict[str, Any]) -> None:
        """The one endpoint becomes this, by somebody else's hand."""
        (key,) = (await self.store.list(ENDPOINTS)).values
        await self.store.commit((), (Put(key, json.dumps(document).encode()),))
        await self.sync()

    async def round(self) -> None:
        await self.sync()
        await self.update.one_round()
        await self.sync()


@pytest.fixture
async def world(tmp_path: Path) -> Calico:
    made = Calico(tmp_path)
    await made.start()
    return made


def updatable(document: dict[str, Any]) -> list[str]:
    """What libcalico (clientv3, Update) misses in a stored WorkloadEndpoint, in its order; nothing when it takes it."""
    metadata, body = document["metadata"], document["spec"]
    workload = body.get("pod") if body["orchestrator"] == "k8s" else body.get("containerID")
    parts = (body["node"], body["orchestrator"], workload or "", body["endpoint"])
    wrong = [field for field in ("namespace", "creationTimestamp", "uid") if not metadata.get(field)]
    if metadata["name"] != "-".join(part.replace("-", "--") for part in parts):
        wrong.append("name")
    labels = metadata.get("labels") or {}
    wanted = {
        "projectcalico.org/namespace": metadata.get("namespace"),
        "projectcalico.org/orchestrator": body["orchestrator"],
    }
    return wrong + [label for label, value in wanted.items() if labels.get(label) != value]


def as_an_older_agent(document: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "namespace", "creationTimestamp")
    return {**document, "metadata": {name: document["metadata"][name] for name in kept}}


@pytest.mark.parametrize(("orchestrator", "environment"), [("k8s", {}), ("cni", UNNAMED)])
async def test_calico_can_update_what_an_add_writes(
    world: Calico, orchestrator: str, environment: dict[str, str]
) -> None:
    assert (await world.call("ADD", environment=environment))[0] == 0
    document = await world.document()
    assert updatable(document) == []
    metadata = document["metadata"]
    assert (document["kind"], document["apiVersion"]) == ("WorkloadEndpoint", "projectcalico.org/v3")
    assert (metadata["name"], metadata["namespace"]) == (NAMES[orchestrator], "default")
    assert document["spec"]["profiles"] == ["net"]


async def test_each_making_of_an_endpoint_has_a_uid_of_its_own(world: Calico) -> None:
    await world.call("ADD", "c1", "web")
    await world.call("ADD", "c2", "db")
    uids = {one["metadata"]["uid"] for one in (await world.documents()).values()}
    await world.call("DEL", "c1", "web")
    await world.call("ADD", "c3", "web")
    again = {one["metadata"]["uid"] for one in (await world.documents()).values()}
    assert len(uids) == 2
    assert len(uids | again) == 3


@pytest.mark.parametrize(
    ("environment", "source"), [({}, {}), (UNNAMED, {"selector": "has(net)"})], ids=["k8s", "cni"]
)
async def test_the_profile_that_an_endpoint_names_is_made_as_calicos_plugin_makes_it(
    world: Calico, environment: dict[str, str], source: dict[str, str]
) -> None:
    await world.call("ADD", environment=environment)
    profile = await world.profile()
    assert profile is not None
    metadata = profile.pop("metadata")
    assert (metadata["name"], sorted(metadata)) == ("net", ["creationTimestamp", "name", "uid"])
    assert profile == {
        "kind": "Profile",
        "apiVersion": "projectcalico.org/v3",
        "spec": {
            "egress": [{"action": "Allow", "source": {}, "destination": {}}],
            "ingress": [{"action": "Allow", "source": source, "destination": {}}],
            "labelsToApply": {"net": ""},
        },
    }


async def test_a_profile_that_is_there_stays_as_it_is(world: Calico) -> None:
    await world.store.commit((), (Put(PROFILE, b'{"theirs": 1}'),))
    await world.call("ADD")
    assert await world.profile() == {"theirs": 1}


async def test_a_warm_add_is_one_round_trip_as_before(world: Calico) -> None:
    await world.call("ADD", "c1", "web")
    calls, commits = world.store.calls, world.store.commits
    await world.call("ADD", "c2", "db")
    assert (world.store.calls - calls, world.store.commits - commits) == (WARM_CALLS, WARM_COMMITS)


async def test_a_deleted_profile_comes_back_while_an_endpoint_names_it(world: Calico) -> None:
    await world.call("ADD")
    before = await world.profile()
    await world.store.commit((), (Delete(PROFILE),))
    await world.round()
    after = await world.profile()
    assert before is not None
    assert after is not None
    assert after["spec"] == before["spec"]
    await world.call("DEL")
    await world.store.commit((), (Delete(PROFILE),))
    await world.round()
    assert await world.profile() is None
    await world.call("ADD", "c2")
    assert await world.profile() is not None


async def test_the_profile_of_an_older_datastore_is_made_by_the_next_add(world: Calico) -> None:
    backup = world.store.backup()
    await world.call("ADD")
    world.store.restore(backup)
    world.dependencies.allocator.forget()
    world.server.profiles.forget()
    await world.call("ADD", "c2", "db")
    assert await world.profile() is not None


class WithoutRight(FakeStore):
    """An etcd whose account for this node was made before nodes wrote profiles."""

    asked = 0

    async def commit(
        self,
        guards: tuple[Unchanged, ...],
        operations: tuple[Operation, ...],  # type: ignore[override]
    ) -> CommitOutcome:
        if any(operation.key == PROFILE for operation in operations):
            self.asked += 1
            raise StoreRefused("permission denied")
        return await super().commit(guards, operations)


async def test_a_node_that_may_not_write_the_profile_attaches_pods_and_says_so(tmp_path: Path) -> None:
    store = WithoutRight()
    world = Calico(tmp_path, store=store)
    await world.start()
    assert (await world.call("ADD", "c1", "web"))[0] == 0
    assert (await world.call("ADD", "c2", "db"))[0] == 0
    assert store.asked == 1
    (trouble,) = map(str, world.server.profiles.troubles())
    assert PROFILE in trouble
    assert "permission denied" in trouble
    await world.round()
    assert (store.asked, len([*world.server.profiles.troubles()])) == (2, 1)
    for container, pod in (("c1", "web"), ("c2", "db")):
        await world.call("DEL", container, pod)
    await world.round()
    assert not [*world.server.profiles.troubles()]


async def test_an_endpoint_of_an_older_agent_is_brought_into_form_once_in_place(world: Calico) -> None:
    await world.call("ADD")
    whole = await world.document()
    old = as_an_older_agent(whole)
    old["spec"]["serviceAccountName"] = "theirs"
    old["spec"]["ports"] = [{"name": "http", "port": 80, "protocol": "TCP"}]
    await world.write(old)
    await world.store.commit((), (Delete(PROFILE),))
    await world.round()
    now = await world.document()
    assert updatable(now) == []
    assert now["spec"] == old["spec"]
    assert now["metadata"] == whole["metadata"], "the same uid by whoever brings it into form"
    assert await world.profile() is not None
    commits = world.store.commits
    await world.round()
    assert world.store.commits == commits
    assert (await world.call("DEL"))[0] == 0
    assert await world.stored() == (0, 0, 0)


@pytest.mark.parametrize("kept", ["uid", "labels"])
async def test_what_somebody_has_written_stays_when_an_endpoint_is_brought_into_form(
    world: Calico, kept: str
) -> None:
    await world.call("ADD")
    document = await world.document()
    del document["metadata"]["uid" if kept == "labels" else "labels"]
    if kept == "labels":
        document["metadata"]["labels"] = {"app": "web", "projectcalico.org/namespace": "other"}
    else:
        document["metadata"]["uid"] = "their-own"
    await world.write(document)
    await world.round()
    now = await world.document()
    assert updatable(now) == []
    assert now["metadata"]["uid"] == "their-own" or now["metadata"]["labels"]["app"] == "web"


async def test_an_endpoint_that_calico_wrote_is_left_as_it_is(world: Calico) -> None:
    await world.call("ADD")
    document = await world.document()
    del document["metadata"]["annotations"]
    document["spec"]["profiles"] = ["kns.default", "ksa.default.default"]
    await world.write(document)
    world.living.remove(next(iter(world.living)).handle)
    commits = world.store.commits
    await world.round()
    assert (world.store.commits, await world.document()) == (commits, document)
    assert await world.store.get(resource_key("profiles", "kns.default")) is None


class Overtaken(FakeStore):
    """Another writer is faster, once, at an endpoint."""

    rival: bytes | None = None

    async def commit(
        self,
        guards: tuple[Unchanged, ...],
        operations: tuple[Operation, ...],  # type: ignore[override]
    ) -> CommitOutcome:
        rival, self.rival = self.rival, None
        if rival is not None:
            await super().commit((), (Put(operations[0].key, rival),))
        return await super().commit(guards, operations)


async def test_a_write_of_others_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    store = Overtaken()
    world = Calico(tmp_path, store=store)
    await world.start()
    await world.call("ADD")
    old = as_an_older_agent(await world.document())
    await world.write(old)
    theirs = {**old, "metadata": {**old["metadata"], "labels": {"app": "theirs"}}}
    store.rival = json.dumps(theirs).encode()
    await world.round()
    assert await world.document() == theirs
    await world.round()
    assert (await world.document())["metadata"]["labels"]["app"] == "theirs"
    assert updatable(await world.document()) == []


async def test_the_network_is_known_though_somebody_named_other_profiles(world: Calico) -> None:
    await world.call("ADD")
    document = await world.document()
    document["spec"]["profiles"] = ["strict", "net"]
    await world.write(document)
    assert (await world.call("CHECK", config={"prevResult": {"cniVersion": "1.1.0"}}))[0] == 0
    request = spec.parse(
        {"CNI_COMMAND": "GC", "CNI_PATH": "/"},
        json.dumps({"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": []}).encode(),
    )
    (found,) = garbage(request, NODE, world.cluster.endpoints, ())
    assert (found.container_id, found.pod) == ("c1", "web")


async def test_the_leak_collector_frees_an_endpoint_whose_profiles_somebody_changed(world: Calico) -> None:
    clock = SetClock()
    collector = LeakCollector(world.dependencies, world.cluster, clock)
    await world.call("ADD")
    document = await world.document()
    document["spec"]["profiles"] = ["strict"]
    await world.write(document)
    world.pods.attached.clear()
    for _ in range(3):
        await collector.one_round()
        clock.at += PAUSE_SECONDS + 1
        await world.sync()
    assert await world.stored() == (0, 0, 0)


async def test_an_older_agents_pod_is_written_back_in_form(world: Calico) -> None:
    backup = world.store.backup()
    await world.call("ADD")
    whole = await world.document()
    record = next(iter(world.living))
    assert record.endpoint is not None
    await world.write(as_an_older_agent(whole))
    older = json.loads(json.dumps(as_an_older_agent(whole)))
    world.living.add(_with_endpoint(record, older))
    world.store.restore(backup)
    world.dependencies.allocator.forget()
    world.server.profiles.forget()
    await world.sync()
    put_back = PutBack(world.dependencies, world.cluster, lambda: True, SystemClock(), world.server.locked)
    await put_back.one_round()
    assert updatable(await world.document()) == []
    await world.round()
    assert await world.profile() is not None


def _with_endpoint(record: Any, document: dict[str, Any]) -> Any:
    return msgspec.structs.replace(record, endpoint=msgspec.convert(document, WorkloadEndpoint))
