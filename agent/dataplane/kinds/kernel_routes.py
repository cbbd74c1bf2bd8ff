"""Routes: those of pods, blocks, peers and other nodes in the main tables.

Promises: what BGP had is left until BGP has converged, and a tunnel's routes until what replaces them can be; a route
that is not ours is never replaced or deleted, and one that appeared unseen where ours is to be added stays. A route
whose device is missing or down is left for the pass after the device appears: the kernel would refuse it. Of several
next hops those are written whose device can be used.
Does not know: why a route is desired.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from itertools import filterfalse
from operator import is_
from typing import Any

from agent.dataplane.cooperative import PIECE, Work, run_cooperatively, slices
from agent.dataplane.kernel.calico_names import OUR_TUNNELS
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.ownership import Installed, Ownership
from agent.dataplane.kernel.protocol import Kernel, Refusal
from agent.dataplane.kinds.nexthop_moves import NextHopMove, find_moves
from agent.dataplane.kinds.object_kind import Batch, Delta, ObjectKind, PlannedStep, Verb
from agent.dataplane.kinds.states import Comparison, DesiredState, pods_among
from agent.netlink.objects import (
    RTPROT_KERNEL,
    NextHop,
    Route,
    RouteKey,
    RouteTarget,
    protocol_name,
    targets_of,
)
from bgp.policy.prefix_filter import SHORTEST_PREFIX


@dataclass(frozen=True, slots=True)
class RoutePlan(Delta[RouteKey, Route]):
    """The steps for routes, and the desired routes that get none now."""

    conflicts: Mapping[RouteKey, Route]
    """Foreign routes that are where ours should be."""
    waiting: Mapping[RouteKey, str]
    """Desired routes whose device is not there or down."""
    withdrawn: frozenset[RouteKey] = frozenset()
    """Of the deletions those that peers asked for: a mass of them is a peer's word, not facts gone wrong."""
    moves: tuple[NextHopMove, ...] = ()
    """Of the replacements those that send everything on one target to another one."""
    partial: Mapping[RouteKey, str] = field(default_factory=dict)
    """Desired routes with several next hops of which some cannot be used now -> why; the others are in force."""


class Routes(ObjectKind[RouteKey, Route]):
    """By version, prefix, table and metric, everybody's."""

    kind = Kind.ROUTE

    def __init__(self, kernel: Kernel, log: Any, ownership: Ownership) -> None:
        super().__init__(kernel, log)
        self._ownership = ownership

    async def read(self, desired: DesiredState) -> Mapping[RouteKey, Route]:
        """All of the main tables."""
        return await self._kernel.routes()

    async def diff(self, given: Comparison) -> RoutePlan:
        """Routes to add, replace and delete."""
        return await run_cooperatively(route_diff(given, self._ownership))

    def batches(
        self, delta: Delta[RouteKey, Route], actual: Mapping[RouteKey, Route]
    ) -> Iterator[Batch[RouteKey, Route]]:
        """Additions where nothing is known to be; then moves, each in one step where that can be; then the rest."""
        yield Batch(delta.create, self._add, Verb.ADD)
        replaced = delta.replace
        for move in delta.moves if isinstance(delta, RoutePlan) else ():
            yield Batch(move.routes, self.put, at_once=partial(self._move, move))
            replaced = {key: route for key, route in replaced.items() if key not in move.routes}
        yield Batch(replaced, self.put)

    async def _add(self, values: Sequence[Route]) -> tuple[Refusal, ...]:
        return await self._kernel.put_routes(values, replace=False)

    async def put(self, values: Sequence[Route]) -> tuple[Refusal, ...]:
        """Create or replace, each atomically."""
        return await self._kernel.put_routes(values)

    async def _move(self, move: NextHopMove) -> bool:
        if not await self._kernel.move_routes(move.was, move.now, move.routes.keys()):
            return False
        was, now = (", ".join(str(hop.gateway) for hop in one.next_hops()) for one in (move.was, move.now))
        self._log.info("route.moved", count=len(move.routes), was=was, now=now)
        return True

    async def remove(self, values: Sequence[Route]) -> tuple[Refusal, ...]:
        """Delete exactly these; a route of somebody else in their place stays."""
        return await self._kernel.remove_routes(values)

    def is_drift(self, before: Route | None, found: Route | None) -> bool:
        """A change that concerns one of ours."""
        return any(route is not None and self._ownership.is_ours(route) for route in (before, found))

    def count(self, objects: Mapping[RouteKey, Route]) -> int:
        """Those that are ours."""
        return len(Installed(objects, self._ownership))

    def explain(
        self, delta: Delta[RouteKey, Route], given: Comparison, why: Callable[[RouteKey], str]
    ) -> Iterator[PlannedStep]:
        """Routes to write, and those that have to wait for their device or for somebody else's to go."""
        yield from super().explain(delta, given, why)
        desired = given.desired.dataplane.routes
        if isinstance(delta, RoutePlan):
            for key, text in delta.waiting.items():
                yield PlannedStep(self.name, "wait", str(desired[key]), "", text)
            for key, text in delta.partial.items():
                yield PlannedStep(
                    self.name, "wait", str(desired[key]), str(given.actual.routes.get(key, "")), text
                )
            for key, route in delta.conflicts.items():
                reason = conflict_reason(route)
                yield PlannedStep(self.name, "conflict", str(desired[key]), str(route), reason)

    def reason(
        self, verb: str, key: RouteKey, delta: Delta[RouteKey, Route], why: Callable[[RouteKey], str]
    ) -> str:
        """Of a desired route why it is."""
        if verb != "delete":
            return why(key)
        return "withdrawn by BGP" if key in delta.withdrawn else "nothing asks for it any more"


