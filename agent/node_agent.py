"""An agent: all parts of one node, made and joined.

Promises: only wiring is here: which class implements a Protocol, which part is informed of which change. A part that
fails is run again and is a trouble until then; the others go on (agent/parts.py).
Does not know: the rules of any part, settings' sources, signals.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path

import msgspec
import structlog

from agent import control
from agent.clock import SystemClock
from agent.cni.dependencies import Dependencies
from agent.cni.endpoint_update import EndpointUpdate
from agent.cni.leak_collector import LeakCollector
from agent.cni.living_pods import LivingPods
from agent.cni.pod.pod_network import NetlinkPodNetwork
from agent.cni.put_back import PutBack
from agent.cni.release_journal import ReleaseJournal
from agent.cni.server import CniServer
from agent.configuration.config import Config
from agent.dataplane.desired.desired_tunnels import pod_mtu
from agent.dataplane.desired_state_builder import DesiredStateBuilder
from agent.dataplane.explain.route_queries import RouteQueries
from agent.dataplane.inputs.datastore_addresses import DatastoreAddresses
from agent.dataplane.inputs.facts import FactSettings
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.kernel.dataplane_objects import Dataplane
from agent.dataplane.reconciler import DesiredState, Reconciler
from agent.datastore.datastore_lock import LockableStore
from agent.datastore.etcd_settings import etcd_config
from agent.datastore.resources.resource_types import WorkloadEndpoint
from agent.datastore.set_aside import SetAside
from agent.datastore.state_cache import StateCache
from agent.datastore.syncer import Syncer
from agent.logging.log_stream import LogStream
from agent.metrics import web
from agent.metrics.exposition import Exposition
from agent.metrics.monitor import LoopLag, pages
from agent.metrics.pool_gauges import PoolGauges
from agent.netlink.objects import Address, Link, RouteKey
from agent.node.machine import machine_id, machine_life
from agent.node.node_controller import NodeController
from agent.node.node_resource import NodeResource
from agent.parts import Parts
from agent.peering.bfd.bfd_client import BfdClient
from agent.peering.bfd.failed_peers import FailedPeers
from agent.peering.bgp_controller import BgpController
from agent.peering.disabled_peers import DisabledPeers
from agent.peering.drain import DrainFile
from agent.peering.nexthop_tracking import NexthopTracking
from agent.peering.passwords import PasswordFiles
from agent.peering.silent_nodes import SilentNodes
from agent.service.optional_kubernetes import OptionalKubernetes
from agent.service.readiness import Readiness
from agent.service.sd_notify import Notifier
from agent.service.settings_reload import SettingsReload
from agent.service.start import fact_settings, is_another_life, kernel_of
from agent.service.supervision import Supervision
from agent.service.watches import Watched, Watches
from agent.status import AgentStatus
from agent.trouble_watch import TroubleWatch
from ipam.allocation.allocator import Allocator
from ipam.etcd.client import EtcdStore
from ipam.model import HandleId, NodeName

DEFAULT_MTU = 1500
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger()


class Agent:
    """All parts of one node."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        begin_again: Callable[[], object],
        log_stream: LogStream,
    ) -> None:
        self._config = config
        self.parts = Parts(log)
        self.reload = SettingsReload(config, read, begin_again)
        self._clock = SystemClock()
        self._etcd = EtcdStore(etcd_config(config.etcd))
        self._store = LockableStore(self._etcd, lambda: self._state.lock)
        self._boot_id, self._pods = BOOT_ID.read_text().strip(), NetlinkPodNetwork()
        name = NodeName(config.node_name)
        self._living = LivingPods(Path(config.paths.run), self._boot_id, self._pods.exists, name)
        self._living.load()
        self._state = StateCache(name, self._living)
        self._log_stream = log_stream
        self._state_directory = Path(config.paths.state)
        self._make_dataplane(config, fact_settings(config))
        self._make_node(config)
        self._kubernetes = self._new_kubernetes(config)
        self._make_services(config)

    def _new_kubernetes(self, config: Config) -> OptionalKubernetes:
        node, may_write = (self._node, self._node_resource), self._may_write_settled
        return OptionalKubernetes(
            config, self._store, node, self._clock, self._status, may_write, self.reload
        )

    def _make_dataplane(self, config: Config, settings: FactSettings) -> None:
        """What follows the datastore and BGP into the kernel."""
        self._kernel = kernel_of(config)
        self._next_hops = NextHopResolver(settings.protocols)
        self._reconciler = Reconciler(
            self._kernel,
            self._desired_state,
            self._clock,
            log,
            look_ahead=lambda: self._desired.look_at_learned(),
            on_pass=self._after_pass,
            ownership=settings.protocols,
            next_hops=self._next_hops,
        )
        self._syncer = self._new_syncer(contents=settings.from_datastore)
        self._allocator = self._new_allocator()
        drain, disabled = DrainFile(self._state_directory), DisabledPeers(self._state_directory)
        files = PasswordFiles(Path(config.paths.secrets)), drain, disabled
        self._bgp = BgpController(config.bgp, *files, self._clock, self._reconciler.trigger, config.bfd)
        self._failed_peers = FailedPeers(self._bgp, self._reconciler.avoid)
        self._bfd = BfdClient(config.bfd_socket, self._clock, self._failed_peers)
        self._bgp.bfd_status = self._bfd.status
        self._tracking = NexthopTracking(
            self._next_hops, lambda: self._bgp.speaker, self._clock, self._reconciler.read_routes
        )
        self._datastore = DatastoreAddresses(config.etcd.endpoints, self._reconciler.trigger)
        self._silent = SilentNodes(self._state, self._bgp, self._clock, self._silent_nodes_changed)
        self._desired = self._new_desired(settings)

    def _make_node(self, config: Config) -> None:
        """This node's own record, and what looks and tells."""
        self._node_resource = self._new_node_resource(self._state_directory)
        self._node = NodeController(self._node_resource, self._state, self._may_write_settled, self._clock)
        self._lag = LoopLag(self._clock)
        self._watches = Watches(
            Watched(
                self._etcd,
                self._store,
                self._state,
                self._allocator,
                self._kernel,
                self._reconciler,
                self._bgp,
            ),
            self._desired,
            tuple(config.etcd.endpoints),
            self._clock,
            is_ours=self._is_ours,
            in_sync=self._in_sync,
        )
        self._watch = TroubleWatch(
            lambda: self._status.troubles(), self._clock, log, lambda: self._supervision.trigger()
        )
        self._status = self._agent_status(self._log_stream)
        self._last_readiness = Readiness("the status cannot be read", passes=0)
        self._exposition = Exposition(self._status.readings)

    def _make_services(self, config: Config) -> None:
        """What answers runtimes, people and the service manager."""
        dependencies = self._cni_dependencies()
        self._cni = CniServer(
            config.cni_socket, dependencies, ReleaseJournal(self._state_directory), self._clock
        )
        self._collector = LeakCollector(dependencies, self._state, self._clock)
        self._put_back = self._new_put_back(dependencies)
        self._endpoint_update = EndpointUpdate(
            dependencies,
            self._state,
            self._cni.profiles,
            self._may_write_settled,
            self._clock,
            self._cni.locked,
        )
        self._supervision = Supervision(
            Notifier(os.environ, os.getpid()),
            self._readiness,
            self._reconciler.trigger,
            lambda: self.reload.wanted,
            self._clock,
        )

    def _new_syncer(self, *, contents: bool) -> Syncer:
        store, state, forget = self._store, self._state, self._went_back
        return Syncer(store, state, self._state_changed, contents=contents, forget=forget)

    def _new_desired(self, settings: FactSettings) -> DesiredStateBuilder:
        datastore, silent, in_sync = self._datastore, self._silent, self._in_sync
        state, bgp, hops = self._state, self._bgp, self._next_hops
        return DesiredStateBuilder(
            state, settings, bgp, hops, in_sync, lambda: datastore.addresses, lambda: silent.names
        )

    def _new_allocator(self) -> Allocator:
        return Allocator(
            self._store,
            self._clock.wall,
            lambda: self._state.usable_pools,
            in_use=self._in_use,
            claims=lambda: self._state.block_owners,
            node_labels=self._own_labels,
            node=self._state.node,
        )

    def _new_put_back(self, dependencies: Dependencies) -> PutBack:
        state, locked, changed = self._state, self._cni.locked, self._state_changed
        may_write, predecessor = self._may_write, lambda: self._node_resource.predecessor
        return PutBack(dependencies, state, may_write, self._clock, locked, changed, predecessor)

    def _new_node_resource(self, state_directory: Path) -> NodeResource:
        config = self._config
        return NodeResource(
            self._store,
            self._state,
            self._allocator,
            self._kernel,
            config.node,
            tuple(config.etcd.endpoints),
            self._clock,
            SetAside(state_directory),
            mesh_ttl_security=config.bgp.mesh_ttl_security,
            machine_id=machine_id(config.node.machine_id, state_directory),
            machine_life=machine_life(Path(config.paths.run)),
        )

    def _agent_status(self, log_stream: LogStream) -> AgentStatus:
        return AgentStatus(
            self._state,
            self._syncer,
            self._watches.availability,
            self._etcd.channels,
            self._clock,
            self._node_resource,
            self._bgp,
            self._reconciler,
            self.reload,
            self._desired.facts,
            self._lag.take,
            self._clock.wall(),
            PoolGauges(self._state.node),
            self.parts,
            log_stream,
            self._watches.filter,
            self._watches.limits,
            sources=(
                self.parts.troubles,
                self._state.unreadable.troubles,
                self._reconciler.troubles,
                self._bgp.session_troubles,
                self._bfd.troubles,
                log_stream.troubles,
                lambda: self._cni.release_replay.troubles(),
                self._desired.troubles,
                self._bgp.refused,
                self._tracking.troubles,
                self._syncer.troubles,
                self._node_resource.troubles,
                lambda: self._put_back.troubles(),
                lambda: self._cni.profiles.troubles(),
                lambda: self._kubernetes.troubles(),
                *self._watches.sources,
            ),
            listed=lambda: self._watch.listed,
            bfd=self._bfd,
            reclaimed=lambda: self._kubernetes.reclaimed,
        )

    def _cni_dependencies(self) -> Dependencies:
        return Dependencies(
            allocator=self._allocator,
            store=self._store,
            node=self._state.node,
            labels=lambda: self._node_resource.labels,
            namespaces=self._watches.namespaces,
            mtu=lambda: pod_mtu(self._desired.facts()) or DEFAULT_MTU,
            not_ready=self._status.not_ready,
            cached_endpoint=self._state.endpoint,
            add_endpoint=self._add_endpoint,
            remove_endpoint=self._remove_endpoint,
            ignore_watch=lambda key: self._state.ignore_watch(key, self._state_changed),
            wait_for_routes=self._wait_for_routes,
            pods=self._pods,
            living=self._living,
            boot_id=self._boot_id,
            cached_endpoints=lambda: self._state.endpoints,
            limited=lambda: self._bgp.trouble,
            dropped=self._watches.calico.drops_new_pods,
            count_call=self._exposition.answered,
            annotations=self._kubernetes.annotations,
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        first, runs = "troubles", self._runs()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.parts.keep(first, runs[first]))
                found = (await self.parts.keep("start", self._kernel.routes)).values()
                self._desired.inherit(found)
                self._bgp.restarting = is_another_life(self._config, found)
                for name, run in runs.items():
                    if name != first:
                        group.create_task(self.parts.keep(name, run))
                log.info("agent.started", node=self._state.node, restarting=self._bgp.restarting)
        finally:
            await self._bgp.close()
            await self._store.close()

    def _runs(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """The long-running parts by name; each runs until cancelled, and may be run again after it failed."""
        config, status = self._config, self._status
        shown = pages(self._exposition, status.why_unready, status.trouble_list)
        runs: dict[str, Callable[[], Awaitable[None]]] = {
            "datastore": self._syncer.run,
            "kernel": self._reconciler.run,
            "node": self._node.run,
            "next hops": self._tracking.run,
            "bfd": self._bfd.run,
            "failed peers": self._failed_peers.run,
            "uplinks": self._bgp.uplinks.run,
            "nodes without BGP": self._silent.run,
            "cni": self._cni.run,
            "leaks": self._collector.run,
            "datastore addresses": self._datastore.run,
            "living pods": self._put_back.run,
            "records": self._living.run,
            "endpoints": self._endpoint_update.run,
            "supervision": self._supervision.run,
            "troubles": self._watch.run,
            "lag": self._lag.run,
            **self._watches.runs,
            **self._kubernetes.runs,
            "control socket": lambda: control.serve(config.control_socket, self._answers()),
            "metrics socket": lambda: web.on_socket(config.metrics_socket, shown),
        }
        if listen := config.metrics.listen:
            runs["metrics port"] = lambda: web.on_tcp(listen, shown)
        return runs

    # -- which part is informed of which change ------------------------------------------------------------------------

    def _in_sync(self) -> bool:
        return self._is_ours() and self._put_back.settled

    def _in_use(self) -> Mapping[Address, HandleId]:
        return {**self._living.in_use, **self._node_resource.tunnel_addresses}

    def _own_labels(self, node: NodeName) -> Mapping[str, str] | None:
        """The labels of a node whose claims are this one's to give up."""
        own = self._state.own_node if node == self._state.node else None
        return (own.metadata.labels or {}) if own is not None else None

    def _is_ours(self) -> bool:
        return self._syncer.in_sync and self._node_resource.other_machine is None

    def _may_write(self) -> bool:
        """What writes by itself does not even try while the datastore is locked; the store would refuse."""
        return self._is_ours() and self._state.lock.reason is None

    def _may_write_settled(self) -> bool:
        return self._in_sync() and self._may_write()

    def _readiness(self) -> Readiness:
        """For the service manager; as it was while it cannot be read, for without a sign of life we are killed."""
        with self.parts.outlived("status"):
            self._last_readiness = self._status.readiness()
        return self._last_readiness

    def _state_changed(self) -> None:
        self._watch.trigger()
        self._reconciler.trigger()
        self._node.trigger()
        self._put_back.trigger()
        self._watches.limits.say()

    def _silent_nodes_changed(self) -> None:
        if self._silent.names:
            self._syncer.follow_blocks()
        self._reconciler.trigger()

    def _went_back(self) -> None:
        self._allocator.forget()
        self._cni.profiles.forget()
        self._put_back.look()

    async def _desired_state(self, links: Mapping[str, Link]) -> DesiredState:
        self._node.set_links(links)
        if not self._syncer.knows_nodes or self._node_resource.other_machine is not None:
            # Another machine's blocks, tunnels and peers are not to be here; what is here stays.
            return DesiredState(Dataplane(), complete=False, bgp_complete=False)
        return await self._desired.build(links)

    def _after_pass(self) -> None:
        self._watch.trigger()
        if self._in_sync():
            with self.parts.outlived("peering"):
                facts = self._desired.facts()
                self._bgp.reconcile(self._state, facts, self._reconciler.installed)
                self._bgp.follow_links(facts.links)
                self._tracking.update(self._desired.node_addresses())
                self._failed_peers.look()
                self._bfd.want(self._bgp.bfd_sessions(facts.links), self._bgp.peer_names)

    def _add_endpoint(self, endpoint: WorkloadEndpoint) -> None:
        self._syncer.follow_endpoints(endpoint.metadata.namespace or "default")
        self._state.add_endpoint(endpoint)
        self._reconciler.trigger()

    def _remove_endpoint(self, endpoint: WorkloadEndpoint) -> None:
        self._state.remove_endpoint(endpoint)
        self._reconciler.trigger_soon()

    async def _wait_for_routes(self, addresses: Iterable[Address], timeout: float) -> None:
        keys = [RouteKey(ip_network(address)) for address in addresses]
        await self._reconciler.wait_for_routes(keys, timeout)

    def _answers(self) -> control.Answers:
        bgp, facts = self._bgp, self._desired.facts
        queries = RouteQueries(
            self._reconciler,
            self._kernel,
            self._state,
            facts,
            lambda prefix: bgp.looking_glass.best_path_peer(prefix),
        )
        return {
            "status": lambda: self._status.status(ready=self._supervision.ready),
            "addresses": self._node_resource.address_report,
            "config": lambda: msgspec.to_builtins(self._config),
            "peers": lambda: bgp.looking_glass.peers(),
            "peer": control.WithText(lambda word: bgp.looking_glass.peer(word)),
            "uplinks": bgp.uplinks.report,
            "paths": control.WithText(lambda text: bgp.looking_glass.paths(text, facts().resolution_of)),
            **{word: control.WithText(answer) for word, answer in bgp.peer_verbs.answers.items()},
            "living": self._put_back.report,
            "drain": control.WithText(bgp.drain),
            "undrain": bgp.undrain,
            "leave": control.WithText(bgp.leave),
            "reload": self.reload.reload,
            "table": control.WithText(queries.table),
            "plan": queries.plan,
            "routes": lambda: [str(route) for route in self._reconciler.installed.values()],
        }
