"""The two sides of every comparison: what the kernel should hold, and what it holds as far as is known.

Promises: the actual state is changed by its own methods alone. Does not know: the kernel, why something is desired.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from agent.dataplane.desired.desired_sysctls import names_of
from agent.dataplane.inputs.facts import RefusedClaim
from agent.dataplane.kernel.calico_names import WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.netlink.objects import (
    RTPROT_KERNEL,
    Address,
    Link,
    Prefix,
    Route,
    RouteKey,
    RouteTarget,
    RouteType,
    targets_of,
)

MOST_ONE_BY_ONE = 64
"""Routes of one write that are looked at for whether they lead to a pod."""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What the kernel should hold, and how far that may be trusted."""

    dataplane: Dataplane
    complete: bool
    """The datastore's first whole list was applied: what is not desired should not be."""
    bgp_complete: bool
    """BGP has converged since the start: a learned route that is not desired should not be."""
    learned: Container[RouteKey] | None = None
    """The prefixes that BGP has now. None: not known, so that no removal passes for a withdrawal."""
    touched: Set[RouteKey] | None = None
    """Where the desired routes may differ from those of the desired state before; None: anywhere."""
    refused: tuple[RefusedClaim, ...] = ()
    """What the datastore says and does not follow from it here."""
    above_the_host: frozenset[int] = frozenset()
    """Versions of IP in which a default route of ours may stand above one of the host's own."""
    above_links: tuple[Prefix, ...] = ()
    """Networks in which a learned route may stand above that to a link of the host."""

    avoided: frozenset[Address] = frozenset()
    """Gateways that do not answer: packets go by another next hop of the same route, where there is one."""

    def refusal(self, key: RouteKey) -> str:
        """Why nothing leads to a prefix that the datastore speaks of; empty: it is not refused."""
        prefix = key.destination
        return next((one.why for one in self.refused if one.prefix == prefix and not one.stands), "")

    lost: bool = False
    """A stored value cannot be read and was never read: it may explain what is not desired."""
    lost_pools: bool = False
    """A pool is among them."""

    @property
    def trust(self) -> tuple[bool, ...]:
        """What decides how much may be deleted."""
        return self.complete, self.bgp_complete, self.learned is None, self.lost, self.lost_pools


