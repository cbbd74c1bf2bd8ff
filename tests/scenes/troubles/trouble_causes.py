"""A cause for each kind of trouble, made on a real agent, kernel and etcd, and where a kind is shown."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import SystemClock
from agent.cni.living_pods import Record
from agent.configuration.config import KubernetesSettings
from agent.datastore.resources.resource_types import (
    BGPPeer,
    BGPPeerSpec,
    IPPool,
    IPPoolSpec,
    Metadata,
    Node,
    NodeBGPSpec,
    NodeSpec,
    Resource,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    encode,
)
from agent.datastore.storage_layout import key_of
from agent.kubernetes.api_errors import ApiError
from agent.metrics.monitor import pages
from agent.netlink.kernel_errors import KernelError
from agent.node.machine import ANNOTATION
from agent.node_agent import Agent
from agent.trouble import UNREADY, TroubleKind
from ipam.etcd.store import Delete, Put
from ipam.failures import StoreUnavailable
from ipam.keys import affinity_key, block_key
from ipam.model import HandleId, NodeName
from tests.fakes.api_server import ApiFault, FakeApiServer
from tests.fixtures.etcd import Etcd
from tests.fixtures.namespace import ip
from tests.scenes.felix.left_rules import run

PATIENCE_SECONDS = 30
LAW_SECONDS, TICK_SECONDS = 1.0, 0.01
TRIES = 2
ME, OTHER = NodeName("n1"), NodeName("n2")
POOL = IPPool(
    metadata=Metadata(name="pods"), spec=IPPoolSpec(cidr="192.168.0.0/16", vxlan_mode="Always", block_size=26)
)


@dataclass
class World:
    """One node."""

    agent: Agent
    etcd: Etcd
    log: list[Any]
    pipe: tuple[int, int]
    directory: Path
    changed: asyncio.Event
    late: float = 0.0
    """Seconds that this process was kept from running: a machine that is busy with other tests proves nothing."""

    async def measure(self) -> None:
        """Count them until cancelled."""
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.late += max(0.0, time.monotonic() - due - TICK_SECONDS)

    async def put(self, *resources: Resource) -> None:
        """Write as somebody else would; a machine that is busy with other tests may keep etcd from its disk."""
        operations = tuple(Put(key_of(one), encode(one)) for one in resources)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with suppress(StoreUnavailable):
                    await self.agent._store.commit((), operations)
                    return

    async def delete(self, *resources: Resource) -> None:
        await self.agent._store.commit((), tuple(Delete(key_of(one)) for one in resources))

    async def stored(self, key: str) -> bytes:
        found = await self.agent._store.get(key)
        assert found is not None
        return found.value

    def shown(self, kind: TroubleKind) -> dict[str, bool]:
        """Where a kind is shown now."""
        status = self.agent._status
        own = [one for one in status.status(ready=True)["trouble_list"] if one["kind"] == kind]
        shown = pages(self.agent._exposition, status.why_unready, status.trouble_list)
        ready = shown["/readyz"]()
        body = json.loads(ready.body)
        sentence = f"{own[0]['evidence']}" if own else ""
        lines = [line for line in self.log if line.get("kind") == kind and "trouble." in line["event"]]
        metric = re.search(
            rf'^tortie_troubles{{kind="{kind}"}} (\S+)$', shown["/metrics"]().body.decode(), re.MULTILINE
        )
        assert metric is not None
        return {
            "status": bool(own),
            "readyz": any(one["kind"] == kind for one in body.get("troubles", ())),
            "unready": kind in UNREADY and ready.status == 503,
            "metric": float(metric[1]) > 0,
            "systemd": bool(own) and any(sentence in text for text in status.readiness().troubles),
            "log": bool(lines) and lines[-1]["event"] == "trouble.began",
        }

    async def until(self, kind: TroubleKind, *, there: bool) -> float:
        """Wait until a kind is shown wherever it is to be, or nowhere; how many seconds that took."""
        began, late = time.monotonic(), self.late
        wanted = {
            name: there and (name != "unready" or kind in UNREADY)
            for name in ("status", "readyz", "unready", "metric", "systemd", "log")
        }
        try:
            async with asyncio.timeout(PATIENCE_SECONDS / 3):
                while self.shown(kind) != wanted:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return float("inf")
        return time.monotonic() - began - (self.late - late)


Cause = Callable[[World], AbstractAsyncContextManager[None]]
CAUSES: dict[TroubleKind, Cause] = {}
ALONE: set[TroubleKind] = set()
"""What disturbs the others."""


def cause(
    kind: TroubleKind, *, alone: bool = False
) -> Callable[[Callable[[World], AsyncIterator[None]]], None]:
    def add(made: Callable[[World], AsyncIterator[None]]) -> None:
        CAUSES[kind] = asynccontextmanager(made)
        if alone:
            ALONE.add(kind)

    return add


def pod(name: str, interface: str, address: str, **spec: Any) -> WorkloadEndpoint:
    return WorkloadEndpoint(
        metadata=Metadata(name=f"n1-cni-{name}-eth0", namespace="default"),
        spec=WorkloadEndpointSpec(
            node=ME,
            orchestrator="cni",
            workload=name,
            container_id=name,
            pod=name,
            endpoint="eth0",
            interface_name=interface,
            ip_networks=[f"{address}/32"],
            **spec,
        ),
    )


PODS = [pod(f"p{number}", f"cali{number}", f"192.168.0.{number}") for number in (1, 2, 3)]


@cause(TroubleKind.NODE, alone=True)
async def another_node_has_our_address(world: World) -> AsyncIterator[None]:
    twin = Node(metadata=Metadata(name="twin"), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address="172.26.0.11/20")))
    await world.put(twin)
    yield
    await world.delete(twin)


@cause(TroubleKind.REGISTRATION, alone=True)
async def another_machine_has_our_name(world: World) -> AsyncIterator[None]:
    key = "/calico/resources/v3/projectcalico.org/nodes/n1"
    before = await world.stored(key)
    record = json.loads(before)
    record["metadata"]["annotations"][ANNOTATION] = "another"
    await world.agent._store.commit((), (Put(key, json.dumps(record).encode()),))
    yield
    await world.agent._store.commit((), (Put(key, before),))


@cause(TroubleKind.DATASTORE, alone=True)
async def etcd_is_killed(world: World) -> AsyncIterator[None]:
    world.etcd.kill()
    yield
    await asyncio.to_thread(world.etcd.start)


@cause(TroubleKind.MISSING)
async def a_listing_lacks_a_pool(world: World) -> AsyncIterator[None]:
    state, key = world.agent._state, key_of(POOL)
    state.missing.add(key)
    yield
    state.missing.discard(key)


@cause(TroubleKind.UNREADABLE)
async def a_value_is_damaged(world: World) -> AsyncIterator[None]:
    key = "/calico/resources/v3/projectcalico.org/bgppeers/damaged"
    await world.agent._store.commit((), (Put(key, b"{"),))
    yield
    await world.agent._store.commit((), (Delete(key),))


@cause(TroubleKind.CERTIFICATE)
async def a_certificate_ends(world: World) -> AsyncIterator[None]:
    channels = world.agent._etcd.channels
    before, channels.expiries = channels.expiries, {"/c.pem": SystemClock().wall()}
    yield
    channels.expiries = before


@cause(TroubleKind.UNDERLAY, alone=True)
async def the_nodes_address_is_removed(world: World) -> AsyncIterator[None]:
    ip("addr del 172.26.0.11/20 dev eth0")
    yield
    ip("addr add 172.26.0.11/20 dev eth0")


@cause(TroubleKind.MTU)
async def a_pods_interface_is_wider_than_the_way(_: World) -> AsyncIterator[None]:
    ip("link set cali1 mtu 9000")
    yield
    ip("link set cali1 mtu 1400")


@cause(TroubleKind.JOURNAL)
async def what_lives_cannot_be_written_down(world: World) -> AsyncIterator[None]:
    living, handle = world.agent._living, HandleId("h")
    aside = world.directory / "aside"
    living.add(Record(handle=handle, ips=(), attributes=()))
    living._directory.rename(aside)
    living._directory.touch()
    living.add(Record(handle=handle, ips=(), attributes=()))
    yield
    living._directory.unlink()
    aside.rename(living._directory)


@cause(TroubleKind.FILTER)
async def a_pod_may_send_from_what_is_no_prefix(world: World) -> AsyncIterator[None]:
    spec = msgspec.structs.replace(PODS[2].spec, allow_spoofed_source_prefixes=["x"])
    await world.put(msgspec.structs.replace(PODS[2], spec=spec))
    yield
    await world.put(PODS[2])


@cause(TroubleKind.POOL, alone=True)
async def the_only_pool_is_disabled(world: World) -> AsyncIterator[None]:
    await world.put(msgspec.structs.replace(POOL, spec=msgspec.structs.replace(POOL.spec, disabled=True)))
    yield
    await world.put(POOL)


@cause(TroubleKind.ADDRESS, alone=True)
async def a_living_pods_address_is_anothers(world: World) -> AsyncIterator[None]:
    handle = HandleId("net.stranger")
    refused = world.agent._put_back._refused
    refused[handle] = (Record(handle=handle, ips=("192.168.0.9",), attributes=()), "it is another's")
    yield
    refused.pop(handle, None)  # a round of the part may have settled it


@cause(TroubleKind.PROFILE, alone=True)
async def a_profile_cannot_be_made(world: World) -> AsyncIterator[None]:
    profiles = world.agent._cni.profiles
    profiles._refuse("net", "permission denied")
    yield
    profiles._refused.pop("net", None)  # its own look may have settled it


@cause(TroubleKind.ROUTE)
async def somebody_elses_route_stands_in_our_place(_: World) -> AsyncIterator[None]:
    ip("route replace 192.168.0.3/32 dev eth0 proto static")
    yield
    ip("route del 192.168.0.3/32 dev eth0 proto static")


@cause(TroubleKind.TUNNEL)
async def our_tunnel_is_renamed_and_its_port_taken_by_it(_: World) -> AsyncIterator[None]:
    ip("link set vxlan.calico down")
    ip("link set vxlan.calico name taken")
    ip("link set taken up")
    yield
    ip("link del taken")


@cause(TroubleKind.INTERFACE)
async def a_pods_interface_is_renamed(_: World) -> AsyncIterator[None]:
    ip("link set cali2 down")
    ip("link set cali2 name elsewhere")
    yield
    ip("link set elsewhere name cali2")
    ip("link set cali2 up")


@cause(TroubleKind.PEERING)
async def a_peers_password_is_nowhere(world: World) -> AsyncIterator[None]:
    secret = {"secretKeyRef": {"name": "nowhere", "key": "none"}}
    document = json.dumps({"peerIP": "172.26.0.99", "asNumber": 65001, "password": secret})
    spec = msgspec.json.decode(document, type=BGPPeerSpec)
    peer = BGPPeer(metadata=Metadata(name="tor"), spec=spec)
    await world.put(peer)
    yield
    await world.delete(peer)


@cause(TroubleKind.KERNEL, alone=True)
async def the_kernel_cannot_be_read(world: World) -> AsyncIterator[None]:
    kernel, reconciler = world.agent._kernel, world.agent._reconciler

    async def fail() -> Mapping[str, Any]:
        raise KernelError("a dump: Cannot allocate memory")

    kernel.links = fail  # type: ignore[method-assign]
    reconciler._events.invalidate_all()
    reconciler.trigger()
    yield
    del kernel.links  # type: ignore[method-assign]


@cause(TroubleKind.PART)
async def a_part_fails(world: World) -> AsyncIterator[None]:
    with world.agent.parts.outlived("a part"):
        raise OSError(24, "Too many open files")
    yield
    with world.agent.parts.outlived("a part"):
        pass


def nft(words: str) -> None:
    run(["nft", "-f", "-"], words)


@cause(TroubleKind.CALICO, alone=True)
async def a_rule_of_calicos_drops_new_pods(_: World) -> AsyncIterator[None]:
    nft("add table ip calico")
    nft("add chain ip calico filter-FORWARD { type filter hook forward priority 0; }")
    nft('add rule ip calico filter-FORWARD drop comment "cali:x"')
    yield
    nft("delete table ip calico")


@cause(TroubleKind.LEFTOVER, alone=True)
async def a_chain_of_calicos_is_left_that_drops_nothing(_: World) -> AsyncIterator[None]:
    nft("add table ip calico")
    nft("add chain ip calico filter-FORWARD { type filter hook forward priority 0; }")
    yield
    nft("delete table ip calico")


@cause(TroubleKind.LOG)
async def nobody_reads_standard_error(world: World) -> AsyncIterator[None]:
    stream = world.agent._status.log_stream
    while not stream.lost:
        stream.write("x" * 4000)
    yield
    os.set_blocking(world.pipe[0], False)
    with suppress(BlockingIOError):
        while os.read(world.pipe[0], 1 << 20):
            pass
    stream.write("x")


@cause(TroubleKind.BLOCK)
async def the_allocator_passes_a_block_over(world: World) -> AsyncIterator[None]:
    ours, other = ip_network("192.168.9.0/26"), ip_network("192.168.9.0/28")
    await world.agent._store.commit((), (Put(block_key(other), b"{}"),))
    passed_over = world.agent._allocator._queues[ME].cache.passed_over
    passed_over[ours] = other
    yield
    await world.agent._store.commit((), (Delete(block_key(other)),))


@cause(TroubleKind.NAMESPACE, alone=True)
async def a_namespaces_labels_are_asked_for_that_nobody_wrote(world: World) -> AsyncIterator[None]:
    spec = msgspec.structs.replace(POOL.spec, cidr="10.77.0.0/16", namespace_selector="team == 'a'")
    pool = IPPool(metadata=Metadata(name="teams"), spec=spec)
    await world.put(pool)
    while len(world.agent._state.usable_pools) < 2:
        await world.agent._reconciler.wait_for_routes([], PATIENCE_SECONDS)
    await world.agent._watches.namespaces.of("nobody")
    yield
    await world.delete(pool)


@cause(TroubleKind.CLOCK)
async def the_clock_is_set(world: World) -> AsyncIterator[None]:
    jumps = world.agent._watches._jumps
    jumps._offset -= 100.0
    yield
    jumps._offset += 100.0


@cause(TroubleKind.OVERLAP)
async def this_machine_has_a_pools_address(_: World) -> AsyncIterator[None]:
    ip("link add docker0 type bridge")
    ip("addr add 192.168.77.1/24 dev docker0")
    yield
    ip("link del docker0")


@cause(TroubleKind.LIMIT)
async def a_policy_is_written(world: World) -> AsyncIterator[None]:
    key = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/p"
    await world.agent._store.commit((), (Put(key, b"{}"),))
    yield
    await world.agent._store.commit((), (Delete(key),))


@cause(TroubleKind.KUBERNETES)
async def the_api_server_of_kubernetes_is_busy(world: World) -> AsyncIterator[None]:
    async with FakeApiServer().serving() as server:
        server.node(ME)
        kubeconfig = world.directory / "kubeconfig"
        kubeconfig.write_text(server.kubeconfig())
        settings = msgspec.structs.replace(
            world.agent._config, kubernetes=KubernetesSettings(kubeconfig=str(kubeconfig))
        )
        world.agent._kubernetes = world.agent._new_kubernetes(settings)
        side = world.agent._kubernetes.side
        assert side is not None
        server.faults.add(ApiFault.BUSY)
        with suppress(ApiError):
            await side.own_node.look()
        yield
        server.faults.clear()
        await side.own_node.look()


@cause(TroubleKind.PREFIX)
async def a_node_claims_what_lies_in_no_pool(world: World) -> AsyncIterator[None]:
    key = affinity_key(OTHER, ip_network("10.99.0.0/26"))
    await world.agent._store.commit((), (Put(key, b'{"state": "confirmed"}'),))
    yield
    await world.agent._store.commit((), (Delete(key),))
