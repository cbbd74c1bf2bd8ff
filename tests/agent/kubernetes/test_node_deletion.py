"""A Node that Kubernetes deleted is given back whole by one agent, and no living one ever."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from structlog.testing import capture_logs

from agent.datastore.writing.undo_journal import put_back, read
from agent.kubernetes.api import KubernetesApi
from agent.kubernetes.api_errors import ApiError
from agent.kubernetes.node_deletion import NodeDeletion
from ipam.etcd.store import CommitOutcome, Guard, Operation, Put
from ipam.failures import Conflict, StoreRefused
from ipam.keys import BLOCKS, LEADER, resource_key
from ipam.model import NodeName
from tests.fakes.api_server import ApiFault, FakeApiServer
from tests.fakes.clock import SetClock
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import World, ask

GRACE = 300.0
LEADS, OTHER = NodeName("n0"), NodeName("n1")


def record(name: str, kubernetes: str | None) -> bytes:
    references = [{"orchestrator": "k8s", "nodeName": kubernetes}] if kubernetes else []
    return json.dumps(
        {
            "kind": "Node",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": name},
            "spec": {"bgp": {"ipv4Address": "172.26.0.1/20"}, "orchRefs": references},
        }
    ).encode()


@dataclass
class Cluster:
    """An API server, a datastore, and agents that may lead."""

    server: FakeApiServer
    state: Path
    store: FakeStore = field(default_factory=FakeStore)
    clock: SetClock = field(default_factory=SetClock)
    signs: dict[NodeName, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World(self.store)

    async def signs_of_life(self, node: NodeName) -> list[str]:
        return self.signs.get(node, [])

    def agent(self, name: NodeName = LEADS) -> NodeDeletion:
        return NodeDeletion(
            KubernetesApi(self.server.address, self.clock),
            self.store,
            f"k-{name}",
            name,
            self.clock,
            self.state,
            GRACE,
            self.signs_of_life,
            lambda: True,
        )

    async def add(self, name: str, pods: int = 3) -> None:
        self.server.node(f"k-{name}")
        await self.world.write(resource_key("nodes", name), record(name, f"k-{name}"))
        for number in range(pods):
            await self.world.allocator().assign(ask(f"{name}.{number}", name))

    def delete(self, name: str) -> None:
        del self.server.objects[f"/api/v1/nodes/k-{name}"]

    async def rounds(self, agent: NodeDeletion, seconds: float) -> None:
        """Two looks so far apart."""
        await agent.one_round()
        self.clock.at += seconds
        await agent.one_round()

    async def holders(self) -> set[str]:
        return {handle.partition(".")[0] for handle in (await self.world.held()).values()}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with FakeApiServer().serving() as server:
        made = Cluster(server, tmp_path)
        await made.world.pool("p", "10.0.0.0/24", 29)
        for name in (LEADS, OTHER, NodeName("n2")):
            await made.add(name)
        yield made


async def test_what_a_deleted_node_had_goes_after_two_looks_with_the_proof_in_the_log(
    cluster: Cluster,
) -> None:
    agent = cluster.agent()
    cluster.delete("n2")
    with capture_logs() as logged:
        await cluster.rounds(agent, GRACE)
    assert await cluster.holders() == {"n0", "n1"}
    assert [key for key in cluster.store.copy() if key.endswith("/n2")] == []
    assert await cluster.world.faults() == []
    (line,) = [line for line in logged if line["event"] == "nodes.reclaimed"]
    assert "Kubernetes has no Node k-n2: seen twice, 300 s apart" in line["evidence"]
    assert agent.counts["node"] == 1
    assert agent.counts["address"] == 3


async def test_it_is_undone_by_the_file_that_the_log_names(cluster: Cluster) -> None:
    before = cluster.store.copy()
    cluster.delete("n2")
    with capture_logs() as logged:
        await cluster.rounds(cluster.agent(), GRACE)
    (undo,) = [line["undo"] for line in logged if line["event"] == "nodes.reclaimed"]
    assert Path(undo).stat().st_mode & 0o777 == 0o600
    noted = read(Path(undo).read_bytes())
    assert await put_back(cluster.store, noted) > 3
    after = {key: value for key, value in cluster.store.copy().items() if key != LEADER}
    assert after == before


async def test_what_somebody_else_has_by_now_is_not_overwritten_by_an_undo(cluster: Cluster) -> None:
    cluster.delete("n2")
    await cluster.rounds(cluster.agent(), GRACE)
    (undo,) = (cluster.state / "reclaimed").iterdir()
    noted = read(undo.read_bytes())
    block = next(one.key for one in noted if one.key.startswith(BLOCKS))
    await cluster.world.write(block, b"somebody else's")
    before = cluster.store.copy()
    with pytest.raises(Conflict, match="nothing is put back"):
        await put_back(cluster.store, noted)
    assert cluster.store.copy() == before


async def test_before_the_grace_period_is_over_nothing_goes(cluster: Cluster) -> None:
    cluster.delete("n2")
    await cluster.rounds(cluster.agent(), GRACE - 1)
    assert await cluster.holders() == {"n0", "n1", "n2"}


async def test_a_node_that_shows_a_sign_of_life_keeps_all_and_is_a_trouble(cluster: Cluster) -> None:
    agent = cluster.agent()
    cluster.delete("n2")
    cluster.signs[NodeName("n2")] = ["its BGP port takes connections"]
    await cluster.rounds(agent, GRACE)
    assert await cluster.holders() == {"n0", "n1", "n2"}
    (trouble,) = agent.troubles()
    assert "it lives: its BGP port takes connections" in trouble.evidence
    cluster.signs.clear()
    await agent.one_round()
    assert await cluster.holders() == {"n0", "n1"}
    assert list(agent.troubles()) == []


async def test_a_node_that_never_was_in_kubernetes_is_never_looked_at(cluster: Cluster) -> None:
    await cluster.world.write(resource_key("nodes", "metal"), record("metal", None))
    await cluster.world.allocator().assign(ask("metal.1", "metal"))
    await cluster.rounds(cluster.agent(), 10 * GRACE)
    assert "metal" in await cluster.holders()


async def test_the_api_server_of_another_cluster_takes_nothing_and_is_a_trouble(cluster: Cluster) -> None:
    cluster.server.objects.clear()
    cluster.server.node("of-another-cluster")
    agent = cluster.agent()
    await cluster.rounds(agent, GRACE)
    assert await cluster.holders() == {"n0", "n1", "n2"}
    (trouble,) = agent.troubles()
    assert "it has no Node k-n0" in trouble.evidence


@pytest.mark.parametrize(
    "fault", [ApiFault.BUSY, ApiFault.GARBAGE, ApiFault.NO_JSON, ApiFault.BROKEN_ITEM, ApiFault.FORBIDDEN]
)
async def test_an_api_server_that_is_away_or_mad_takes_nothing(cluster: Cluster, fault: ApiFault) -> None:
    agent = cluster.agent()
    cluster.delete("n2")
    await agent.one_round()
    cluster.server.faults.add(fault)
    cluster.clock.at += 10 * GRACE
    with pytest.raises(ApiError):
        await agent.one_round()
    assert await cluster.holders() == {"n0", "n1", "n2"}


async def test_one_agent_leads_and_the_next_one_when_its_lease_is_over(cluster: Cluster) -> None:
    first, second = cluster.agent(), cluster.agent(OTHER)
    cluster.delete("n2")
    await first.one_round()
    await second.one_round()
    assert (first.is_leader, second.is_leader) == (True, False)
    led = await cluster.store.get(LEADER)
    assert led is not None
    await cluster.store.revoke_lease(led.lease)
    await second.one_round()
    assert second.is_leader
    cluster.clock.at += GRACE
    await first.one_round()
    assert not first.is_leader
    assert await cluster.holders() == {"n0", "n1", "n2"}, "a new leader begins with a first look"
    await second.one_round()
    assert await cluster.holders() == {"n0", "n1"}


class Forbidding(FakeStore):
    """An account without the right to lead."""

    forbids = True

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        if self.forbids and any(one.key == LEADER for one in operations):
            raise StoreRefused("permission denied")
        return await super().commit(guards, operations)


async def test_an_account_of_etcd_that_may_not_lead_is_a_trouble(tmp_path: Path) -> None:
    async with FakeApiServer().serving() as server:
        store = Forbidding()
        cluster = Cluster(server, tmp_path, store=store)
        await cluster.world.pool("p", "10.0.0.0/24", 29)
        await cluster.add(LEADS)
        agent = cluster.agent()
        await agent.try_round()
        (trouble,) = agent.troubles()
        assert "permission denied" in trouble.evidence
        store.forbids = False
        await agent.try_round()
        assert list(agent.troubles()) == []


class Overtaken(FakeStore):
    """Somebody writes a key before the commit of that number."""

    left: int | None = None
    key = ""

    async def commit(self, guards: Sequence[Guard], operations: Sequence[Operation]) -> CommitOutcome:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.left = None
                await super().commit((), (Put(self.key, self.copy()[self.key]),))
        return await super().commit(guards, operations)


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("key", [LEADER, resource_key("nodes", "n2")])
async def test_a_removal_that_is_overtaken_ends_and_is_carried_on_by_the_next_round(
    tmp_path: Path, key: str, number: int
) -> None:
    """The node writes its record, or another agent leads."""
    async with FakeApiServer().serving() as server:
        store = Overtaken()
        cluster = Cluster(server, tmp_path, store=store)
        await cluster.world.pool("p", "10.0.0.0/24", 29)
        for name in (LEADS, NodeName("n2")):
            await cluster.add(name, pods=9)
        agent = cluster.agent()
        cluster.delete("n2")
        await agent.one_round()
        cluster.clock.at += GRACE
        store.left, store.key = number, key
        await agent.one_round()
        assert resource_key("nodes", "n2") in store.copy(), "by it the rest is found"
        store.left = None
        if key != LEADER:
            assert "was written meanwhile" in next(iter(agent.troubles())).evidence
            await cluster.rounds(agent, GRACE)
            await agent.one_round()
        else:
            await cluster.rounds(cluster.agent(OTHER), GRACE)
        if key != LEADER:
            assert await cluster.holders() == {"n0"}
            assert await cluster.world.faults() == []


@dataclass
class Hours:
    """Nodes are deleted and come back, some are deleted while they live; the clock is set, transactions are real."""

    cluster: Cluster
    names: list[str]
    deleted_at_once: int
    random: Random
    away: dict[str, float] = field(default_factory=dict)
    returned: int = 0

    def delete_some(self) -> None:
        for name in self.random.sample(self.names, self.deleted_at_once):
            if name not in self.away:
                self.cluster.delete(name)
                self.away[name] = self.cluster.clock.at
                if self.random.random() < 0.1:
                    self.cluster.signs[NodeName(name)] = ["its BGP port takes connections"]

    async def look(self, agent: NodeDeletion) -> None:
        """A look, and what lives has all it had."""
        await agent.one_round()
        living = {name for name in self.names if name not in self.away} | set(self.cluster.signs)
        assert living <= await self.cluster.holders(), "a living address was freed"
        self.cluster.clock.at += GRACE

    async def return_some(self) -> None:
        held = await self.cluster.holders()
        for name, since in list(self.away.items()):
            if self.cluster.clock.at - since >= 3 * GRACE and self.random.random() < 0.5:
                del self.away[name]
                self.cluster.signs.pop(NodeName(name), None)
                self.returned += 1
                self.cluster.server.node(f"k-{name}")
                if name not in held:
                    await self.cluster.add(name, pods=2)


async def simulate(cluster: Cluster, nodes: int, deleted_an_hour: int, hours: int, seed: int) -> None:
    names = [f"s{number}" for number in range(nodes)]
    for name in names:
        await cluster.add(name, pods=2)
    agent, looks = cluster.agent(), round(3600 / GRACE)
    run = Hours(cluster, names, max(1, deleted_an_hour // looks), Random(seed))
    for _ in range(hours * looks):
        run.delete_some()
        await run.look(agent)
        await run.return_some()
    cluster.signs.clear()
    for _ in range(3 + len(run.away) // 5):
        await run.look(agent)
    present = {name for name in names if name not in run.away} | {"n0", "n1", "n2"}
    assert await cluster.holders() == present, "addresses leaked"
    assert await cluster.world.faults() == []
    assert run.returned > 0
    records = [key for key in cluster.store.copy() if key.startswith(resource_key("nodes", ""))]
    assert {key.rpartition("/")[2] for key in records} == present


async def test_of_nodes_that_come_and_go_for_hours_nothing_leaks_and_no_living_address_is_freed(
    cluster: Cluster,
) -> None:
    cluster.server.page = 500
    await cluster.world.pool("large", "10.1.0.0/18", 30)
    await simulate(cluster, nodes=24, deleted_an_hour=24, hours=2, seed=1)
