"""What of the dataplane is wanted and not in force, and why: routes, the tunnels and interfaces they need, the rest.

Strategy. A pass knows of each object why it could not be put; who reads a trouble wants to know what is lost, and what
to do. So everything with one reason is one trouble with a count and an example: twenty thousand routes without a way
are one sentence. A pass is gone through once, however often somebody asks.
Promises: pure but for its memory; the number of troubles is bounded. What the facts do not say yet, because the
datastore was not read as a whole or BGP has not converged, is no trouble. Does not know: who shows them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.dataplane.desired.route_producers import NoRoute
from agent.dataplane.explain.overridden_routes import goes_before, overridden
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kinds.kernel_routes import conflict_reason
from agent.dataplane.kinds.states import RouteSnapshot
from agent.netlink.objects import IPV6_METRIC, Route, RouteKey, RouteType, protocol_name
from agent.trouble import Trouble, TroubleKind
from ipam.model import NodeName

MOST_NAMED = 10
"""Troubles of one sort; the rest is counted."""
MOST_OBJECTS = 3
"""Objects that one trouble names."""
PREFIXES_LOST = "packets to them go another way, or nowhere"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is asked of others, if there is something to tell at all."""

    pods: Callable[[], Mapping[str, str]] = dict
    """Host's interface -> the pod behind it."""
    now_named: Callable[[str], str | None] = lambda _: None
    """The name that an interface has now that bore another one."""
    mesh: Callable[[], Mapping[NodeName, str]] = dict
    """Node of the BGP mesh -> the state of the session with it, in words."""
    expects_bgp: Callable[[], bool] = lambda: True
    """Whether this node is to learn routes: it is not drained."""


def route_troubles(
    snapshot: RouteSnapshot, without: Iterable[tuple[RouteKey, NoRoute]], around: Surroundings
) -> Iterator[Trouble]:
    """The troubles of one pass; `without` are the prefixes to which no route is desired though somebody has them."""
    if not snapshot.desired.complete:
        return
    waiting = _by_device(snapshot)
    yield from _tunnels(snapshot, waiting)
    yield from _interfaces(snapshot, waiting, around)
    yield from _conflicts(snapshot)
    yield from _overridden(snapshot)
    yield from _gone_before(snapshot)
    yield from _refused(snapshot)
    yield from _no_way(snapshot, without, around)
    yield from _other_refusals(snapshot)


def _by_device(snapshot: RouteSnapshot) -> dict[str, tuple[str, list[RouteKey]]]:
    """Device -> why no route can lead over it, and the routes that should."""
    found: dict[str, tuple[str, list[RouteKey]]] = {}
    routes = snapshot.desired.dataplane.routes
    for key, why in snapshot.waiting.items():
        if (route := routes.get(key)) is None or key in snapshot.conflicts:
            continue
        if route.device is not None:
            found.setdefault(route.device, (why, []))[1].append(key)
        for reason in why.split(", ") if route.target.hops else ():
            # One for each of several next hops that cannot be used, the device's name first.
            found.setdefault(reason.partition(" ")[0], (reason, []))[1].append(key)
    return found


def _tunnels(snapshot: RouteSnapshot, waiting: Mapping[str, tuple[str, list[RouteKey]]]) -> Iterator[Trouble]:
    wanted = snapshot.desired.dataplane.tunnels
    refusals = {key: why for kind, key, why in snapshot.failures if kind is Kind.TUNNEL}
    for name in sorted(OUR_TUNNELS):
        why = refusals.get(name) if name in wanted else None
        if why is None and name in waiting:
            why = waiting[name][0].removeprefix(f"{name} ")
        if why is None:
            continue
        keys = waiting[name][1] if name in waiting else []
        old = [key for key in keys if key in snapshot.actual.routes]
        loss = (
            f"{_counted(keys)} {'waits' if len(keys) == 1 else 'wait'} for it"
            if keys
            else "no route can use it"
        )
        if old:
            loss += f", and {'keeps' if len(keys) == 1 else f'{len(old)} of them keep'} the way of before"
        yield Trouble(TroubleKind.TUNNEL, name, why, loss)


def _interfaces(
    snapshot: RouteSnapshot, waiting: Mapping[str, tuple[str, list[RouteKey]]], around: Surroundings
) -> Iterator[Trouble]:
    devices = sorted(name for name in waiting if name not in OUR_TUNNELS)
    pods = around.pods() if devices else {}
    for device in devices[:MOST_NAMED]:
        why, keys = waiting[device]
        is_pod = device.startswith(WORKLOAD_PREFIX)
        about = f"pod {pods.get(device, '?')} ({device})" if is_pod else device
        other = around.now_named(device) if why.endswith("not there") else None
        if other is not None:
            why = f"{device} has been renamed to {other}"
            cure = f"name it {device} again: ip link set {other} name {device}"
        elif why.endswith("down"):
            cure = f"ip link set {device} up"
        elif why.endswith("carrier"):
            cure = "look at its cable, and at what is at the other end"
        else:
            why += ", nor has it another name here: it was deleted, or moved to another network namespace"
            cure = "move it back, or recreate the pod" if is_pod else "move it back, or make it again"
            cure += "; if the pod is gone, its DEL ends this" if is_pod else ""
        yield Trouble(TroubleKind.INTERFACE, about, why, _lost_with_it(snapshot, keys), cure)
    if len(devices) > MOST_NAMED:
        more = f"{len(devices) - MOST_NAMED} more interfaces that routes lead to are not there, or down"
        yield Trouble(TroubleKind.INTERFACE, "", more)


