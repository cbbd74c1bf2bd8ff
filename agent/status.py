"""The agent's status, from one place: for people, for the service manager and for monitoring.

Promises: asking changes nothing but the reading of the loop's lag, which begins anew. Does not know: how the
answer is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from agent.clock import Clock
from agent.dataplane.desired.desired_tunnels import oversized, pod_mtu
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.reconciler import Reconciler
from agent.datastore.state_cache import StateCache
from agent.datastore.syncer import Syncer
from agent.metrics.pool_gauges import PoolGauges, PoolReadings
from agent.metrics.series import EtcdReadings, Readings
from agent.node.node_resource import NodeResource
from agent.peering.bgp_controller import BgpController
from agent.service.readiness import Readiness, why_not_ready
from agent.service.settings_reload import SettingsReload
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from ipam.etcd.channels import Channels


def fact_troubles(state: StateCache, facts: Facts) -> tuple[str, ...]:
    """What of the datastore and this node's interfaces does not fit together, a sentence each."""
    found = []
    me = state.nodes.get(state.node)
    if me is not None and me.ipv4 is not None and facts.links and facts.parent is None:
        found.append(f"no interface bears the node's address {me.ipv4.ip}: nothing is removed until one does")
    names = {item.spec.interface_name: item.spec.pod or item.spec.endpoint for item in state.endpoints}
    found += [
        f"mtu: pod {names[name]} ({name}) has {has}, the way to other nodes carries {carried}: recreate it"
        for name, has, carried in oversized(facts)
    ]
    return tuple(found)


VERSION = version("tortie")


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """Reads all parts; owns nothing."""

    state: StateCache
    syncer: Syncer
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

    def not_ready(self) -> str | None:
        """None, or why no pod can be attached now."""
        registering = self.node_resource.trouble or "still registering"
        return why_not_ready(
            in_sync=self.syncer.in_sync,
            datastore_trouble=self.syncer.trouble,
            unregistered=registering if self.state.own_node is None else None,
        )

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

    def _troubles(self) -> list[str]:
        own = (self.node_resource.trouble, *self.bgp.troubles, self.not_ready())
        return [
            *(text for text in own if text),
            *self.channels.warnings(self.clock.wall()),
            *fact_troubles(self.state, self.facts()),
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
            "datastore": self.syncer.trouble or "ok",
            "etcd": {**self.channels.status(), "revision": self.syncer.revision},
            "troubles": self._troubles(),
            "mtu": pod_mtu(self.facts()),
            "problems": self.state.problems,
            "peers": self.bgp.looking_glass.peers(),
            "pods": len(self.state.endpoints),
            "kernel": self.reconciler.report(),
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
            datastore_up=self.syncer.in_sync and self.syncer.trouble is None,
            converged=self.bgp.converged,
            drained=self.bgp.drained is not None,
            pods=len(self.state.endpoints),
            own_blocks=sum(owner == self.state.node for owner in owners),
            pools=self._pools(),
            nodes=len(self.state.nodes),
            troubles=len(self._troubles()),
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
        )
