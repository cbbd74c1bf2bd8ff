"""A machine that was renamed has its blocks, tunnels, endpoints and settings under its new name, by one verb."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.cni.attachment import handle_of_endpoint
from agent.configuration.config import NodeSettings
from agent.datastore.resources import documents
from agent.datastore.resources.resource_types import (
    LARGEST_TTL_ANNOTATION,
    Metadata,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    encode,
    endpoint_name,
)
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import NODES, POOLS, StateCache
from agent.datastore.storage_layout import key_of
from agent.lab.lab_plan import Mode, with_mode
from agent.lab.lifecycle import SEED_POOL
from agent.node.machine import ANNOTATION, LIFE_ANNOTATION
from agent.node.node_resource import NodeResource
from agent.node.rename import rename_node
from ipam.allocation.allocator import Allocator
from ipam.check.audit import audit, decode_snapshot
from ipam.codec import decode_block
from ipam.etcd.store import Put, Versioned
from ipam.failures import Refused, StoreUnavailable
from ipam.keys import affinity_key, affinity_of_key, block_of_key, resource_key
from ipam.model import AddressRequest, HandleId, NodeName
from tests.fakes.kernel import FakeKernel
from tests.fakes.store import FakeStore, Fault

OLD, NEW = NodeName("node2"), NodeName("node2.site.example")


def endpoint(container: str, address: str) -> WorkloadEndpoint:
    return WorkloadEndpoint(
        metadata=Metadata(
            name=endpoint_name(OLD, "cni", container, "eth0"), namespace="default", labels={"app": container}
        ),
        spec=WorkloadEndpointSpec(
            node=OLD,
            orchestrator="cni",
            container_id=container,
            endpoint="eth0",
            interface_name=f"cali{container}",
            ip_networks=[f"{address}/32"],
            profiles=["net"],
        ),
    )


class World:
    """A machine that is node2 with two pods and a tunnel, another node beside it, and settings that name it."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.kernel = FakeKernel()
        self.kernel.add_link("eth0", "172.26.0.12/20")

    def agent(self, name: NodeName, life: str = "") -> NodeResource:
        self.state = StateCache(name)
        self.allocator = Allocator(self.store, SystemClock().wall, lambda: self.state.pools, node=name)
        return NodeResource(
            self.store,
            self.state,
            self.allocator,
            self.kernel,
            NodeSettings(),
            ("http://172.26.0.1:2379",),
            SystemClock(),
            SetAside(Path("/nonexistent")),
            machine_id="m2",
            machine_life=life,
        )

    async def look(self) -> None:
        for prefix in (POOLS, NODES):
            self.state.replace(prefix, (await self.store.list(prefix)).values)

    async def put(self, plural: str, name: str, **document: Any) -> str:
        key = resource_key(plural, name)
        await self.store.commit(
            (), (Put(key, json.dumps({"metadata": {"name": name}, **document}).encode()),)
        )
        return key

    async def filled(self) -> World:
        text = json.dumps(with_mode(json.loads(SEED_POOL.read_text()), Mode.VXLAN, ipip=True))
        pool = documents.read(text, "pool")[0].resource
        await self.store.commit((), (Put(key_of(pool), encode(pool)),))
        await self.put(
            "nodes", "node1", kind="Node", spec={"bgp": {"ipv4Address": "172.26.0.11/20", "asNumber": 64999}}
        )
        resource = self.agent(OLD, "life 1")
        for _ in range(2):
            await self.look()
            await resource.reconcile()
        for container in ("c1", "c2"):
            made = endpoint(container, "192.0.2.1")
            words = (("namespace", "default"), ("node", OLD), ("pod", container))
            (given,) = await self.allocator.assign(
                AddressRequest(handle_of_endpoint(made), OLD, secondary=words)
            )
            made = endpoint(container, str(given.address))
            await self.store.commit((), (Put(key_of(made), encode(made)),))
        await self.put("bgpconfigurations", f"node.{OLD}", kind="BGPConfiguration", spec={"listenPort": 1790})
        await self.put("bgppeers", "tor", kind="BGPPeer", spec={"node": OLD, "peerIP": "172.26.0.1"})
        await self.put("bgppeers", "all", kind="BGPPeer", spec={"peerIP": "172.26.0.2"})
        return self

    @property
    def documents(self) -> dict[str, Any]:
        return {key: json.loads(value) for key, value in self.store.copy().items()}


@pytest.fixture
async def world() -> World:
    return await World().filled()


async def findings(store: FakeStore) -> list[str]:
    """What `tortie ipam check` would find."""
    snapshot = decode_snapshot((await store.list("/calico/ipam/v2/")).values)
    return [one.text for one in audit(snapshot)]


def addresses(world: World) -> dict[str, str]:
    """Address -> who has it and whose block it is in, by the name of the machine."""
    found = {}
    for key, value in world.store.copy().items():
        if block_of_key(key) is None:
            continue
        block = decode_block(Versioned(key, value, 1))
        for ordinal, index in enumerate(block.allocations):
            if index is not None:
                one = block.attributes[index]
                address = ip_address(int(block.cidr.network_address) + ordinal)
                found[str(address)] = f"{one.handle} on {dict(one.secondary)['node']} of {block.owner}"
    return found


