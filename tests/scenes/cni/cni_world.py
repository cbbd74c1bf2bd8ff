"""A CNI server over fakes: store, pods, facts; tests say what is away and what fails."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from agent.clock import SystemClock
from agent.cni.dependencies import Dependencies, PodNetwork
from agent.cni.endpoint_store import Waits
from agent.cni.living_pods import LivingPods
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.cni.release_journal import ReleaseJournal
from agent.cni.server import CniServer
from agent.dataplane.desired.desired_sysctls import PER_INTERFACE, PER_INTERFACE_6
from agent.datastore.datastore_lock import LOCK_KEY, LockableStore, with_ready
from agent.datastore.namespace_labels import NamespaceLabels
from agent.datastore.state_cache import AFFINITIES, ENDPOINTS, StateCache
from agent.netlink import sysctl
from agent.netlink.objects import Address, Sysctl
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Put
from ipam.keys import BLOCKS, HANDLES, resource_key, resource_prefix
from ipam.model import NodeName, Pool, PoolRecord
from tests.fakes.pods import FakePods
from tests.fakes.store import FakeStore

NODE = NodeName("node1")
PATIENT = Waits(release=5.0)
"""On a busy machine even a fake takes its time."""
POOL_KEY = resource_key("ippools", "p")


def set_host_sysctls(interface: str) -> None:
    """The sysctls of a pod's host side, as the reconciler sets them."""
    for pattern, value in (*PER_INTERFACE, *PER_INTERFACE_6):
        assert sysctl.write(Sysctl(pattern.format(interface), value)) is None


class World:
    """A server over fakes."""

    def __init__(
        self,
        state: Path,
        pods: NetlinkPodNetwork | None = None,
        store: FakeStore | None = None,
        waits: Waits = PATIENT,
    ) -> None:
        """`pods` makes real devices; without it they are a fake's. `waits` are the verbs'."""
        self.store = store or FakeStore()
        self.door = LockableStore(self.store)
        """What the server writes through, as an agent does."""
        self.waits = waits
        self.pods = FakePods()
        self._network: PodNetwork = pods or self.pods
        self.state = state
        self.living = LivingPods(state, "boot-1", self._network.exists)
        self.cluster = StateCache(NODE, self.living)
        self.why: str | None = None
        self.limited: str | None = None
        self.dropped: str | None = None
        self.unsettled: Exception | None = None
        self.revision = 0

    async def start(self, boot_id: str = "boot-1") -> None:
        """Build the server; again, for another boot."""
        self.living = LivingPods(self.state, boot_id, self._network.exists)
        self.living.load()
        self.cluster.living = self.living
        outcome = await self.store.commit((), (Put(POOL_KEY, b"{}"),))
        self.revision = outcome.revision  # type: ignore[union-attr]
        self.dependencies = Dependencies(
            allocator=Allocator(
                self.door, SystemClock().wall, self.pools_now, in_use=lambda: self.living.in_use
            ),
            store=self.door,
            node=NODE,
            labels=tuple,
            namespaces=NamespaceLabels(self.store, self.pools_now),
            mtu=lambda: 1450,
            not_ready=lambda: self.why,
            cached_endpoint=self.cluster.endpoint,
            add_endpoint=self.cluster.add_endpoint,
            remove_endpoint=self.cluster.remove_endpoint,
            ignore_watch=lambda key: self.cluster.ignore_watch(key, lambda: None),
            wait_for_routes=self.settled,
            pods=self._network,
            living=self.living,
            boot_id=boot_id,
            cached_endpoints=lambda: self.cluster.endpoints,
            limited=lambda: self.limited,
            dropped=lambda: self.dropped,
            count_call=lambda verb, code, seconds: None,
        )
        self.server = CniServer(
            self.state / "cni.sock", self.dependencies, ReleaseJournal(self.state), SystemClock(), self.waits
        )

    def pools_now(self) -> tuple[PoolRecord, ...]:
        """Both pools, as they are watched."""
        return (
            PoolRecord(Pool("p", IPv4Network("192.168.0.0/24"), 26), POOL_KEY, self.revision),
            PoolRecord(Pool("p6", IPv6Network("fd00:10::/112"), 122), POOL_KEY, self.revision),
        )

    async def settled(self, addresses: Iterable[Address], timeout: float) -> None:
        if self.unsettled is not None:
            raise self.unsettled
        if self._network is not self.pods:
            for endpoint in self.cluster.endpoints:
                set_host_sysctls(endpoint.spec.interface_name)

    async def call(
        self,
        verb: str,
        container: str = "c1",
        pod: str = "web",
        netns: str = "/run/netns/x",
        config: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """One call as a runtime makes it; `config` and `environment` are laid over the usual ones."""
        usual = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}",
        }
        document = {"cniVersion": "1.1.0", "name": "net", "type": "tortie", **(config or {})}
        status, output = await self.server.call(
            {**usual, **(environment or {})}, json.dumps(document).encode()
        )
        return status, json.loads(output) if output else {}

    async def stored(self) -> tuple[int, int, int]:
        """How many handles, endpoints and allocated addresses there are."""
        blocks = (await self.store.list(BLOCKS)).values.values()
        used = sum(
            sum(index is not None for index in json.loads(block.value)["allocations"]) for block in blocks
        )
        handles = len((await self.store.list(HANDLES)).values)
        return handles, len((await self.store.list(resource_prefix("workloadendpoints"))).values), used

    def journal(self) -> list[Path]:
        return sorted((self.state / "releases").glob("*.json"))

    async def lock(self, *, ready: bool = False) -> None:
        """`calicoctl datastore migrate lock`, or `unlock`."""
        value = with_ready(await self.store.get(LOCK_KEY), "2026-01-01T00:00:00Z", ready=ready)
        await self.store.commit((), (Put(LOCK_KEY, value),))

    async def sync(self) -> None:
        """Bring the facts up to the store, as the syncer does."""
        for prefix in (AFFINITIES, ENDPOINTS):
            self.cluster.replace(prefix, (await self.store.list(prefix)).values)
