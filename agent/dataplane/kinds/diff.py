"""What a pass would do: wishes against the kernel as it is, without doing anything.

Promises: pure. Before the facts are complete only additions are planned, so that nothing that works is lost to
half-read facts; what BGP taught stays until BGP has converged; an object that is not ours is never replaced or deleted.
Does not know: how a step is carried out, what was refused before.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from agent.dataplane.cooperative import PIECE, Work, run_now
from agent.dataplane.desired.desired_sysctls import names_of
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kinds.delta import Delta, difference
from agent.dataplane.kinds.nexthop_moves import NextHopMove, find_moves
from agent.netlink.objects import (
    PROTOCOL_NAMES,
    WORKLOAD_PREFIX,
    Address,
    Dataplane,
    FdbEntry,
    ForwardChain,
    ForwardKey,
    Kind,
    Link,
    Masquerade,
    Neighbour,
    Route,
    RouteKey,
    Sysctl,
    Tunnel,
)

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What the kernel should hold, and how far the wish may be trusted."""

    dataplane: Dataplane
    complete: bool
    """The datastore's first whole list was applied: what is not wished should not be."""
    bgp_complete: bool
    """BGP has heard every peer: what it did not teach should not be."""
    learned: Container[RouteKey] | None = None
    """What BGP teaches now. None: not known, so that no removal passes for a withdrawal."""
    touched: Set[RouteKey] | None = None
    """Where the wished routes may differ from those of the wish before; None: anywhere."""

    @property
    def trust(self) -> tuple[bool, bool, bool]:
        """What decides how much may be deleted."""
        return self.complete, self.bgp_complete, self.learned is None


@dataclass(slots=True)
class ActualState:
    """The kernel as last read, with our own writes since; foreign routes are in it, because they stand in our way."""

    tunnels: dict[str, Tunnel] = field(default_factory=dict)
    neighbours: dict[tuple[str, Address], Neighbour] = field(default_factory=dict)
    fdb: dict[tuple[str, str], FdbEntry] = field(default_factory=dict)
    routes: dict[RouteKey, Route] = field(default_factory=dict)
    masquerade: Masquerade | None = None
    sysctls: dict[str, Sysctl] = field(default_factory=dict)
    """Those of the wished ones that exist."""
    forward: dict[ForwardKey, ForwardChain] = field(default_factory=dict)
    """Others' chains."""
    departed: dict[RouteKey, str] = field(default_factory=dict)
    """Pods' addresses whose interface went or is down: at most one per pod, until that is settled."""

    doubted: dict[RouteKey, Route] = field(default_factory=dict)
    """Of the foreign routes those that changed where nothing was wished: not worth a reading, not known any more."""

    def drop_doubted(self) -> None:
        """What was doubted and not read again since is taken for gone; if it is not, an addition is refused there."""
        for key, route in self.doubted.items():
            if self.routes.get(key) is route:
                del self.routes[key]
        self.doubted.clear()

    def replace_routes(self, fresh: Mapping[RouteKey, Route]) -> None:
        """Adopt a whole reading."""
        gone = ((key, route) for key, route in self.routes.items() if is_pod(route) and key not in fresh)
        self.departed |= {key: route.device for key, route in gone if route.device is not None}
        self.routes = dict(fresh)

    def forget_devices(self, names: Set[str]) -> dict[RouteKey, Route]:
        """Devices went or are down: the kernel dropped their routes and neighbours. The routes that were known."""
        if not names:
            return {}
        gone = {key: route for key, route in self.routes.items() if route[1].device in names}
        for key, route in gone.items():
            del self.routes[key]
            if is_pod(route):
                self.departed[key] = str(route.device)
        for name in names:
            for switch in names_of(name):
                self.sysctls.pop(switch, None)
        if not all(name.startswith(WORKLOAD_PREFIX) for name in names):  # pods' links have no entries of ours
            self.neighbours = {
                key: entry for key, entry in self.neighbours.items() if entry.device not in names
            }
            self.fdb = {key: entry for key, entry in self.fdb.items() if entry.device not in names}
        return gone


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """The steps for routes, and the wishes that get none now."""

    delta: Delta[RouteKey, Route]
    conflicts: Mapping[RouteKey, Route]
    """Foreign routes that stand where ours should."""
    waiting: Mapping[RouteKey, str]
    """Wished routes whose device is not there or down."""
    withdrawn: frozenset[RouteKey] = frozenset()
    """Of the deletions those that peers asked for: a mass of them is a peer's word, not facts gone wrong."""
    moves: tuple[NextHopMove, ...] = ()
    """Of the replacements those that send everything on one way another way."""


