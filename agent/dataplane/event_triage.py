"""What the kernel's events make invalid: what has to be read again, and whether that is worth a pass, and when.

Strategy. Most events about pods' links are the echo of the agent's own work, or announce what another event will
follow: a link that somebody is just making, a carrier that comes, a link that goes with its pod. A pass for each of
them would cost as much as the work itself.
Promises: no event is lost: what it is about is read with the next pass, whenever that is.
Does not know: how anything is read, what is done about it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from agent.dataplane.apply import Applier
from agent.dataplane.desired.desired_sysctls import names_of
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import LinkChanged, ObjectsChanged
from agent.dataplane.kinds.states import ActualState, DesiredState
from agent.dataplane.link_cache import LinkCache
from agent.netlink.objects import Link, Route, RouteKey


class Urgency(Enum):
    """When there should be a pass."""

    NOTHING = "with the next one"
    LATER = "within a second, with what else others do meanwhile"
    SOON = "in a moment, in which the event that follows may come"
    NOW = "at once"


MOST_DEFERRED = 4096
"""Links of others whose events wait; one more, and all are taken in."""


@dataclass(slots=True)
class Deferred:
    """What happened to a link that nothing leads over."""

    seen: Link | None
    """As the last event had it that was about the link itself."""
    gone: bool
    """It went, or is down."""
    is_lost: bool
    """It lost an address, or went."""
    readings: int
    """How often all routes had been read when it was first heard of."""


@dataclass(slots=True)
class EventTriage:
    """The events of one reconciler since its last pass."""

    links: LinkCache
    applier: Applier
    actual: ActualState
    ownership: Ownership
    next_hops: NextHopResolver
    stale: set[Kind] = field(default_factory=lambda: set(Kind))
    """Kinds to be read again as a whole."""
    gone: set[str] = field(default_factory=set)
    """Links that went or are down since the last pass."""
    later: dict[str, Deferred] = field(default_factory=dict)
    """What others' containers have done to their links, until it is taken in."""
    route_readings: int = 0
    """How often all routes were read."""
    authors: dict[Kind, str] = field(default_factory=dict)
    """Which program changed a kind of object last, where the kernel says so."""

    def invalidate_all(self) -> None:
        """Something may have changed anywhere."""
        self.links.invalidate_all()
        self.later.clear()
        self.stale.update(Kind)
        self.applier.retries.retry_all_now()

    def sort(
        self, event: LinkChanged | ObjectsChanged, desired: DesiredState, unsettled: Collection[RouteKey]
    ) -> Urgency:
        """Remember what an event makes invalid; `unsettled` is where the last pass left routes to do."""
        match event:
            case LinkChanged():
                return self._link(event, desired, unsettled)
            case ObjectsChanged(Kind.ROUTE, Route() as route):
                urgency = self._route(route, desired)
                return Urgency.NOW if self._moves_next_hops(event, route) else urgency
            case ObjectsChanged(kind, by=by):
                self.stale.add(kind)
                if by is not None:
                    self.authors[kind] = by
        return Urgency.NOW

    def _link(self, event: LinkChanged, desired: DesiredState, unsettled: Collection[RouteKey]) -> Urgency:
        if self._is_of_others(event, desired, unsettled):
            one = self.later.setdefault(event.name, Deferred(None, False, False, self.route_readings))
            one.is_lost = one.is_lost or event.is_lost or event.gone
            if event.seen is not None:
                one.seen, one.gone = event.seen, event.gone
            return Urgency.LATER if len(self.later) <= MOST_DEFERRED else self.take_later()
        if event.name in self.later:  # of concern now, with all that happened to it before
            self._take_in(event.name, self.later.pop(event.name))
        urgency = self._link_now(event, desired, unsettled)
        if not event.is_lost:
            return urgency
        self.stale.add(Kind.ROUTE)
        return Urgency.NOW

    def take_later(self) -> Urgency:
        """Take in what was deferred; of a link that came and went meanwhile nothing is left to be done."""
        deferred, self.later = self.later, {}
        urgency = Urgency.NOTHING
        for name, one in deferred.items():
            if not one.gone or name in self.links.links or one.readings != self.route_readings:
                self._take_in(name, one)
                urgency = Urgency.NOW
        return urgency

    def _take_in(self, name: str, one: Deferred) -> None:
        self.links.invalidate(name, one.seen.index if one.seen is not None else None)
        self.applier.link_changed(name)
        if one.is_lost:
            self.gone.add(
                name
            )  # its routes may have gone with the address; one that is there all the same stays

    def _is_of_others(
        self, event: LinkChanged, desired: DesiredState, unsettled: Collection[RouteKey]
    ) -> bool:
        """Whether it is about a veth of somebody else's container, over which nothing of this node leads.

        Such a veth has no address but such as are a host's alone (`ptp` gives each the gateway's), no way of a next hop
        leads over it, nothing waits for a link, and it is none that is known under another name. A node's own uplink
        may be a veth as well: it has a subnet, or a way leads over it, or the node is not complete without it.
        """
        name, known = event.name, self.links.links.get(event.name)
        if name.startswith(WORKLOAD_PREFIX) or name in OUR_TUNNELS or unsettled or not desired.complete:
            return False
        if event.address is not None and event.address[1] != event.address[0].max_prefixlen:
            return False
        link = event.seen or known or (self.later[name].seen if name in self.later else None)
        if link is None or link.kind != "veth":
            return False
        host = self.links.links.host
        is_renamed = any(one.index == link.index and one.name != name for one in host.values())
        has_subnet = known is not None and any(
            length != own.max_prefixlen and not own.is_link_local for own, length in known.addresses
        )
        return not (is_renamed or has_subnet or self.next_hops.leads_over(name))

    def _link_now(
        self, event: LinkChanged, desired: DesiredState, unsettled: Collection[RouteKey]
    ) -> Urgency:
        name, is_ours = event.name, event.name in OUR_TUNNELS
        is_pods = name.startswith(
            WORKLOAD_PREFIX
        )  # its carrier comes a moment after it, and nothing follows of it
        if not is_ours and self.links.matches(event, whatever_carrier=is_pods):
            return Urgency.NOTHING
        self.links.invalidate(name, event.seen.index if event.seen is not None else None)
        self.applier.link_changed(name)
        if is_ours:
            self.stale.update({Kind.TUNNEL} if not event.gone else Kind)
        elif event.gone:
            self.gone.add(name)
        elif event.seen is not None and not event.seen.carrier and not is_pods:
            # With the carrier go nexthop objects and their routes, and nothing is said of them (nexthop_flush_dev).
            self.stale.add(Kind.ROUTE)
        if not is_pods:
            return Urgency.NOW
        if event.gone:
            return Urgency.SOON
        is_desired = not desired.dataplane.sysctls.keys().isdisjoint(names_of(name))
        return Urgency.NOW if unsettled or is_desired else Urgency.NOTHING

    def _moves_next_hops(self, event: ObjectsChanged, route: Route) -> bool:
        """Whether next hops are reached another way now, or that has to be read."""
        is_unclear, is_changed = self.next_hops.change(route, gone=event.gone, appended=event.appended)
        if is_unclear:
            self.stale.add(Kind.ROUTE)
        return is_unclear or is_changed

    def _route(self, route: Route, desired: DesiredState) -> Urgency:
        routes = desired.dataplane.routes
        # A default route of any metric decides whether one of ours may be there; one inside ours takes its packets.
        # So does one of any metric to the same prefix.
        base = RouteKey.of_packed(*route.key[:3])
        concerns = not base.length or base in routes or any(key in routes for key in base.around())
        if not self.ownership.is_ours(route) and not concerns:
            self.actual.invalidate_route(route.key, self.ownership)
            return Urgency.NOTHING
        self.stale.add(Kind.ROUTE)
        self.applier.retries.retry_now((Kind.ROUTE, route.key))
        return Urgency.NOW