def _lost_with_it(snapshot: RouteSnapshot, keys: list[RouteKey]) -> str:
    """What an interface's loss means for the routes that should lead over it, among other ways or not."""
    routes, actual = snapshot.desired.dataplane.routes, snapshot.actual.routes
    reached = [key for key in keys if routes[key].target.hops and key in actual]
    if not reached:
        return f"{_counted(keys)} cannot be reached"
    others = f"{_counted(reached)} {'has its' if len(reached) == 1 else 'have their'} other next hops alone"
    lost = len(keys) - len(reached)
    return others if not lost else f"{others}, {lost} more cannot be reached"


def _conflicts(snapshot: RouteSnapshot) -> Iterator[Trouble]:
    """By the protocol of the others' routes, which is who made them."""
    found: dict[str, list[tuple[RouteKey, Route]]] = defaultdict(list)
    for key, foreign in snapshot.conflicts.items():
        found[protocol_name(foreign.protocol)].append((key, foreign))
    for protocol, some in _most(found):
        key, foreign = some[0]
        evidence = f"{key}: {conflict_reason(foreign)}"
        if len(some) > 1:
            evidence = f"{len(some)} of them, one is {evidence}"
        about = f"routes of protocol {protocol} in the place of ours"
        yield Trouble(TroubleKind.ROUTE, about, evidence, "packets go where they lead")
    yield from _rest(TroubleKind.ROUTE, found, "protocols of routes stand in the place of ours")


def _overridden(snapshot: RouteSnapshot) -> Iterator[Trouble]:
    """By the protocol of the others' routes, as above."""
    found: dict[str, list[tuple[Route, Route]]] = defaultdict(list)
    desired, actual = snapshot.desired.dataplane.routes, snapshot.actual.routes
    for ours, other in overridden(desired, actual, snapshot.ownership):
        if not goes_before(other, ours):
            found[protocol_name(other.protocol)].append((ours, other))
    for protocol, some in _most(found):
        ours, other = some[0]
        devices = " or ".join(sorted(ours.target.devices()))
        evidence = f"{other} lies in {ours.key}, to which our route leads by {devices}"
        if len(some) > 1:
            evidence = f"{len(some)} of them, one is {evidence}"
        about = f"routes of protocol {protocol} inside ours"
        cure = "remove them, or give the network a range outside the pools"
        yield Trouble(
            TroubleKind.ROUTE, about, evidence, "packets to what they cover go where they lead", cure
        )
    yield from _rest(TroubleKind.ROUTE, found, "protocols of routes lie inside ours")


def _gone_before(snapshot: RouteSnapshot) -> Iterator[Trouble]:
    """By the protocol of the others' routes; where ours is left out for theirs, that is the conflict's to tell."""
    found: dict[str, list[tuple[Route, Route]]] = defaultdict(list)
    desired, actual = snapshot.desired.dataplane.routes, snapshot.actual.routes
    for ours, other in overridden(desired, actual, snapshot.ownership):
        if goes_before(other, ours) and ours.key not in snapshot.conflicts:
            found[protocol_name(other.protocol)].append((ours, other))
    for protocol, some in _most(found):
        ours, other = some[0]
        devices = " or ".join(sorted(ours.target.devices()))
        evidence = f"{other} goes before our route to it by {devices}, whose metric is {IPV6_METRIC}"
        if len(some) > 1:
            evidence = f"{len(some)} of them, one is {evidence}"
        about = f"routes of protocol {protocol} before ours"
        cure = "remove them, or give them a larger metric"
        yield Trouble(TroubleKind.ROUTE, about, evidence, "packets go where they lead", cure)
    yield from _rest(TroubleKind.ROUTE, found, "protocols of routes go before ours")


def _refused(snapshot: RouteSnapshot) -> Iterator[Trouble]:
    """By next hop, device and the kernel's word."""
    found: dict[tuple[str, str], list[RouteKey]] = defaultdict(list)
    routes = snapshot.desired.dataplane.routes
    for key, why in snapshot.refused.items():
        route = routes.get(key)
        if route is None or key in snapshot.conflicts or key in snapshot.waiting:
            continue
        hops = route.target.next_hops()
        where = " and ".join(" ".join(hop.words(key.version)) for hop in hops)
        found[where or route.type.name.lower(), why].append(key)
    for (where, why), keys in _most(found):
        evidence = f"the kernel refuses {_counted(keys)}: {why}"
        yield Trouble(TroubleKind.ROUTE, f"routes {where}", evidence, PREFIXES_LOST, "it is tried again")
    yield from _rest(TroubleKind.ROUTE, found, "next hops have routes that the kernel refuses")


