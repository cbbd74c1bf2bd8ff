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
from agent.netlink.objects import Route, RouteKey


class Urgency(Enum):
    """When there should be a pass."""

    NOTHING = "with the next one"
    SOON = "in a moment, in which the event that follows may come"
    NOW = "at once"


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
    authors: dict[Kind, str] = field(default_factory=dict)
    """Which program changed a kind of object last, where the kernel says so."""

    def invalidate_all(self) -> None:
        """Something may have changed anywhere."""
        self.links.invalidate_all()
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
