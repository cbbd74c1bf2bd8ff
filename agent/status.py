"""The agent's status, from one place: for people, for the service manager and for monitoring.

Promises: asking changes nothing but the reading of the loop's lag, which begins anew. Does not know: how the
answer is sent.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from agent.clock import Clock
from agent.dataplane.desired.desired_tunnels import (
    SMALLEST_MTUS,
    carried,
    has_ipv6,
    overhead,
    oversized,
    pod_mtu,
    too_small_for_ipv6,
)
from agent.dataplane.filter_monitor import FilterMonitor
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, is_workload_device
from agent.dataplane.reconciler import Reconciler
from agent.datastore.availability import Availability
from agent.datastore.state_cache import StateCache
from agent.datastore.syncer import Syncer
from agent.logging.log_stream import LogStream
from agent.metrics.pool_gauges import PoolGauges, PoolReadings
from agent.metrics.series import EtcdReadings, Readings
from agent.netlink.objects import Address, AddressFlag
from agent.node.limits_watch import LimitsWatch
from agent.node.node_resource import NodeResource
from agent.parts import Parts
from agent.peering.bfd.bfd_client import BfdClient
from agent.peering.bgp_controller import BgpController
from agent.service.readiness import PATIENCE_SECONDS, Readiness, why_not_ready
from agent.service.settings_reload import SettingsReload
from agent.trouble import UNREADY, Source, Trouble, TroubleKind, in_a_sentence
from agent.trouble_watch import ListedTrouble
from bgp.peer_status import PeerStatus
from bgp.session.fsm import State
from ipam.address_text import text_of
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
    own = (me.ipv4 or me.ipv6) if me is not None else None
    if own is not None and facts.links:
        yield from _underlay_troubles(facts, own.ip)
    yield from overlaps(facts)
    names = {item.spec.interface_name: item.spec.pod or item.spec.endpoint for item in state.endpoints}
    for name, has in too_small_for_ipv6(facts):
        evidence = f"its MTU is {has}, and IPv6 needs {LEAST_MTU} (RFC 8200)"
        yield Trouble(
            TroubleKind.MTU, f"pod {names[name]} ({name})", evidence, "it has no IPv6", "recreate it"
        )
    for name, has, fits in oversized(facts):
        evidence = f"its MTU is {has}, the way to other nodes carries {fits}"
        yield Trouble(TroubleKind.MTU, f"pod {names[name]} ({name})", evidence, cure="recreate it")
    for item in state.endpoints:
        if ignored := item.ignored_source_prefixes:
            about = f"pod {names[item.spec.interface_name]} ({item.spec.interface_name})"
            more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
            evidence = f"allowSpoofedSourcePrefixes: {ignored[0][:LONGEST_PREFIX]!r}{more} cannot be used"
            yield Trouble(
                TroubleKind.FILTER, about, evidence, "it cannot send from there", "write at most 256 prefixes"
            )


def _underlay_troubles(facts: Facts, own: Address) -> Iterator[Trouble]:
    """What of the interface with the node's address is not as other nodes need it."""
    parent, most = facts.parent, carried(facts)
    if parent is None:
        evidence = f"no interface bears the node's address {own}"
        yield Trouble(TroubleKind.UNDERLAY, "", evidence, "nothing is removed until one does")
        return
    if not parent.up:
        yield Trouble(
            TroubleKind.UNDERLAY,
            parent.name,
            f"it bears the node's address {own} and is down",
            "other nodes do not reach this one",
            f"ip link set {parent.name} up",
        )
    elif not parent.carrier:
        yield Trouble(
            TroubleKind.UNDERLAY,
            parent.name,
            f"it bears the node's address {own} and has no carrier",
            "other nodes do not reach this one",
            "look at the cable, the port of the switch, or the other end of the pair",
        )
    six = facts.parent_of(6) or parent
    if most is not None and most < LEAST_MTU and has_ipv6(facts):
        yield Trouble(
            TroubleKind.MTU,
            six.name,
            f"the way to other nodes carries packets of {most} octets, and IPv6 needs {LEAST_MTU} (RFC 8200)",
            "larger IPv6 packets of pods do not get there; IPv4 goes on",
            f"an MTU of {LEAST_MTU + max(overhead(facts, 4), overhead(facts, 6))} on {six.name}, and on the way",
        )
    own6 = facts.me.on(6) if facts.me is not None else None
    if own6 is not None and six.flags(own6.ip) & AddressFlag.DUPLICATE:
        yield Trouble(
            TroubleKind.UNDERLAY,
            f"the node's address {own6.ip}",
            f"another machine on the link of {six.name} has it too (duplicate address detection, RFC 4862)",
            "this machine does not use it",
            "give that machine another one, then take the address away here and put it back",
        )


