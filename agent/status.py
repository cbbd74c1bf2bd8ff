"""The agent's account of itself: for people, for the service manager and for monitoring, from one place.

Promises: asking changes nothing but the reading of the loop's lag, which begins anew. Does not know: who asks, how it
is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.clock import Clock
from agent.dataplane.desired.desired_tunnels import oversized, pod_mtu
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.reconciler import Reconciler
from agent.datastore.state_cache import Cluster
from agent.datastore.syncer import Syncer
from agent.metrics.pool_gauges import PoolGauges, PoolReadings
from agent.metrics.series import EtcdReadings, Readings
from agent.node.node_resource import NodeRecord
from agent.peering.bgp_controller import BgpController
from agent.service.readiness import Readiness
from agent.service.settings_reload import SettingsReload
from bgp.session.fsm import State
from ipam.etcd.channels import Channels


def fact_troubles(cluster: Cluster, facts: Facts) -> tuple[str, ...]:
    """What of the datastore and this node's interfaces does not fit together, a sentence each."""
    found = []
    me = cluster.nodes.get(cluster.node)
    if me is not None and me.ipv4 is not None and facts.links and facts.parent is None:
        found.append(f"no interface bears the node's address {me.ipv4.ip}: nothing is removed until one does")
    names = {item.spec.interface_name: item.spec.pod or item.spec.endpoint for item in cluster.endpoints}
    found += [
        f"mtu: pod {names[name]} ({name}) has {has}, the way to other nodes carries {carried}: recreate it"
        for name, has, carried in oversized(facts)
    ]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Account:
    """What is asked, and where the answers are."""

    cluster: Cluster
    syncer: Syncer
    channels: Channels
    clock: Clock
    record: NodeRecord
    mesh: BgpController
    reconciler: Reconciler
    reloading: SettingsReload
    facts: Callable[[], Facts]
    lag: Callable[[], float]
    started: datetime
    version: str
    pools: PoolGauges

    def not_ready(self) -> str | None:
        """None, or why no pod can be attached now."""
        if not self.syncer.in_sync:
            return f"the datastore has not been read yet ({self.syncer.trouble or 'still reading'})"
        if self.syncer.trouble is not None:
            return f"the datastore is away: {self.syncer.trouble}"
        if self.cluster.node not in self.cluster.nodes:
            return f"the node is not registered: {self.record.trouble or 'still registering'}"
        return None

    def standing(self) -> Readiness:
        """For the service manager."""
        peers = self.mesh.status()
        return Readiness(
            not_ready=self.not_ready(),
            passes=self.reconciler.passes,
            pods=len(self.cluster.endpoints),
            peers=len(peers),
            peers_up=sum(peer["state"] is State.ESTABLISHED for peer in peers),
            drained=self.mesh.drained is not None,
            troubles=tuple(text for text in (self.record.trouble, *self.mesh.troubles) if text),
            reload_refused=self.reloading.refused,
        )

    def _troubles(self) -> list[str]:
        own = (self.record.trouble, *self.mesh.troubles, self.not_ready())
        return [
            *(text for text in own if text),
            *self.channels.warnings(self.clock.wall()),
            *fact_troubles(self.cluster, self.facts()),
        ]

    def status(self, *, ready: bool) -> dict[str, Any]:
        """For people: `tortie node status`."""
        me = self.cluster.nodes.get(self.cluster.node)
        return {
            "node": self.cluster.node,
            "address": me.ipv4 if me is not None else None,
            "address_found_by": self.record.found_by,
            "address6": me.ipv6 if me is not None else None,
            "pid": os.getpid(),
            "version": self.version,
            "started": self.started,
            "ready": ready,
            "in_sync": self.syncer.in_sync,
            "converged": self.mesh.converged,
            "drained": self.mesh.drained,
            "has_left": self.mesh.has_left,
            "datastore": self.syncer.trouble or "ok",
            "etcd": {**self.channels.status(), "revision": self.syncer.revision},
            "troubles": self._troubles(),
            "mtu": pod_mtu(self.facts()),
            "problems": self.cluster.problems,
            "peers": self.mesh.status(),
            "pods": len(self.cluster.endpoints),
            "kernel": self.reconciler.report(),
        }

    def _pools(self) -> tuple[PoolReadings, ...]:
        cluster = self.cluster
        me = cluster.nodes.get(cluster.node)
        tunnels = (me.ipip_address, me.vxlan_address, me.vxlan6_address) if me is not None else ()
        own = [address for endpoint in cluster.endpoints for address in endpoint.addresses]
        own += [address for address in tunnels if address is not None]
        pools = tuple(record.pool for record in cluster.pools)
        return self.pools.readings(pools, cluster.block_owners, tuple(own))

    def readings(self) -> Readings:
        """For monitoring."""
        owners = self.cluster.block_owners.values()
        return Readings(
            version=self.version,
            started=self.started,
            ready=self.not_ready() is None,
            in_sync=self.syncer.in_sync,
            datastore_up=self.syncer.in_sync and self.syncer.trouble is None,
            converged=self.mesh.converged,
            drained=self.mesh.drained is not None,
            pods=len(self.cluster.endpoints),
            own_blocks=sum(owner == self.cluster.node for owner in owners),
            pools=self._pools(),
            nodes=len(self.cluster.nodes),
            troubles=len(self._troubles()),
            peers=self.mesh.peers(),
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
