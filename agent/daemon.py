"""The agent: builds every part, joins them, and runs until it is told to stop.

Promises: one process, one thread, one event loop; the only file that knows which class stands behind a Protocol.
Stopping leaves the kernel as it is. A part that fails ends the process with its reason (the service starts it again);
nothing runs on half.
Does not know: the rules of any part.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from ipaddress import ip_network
from pathlib import Path

import msgspec
import structlog

from agent import control
from agent import log as logging
from agent.clock import SystemClock
from agent.cni.dependencies import Dependencies
from agent.cni.leak_collector import LeakCollector
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.cni.release_journal import ReleaseJournal
from agent.cni.server import CniServer
from agent.configuration.config import Config, ConfigError
from agent.dataplane.cooperative_loop import run_cooperatively
from agent.dataplane.desired.desired_state import DesiredObjects
from agent.dataplane.desired.route_cache import DesiredRoutes
from agent.dataplane.explain.route_queries import RouteQueries
from agent.dataplane.inputs.facts import Facts, Protocols
from agent.dataplane.inputs.gather import FactSettings, Gatherer
from agent.dataplane.inputs.mtu import pod_mtu
from agent.dataplane.kernel.linux import NetlinkKernel
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.reconciler import DesiredState, Reconciler
from agent.dataplane.trigger import Trigger
from agent.datastore.etcd_settings import etcd_config
from agent.datastore.resources.resource_types import WorkloadEndpoint
from agent.datastore.state_cache import StateCache
from agent.datastore.syncer import Syncer
from agent.metrics.exposition import Exposition
from agent.metrics.loop_lag import Lag
from agent.metrics.monitor import Monitor
from agent.metrics.pool_gauges import PoolGauges
from agent.netlink.objects import WORKLOAD_PREFIX, Address, Link, RouteKey
from agent.node.node_resource import NodeResource, node_inputs
from agent.node.underlay import UnderlayRoutes
from agent.peering.bgp_controller import BgpController
from agent.peering.drain import DrainFile
from agent.peering.nexthop_tracking import NexthopTracking
from agent.peering.passwords import PasswordFiles
from agent.service.sd_notify import Notifier
from agent.service.settings_reload import Reloading
from agent.service.start import checked, only_one, parser
from agent.service.supervision import Supervision
from agent.status import AgentStatus
from ipam.allocation.allocator import Allocator
from ipam.etcd.client import EtcdStore
from ipam.failures import IpamError
from ipam.model import NodeName

NODE_PASS_SECONDS = 60.0
"""The node's record is compared again this often, whatever happened."""
NODE_RETRY_SECONDS = 2.0
DEFAULT_MTU = 1500
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

YOUNG_OBJECTS, COLLECTIONS_BETWEEN = 50_000, (20, 50)

log = structlog.get_logger()


def fact_settings(config: Config) -> FactSettings:
    """The settings that are facts."""
    marks, kernel = config.routes, config.kernel
    return FactSettings(
        Protocols(marks.learned, marks.blackhole, marks.datastore, marks.tunnel, marks.workload),
        open_forward=kernel.open_forward,
        from_datastore=marks.source == "datastore",
        tunnel_offload={"on": True, "off": False}.get(kernel.tunnel_offload),
    )


def ownership(config: Config) -> Ownership:
    """By which marks our routes are known."""
    marks = config.routes
    return Ownership(
        anywhere=frozenset({marks.learned, marks.blackhole, marks.datastore}),
        workload=marks.workload,
        tunnel=marks.tunnel,
        learned=marks.learned,
    )