def of_kind(picture: ActualState, kind: Kind) -> Mapping[Any, Any]:
    """The picture's objects of one kind by key."""
    match kind:
        case Kind.TUNNEL:
            return picture.tunnels
        case Kind.NEIGHBOUR:
            return picture.neighbours
        case Kind.FDB:
            return picture.fdb
        case Kind.ROUTE:
            return picture.routes
        case Kind.MASQUERADE:
            return {} if picture.masquerade is None else {"table": picture.masquerade}
        case Kind.SYSCTL:
            return picture.sysctls
        case Kind.FORWARD:
            return {key: chain for key, chain in picture.forward.items() if chain.opened}


def is_pod(route: Route) -> bool:
    """Whether a route leads to one address behind a local interface."""
    device = route.device
    return device is not None and device.startswith(WORKLOAD_PREFIX) and route.key.is_host


def departures(wish: DesiredState, picture: ActualState) -> set[RouteKey]:
    """Of the departed addresses those that will not come back on the same interface; the settled ones are struck off.

    An interface that is only down keeps its connections: its pod still lives.
    """
    left: set[RouteKey] = set()
    for key, device in tuple(picture.departed.items()):
        wished, standing = wish.dataplane.routes.get(key), picture.routes.get(key)
        if standing is not None and standing.device == device:
            del picture.departed[key]
        elif wish.complete and (wished is None or wished.device != device):
            left.add(key)
            del picture.departed[key]
    return left


def moves(delta: Delta[RouteKey, Route], before: Mapping[RouteKey, Route]) -> dict[RouteKey, Route]:
    """The pods' routes that these steps remove, or turn to another interface."""
    turned = {
        key: before[key]
        for key, route in delta.replace.items()
        if key in before and before[key].device != route.device
    }
    gone = (turned.items(), delta.delete.items())
    return {key: route for some in gone for key, route in some if is_pod(route)}


def mentions(wish: DesiredState, device: str) -> bool:
    """Whether anything is wished of a pod's link."""
    return not wish.dataplane.sysctls.keys().isdisjoint(names_of(device))


def stands(tunnel: Tunnel) -> bool:
    """Whether there is anything to remove of a tunnel: tunl0 is never deleted, but goes down and bears nothing."""
    return tunnel.vni is not None or tunnel.address is not None or bool(tunnel.strays) or tunnel.up


def tunnel_steps(wish: DesiredState, picture: ActualState) -> Delta[str, Tunnel]:
    """Devices to make, adjust and remove."""
    actual = {
        name: tunnel
        for name, tunnel in picture.tunnels.items()
        if name in wish.dataplane.tunnels or stands(tunnel)
    }
    return _allowed(difference(wish.dataplane.tunnels, actual), wish)


def neighbour_steps(
    wish: DesiredState, picture: ActualState, links: Mapping[str, Link]
) -> Delta[tuple[str, Address], Neighbour]:
    """ARP entries; every permanent one on our own device is ours. Without the device there is nothing to do."""
    wanted = {
        key: entry for key, entry in wish.dataplane.neighbours.items() if _usable(links.get(entry.device))
    }
    return _allowed(difference(wanted, picture.neighbours), wish)


def fdb_steps(
    wish: DesiredState, picture: ActualState, links: Mapping[str, Link]
) -> Delta[tuple[str, str], FdbEntry]:
    """Forwarding entries; every permanent one on our own device is ours. Without the device there is nothing to do."""
    wanted = {key: entry for key, entry in wish.dataplane.fdb.items() if _usable(links.get(entry.device))}
    return _allowed(difference(wanted, picture.fdb), wish)


def route_steps(
    wish: DesiredState,
    picture: ActualState,
    links: Mapping[str, Link],
    ownership: Ownership,
    keys: Collection[RouteKey] | None = None,
) -> RoutePlan:
    """`route_work` in one go."""
    return run_now(route_work(wish, picture, links, ownership, keys))