class ActualState:
    """The kernel as last read, with our own writes since; foreign routes are in it, as they may be in our place."""

    def __init__(self, objects: Mapping[Kind, Mapping[Any, Any]] | None = None) -> None:
        given = objects or {}
        self._objects: dict[Kind, dict[Any, Any]] = {kind: dict(given.get(kind, {})) for kind in Kind}
        self._departed: dict[RouteKey, str] = {}
        """Pods' addresses whose interface went or is down: at most one per pod, until that is settled."""
        self._defaults = tuple(key for key in self._objects[Kind.ROUTE] if not key[1][0])
        """Keys of default routes, of any metric, as last read."""
        self._subnets = _subnets(self._objects[Kind.ROUTE])
        """Prefixes that are on a link by a route with a metric -> that route's key, as last read."""
        self._to_pods: dict[str, set[RouteKey]] | None = None
        """Pod's interface -> at least the keys of the routes that lead there; None: to be made of the routes."""
        self._invalid: dict[RouteKey, Route] = {}
        """Foreign routes that changed where nothing is desired: not worth a reading, not known any more."""

    def of(self, kind: Kind) -> Mapping[Any, Any]:
        """The objects of one kind by their keys: a view."""
        return self._objects[kind]

    @property
    def routes(self) -> Mapping[RouteKey, Route]:
        """The routes of the main tables, everybody's: a view."""
        return self._objects[Kind.ROUTE]

    def adopt(self, kind: Kind, found: Mapping[Any, Any]) -> None:
        """Take over a whole reading of one kind."""
        if kind is Kind.ROUTE:
            gone = ((key, route) for key, route in self.routes.items() if is_pod(route) and key not in found)
            self._departed |= {key: route.device for key, route in gone if route.device is not None}
            self._defaults = tuple(key for key in found if not key[1][0])
            self._subnets = _subnets(found)
            self._to_pods = None
        self._objects[kind] = dict(found)

    def default_of_others(self, version: int, ownership: Ownership) -> Route | None:
        """A default route of the host's own: by DHCP, by hand, by another daemon; at any metric."""
        found = (self.routes.get(key) for key in self._defaults if key.version == version)
        return next(
            (
                route
                for route in found
                if route is not None
                and route.type is RouteType.UNICAST
                and route.protocol != RTPROT_KERNEL
                and not ownership.is_ours(route)
            ),
            None,
        )

    def subnets_of_others(self, ownership: Ownership) -> Iterator[tuple[RouteKey, Route]]:
        """The host's own routes to what is on its links, by the key that a route of ours to the same would have."""
        for base, key in self._subnets.items():
            route = self.routes.get(key)
            if route is not None and not ownership.is_ours(route):
                yield base, route

    def adopt_some(self, kind: Kind, found: Mapping[Any, Any]) -> None:
        """Take over a reading of these objects alone."""
        self._objects[kind].update(found)
        if kind is Kind.ROUTE and found:
            self._note_to_pods(found.items())

    def wrote(self, kind: Kind, objects: Iterable[tuple[Any, Any]]) -> None:
        """Objects were put; a tunnel device that had to be made anew has lost what was on the one before it."""
        known = self._objects[kind]
        if kind is Kind.TUNNEL:
            objects = tuple(objects)
            both = ((key, known[key], tunnel) for key, tunnel in objects if key in known)
            self.drop_devices({key for key, was, now in both if now.immutable_differences(was)})
        if kind is Kind.ROUTE:
            objects = tuple(objects)
            self._note_to_pods(objects)
        known.update(objects)

    def _note_to_pods(self, routes: Collection[tuple[RouteKey, Route]]) -> None:
        """These are known from now on; of very many, as BGP learns them, none is looked at before a pod goes."""
        if len(routes) > MOST_ONE_BY_ONE:
            self._to_pods = None
        elif self._to_pods is not None:
            _add_to_pods(self._to_pods, routes)

    def _over(self, names: Set[str]) -> dict[RouteKey, Route]:
        """The routes that lead over these interfaces: of pods' alone they are found without a walk over all others."""
        routes = self._objects[Kind.ROUTE]
        if all(name.startswith(WORKLOAD_PREFIX) for name in names):
            if self._to_pods is None:
                self._to_pods = {}
                _add_to_pods(self._to_pods, routes.items())
            keys = {key for name in names for key in self._to_pods.pop(name, ())}
            routes = {key: routes[key] for key in keys if key in routes}
        return {
            key: route
            for key, route in routes.items()
            if route[1].device in names or (route[1].hops and not names.isdisjoint(route[1].devices()))
        }

    def removed(self, kind: Kind, keys: Iterable[Any]) -> None:
        """Objects were removed; with a tunnel device goes what is on it."""
        gone = tuple(keys)
        for key in gone:
            self._objects[kind].pop(key, None)
        if kind is Kind.TUNNEL:
            self.drop_devices(set(gone))

    def drop_devices(self, names: Set[str]) -> dict[RouteKey, Route]:
        """Devices went or are down: the kernel dropped their routes and neighbours. The routes that were known.

        One with several next hops keeps the others.
        """
        if not names:
            return {}
        routes, sysctls = self._objects[Kind.ROUTE], self._objects[Kind.SYSCTL]
        gone = self._over(names)
        left: dict[int, RouteTarget | None] = {}  # by identity: very many routes share a target
        for key, route in gone.items():
            target = route[1]
            if (number := id(target)) not in left:
                hops = tuple(hop for hop in target.hops if hop.device not in names)
                left[number] = target.through(hops) if hops else None
            if (others := left[number]) is not None:
                routes[key] = Route.from_target(key, others)
                continue
            del routes[key]
            if is_pod(route):
                self._departed[key] = str(route.device)
        for name in names:
            for sysctl in names_of(name):
                sysctls.pop(sysctl, None)
        if not all(name.startswith(WORKLOAD_PREFIX) for name in names):  # pods' links have no entries of ours
            for kind in (Kind.NEIGHBOUR, Kind.FDB):
                entries = self._objects[kind]
                self._objects[kind] = {
                    key: entry for key, entry in entries.items() if entry.device not in names
                }
        return gone

    def invalidate_route(self, key: RouteKey, ownership: Ownership) -> None:
        """A route that is not ours changed at this key: whatever is known there may hold no more."""
        known = self.routes.get(key)
        if known is not None and not ownership.is_ours(known):
            self._invalid[key] = known

    def drop_invalid_routes(self) -> None:
        """Take for gone what was invalidated and not read again since; if it is not, an addition is refused there."""
        for key, route in self._invalid.items():
            if self.routes.get(key) is route:
                del self._objects[Kind.ROUTE][key]
        self._invalid.clear()

    def take_departures(self, desired: DesiredState) -> set[RouteKey]:
        """Of the departed addresses those that will not come back on the same interface; they are settled by that.

        An interface that is only down keeps its connections: its pod still lives.
        """
        left: set[RouteKey] = set()
        for key, device in tuple(self._departed.items()):
            wanted, known = desired.dataplane.routes.get(key), self.routes.get(key)
            if known is not None and known.device == device:
                del self._departed[key]
            elif desired.complete and (wanted is None or wanted.device != device):
                left.add(key)
                del self._departed[key]
        return left


