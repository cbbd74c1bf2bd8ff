"""The agent's status, from one place: for people, for the service manager and for monitoring.

Promises: asking changes nothing but the reading of the loop's lag, which begins anew. Does not know: how the
answer is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from agent.clock import Clock
from agent.dataplane.desired.desired_tunnels import oversized, pod_mtu
from agent.dataplane.filter_monitor import FilterMonitor
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, is_workload_device
from agent.dataplane.reconciler import Reconciler
from agent.datastore.availability import Availability
from agent.datastore.limits_watch import LimitsWatch
from agent.datastore.state_cache import StateCache
from agent.datastore.syncer import Syncer
from agent.log_stream import LogStream
from agent.metrics.pool_gauges import PoolGauges, PoolReadings
from agent.metrics.series import EtcdReadings, Readings
from agent.node.node_resource import NodeResource
from agent.peering.bgp_controller import BgpController
from agent.service.readiness import Readiness, why_not_ready
from agent.service.settings_reload import SettingsReload
from agent.trouble import Source, Trouble, TroubleKind
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from ipam.etcd.channels import Channels


def overlaps(facts: Facts) -> Iterator[Trouble]:
    """Addresses of this machine, others' bridges and tunnels among them, that a pool may give to a pod."""
    for link in facts.links.values():
        if link.name == "lo" or link.name in OUR_TUNNELS or is_workload_device(link.name):
            continue
        for address, length in link.addresses:
            for pool in facts.pools:
                if address.version == pool.cidr.version and address in pool.cidr:
                    yield Trouble(
                        TroubleKind.OVERLAP,
                        f"interface {link.name}",
                        f"its address {address}/{length} lies in pool {pool.name} ({pool.cidr})",
                        "what pods send to whoever gets that address ends on this machine",
                        "take one of the two away; tortie node checksystem has the commands",
                    )


def fact_troubles(state: StateCache, facts: Facts) -> Iterator[Trouble]:
    """What of the datastore and this node's interfaces does not fit together."""
    me = state.nodes.get(state.node)
    if me is not None and me.ipv4 is not None and facts.links and facts.parent is None:
        evidence = f"no interface bears the node's address {me.ipv4.ip}"
        yield Trouble(TroubleKind.UNDERLAY, "", evidence, "nothing is removed until one does")
    yield from overlaps(facts)
    names = {item.spec.interface_name: item.spec.pod or item.spec.endpoint for item in state.endpoints}
    for name, has, carried in oversized(facts):
        evidence = f"its MTU is {has}, the way to other nodes carries {carried}"
        yield Trouble(TroubleKind.MTU, f"pod {names[name]} ({name})", evidence, cure="recreate it")
    for item in state.endpoints:
        if ignored := item.ignored_source_prefixes:
            about = f"pod {names[item.spec.interface_name]} ({item.spec.interface_name})"
            more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
            evidence = f"allowSpoofedSourcePrefixes: {ignored[0][:LONGEST_PREFIX]!r}{more} cannot be used"
            yield Trouble(
                TroubleKind.FILTER, about, evidence, "it cannot send from there", "write at most 256 prefixes"
            )