def route_work(
    wish: DesiredState,
    picture: ActualState,
    links: Mapping[str, Link],
    ownership: Ownership,
    keys: Collection[RouteKey] | None = None,
) -> Work[RoutePlan]:
    """Routes to add, replace and delete; with `keys` at these only.

    A route whose device is missing or down is left for the pass after the device appears: the kernel would refuse it.
    """
    create: dict[RouteKey, Route] = {}
    replaced: dict[RouteKey, Route] = {}
    conflicts: dict[RouteKey, Route] = {}
    waiting: dict[RouteKey, str] = {}
    unwished: dict[RouteKey, Route] = {}
    obstacles = _Obstacles(links)
    for number, (key, route, standing) in enumerate(_pairs(wish.dataplane.routes, picture.routes, keys), 1):
        if number % PIECE == 0:
            yield
        if route is None:
            if standing is not None and ownership.is_ours(standing) and _removable(wish, standing, ownership):
                unwished[key] = standing
        elif standing is route or standing == route:
            continue
        elif standing is not None and not ownership.is_ours(standing):
            conflicts[key] = standing
        elif obstacle := obstacles[route.device]:
            waiting[key] = obstacle
        elif standing is None:
            create[key] = route
        else:
            replaced[key] = route
    delta = _allowed(Delta(create, replaced, unwished), wish)
    withdrawn = _withdrawn(wish, delta.delete, ownership)
    return RoutePlan(
        delta, conflicts, waiting, withdrawn, find_moves(delta.replace, picture.routes, ownership)
    )


class _Obstacles(dict[str | None, str]):
    """Why no route can lead over a device; empty: one can."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        super().__init__({None: ""})
        self._links = links

    def __missing__(self, name: str) -> str:
        found = (
            ""
            if _usable(self._links.get(name))
            else f"{name} is {'down' if name in self._links else 'not there'}"
        )
        self[name] = found
        return found


def _pairs(
    wished: Mapping[RouteKey, Route], standing: Mapping[RouteKey, Route], keys: Collection[RouteKey] | None
) -> Iterator[tuple[RouteKey, Route | None, Route | None]]:
    """What is wished and what stands at these keys, or at all. One look-up a route: its hash is what a pass costs."""
    if keys is not None:
        for key in keys:
            yield key, wished.get(key), standing.get(key)
        return
    there = 0
    for key, route in wished.items():
        found = standing.get(key)
        there += found is not None
        yield key, route, found
    if there < len(standing):
        for key, found in standing.items():
            if key not in wished:
                yield key, None, found


def _withdrawn(
    wish: DesiredState, deleted: Mapping[RouteKey, Route], ownership: Ownership
) -> frozenset[RouteKey]:
    """The learned routes that go because BGP teaches their prefix no more, rather than by a change of the datastore."""
    if wish.learned is None:
        return frozenset()
    return frozenset(
        key for key, route in deleted.items() if ownership.is_learned(route) and key not in wish.learned
    )


def sysctl_steps(wish: DesiredState, picture: ActualState) -> dict[str, Sysctl]:
    """Switches that stand otherwise."""
    if wish.dataplane.sysctls == picture.sysctls:  # C's comparison, and most of them are the same objects
        return {}
    return {
        name: wished
        for name, wished in wish.dataplane.sysctls.items()
        if name in picture.sysctls and picture.sysctls[name] != wished
    }


def masquerade_step(wish: DesiredState, picture: ActualState) -> Masquerade | None:
    """The table to put (empty: remove it); None when it is as wished, or when not all pools are known yet."""
    wanted = wish.dataplane.masquerade.collapsed() if wish.dataplane.masquerade.sources else None
    if not wish.complete or wanted == picture.masquerade:
        return None
    return wanted or Masquerade()


def forward_steps(wish: DesiredState, picture: ActualState) -> dict[ForwardKey, ForwardChain]:
    """Others' chains to open to pods, because they drop, and those to leave as they were."""
    wanted = {key: wish.dataplane.open_forward and chain.drops for key, chain in picture.forward.items()}
    return {
        key: replace(chain, opened=wanted[key])
        for key, chain in picture.forward.items()
        if chain.opened != wanted[key]
    }


def conflict_reason(standing: Route) -> str:
    """What to tell people of a foreign route in our place."""
    protocol = PROTOCOL_NAMES.get(standing.protocol, str(standing.protocol))
    return f"a route of protocol {protocol} stands there ({standing}); it is not ours: remove it, or free the prefix"


def _usable(link: Link | None) -> bool:
    return link is not None and link.up


def _removable(wish: DesiredState, route: Route, ownership: Ownership) -> bool:
    return wish.bgp_complete or not ownership.is_learned(route)


def _allowed(delta: Delta[K, V], wish: DesiredState) -> Delta[K, V]:
    return delta if wish.complete else replace(delta, replace={}, delete={})