def moved_pods(delta: Delta[RouteKey, Route], before: Mapping[RouteKey, Route]) -> dict[RouteKey, Route]:
    """The pods' routes, as they were before, that these steps remove or lead to another interface."""
    moved = {key: before[key] for key in delta.replace if key in before} if delta.replace else {}
    return {
        **{key: was for key, was in pods_among(moved) if was.device != delta.replace[key].device},
        **dict(pods_among(delta.delete)),
    }


def route_diff(given: Comparison, ownership: Ownership) -> Work[RoutePlan]:
    """Compare the routes at the given keys, or all, piece by piece."""
    desired, actual = given.desired, given.actual.routes
    steps = _Steps(given, ownership)
    for keys, routes, knowns in _pieces(desired.dataplane.routes, actual, given.route_keys):
        steps.add(keys, routes, knowns)
        yield
    create, replaced, unwanted, partly = steps.create, steps.replaced, steps.unwanted, steps.in_force.partial
    conflicts, waiting = steps.conflicts, steps.waiting
    _leave_to_the_host(given, ownership, (create, replaced, waiting), unwanted, conflicts)
    if not desired.complete:
        return RoutePlan(create, {}, {}, conflicts, waiting, partial=partly)
    withdrawn = _withdrawn(desired, unwanted, ownership)
    moves = find_moves(replaced, actual, ownership)
    return RoutePlan(create, replaced, unwanted, conflicts, waiting, withdrawn, moves, partly)


class _Steps:
    """What is to be done, as far as was compared."""

    def __init__(self, given: Comparison, ownership: Ownership) -> None:
        self._ownership = ownership
        self.create: dict[RouteKey, Route] = {}
        self.replaced: dict[RouteKey, Route] = {}
        self.conflicts: dict[RouteKey, Route] = {}
        self.waiting: dict[RouteKey, str] = {}
        self.unwanted: dict[RouteKey, Route] = {}
        self.in_force, self._is_same = _InForce(given), _Sameness()
        self._is_removable = _removable(given, ownership)

    def add(
        self, keys: Sequence[RouteKey], routes: Sequence[Route | None], knowns: Sequence[Route | None]
    ) -> None:
        """Compare at some keys. Where all come, go or stay as they are, they are looked at by their few targets."""
        wanted = [route for route in routes if route is not None]
        if len(wanted) == len(keys):
            if not any(knowns) and self.in_force.are_whole(wanted):
                self.create.update(zip(keys, wanted, strict=True))
                return
            if all(map(is_, wanted, knowns)) and not _have_several(wanted):
                return
        elif not wanted and all(knowns):
            self.unwanted.update(self._is_removable.among(keys, knowns))
            return
        for key, route, known in zip(keys, routes, knowns, strict=True):
            if route is not None:
                self._compare(key, route, known)
            elif known is not None and self._is_removable(known):
                self.unwanted[key] = known

    def _compare(self, key: RouteKey, route: Route, known: Route | None) -> None:
        if known is route and not route[1].hops:  # of several next hops fewer may be in force now
            return
        usable = self.in_force.of(key, route[1])
        if known is not None and self._is_same(known[1], usable.target or usable.wanted):
            return
        if known is not None and not self._ownership.is_ours(known):
            self.conflicts[key] = known
        elif usable.target is None:
            self.waiting[key] = usable.obstacle
        else:
            steps = self.create if known is None else self.replaced
            steps[key] = route if usable.target is route[1] else Route.from_target(key, usable.target)