def _subnets(routes: Mapping[RouteKey, Route]) -> dict[RouteKey, RouteKey]:
    """Without a metric there is no other key: such a route is where ours would be."""
    return {
        RouteKey.of_packed(*key[:3]): key
        for key, (_, target) in routes.items()
        if key[3]
        and target.device is not None
        and target.gateway is None
        and target.type is RouteType.UNICAST
    }


def _add_to_pods(found: dict[str, set[RouteKey]], routes: Iterable[tuple[RouteKey, Route]]) -> None:
    for key, (_, target) in routes:
        for name in (target.device,) if not target.hops else target.devices():
            if name is not None and name.startswith(WORKLOAD_PREFIX):
                found.setdefault(name, set()).add(key)


def is_pod(route: Route) -> bool:
    """Whether a route leads to one address behind a local interface."""
    device = route.device
    return device is not None and device.startswith(WORKLOAD_PREFIX) and route.key.is_host


def pods_among(routes: Mapping[RouteKey, Route]) -> Iterator[tuple[RouteKey, Route]]:
    """Those of many routes that lead to pods; where no target is a pod's device, no route is looked at."""
    devices = {target.device or "" for target in targets_of(routes.values()).values()}
    if any(device.startswith(WORKLOAD_PREFIX) for device in devices):
        yield from ((key, route) for key, route in routes.items() if is_pod(route))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the kinds compare in one pass."""

    desired: DesiredState
    actual: ActualState
    links: Mapping[str, Link]
    route_keys: Collection[RouteKey] | None = None
    """Where alone routes may differ; None: anywhere."""

    def is_usable(self, device: str) -> bool:
        """Whether a device is there and up."""
        link = self.links.get(device)
        return link is not None and link.up


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """The last pass, as far as routes are concerned: views, read at once."""

    desired: DesiredState
    actual: ActualState
    ownership: Ownership
    waiting: Mapping[RouteKey, str]
    """Desired routes whose device is not there or down."""
    refused: Mapping[RouteKey, str]
    """Routes that the kernel refuses -> its reason."""
    conflicts: Mapping[RouteKey, Route] = field(default_factory=dict)
    """Foreign routes that are where ours should be, or keep ours away."""
    failures: tuple[tuple[Kind, Any, str], ...] = ()
    """What else the kernel refuses: kind, key, reason."""
    number: int = 0
    """Of the pass: another one for another pass, finished or not."""
