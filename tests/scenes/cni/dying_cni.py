"""A CNI server over real etcd and a real kernel that kills itself, as kill -9 would, at a named point.

`python -m tests.scenes.cni.dying_cni ETCD STATE` forks one server for each line `POINT|AWAY|PATIENCE` it reads;
without a point it lives. The server writes `PID ready` once it listens and has carried out what the journal held, or
`PID died` when it dies before. Everything is imported before the fork, so a server is there in a few milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from agent.clock import SystemClock
from agent.cni.attachment import Attachment
from agent.cni.dependencies import Dependencies
from agent.cni.endpoint_store import Waits
from agent.cni.living_pods import LivingPods
from agent.cni.pod import pod_network
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.cni.release_journal import Release, ReleaseJournal
from agent.cni.server import CniServer
from agent.datastore.namespace_labels import NamespaceLabels
from agent.datastore.state_cache import ENDPOINTS, POOLS, StateCache
from agent.logging import log as logging
from ipam.allocation.allocator import Allocator
from ipam.allocation.transaction import Piggyback, PiggybackedWrites
from ipam.etcd.client import EtcdStore
from ipam.etcd.etcd_config import EtcdConfig
from ipam.model import Address, AddressRequest, Assignment, HandleId, NodeName
from tests.fixtures.namespace import ip

ADD_POINTS = (
    "before assign",
    "after assign",
    "before pair",
    "after pair",
    "before configuring",
    "in the pod",
    "after configuring",
    "before settled",
    "before answer",
)
DEL_POINTS = ("before detach", "after detach", "before release", "after release", "before answer")
AWAY_POINTS = ("after detach", "before record", "after record", "before answer")
"""Of a DEL while the datastore is away."""
REPLAY_POINTS = ("before detach", "before release", "after release", "before done")
"""Of a server that finds a release written down."""

Die = Callable[[str], None]


class Allocations(Allocator):
    """Dies around the transactions."""

    die: Die

    async def assign(
        self,
        request: AddressRequest,
        piggyback: Piggyback | None = None,
    ) -> tuple[Assignment, ...]:
        self.die("before assign")
        found = await super().assign(request, piggyback)
        self.die("after assign")
        return found

    async def release_handle(
        self,
        handle: HandleId,
        attached: PiggybackedWrites = PiggybackedWrites(),  # noqa: B008 - the inherited default
    ) -> tuple[Address, ...]:
        self.die("before release")
        found = await super().release_handle(handle, attached)
        self.die("after release")
        return found


class Pods(NetlinkPodNetwork):
    """Dies around the kernel's work."""

    die: Die

    async def make_pair(self, attachment: Attachment) -> None:
        self.die("before pair")
        await super().make_pair(attachment)
        self.die("after pair")

    async def configure_pod(self, attachment: Attachment) -> None:
        self.die("before configuring")
        await super().configure_pod(attachment)
        self.die("after configuring")

    async def detach(self, host_interface: str) -> None:
        self.die("before detach")
        await super().detach(host_interface)
        self.die("after detach")


class Records(ReleaseJournal):
    """Dies around the journal."""

    die: Die

    def record(self, release: Release, stamp: int) -> Path:
        self.die("before record")
        path = super().record(release, stamp)
        self.die("after record")
        return path

    def done(self, path: Path) -> None:
        self.die("before done")
        super().done(path)


class Server(CniServer):
    """Dies before it answers."""

    die: Die

    async def call(self, environment: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        answer = await super().call(environment, stdin)
        self.die("before answer")
        return answer


def routed(cluster: StateCache, wanted: frozenset[Address]) -> None:
    """Program the host's routes, as the reconciler does."""
    for endpoint in cluster.endpoints:
        for address in wanted.intersection(endpoint.addresses):
            ip(f"route replace {address} dev {endpoint.spec.interface_name} scope link")


async def serve(endpoint: str, state: Path, point: str, *, away: bool, patience: float) -> None:
    """Live until killed."""

    def die(at: str) -> None:
        if at == point:
            if not listening.is_set():
                os.write(1, f"{os.getpid()} died\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    listening = asyncio.Event()

    def ready() -> None:
        listening.set()
        os.write(1, f"{os.getpid()} ready\n".encode())

    store, pods = EtcdStore(EtcdConfig((endpoint,))), Pods()
    living = LivingPods(state, "boot-1", pods.exists)
    living.load()
    cluster = StateCache(NodeName("node1"), living)
    for prefix in (POOLS, ENDPOINTS):
        cluster.replace(prefix, (await store.list(prefix)).values)
    allocator = Allocations(
        store, SystemClock().wall, lambda: cluster.pools, in_use=lambda: living.in_use, node=cluster.node
    )

    async def settled(addresses: Iterable[Address], timeout: float) -> None:
        die("before settled")
        routed(cluster, frozenset(addresses))

    dependencies = Dependencies(
        allocator=allocator,
        store=store,
        node=cluster.node,
        labels=tuple,
        namespaces=NamespaceLabels(store, lambda: cluster.pools),
        mtu=lambda: 1450,
        not_ready=lambda: "the datastore is away" if away else None,
        cached_endpoint=cluster.endpoint,
        add_endpoint=cluster.add_endpoint,
        remove_endpoint=cluster.remove_endpoint,
        wait_for_routes=settled,
        pods=pods,
        living=living,
        boot_id="boot-1",
        cached_endpoints=lambda: cluster.endpoints,
        ignore_watch=lambda key: cluster.ignore_watch(key, lambda: None),
        limited=lambda: None,
        dropped=lambda: None,
        count_call=lambda verb, code, seconds: None,
    )
    journal = Records(state)
    server = Server(state / "cni.sock", dependencies, journal, SystemClock(), Waits(patience))
    for part in (allocator, pods, journal, server):
        part.die = die  # type: ignore[attr-defined]
    if point == "in the pod":
        pod_network._configure = lambda *_: die(point)  # type: ignore[assignment]
    await server.release_replay.replay()
    await server.run(ready)


def main() -> None:
    """Fork a server for each line."""
    endpoint, state = sys.argv[1], Path(sys.argv[2])
    logging.configure("warning", "human")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        point, away, patience = line.strip().split("|")
        if os.fork() == 0:
            asyncio.run(serve(endpoint, state, point, away=bool(away), patience=float(patience)))
            os._exit(0)


if __name__ == "__main__":
    main()