SHORT_KEYS: Mapping[int, tuple[RouteKey, ...]] = {
    version: tuple(
        RouteKey(part)
        for length in range(SHORTEST_PREFIX)
        for part in ip_network(whole).subnets(new_prefix=length)
    )
    for version, whole in ((4, "0.0.0.0/0"), (6, "::/0"))
}
"""By the version of IP: the default route, and the parts of one that displace it together, as 0/1 and 128/1 do."""


def _default_routes(given: Comparison, ownership: Ownership) -> Iterator[tuple[RouteKey, Route]]:
    """The desired default routes, and parts of one, where the host has its own: (key, the host's)."""
    desired = given.desired.dataplane.routes
    for version, keys in SHORT_KEYS.items():
        if version in given.desired.above_the_host:
            continue
        if (foreign := given.actual.default_of_others(version, ownership)) is not None:
            yield from ((key, foreign) for key in keys if key in desired)


def _on_links(given: Comparison, ownership: Ownership) -> Iterator[tuple[RouteKey, Route]]:
    """The learned routes to what is on a link of the host by a route with another metric: (key, the host's)."""
    desired = given.desired.dataplane.routes
    for key, foreign in given.actual.subnets_of_others(ownership):
        if key in desired and ownership.is_learned(desired[key]):
            prefix = key.destination
            above = (one for one in given.desired.above_links if one.version == prefix.version)
            if not any(prefix.subnet_of(one) for one in above):  # type: ignore[arg-type]
                yield key, foreign


def _leave_to_the_host(
    given: Comparison,
    ownership: Ownership,
    steps: Iterable[dict[RouteKey, Any]],
    unwanted: dict[RouteKey, Route],
    conflicts: dict[RouteKey, Route],
) -> None:
    """No default route of ours beside the host's, nor one to a network that is on a link of it.

    Of two metrics the kernel takes the lower, which may be ours: with 0 it always is, and the host is cut off when the
    peer withdraws it.
    """
    for key, foreign in (*_default_routes(given, ownership), *_on_links(given, ownership)):
        conflicts[key] = foreign
        for some in steps:
            some.pop(key, None)
        if (known := given.actual.routes.get(key)) is not None and ownership.is_ours(known):
            unwanted[key] = known


def _needed_tunnels(given: Comparison) -> frozenset[str]:
    """Tunnels that are desired no more and lead to others all the same: what is desired instead is not there yet.

    That is a tunnel that cannot be made, or a route that BGP has yet to say.
    """
    wanted = given.desired.dataplane.tunnels
    if given.desired.bgp_complete and all(given.is_usable(name) for name in wanted):
        return frozenset()
    return OUR_TUNNELS - wanted.keys()


@dataclass(frozen=True, slots=True)
class _Usable:
    """How far a desired target can be in force now."""

    wanted: RouteTarget
    target: RouteTarget | None
    """As it can be: without next hops whose device cannot be used; None: with none."""
    obstacle: str
    """Why it is not as wanted."""


class _InForce:
    """What of each target can be in force, asked once per target: very many routes share one.

    By a device without a carrier nothing is sent to a gateway: the kernel has no nexthop object there, and keeps plain
    routes that lead nowhere.
    """

    def __init__(self, given: Comparison) -> None:
        self._given = given
        self._known: dict[int, _Usable] = {}
        self._obstacles: dict[tuple[str, bool], str] = {}
        self.partial: dict[RouteKey, str] = {}
        """Of the keys that were asked for, those of which some next hops can be in force and some not -> why."""

    def of(self, key: RouteKey, target: RouteTarget) -> _Usable:
        """What of a key's target; by identity: it lives as long as this does."""
        found = self._known.get(id(target))
        if found is None:
            found = self._known[id(target)] = self._usable(target)
        if found.obstacle and found.target is not None:
            self.partial[key] = found.obstacle
        return found

    def are_whole(self, routes: Collection[Route]) -> bool:
        """Whether the targets of all of these routes can be in force as they are wanted, with every next hop."""
        targets = targets_of(routes)
        for number, target in targets.items():
            if number not in self._known:
                self._known[number] = self._usable(target)
        return all(self._known[number].target is target for number, target in targets.items())

    def _usable(self, target: RouteTarget) -> _Usable:
        hops = target.next_hops()
        reasons = {hop: self._obstacle(hop) for hop in hops}
        usable = tuple(hop for hop in hops if not reasons[hop])
        avoided = self._given.desired.avoided
        answering = tuple(hop for hop in usable if not hop.is_through(avoided))
        if answering and len(answering) < len(usable):
            for hop in usable:
                reasons[hop] = (
                    "" if hop in answering else f"{hop.device} leads to {hop.gateway}, which does not answer"
                )
            usable = answering
        why = ", ".join(dict.fromkeys(reason for reason in reasons.values() if reason))
        if len(usable) == len(hops):
            return _Usable(target, target, why)
        return _Usable(target, target.through(usable) if usable else None, why)

    def _obstacle(self, hop: NextHop) -> str:
        """Why no route can lead there; empty: one can."""
        if hop.device is None:
            return ""
        asked = hop.device, hop.gateway is not None
        if asked not in self._obstacles:
            self._obstacles[asked] = self._why_not(*asked)
        return self._obstacles[asked]

    def _why_not(self, name: str, is_to_gateway: bool) -> str:
        link = self._given.links.get(name)
        if link is None:
            return f"{name} is not there"
        if not link.up:
            return f"{name} is down"
        return f"{name} has no carrier" if is_to_gateway and not link.carrier else ""


