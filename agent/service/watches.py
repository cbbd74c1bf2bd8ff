"""The parts of an agent that only look and tell: each has troubles, and none changes anything.

Promises: only wiring is here. Does not know: what a part looks at, who shows what it tells.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog

from agent.clock import Clock
from agent.dataplane.desired_state_builder import DesiredStateBuilder
from agent.dataplane.explain.route_troubles import RouteTroubles, Surroundings
from agent.dataplane.filter_monitor import FilterMonitor
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.reconciler import Reconciler
from agent.dataplane.rule_monitor import RuleMonitor
from agent.datastore.availability import Asked, Availability
from agent.datastore.block_overlaps import BlockOverlaps
from agent.datastore.namespace_labels import NamespaceLabels
from agent.datastore.own_values import OwnValues
from agent.datastore.pool_troubles import pool_troubles
from agent.datastore.state_cache import StateCache
from agent.felix.kernel_rules import legacy_stamp, read_filter_remains
from agent.felix.remains_watch import RemainsWatch
from agent.node.address_conflicts import AddressConflicts
from agent.node.limits_watch import LimitsWatch
from agent.peering.bgp_controller import BgpController
from agent.service.clock_jumps import ClockJumps
from agent.trouble import Source, Trouble
from ipam.allocation.allocator import Allocator
from ipam.etcd.store import Store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Watched:
    """What is looked at."""

    etcd: Asked
    store: Store
    state: StateCache
    allocator: Allocator
    kernel: Kernel
    reconciler: Reconciler
    bgp: BgpController


class Watches:
    """All of them."""

    def __init__(
        self,
        of: Watched,
        desired: DesiredStateBuilder,
        endpoints: tuple[str, ...],
        clock: Clock,
        *,
        is_ours: Callable[[], bool],
        in_sync: Callable[[], bool],
    ) -> None:
        """`is_ours`: the datastore was read, and this machine is the node; `in_sync`: and its pods are back in it."""
        self._of = of
        self._is_ours = is_ours
        self.availability = Availability(of.etcd, endpoints, clock)
        self.limits = LimitsWatch(of.store, of.state)
        self.namespaces = NamespaceLabels(of.store, lambda: of.state.usable_pools)
        self.filter = FilterMonitor(of.kernel, of.reconciler.filter_state, log)
        self.calico = RemainsWatch(read_filter_remains, legacy_stamp, clock)
        self._own_values = OwnValues(of.store, of.state, in_sync)
        self._overlaps = BlockOverlaps(of.store, lambda: of.allocator.passed_over)
        self._conflicts = AddressConflicts(desired.facts, clock, log)
        self._jumps = ClockJumps(clock, log)
        around = Surroundings(
            self._pod_names,
            of.reconciler.now_named,
            of.bgp.mesh_sessions,
            lambda: of.bgp.drained is None,
        )
        self._rules = RuleMonitor(of.kernel, of.reconciler.snapshot)
        self._routes = RouteTroubles(of.reconciler.snapshot, desired.without, around)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Their troubles."""
        return (
            self._own_values.troubles,
            self._overlaps.troubles,
            self.namespaces.troubles,
            self.filter.troubles,
            self.availability.troubles,
            self._conflicts.troubles,
            self._jumps.troubles,
            self.calico.troubles,
            self.limits.troubles,
            self._pool_troubles,
            self._routes.troubles,
            self._rules.troubles,
        )

    @property
    def runs(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Those that run, by name; each until it is cancelled, and it may be run again after it failed."""
        return {
            "datastore's answers": self.availability.run,
            "own values": self._own_values.run,
            "overlapping blocks": self._overlaps.run,
            "namespaces": self.namespaces.run,
            "limits": self.limits.run,
            "calico's remains": self.calico.run,
            "filter counters": self.filter.run,
            "routing rules": self._rules.run,
            "address conflicts": self._conflicts.run,
            "clock": self._jumps.run,
        }

    def _pool_troubles(self) -> Iterable[Trouble]:
        return pool_troubles(self._of.state) if self._is_ours() else ()

    def _pod_names(self) -> Mapping[str, str]:
        endpoints = self._of.state.endpoints
        return {one.spec.interface_name: one.spec.pod or one.spec.endpoint for one in endpoints}