class Agent:
    """All parts of one node."""

    def __init__(
        self, config: Config, read: Callable[[], Config], begin_again: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self.reloading = Reloading(config, read, begin_again)
        self._clock = SystemClock()
        self._store = EtcdStore(etcd_config(config.etcd))
        self._cluster = StateCache(NodeName(config.node_name))
        self._fact_settings = fact_settings(config)
        self._kernel = NetlinkKernel(
            nexthop_objects=config.kernel.nexthop_objects,
            offload=self._fact_settings.tunnel_offload is not None,
        )
        self._node_bell = Trigger()
        self._links: Mapping[str, Link] = {}
        self._own_links: Mapping[str, Link] = {}
        """All but pods': what the node's record and the ways to other nodes depend on."""
        self._route_wishes = DesiredRoutes()
        self._entries = DesiredObjects()
        self._gatherer = Gatherer(self._cluster)
        self._syncer = Syncer(
            self._store,
            self._cluster,
            self._clock,
            self._facts_changed,
            contents=self._fact_settings.from_datastore,
        )
        self._allocator = Allocator(self._store, self._clock, lambda: self._cluster.pools)
        self._record = self._own_record()
        self._mesh = BgpController(
            config.bgp,
            PasswordFiles(Path(config.paths.secrets)),
            DrainFile(Path(config.paths.state)),
            self._clock,
            self._ring,
        )
        self._reachability = NexthopTracking(
            self._kernel, lambda: self._mesh.next_hops, self._mesh.lead_nowhere, self._clock
        )
        self._underlay = UnderlayRoutes(self._kernel, self._ring)
        self._reconciler = Reconciler(
            self._kernel,
            self._wish,
            self._clock,
            log,
            on_pass=self._follow_mesh,
            ownership=ownership(config),
        )
        lag = Lag(self._clock)
        self._account = self._accounting(lag)
        self._exposition = Exposition(self._account.readings)
        self._monitor = Monitor(
            config.metrics_socket, config.metrics.listen, self._exposition, lag, self._account.not_ready
        )
        dependencies = self._cni_dependencies()
        self._cni = CniServer(
            config.cni_socket, dependencies, ReleaseJournal(Path(config.paths.state)), self._clock
        )
        self._collector = LeakCollector(dependencies, self._cluster, self._clock)
        self._supervision = Supervision(
            Notifier(os.environ, os.getpid()),
            self._account.readiness,
            self._ring,
            lambda: self.reloading.wanted,
            self._clock,
        )

    def _own_record(self) -> NodeResource:
        return NodeResource(
            self._store,
            self._cluster,
            self._allocator,
            self._kernel,
            self._config.node,
            tuple(self._config.etcd.endpoints),
            self._clock,
        )

    def _accounting(self, lag: Lag) -> AgentStatus:
        return AgentStatus(
            self._cluster,
            self._syncer,
            self._store.channels,
            self._clock,
            self._record,
            self._mesh,
            self._reconciler,
            self.reloading,
            lambda: self._facts(self._links),
            lag.take,
            self._clock.wall(),
            version("tortie"),
            PoolGauges(self._cluster.node),
        )

    def _cni_dependencies(self) -> Dependencies:
        return Dependencies(
            allocator=self._allocator,
            store=self._store,
            node=self._cluster.node,
            labels=lambda: self._record.labels,
            mtu=lambda: pod_mtu(self._facts(self._links)) or DEFAULT_MTU,
            not_ready=lambda: self._account.not_ready(),
            cached_endpoint=self._cluster.endpoint,
            add_endpoint=self._adopt,
            remove_endpoint=self._forget,
            ignore_watch=lambda key: self._cluster.ignore_watch(key, self._facts_changed),
            wait_for_routes=self._settled,
            pods=NetlinkPodNetwork(),
            boot_id=BOOT_ID.read_text().strip(),
            cached_endpoints=lambda: self._cluster.endpoints,
            limited=lambda: self._mesh.trouble,
            count_call=self._exposition.answered,
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        found = (await self._kernel.routes()).values()
        marks = self._config.routes
        self._mesh.restarting = any(route.protocol in (marks.learned, marks.blackhole) for route in found)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._syncer.run())
                group.create_task(self._reconciler.run())
                group.create_task(self._keep_record())
                group.create_task(self._reachability.run())
                group.create_task(self._cni.run())
                group.create_task(self._collector.run())
                group.create_task(self._supervision.run())
                group.create_task(self._monitor.run())
                group.create_task(control.serve(self._config.control_socket, self._answers()))
                log.info("agent.started", node=self._cluster.node, restarting=self._mesh.restarting)
        finally:
            await self._mesh.close()
            await self._store.close()

    def _ring(self) -> None:
        self._reconciler.ring()

    def _facts_changed(self) -> None:
        self._reconciler.ring()
        self._node_bell.ring()

    def _facts(self, links: Mapping[str, Link]) -> Facts:
        mesh = self._mesh
        under = self._underlay
        return self._gatherer.gathered(
            self._fact_settings, links, mesh.learned, mesh.gateways, under.links, under.gateways
        )

    async def _wish(self, links: Mapping[str, Link]) -> DesiredState:
        """What the kernel should hold, of the facts at the call. Incomplete facts may add, never delete."""
        if links is not self._links:
            own = {name: link for name, link in links.items() if not name.startswith(WORKLOAD_PREFIX)}
            self._links = links
            if own != self._own_links:
                self._own_links = own
                self._node_bell.ring()
        facts = self._facts(links)
        complete = self._syncer.in_sync and facts.parent is not None
        converged = self._mesh.converged
        routes, touched = await run_cooperatively(
            self._route_wishes.work(facts, self._mesh.take_changed_routes())
        )
        return DesiredState(
            self._entries.dataplane(facts, routes),
            complete=complete,
            bgp_complete=converged,
            learned=facts.learned,
            touched=touched,
        )

    def _follow_mesh(self) -> None:
        if self._syncer.in_sync:
            self._mesh.reconcile(self._cluster, self._facts(self._links), self._reconciler.installed)
            self._reachability.update(self._links)

    async def _keep_record(self) -> None:
        """The node's own record, whenever what it depends on changed."""
        done: tuple[object, ...] | None = None
        due_at = 0.0
        looked: Mapping[str, Link] = {}
        while True:
            await self._node_bell.wait(NODE_PASS_SECONDS if done is not None else NODE_RETRY_SECONDS)
            others = [node.ipv4.ip for node in self._cluster.nodes.values() if node.ipv4 is not None]
            inputs = node_inputs(self._cluster, self._own_links)
            now = self._clock.now()
            anew = self._own_links is not looked or now >= due_at
            looked = self._own_links
            await self._underlay.update(others, looked, anew=anew)
            if not self._syncer.in_sync or (inputs == done and now < due_at):
                continue
            due_at = now + NODE_PASS_SECONDS
            try:
                await self._record.reconcile()
            except IpamError as error:
                self._record.trouble = str(error)
            done = inputs if self._record.trouble is None else None
            if self._record.trouble is not None:
                log.warning("node.not_registered", why=self._record.trouble)

    def _adopt(self, endpoint: WorkloadEndpoint) -> None:
        self._syncer.follow_endpoints(endpoint.metadata.namespace or "default")
        self._cluster.add_endpoint(endpoint)
        self._reconciler.ring()

    def _forget(self, endpoint: WorkloadEndpoint) -> None:
        self._cluster.remove_endpoint(endpoint)
        self._reconciler.ring_soon()

    async def _settled(self, addresses: Iterable[Address], timeout: float) -> None:
        await self._reconciler.settled([RouteKey(ip_network(address)) for address in addresses], timeout)

    def _answers(self) -> control.Answers:
        glass = RouteQueries(
            self._reconciler, self._kernel, self._cluster, lambda: self._facts(self._links), self._mesh.teller
        )
        return {
            "status": lambda: self._account.status(ready=self._supervision.ready),
            "addresses": self._record.address_report,
            "config": lambda: msgspec.to_builtins(self._config),
            "peers": self._mesh.status,
            "peer": control.WithText(self._mesh.peer),
            "paths": control.WithText(self._mesh.routes),
            "drain": control.WithText(self._mesh.drain),
            "undrain": self._mesh.undrain,
            "leave": control.WithText(self._mesh.leave),
            "reload": self.reloading.reload,
            "table": control.WithText(glass.table),
            "plan": glass.plan,
            "routes": lambda: [str(route) for route in self._reconciler.installed.values()],
        }


async def _until_signalled(config: Config, read: Callable[[], Config]) -> bool:
    """Serve until told to stop; whether the process is to start over with other settings."""
    loop = asyncio.get_running_loop()
    main_task = asyncio.current_task()
    assert main_task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main_task.cancel)

    def begin_again() -> None:
        main_task.cancel()

    agent = Agent(config, read, begin_again)

    def hang_up() -> None:
        with suppress(ValueError):  # said in the log and in the status
            agent.reloading.reload()

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    with suppress(asyncio.CancelledError):
        await agent.run()
    return agent.reloading.wanted


def spare_the_collector() -> None:
    """Have the garbage collector look at what is new and leave what lives for ever.

    A table of 100,000 routes is a million objects that are no garbage: with Python's own thresholds looking through
    them again and again took half the time of learning them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *COLLECTIONS_BETWEEN)


def main() -> None:
    """`tortie-agent`."""
    faulthandler.enable()  # the watchdog's SIGABRT says in the journal where the loop hung
    arguments = parser().parse_args()
    try:
        config = checked(arguments)
        if os.geteuid() != 0:
            raise ConfigError("tortie-agent programs the kernel: run it as root")
        for directory in (config.paths.run, config.paths.state):
            Path(directory).mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = only_one(Path(config.paths.run))
    except (ConfigError, OSError) as error:
        sys.exit(f"tortie-agent: {error}")
    spare_the_collector()
    logging.configure(config.log.level, config.log.format, SystemClock().now)
    again = asyncio.run(_until_signalled(config, lambda: checked(arguments)))
    os.close(lock)
    if again:
        # The same process, so systemd's main PID and watchdog stay; every descriptor of this life closes (PEP 446).
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    log.info("agent.stopped", routes="left as they are")


if __name__ == "__main__":
    main()