def _have_several(routes: Collection[Route]) -> bool:
    """Whether one has several next hops, of which fewer may be in force now."""
    return any(target.hops for target in targets_of(routes).values())


class _Sameness:
    """Whether two targets are equal, asked once per pair of objects."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[bool, RouteTarget, RouteTarget]] = {}

    def __call__(self, one: RouteTarget, other: RouteTarget) -> bool:
        if one is other:
            return True
        pair = id(one), id(other)
        found = self._known.get(pair)
        if found is None:
            # Both are held: as long as they live nothing else has their identities.
            found = self._known[pair] = one == other, one, other
        return found[0]


_Piece = tuple[Sequence[RouteKey], Sequence[Route | None], Sequence[Route | None]]
"""Keys, and for each of them what is desired and what there is."""


def _pieces(
    desired: Mapping[RouteKey, Route], actual: Mapping[RouteKey, Route], keys: Collection[RouteKey] | None
) -> Iterator[_Piece]:
    """The keys to compare, all without any given. One look-up a route: hashing is what a pass costs."""
    if keys is not None:
        for some in slices(keys, PIECE):
            yield some, list(map(desired.get, some)), list(map(actual.get, some))
        return
    there = 0
    for some in slices(desired, PIECE):
        known = list(map(actual.get, some))
        there += len(known) - known.count(None)
        yield some, list(map(desired.get, some)), known
    if there < len(actual):
        for some in slices(filterfalse(desired.__contains__, actual), PIECE):
            yield some, [None] * len(some), list(map(actual.get, some))


def _withdrawn(
    desired: DesiredState, deleted: Mapping[RouteKey, Route], ownership: Ownership
) -> frozenset[RouteKey]:
    """The learned routes that go because BGP has their prefix no more, and not by a change of the datastore."""
    if desired.learned is None or not deleted:
        return frozenset()
    targets = targets_of(deleted.values())
    learned = {number for number, target in targets.items() if ownership.is_learned_by(target)}
    some = [key for key, route in deleted.items() if id(route[1]) in learned]
    return frozenset(filterfalse(desired.learned.__contains__, some))


def conflict_reason(foreign: Route) -> str:
    """What people read of a foreign route in our place."""
    if foreign.protocol == RTPROT_KERNEL:
        return f"the network of an address of {foreign.device} is there ({foreign}); no route of ours replaces it"
    protocol = protocol_name(foreign.protocol)
    return (
        f"a route of protocol {protocol} is there ({foreign}); it is not ours: remove it, or free the prefix"
    )


def _removable(given: Comparison, ownership: Ownership) -> _Removable:
    """Whether a route that is not desired may go: ours; BGP's, once it has converged; a tunnel's, as above."""
    return _Removable(ownership, _needed_tunnels(given), bgp_complete=given.desired.bgp_complete)


class _Removable:
    def __init__(self, ownership: Ownership, needed: frozenset[str], *, bgp_complete: bool) -> None:
        self._ownership = ownership
        self._needed = needed
        self._bgp_complete = bgp_complete

    def __call__(self, route: Route) -> bool:
        ownership = self._ownership
        if not ownership.is_ours(route) or not (self._bgp_complete or not ownership.is_learned(route)):
            return False
        return self._needed.isdisjoint(route.target.devices())

    def among(
        self, keys: Sequence[RouteKey], routes: Sequence[Route | None]
    ) -> Iterable[tuple[RouteKey, Route]]:
        """Those of some routes, all of one table, that may go: one speaks for all with its target."""
        there = [route for route in routes if route is not None]
        speakers = {id(route[1]): route for route in there}
        staying = {number for number, route in speakers.items() if not self(route)}
        pairs = zip(keys, there, strict=True)
        return [pair for pair in pairs if id(pair[1][1]) not in staying] if staying else pairs
