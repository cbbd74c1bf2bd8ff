"""`delete node` takes all that is the node's own with it, as calicoctl does, and nothing of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.datastore.writing.resource_writer import Effect, NotFound, ResourceWriter
from ipam.etcd.dry_run_store import DryRunStore
from ipam.etcd.store import CommitOutcome, Operation, Put, Unchanged
from ipam.failures import StoreUnavailable
from ipam.keys import handle_key, resource_key
from ipam.model import HandleId
from tests.fakes.store import FakeStore
from tests.scenes.ipam.world import World, ask

GONE, STAYS = "node1", "node1-b"
"""The second one's name begins as the first one's."""
MOST_COMMITS = 40


class Dying(FakeStore):
    """The process is killed before one of its commits, counted from now."""

    left: int | None = None

    async def commit(self, guards: Sequence[Unchanged], operations: Sequence[Operation]) -> CommitOutcome:
        if self.left is not None:
            if self.left == 0:
                raise StoreUnavailable("killed")
            self.left -= 1
        return await super().commit(guards, operations)


def document(kind: str, name: str, namespace: str | None = None, **spec: Any) -> bytes:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return json.dumps(
        {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}
    ).encode()


async def filled(store: FakeStore) -> World:
    """Two nodes, each with everything that a node can have; node1 has also borrowed, and lent."""
    world = World(store)
    await world.pool("p", "10.0.0.0/28", 30)
    allocator = world.allocator()
    for node in (GONE, STAYS):
        for number in range(5):
            handle, name = f"{node}.{number}", f"{node.replace('-', '--')}-k8s-w{number}-eth0"
            given = await allocator.assign(ask(handle, node))
            spec = {
                "node": node,
                "orchestrator": "k8s",
                "endpoint": "eth0",
                "interfaceName": f"cali{number}",
                "ipNetworks": [f"{given[0].address}/32"],
            }
            key = resource_key("workloadendpoints", name, "default")
            await world.write(key, document("WorkloadEndpoint", name, "default", **spec))
        tunnel = await allocator.assign(
            replace(ask(f"vxlan-tunnel-addr-{node}", node), secondary=(("node", node), ("type", "x")))
        )
        bgp = {"ipv4Address": "172.26.0.1/20"}
        record = document("Node", node, bgp=bgp, ipv4VXLANTunnelAddr=str(tunnel[0].address))
        await world.write(resource_key("nodes", node), record)
        peer = document("BGPPeer", f"of-{node}", node=node, peerIP="10.0.0.9", asNumber=65001)
        await world.write(resource_key("bgppeers", f"of-{node}"), peer)
        for kind, plural in (
            ("BGPConfiguration", "bgpconfigurations"),
            ("FelixConfiguration", "felixconfigurations"),
        ):
            await world.write(resource_key(plural, f"node.{node}"), document(kind, f"node.{node}"))
        await world.write(
            resource_key("hostendpoints", f"h-{node}"), document("HostEndpoint", f"h-{node}", node=node)
        )
        await world.write(handle_key(HandleId(f"ipip-tunnel-addr-{node}")), b'{"block":{}}')
    await world.write(f"/calico/ipam/v2/host/{GONE}", b"{}")
    everybody = document("BGPPeer", "all", peerIP="10.0.0.8", asNumber=65001)
    await world.write(resource_key("bgppeers", "all"), everybody)
    await world.write(resource_key("bgpconfigurations", "default"), document("BGPConfiguration", "default"))
    return world


def of_the_gone(store: FakeStore) -> list[str]:
    """Keys and values in which its name stands."""
    found = []
    for key, value in store.copy().items():
        text = f"{key} {value.decode()}".replace(STAYS, "other").replace(STAYS.replace("-", "--"), "other")
        if GONE in text:
            found.append(key)
    return found


async def test_a_node_goes_with_addresses_claims_endpoints_peers_and_settings_and_says_how_many() -> None:
    store = FakeStore()
    world = await filled(store)
    others = {address: handle for address, handle in (await world.held()).items() if STAYS in handle}
    done = await ResourceWriter(store, SystemClock()).delete_named("Node", GONE)
    assert done.effect is Effect.DELETED
    assert done.notes == (
        "released: 6 addresses, 2 blocks, 1 leftover tunnel handle, 5 endpoints, 1 BGP peer, 1 host endpoint, "
        "1 Felix configuration, 1 BGP configuration",
    )
    assert of_the_gone(store) == []
    assert await world.held() == others
    kept = [key for key in store.copy() if STAYS in key or STAYS.replace("-", "--") in key]
    assert len(kept) >= 5 + 1 + 1 + 2 + 1 + 1
    assert {
        resource_key("bgppeers", "all"),
        resource_key("bgpconfigurations", "default"),
    } <= store.copy().keys()
    assert await world.faults() == ["orphaned-handle: handle ipip-tunnel-addr-node1-b holds nothing"]


async def test_killed_before_any_of_its_writes_it_is_asked_again_and_ends_the_same() -> None:
    whole = FakeStore()
    await filled(whole)
    await ResourceWriter(whole, SystemClock()).delete_named("Node", GONE)
    for left in range(MOST_COMMITS):
        store = Dying()
        await filled(store)
        store.left = left
        try:
            await ResourceWriter(store, SystemClock()).delete_named("Node", GONE)
        except StoreUnavailable:
            assert resource_key("nodes", GONE) in store.copy(), "by it the rest is found"
        else:
            assert left > 5
            break
        store.left = None
        assert (
            await ResourceWriter(store, SystemClock()).delete_named("Node", GONE)
        ).effect is Effect.DELETED
        assert store.copy().keys() == whole.copy().keys()
        assert of_the_gone(store) == []
    else:
        pytest.fail(f"more than {MOST_COMMITS} commits")


async def test_a_dry_run_says_the_same_and_writes_nothing() -> None:
    store = FakeStore()
    await filled(store)
    before = store.copy()
    dry = await ResourceWriter(DryRunStore(store), SystemClock()).delete_named("Node", GONE)
    assert store.copy() == before
    assert dry == await ResourceWriter(store, SystemClock()).delete_named("Node", GONE)


async def test_what_a_node_left_that_an_older_program_deleted_goes_all_the_same() -> None:
    store = FakeStore()
    await filled(store)
    await store.commit((), (Put(resource_key("nodes", GONE), b"{"),))
    writer = ResourceWriter(store, SystemClock())
    assert any("left as it is" in note for note in (await writer.delete_named("Node", GONE)).notes)
    assert of_the_gone(store) == []
    with pytest.raises(NotFound):
        await writer.delete_named("Node", GONE)


async def test_an_address_that_a_stale_endpoint_names_and_another_node_has_stays() -> None:
    store = FakeStore()
    world = await filled(store)
    (theirs,) = [address for address, handle in (await world.held()).items() if handle == f"{STAYS}.0"]
    name = f"{GONE}-k8s-stale-eth0"
    spec = {
        "node": GONE,
        "orchestrator": "k8s",
        "endpoint": "eth0",
        "interfaceName": "cali9",
        "ipNetworks": [f"{theirs}/32"],
    }
    key = resource_key("workloadendpoints", name, "default")
    await world.write(key, document("WorkloadEndpoint", name, "default", **spec))
    await ResourceWriter(store, SystemClock()).delete_named("Node", GONE)
    assert (await world.held())[theirs] == f"{STAYS}.0"
    assert key not in store.copy()
