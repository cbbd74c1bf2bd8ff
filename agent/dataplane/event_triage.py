"""What is heard of the kernel, as doubt: what has to be read again, and whether that is worth a pass, and when.

Strategy. Most of what is heard of pods' links is the echo of the agent's own work, or news of what another word will
follow: a link that somebody is just making, a carrier that comes, a link that goes with its pod. A pass for each of
them would cost as much as the work itself.
Promises: nothing that was heard is lost: it is read with the next pass, whenever that is.
Does not know: how anything is read, what is done about it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import LinkChanged, ObjectsChanged
from agent.dataplane.kinds import diff
from agent.dataplane.kinds.apply import Applier
from agent.dataplane.kinds.diff import ActualState, DesiredState
from agent.dataplane.kinds.link_cache import LinkCache
from agent.dataplane.kinds.sysctl_reader import SysctlReader
from agent.netlink.objects import OUR_TUNNELS, WORKLOAD_PREFIX, Kind, Route, RouteKey


class Urgency(Enum):
    """When there should be a pass."""

    NOTHING = "with the next one"
    SOON = "in a moment, in which the word that follows may come"
    NOW = "at once"


@dataclass(slots=True)
class EventTriage:
    """One reconciler's."""

    interfaces: LinkCache
    switches: SysctlReader
    writes: Applier
    picture: ActualState
    ownership: Ownership
    stale: set[Kind] = field(default_factory=lambda: set(Kind))
    """To be read again as a whole."""
    lost: set[str] = field(default_factory=set)
    """Links that went or are down since the last pass."""
    authors: dict[Kind, str] = field(default_factory=dict)
    """Who changed a kind of object last, where the kernel told."""

    def doubt_everything(self) -> None:
        """Something may have changed anywhere."""
        self.interfaces.doubt_all()
        self.stale.update(Kind)
        self.writes.retries.forget_waits()

    async def note(
        self, event: LinkChanged | ObjectsChanged, wish: DesiredState, unsettled: Collection[RouteKey]
    ) -> Urgency:
        """Remember what an event makes doubtful. Raises KernelError."""
        match event:
            case LinkChanged():
                return self._link(event, wish, unsettled)
            case ObjectsChanged(Kind.ROUTE, Route() as route):
                return self._route(route, wish)
            case ObjectsChanged(Kind.SYSCTL, names=names) if names:
                return Urgency.NOW if await self.switches.differ(names) else Urgency.NOTHING
            case ObjectsChanged(kind, by=by):
                self.stale.add(kind)
                if by is not None:
                    self.authors[kind] = by
        return Urgency.NOW

    def _link(self, event: LinkChanged, wish: DesiredState, unsettled: Collection[RouteKey]) -> Urgency:
        name, ours = event.name, event.name in OUR_TUNNELS
        if not ours and self.interfaces.agrees(event):
            return Urgency.NOTHING
        self.interfaces.doubt(name, event.seen.index if event.seen is not None else None)
        self.writes.link_changed(name)
        if ours:
            self.stale.update({Kind.TUNNEL} if not event.lost else Kind)
        elif event.lost:
            self.lost.add(name)
        if not name.startswith(WORKLOAD_PREFIX):
            return Urgency.NOW
        if event.lost:
            return Urgency.SOON
        return Urgency.NOW if unsettled or diff.mentions(wish, name) else Urgency.NOTHING

    def _route(self, route: Route, wish: DesiredState) -> Urgency:
        if not self.ownership.is_ours(route) and route.key not in wish.dataplane.routes:
            standing = self.picture.routes.get(route.key)
            if standing is not None and not self.ownership.is_ours(standing):
                self.picture.doubted[route.key] = standing
            return Urgency.NOTHING
        self.stale.add(Kind.ROUTE)
        self.writes.retries.forget_wait((Kind.ROUTE, route.key))
        return Urgency.NOW