async def test_all_that_a_node_has_bears_its_new_name(world: World) -> None:
    before, held = world.documents, addresses(world)
    done = await rename_node(world.store, OLD, NEW, "m2", "life 2")
    after = world.documents
    assert [key for key in after if OLD in key and NEW not in key] == []
    assert [key for key, value in after.items() if f'"{OLD}"' in json.dumps(value)] == []
    assert addresses(world) == {address: text.replace(OLD, NEW) for address, text in held.items()}
    node, was = after[resource_key("nodes", NEW)], before[resource_key("nodes", OLD)]
    assert (node["spec"], node["metadata"]["uid"]) == (was["spec"], was["metadata"]["uid"])
    assert node["metadata"]["annotations"] == {
        LARGEST_TTL_ANNOTATION: "255",
        ANNOTATION: "m2",
        LIFE_ANNOTATION: "life 2",
    }
    assert after[resource_key("bgpconfigurations", f"node.{NEW}")]["spec"] == {"listenPort": 1790}
    assert after[resource_key("bgppeers", "tor")]["spec"] == {"node": NEW, "peerIP": "172.26.0.1"}
    pods = [value for key, value in after.items() if "workloadendpoints" in key]
    assert [(one["spec"]["node"], one["metadata"]["labels"]["app"]) for one in pods] == [
        (NEW, "c1"),
        (NEW, "c2"),
    ]
    assert (done.blocks, done.endpoints) == (1, 2)
    assert await findings(world.store) == []


def check_each_moment(stored: Mapping[str, Versioned]) -> None:
    """Each claim's owner has a record with this machine's address, and each block has the owner that claims it."""
    for key, value in stored.items():
        if (claim := affinity_of_key(key)) is not None:
            record = json.loads(stored[resource_key("nodes", claim[0])].value)
            assert record["spec"]["bgp"]["ipv4Address"] == "172.26.0.12/20"
        if block_of_key(key) is not None:
            block = decode_block(value)
            assert affinity_key(NodeName(str(block.owner)), block.cidr) in stored


async def test_at_every_moment_each_block_has_an_owner_with_this_machines_address(world: World) -> None:
    world.store.committed = check_each_moment
    await rename_node(world.store, OLD, NEW, "m2")


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.LOST_REPLY])
async def test_an_attempt_that_is_cut_short_anywhere_is_finished_by_another(fault: Fault) -> None:
    whole = await World().filled()
    await rename_node(whole.store, OLD, NEW, "m2")
    cuts = 0
    while True:
        world = await World().filled()
        first = world.store.commits
        world.store.committed = check_each_moment
        world.store.fail_next(*[None] * cuts, fault)  # type: ignore[list-item]
        cuts += 1
        try:
            await rename_node(world.store, OLD, NEW, "m2")
            break
        except StoreUnavailable:
            assert world.store.commits - first >= cuts - 1
        if resource_key("nodes", OLD) in world.store.copy():
            await rename_node(world.store, OLD, NEW, "m2")
        assert world.documents.keys() == whole.documents.keys()
        assert await findings(world.store) == []
    assert cuts > 6


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        (
            {ANNOTATION: "m9"},
            "the record of node node2 is another machine's .m9.; if it is this machine's all the same",
        ),
        ({}, "the record of node node2 names no machine"),
    ],
)
async def test_a_record_that_is_not_this_machines_is_taken_by_force_alone(
    world: World, annotations: dict[str, str], why: str
) -> None:
    record = world.documents[resource_key("nodes", OLD)]
    record["metadata"]["annotations"] = annotations
    await world.store.commit((), (Put(resource_key("nodes", OLD), json.dumps(record).encode()),))
    before = world.store.copy()
    with pytest.raises(Refused, match=why):
        await rename_node(world.store, OLD, NEW, "m2")
    assert world.store.copy() == before
    await rename_node(world.store, OLD, NEW, "m2", force=True)
    assert resource_key("nodes", OLD) not in world.store.copy()


async def test_a_name_that_nobody_has_or_everybody_is_one_sentence(world: World) -> None:
    with pytest.raises(Refused, match="there is no node node7"):
        await rename_node(world.store, NodeName("node7"), NEW, "m2")
    with pytest.raises(Refused, match="is this machine's name already"):
        await rename_node(world.store, OLD, OLD, "m2")
    with pytest.raises(Refused, match="node node1 names no machine"):
        await rename_node(world.store, OLD, NodeName("node1"), "m2")


async def test_the_agent_says_that_the_older_record_is_its_own_and_takes_part_after_the_takeover(
    world: World,
) -> None:
    resource = world.agent(NEW, "life 2")
    await world.look()
    await resource.reconcile()
    assert resource.trouble == (
        "node address 172.26.0.12 is that of node node2, an older record of this very machine (it bears its id): make "
        "its blocks and pods node node2.site.example's by `tortie node takeover --from node2`, or stay node node2 by "
        "setting node.name"
    )
    assert resource.predecessor == OLD
    await rename_node(world.store, OLD, NEW, "m2", "life 2")
    held = addresses(world)
    for _ in range(2):
        await world.look()
        await resource.reconcile()
    assert (resource.trouble, resource.predecessor, resource.other_machine) == (None, None, None)
    assert addresses(world) == held
    assert world.allocator is not None
    assert await world.allocator.assigned(HandleId(f"vxlan-tunnel-addr-{NEW}")) != ()