VERSION = version("tortie")
LONGEST_PREFIX = 60
"""Characters shown of a text that should be a prefix."""


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """Reads all parts; owns nothing."""

    state: StateCache
    syncer: Syncer
    availability: Availability
    channels: Channels
    clock: Clock
    node_resource: NodeResource
    bgp: BgpController
    reconciler: Reconciler
    reload: SettingsReload
    facts: Callable[[], Facts]
    lag: Callable[[], float]
    started: datetime
    pools: PoolGauges
    part_failures: Mapping[str, int]
    """Part -> how often it has failed; it counts on."""
    log_stream: LogStream
    filter: FilterMonitor
    limits: LimitsWatch
    sources: tuple[Source, ...] = ()
    """Parts of the agent that can have troubles, beside those named above."""

    def not_ready(self) -> str | None:
        """None, or why no pod can be attached now."""
        registering = self.node_resource.trouble or "still registering"
        if (why := self.syncer.foreign) is not None:
            return f"the datastore is empty, or another cluster's: {why}"
        if (why := self.node_resource.other_machine) is not None:
            return why
        return why_not_ready(
            in_sync=self.syncer.in_sync,
            datastore_trouble=self.availability.away or self.syncer.trouble,
            unregistered=registering if self.state.own_node is None else None,
            no_writes=self.availability.no_writes,
        )

    def remarks(self) -> tuple[str, ...]:
        """What keeps no pod from being attached, and is said beside that all the same."""
        return tuple(str(trouble) for trouble in self.limits.troubles())

    def readiness(self) -> Readiness:
        """For the service manager."""
        peers = self._peers()
        return Readiness(
            not_ready=self.not_ready(),
            passes=self.reconciler.passes,
            pods=len(self.state.endpoints),
            peers=len(peers),
            peers_up=sum(peer.state is State.ESTABLISHED for peer in peers),
            drained=self.bgp.drained is not None,
            troubles=tuple(text for text in (self.node_resource.trouble, *self.bgp.troubles) if text),
            reload_refused=self.reload.refused,
        )

    def _peers(self) -> tuple[PeerStatus, ...]:
        return self.bgp.speaker.status() if self.bgp.speaker is not None else ()

    def troubles(self) -> list[Trouble]:
        """Everything that is wanted and not in force now, in the order of its sources."""
        not_ready = self.not_ready()
        registering = self.node_resource.trouble
        is_said = bool(self.availability.away or self.availability.no_writes)  # by that part itself
        return [
            *(Trouble(TroubleKind.NODE, "", text) for text in (registering,) if text),
            *(Trouble(TroubleKind.PEERING, "", text) for text in self.bgp.troubles),
            *(Trouble(TroubleKind.DATASTORE, "", text) for text in (not_ready,) if text and not is_said),
            *(
                Trouble(TroubleKind.CERTIFICATE, "", text)
                for text in self.channels.warnings(self.clock.wall())
            ),
            *fact_troubles(self.state, self.facts()),
            *(trouble for source in self.sources for trouble in source()),
        ]

    def status(self, *, ready: bool) -> dict[str, Any]:
        """For people: `tortie node status`."""
        me = self.state.own_node
        return {
            "node": self.state.node,
            "address": me.ipv4 if me is not None else None,
            "address_found_by": self.node_resource.found_by,
            "address6": me.ipv6 if me is not None else None,
            "pid": os.getpid(),
            "version": VERSION,
            "started": self.started,
            "ready": ready,
            "in_sync": self.syncer.in_sync,
            "converged": self.bgp.converged,
            "drained": self.bgp.drained,
            "has_left": self.bgp.has_left,
            "datastore": self.availability.away or self.syncer.trouble or self.availability.no_writes or "ok",
            "etcd": {**self.channels.status(), "revision": self.syncer.revision},
            "troubles": [str(trouble) for trouble in self.troubles()],
            "mtu": pod_mtu(self.facts()),
            "peers": self.bgp.looking_glass.peers(),
            "pods": len(self.state.endpoints),
            "kernel": self.reconciler.report(),
            "workload_filter": self.filter.status(),
        }

    def _pools(self) -> tuple[PoolReadings, ...]:
        state = self.state
        me = state.own_node
        tunnels = (me.ipip_address, me.vxlan_address, me.vxlan6_address) if me is not None else ()
        own = [address for endpoint in state.endpoints for address in endpoint.addresses]
        own += [address for address in tunnels if address is not None]
        pools = tuple(record.pool for record in state.pools)
        return self.pools.readings(pools, state.block_owners, tuple(own))

    def readings(self) -> Readings:
        """For monitoring."""
        owners = self.state.block_owners.values()
        return Readings(
            version=VERSION,
            started=self.started,
            ready=self.not_ready() is None,
            in_sync=self.syncer.in_sync,
            datastore_up=self.syncer.in_sync
            and self.availability.away is None
            and self.syncer.trouble is None,
            converged=self.bgp.converged,
            drained=self.bgp.drained is not None,
            pods=len(self.state.endpoints),
            own_blocks=sum(owner == self.state.node for owner in owners),
            pools=self._pools(),
            nodes=len(self.state.nodes),
            troubles=len(self.troubles()),
            peers=self._peers(),
            kernel=self.reconciler.report(),
            etcd=EtcdReadings(
                revision=self.syncer.revision,
                certificates=self.channels.expiries,
                rotations=self.channels.rotations,
                watch_restarts=self.channels.watch_restarts,
                went_back=self.syncer.went_back,
            ),
            loop_lag_seconds=self.lag(),
            part_failures=dict(self.part_failures),
            log_lines_lost=self.log_stream.lost,
            filter_drops=self.filter.dropped,
            not_enforced=self.limits.samples,
        )