def _no_way(
    snapshot: RouteSnapshot, without: Iterable[tuple[RouteKey, NoRoute]], around: Surroundings
) -> Iterator[Trouble]:
    """By next hop or node."""
    expected = snapshot.desired.bgp_complete and around.expects_bgp()
    found: dict[NoRoute, list[RouteKey]] = defaultdict(list)
    for key, reason in without:
        if reason.why or expected:
            found[reason].append(key)
    mesh = around.mesh() if any(not reason.why for reason in found) else {}
    groups: dict[NoRoute, tuple[list[RouteKey], str]] = {}
    for reason, keys in found.items():
        if reason.why:
            groups[reason] = keys, reason.why
            continue
        session = mesh.get(NodeName(str(reason.end)))
        if session is None:
            keys = [key for key in keys if not _is_covered(snapshot, key, reason)]
        if keys:
            groups[reason] = keys, f"no BGP peer announces them{f', and {session}' if session else ''}"
    for reason, (keys, why) in _most(groups):
        is_hop = not isinstance(reason.end, str)
        about = f"BGP next hop {reason.end}" if is_hop else f"node {reason.end}"
        evidence = f"{_counted(keys)} {'has' if len(keys) == 1 else 'have'} no route here: {why}"
        cure = "" if is_hop or "not known" not in why else _release(str(reason.end))
        yield Trouble(TroubleKind.ROUTE, about, evidence, PREFIXES_LOST, cure)
    yield from _rest(TroubleKind.ROUTE, groups, "next hops and nodes have prefixes without a route here")


def _release(node: str) -> str:
    return f"if the node is gone for good, `tortie ipam release --node {node}` gives its blocks back"


def _is_covered(snapshot: RouteSnapshot, key: RouteKey, reason: NoRoute) -> bool:
    """Whether another route leads to a block: a router's summary, and where no tunnel is needed the default route."""
    prefix = key.destination
    for length in range(prefix.prefixlen - 1, -1, -1):
        route = snapshot.actual.routes.get(RouteKey(prefix.supernet(new_prefix=length)))
        if route is not None and route.type is RouteType.UNICAST:
            return reason.is_bare or snapshot.ownership.is_learned(route)
    return reason.is_bare and snapshot.actual.default_of_others(key.version, snapshot.ownership) is not None


def _other_refusals(snapshot: RouteSnapshot) -> Iterator[Trouble]:
    """What the kernel refuses of other kinds; the workload filter has a watch of its own."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, key, why in snapshot.failures:
        if kind not in (Kind.TUNNEL, Kind.ROUTE, Kind.FILTER):
            found[kind.name.lower(), why].append(_text(key))
    for (kind_name, why), texts in _most(found):
        shown = ", ".join(texts[:MOST_OBJECTS])
        more = f" and {len(texts) - MOST_OBJECTS} more" if len(texts) > MOST_OBJECTS else ""
        evidence = f"the kernel refuses {shown}{more}: {why}"
        yield Trouble(TroubleKind.KERNEL, kind_name, evidence, "it is not in force", "it is tried again")
    yield from _rest(TroubleKind.KERNEL, found, "more sorts of objects are refused by the kernel")


def _text(key: Any) -> str:
    return " ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)


def _most(found: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """The largest groups, in the order in which they were found."""
    if len(found) <= MOST_NAMED:
        return list(found.items())
    return sorted(found.items(), key=lambda one: _size(one[1]), reverse=True)[:MOST_NAMED]


def _size(group: Any) -> int:
    return len(group[0]) if isinstance(group, tuple) else len(group)


def _rest(kind: TroubleKind, found: Mapping[Any, Any], words: str) -> Iterator[Trouble]:
    if len(found) > MOST_NAMED:
        yield Trouble(kind, "", f"{len(found) - MOST_NAMED} more {words}")


def _counted(keys: list[RouteKey]) -> str:
    return str(keys[0]) if len(keys) == 1 else f"{len(keys)} prefixes, {keys[0]} among them,"


class RouteTroubles:
    """The troubles of the last pass, made once."""

    def __init__(
        self,
        snapshot: Callable[[], RouteSnapshot],
        without: Callable[[], Iterable[tuple[RouteKey, NoRoute]]],
        around: Surroundings,
    ) -> None:
        self._snapshot = snapshot
        self._without = without
        self._around = around
        self._of: tuple[int, Mapping[NodeName, str] | None] | None = None
        self._found: tuple[Trouble, ...] = ()

    def troubles(self) -> Iterable[Trouble]:
        """What is wanted and not in force by the last pass."""
        snapshot = self._snapshot()
        # While something is wrong the sessions are part of the sentence.
        mesh = self._around.mesh() if self._found else None
        if self._of != (snapshot.number, mesh):
            self._found = tuple(route_troubles(snapshot, self._without(), self._around))
            self._of = snapshot.number, mesh
        return self._found