VERSION = version("tortie")
LEAST_MTU = SMALLEST_MTUS[6]
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
    parts: Parts
    log_stream: LogStream
    filter: FilterMonitor
    limits: LimitsWatch
    sources: tuple[Source, ...] = ()
    """Parts of the agent that can have troubles, beside those named above."""
    listed: Callable[[], tuple[ListedTrouble, ...]] = tuple
    """The list that is made of `troubles`, and shown."""
    bfd: BfdClient | None = None
    reclaimed: Callable[[], Mapping[str, int]] = dict
    """What was given back of nodes that Kubernetes deleted."""

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
            no_writes=self.availability.no_writes or self.state.lock.reason,
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
            troubles=tuple(str(one.trouble) for one in self.listed()),
            reload_refused=self.reload.refused,
        )

    def established(self) -> list[Address]:
        """The peers whose session is up."""
        return [peer.address for peer in self._peers() if peer.state is State.ESTABLISHED]

    def _peers(self) -> tuple[PeerStatus, ...]:
        return self.bgp.speaker.status() if self.bgp.speaker is not None else ()

    def why_unready(self) -> tuple[str, ...]:
        """For /readyz: why no pod can be attached now, a sentence each; nothing if one can."""
        why = self.not_ready()
        listed = [one.trouble for one in self.listed() if one.trouble.kind in UNREADY]
        sentences = (str(one) for one in listed if why is None or why not in str(one))
        return tuple(dict.fromkeys((*((why,) if why is not None else ()), *sentences)))

    def troubles(self) -> list[Trouble]:
        """Everything that is wanted and not in force at this very moment, in the order of its sources.

        A part that cannot say what its troubles are is one itself, until it can.
        """
        found: list[Trouble] = []
        failure: Exception | None = None
        for source in (self._own_troubles, *self.sources):
            try:
                found += source()
            except Exception as error:  # whatever it is, the other parts' troubles are shown
                failure = error
        with self.parts.outlived("troubles of parts"):
            if failure is not None:
                raise failure
        return found

    def _own_troubles(self) -> Iterator[Trouble]:
        yield from self._unready_troubles()
        if self.node_resource.trouble and self.state.own_node is not None:
            yield in_a_sentence(TroubleKind.NODE, self.node_resource.trouble)
        for text in self.bgp.troubles:
            yield in_a_sentence(TroubleKind.PEERING, text)
        for text in self.channels.warnings(self.clock.wall()):
            yield in_a_sentence(TroubleKind.CERTIFICATE, text)
        yield from fact_troubles(self.state, self.facts())

    def _unready_troubles(self) -> Iterator[Trouble]:
        """Why no pod can be attached, but for what has a source of its own, and the first seconds of a start."""
        if self.syncer.foreign is not None or self.node_resource.other_machine is not None:
            return
        if self.availability.away is not None or self.availability.no_writes is not None:
            return
        why = self.not_ready()
        is_new = (self.clock.wall() - self.started).total_seconds() < PATIENCE_SECONDS
        is_locked = self.state.lock.reason is not None
        is_known = is_locked or self.syncer.trouble is not None or self.node_resource.trouble is not None
        if why is None or (is_new and not is_known):
            return
        registered = self.syncer.in_sync and self.syncer.trouble is None and not is_locked
        yield in_a_sentence(TroubleKind.REGISTRATION if registered else TroubleKind.DATASTORE, why)

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
            "troubles": [str(one.trouble) for one in self.listed()],
            "trouble_list": self.trouble_list(),
            "mtu": pod_mtu(self.facts()),
            "peers": self.bgp.looking_glass.peers(),
            "pods": len(self.state.endpoints),
            "kernel": self.reconciler.report(),
            "workload_filter": self.filter.status(),
        }

    def trouble_list(self) -> list[dict[str, Any]]:
        """The troubles field by field, in the order of `troubles`."""
        return [
            {
                "kind": one.trouble.kind.value,
                "about": one.trouble.about,
                "since": one.since,
                "evidence": one.trouble.evidence,
                "loss": one.trouble.loss,
                "cure": one.trouble.cure,
            }
            for one in self.listed()
        ]

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
            ready=not self.why_unready(),
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
            troubles=Counter(one.trouble.kind.value for one in self.listed()),
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
            part_failures=dict(self.parts.failures),
            log_lines_lost=self.log_stream.lost,
            filter_drops=self.filter.dropped,
            bfd={text_of(peer): one for peer, one in self.bfd.sessions().items()} if self.bfd else {},
            bfd_packets=self.bfd.counters if self.bfd else {},
            not_enforced=self.limits.samples,
            reclaimed=self.reclaimed(),
        )
