"""Why each route is there, and whether desired and actual state agree: for people.

Promises: pure; a page is bounded, and the next one begins behind its last key whatever changed meanwhile.
Does not know: who asks, how it is printed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from agent.dataplane.desired.route_producers import RouteClass
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kinds.kernel_routes import conflict_reason
from agent.dataplane.kinds.states import RouteSnapshot
from agent.netlink.objects import RTPROT_KERNEL, Address, Prefix, Route, RouteKey, protocol_name
from bgp.rib.multipath import single_hops

MOST_ROUTES = 1000
"""Of one page, which holds the event loop."""
IN_PLACE = "in place"


KINDS = {
    RouteClass.WORKLOAD: "pod",
    RouteClass.OWN_BLOCK: "blackhole",
    RouteClass.PEER_GATEWAY: "peer",
    RouteClass.TUNNEL_GATEWAY: "tunnel",
    RouteClass.BORROWED_ADDRESS: "datastore",
    RouteClass.REMOTE_BLOCK: "datastore",
    RouteClass.LEARNED: "bgp",
}
"""The column KIND of desired routes."""
KERNEL, FOREIGN, OBSOLETE, REFUSED = "kernel", "foreign", "obsolete", "refused"
"""KIND of the others: the kernel's own, of an interface's address; somebody else's; ours, but not desired any more;
asked for by the datastore, and no route."""


class Reasons:
    """Why routes are desired: by their class, in the words of the facts."""

    def __init__(
        self, facts: Facts, pods: Mapping[str, str], learned_from: Callable[[Prefix], str] = lambda _: ""
    ) -> None:
        """`pods` names the pod behind each interface; `learned_from` the peer of a prefix's best path."""
        self._facts = facts
        self._pods = pods
        self._learned_from = learned_from

    def of(self, route: Route) -> str:
        """Why this node has a desired route."""
        facts, destination = self._facts, route.key.destination
        owner = facts.block_owners.get(destination)
        match RouteClass(route.target.route_class):
            case RouteClass.WORKLOAD:
                return f"pod {self._pods.get(route.device or '', route.device)}"
            case RouteClass.OWN_BLOCK:
                return "this node's block: what no pod has must not leave"
            case RouteClass.PEER_GATEWAY:
                return "a BGP peer that is on no link"
            case RouteClass.TUNNEL_GATEWAY:
                return "another node's VTEP: the gateway to its blocks"
            case RouteClass.BORROWED_ADDRESS:
                return f"address that {facts.borrowed.get(destination, 'a node')} borrowed"
            case RouteClass.REMOTE_BLOCK:
                return f"block of {owner or 'a node'}, by its claim"
            case RouteClass.LEARNED:
                peer = self._learned_from(destination)
                block = f", block of {owner}" if owner is not None else ""
                hops = single_hops(facts.bgp_nexthops.get(route.key))
                named = " and ".join(map(str, hops))
                if not peer:
                    return f"BGP, next hop {named or _gateways(route)}{block}{self._lost(hops)}"
                # By number: a next hop on a link bears its zone, a gateway has its device beside it.
                there = {int(one.gateway) for one in route.target.next_hops() if one.gateway is not None}
                is_near = all(int(hop) in there for hop in hops) if there else True
                return (
                    f"learned from {peer}{'' if is_near else f', next hop {named}'}{block}{self._lost(hops)}"
                )

    def _lost(self, hops: Iterable[Address]) -> str:
        """That a next hop has only the way of before."""
        whys = (self._facts.resolution_of(hop).why for hop in hops)
        why = next(filter(None, whys), "")
        return f"; it leads the way of before, for the next hop does not resolve: {why}" if why else ""


def _gateways(route: Route) -> str:
    return " and ".join(str(hop.gateway) for hop in route.target.next_hops() if hop.gateway is not None)


@dataclass(frozen=True, slots=True)
class ExplainedHop:
    """One of several next hops."""

    via: str
    device: str
    weight: int
    onlink: bool


@dataclass(frozen=True, slots=True)
class ExplainedRoute:
    """One route for people; the kernel's, where it holds one at the key."""

    destination: str
    route: str
    """As `ip route` prints it."""
    via: str
    """The gateway; several with their weights, where these differ."""
    device: str
    """The interface, or each of several."""
    protocol: str
    kind: str
    why: str
    agrees: bool
    """Whether desired and actual state agree, or the route is no concern of ours."""
    state: str
    hops: tuple[ExplainedHop, ...] = ()
    """Of a route with several next hops."""


@dataclass(frozen=True, slots=True)
class Page:
    """A bounded part of the routes, in the order of their keys."""

    routes: tuple[ExplainedRoute, ...]
    last: RouteKey | None
    """The next page begins behind it; None: this is the end."""


def explain_page(
    snapshot: RouteSnapshot,
    reasons: Reasons,
    *,
    near: Prefix | None = None,
    foreign: bool = False,
    after: RouteKey | None = None,
    most: int = MOST_ROUTES,
) -> Page:
    """At most `most` of the desired and the actual routes, those behind the key `after`.

    With `near` those inside that network and those around it; with `foreign` others' alone, the kernel's left out.
    """
    desired, actual = snapshot.desired.dataplane.routes, snapshot.actual.routes
    is_near = nearness(near) if near is not None else None
    refused = {RouteKey(one.prefix) for one in snapshot.desired.refused if one.prefix is not None}
    known = (actual, desired)
    keys = (
        key
        for key in chain(
            actual,
            (key for key in desired if key not in actual),
            (key for key in refused if not any(key in some for some in known)),
        )
        if (after is None or key > after)
        and (is_near is None or is_near(key))
        and (not foreign or _is_foreign(snapshot, key))
    )
    first = heapq.nsmallest(most + 1, keys)
    found = tuple(explain(snapshot, reasons, key) for key in first[:most])
    return Page(found, first[most - 1] if len(first) > most else None)


def nearness(near: Prefix) -> Callable[[RouteKey], bool]:
    """A function that says whether a key is inside a network or around it.

    It is called for very many keys, so no address is made of them: around the network are the few packed prefixes of
    its supernets, and inside it a longer prefix whose octets lie between its first and its last address.
    """
    around = frozenset(
        RouteKey(near.supernet(new_prefix=length)).packed for length in range(near.prefixlen + 1)
    )
    wanted, shortest = near.version, near.prefixlen
    first, last = RouteKey(near).packed[1:], near.broadcast_address.packed

    def is_near(key: RouteKey) -> bool:
        version, packed, _, _ = key
        if version != wanted:
            return False
        return packed in around or (packed[0] > shortest and first <= packed[1:] <= last)

    return is_near


def _is_foreign(snapshot: RouteSnapshot, key: RouteKey) -> bool:
    route = snapshot.actual.routes.get(key)
    if route is None or snapshot.ownership.is_ours(route):
        return False
    return route.protocol != RTPROT_KERNEL or key in snapshot.desired.dataplane.routes


def explain(snapshot: RouteSnapshot, reasons: Reasons, key: RouteKey) -> ExplainedRoute:
    """The route at a key that is in the desired or the actual state."""
    desired, actual = snapshot.desired.dataplane.routes.get(key), snapshot.actual.routes.get(key)
    shown = actual or desired
    if shown is None:
        return _refused(snapshot, key)
    protocol = protocol_name(shown.protocol)
    if desired is not None:
        kind, why = KINDS[RouteClass(desired.target.route_class)], reasons.of(desired)
        state = _state(snapshot, desired, actual)
        if actual is not None and not snapshot.ownership.is_ours(actual):
            kind, why = FOREIGN, f"is where ours should be: {desired} ({why})"
    elif snapshot.ownership.is_ours(shown):
        kind, why, state = OBSOLETE, "nothing asks for it any more", _obsolete_state(snapshot, shown)
    elif shown.protocol == RTPROT_KERNEL:
        kind, why, state = KERNEL, f"an address of {shown.device}", IN_PLACE
    else:
        kind, why, state = FOREIGN, f"set by {protocol}, not by us", IN_PLACE
    return ExplainedRoute(
        destination=str(key),
        route=str(shown),
        via=_via(shown),
        device=", ".join(dict.fromkeys(hop.device or "" for hop in shown.target.next_hops())),
        protocol=protocol,
        kind=kind,
        why=why,
        agrees=state == IN_PLACE,
        state=state,
        hops=tuple(
            ExplainedHop(str(hop.gateway or ""), hop.device or "", hop.weight, hop.onlink)
            for hop in shown.target.hops
        ),
    )


def _via(route: Route) -> str:
    hops = route.target.next_hops()
    is_weighted = len({hop.weight for hop in hops}) > 1
    return ", ".join(
        f"{hop.gateway} weight {hop.weight}" if is_weighted else str(hop.gateway)
        for hop in hops
        if hop.gateway is not None
    )


def _refused(snapshot: RouteSnapshot, key: RouteKey) -> ExplainedRoute:
    """What the datastore asks for and nobody may have."""
    prefix = key.destination
    asks = next((one.key for one in snapshot.desired.refused if one.prefix == prefix), "")
    state = f"not programmed: {snapshot.desired.refusal(key)}"
    return ExplainedRoute(str(key), str(key), "", "", "", REFUSED, f"{asks} asks for it", False, state)


def _state(snapshot: RouteSnapshot, desired: Route, actual: Route | None) -> str:
    if actual == desired:
        return IN_PLACE
    if actual is not None and not snapshot.ownership.is_ours(actual):
        return f"conflict: {conflict_reason(actual)}"
    reason = snapshot.waiting.get(desired.key) or snapshot.refused.get(desired.key) or "not written yet"
    return f"missing: {reason}" if actual is None else f"differs: {desired} is desired; {reason}"


def _obsolete_state(snapshot: RouteSnapshot, route: Route) -> str:
    if not snapshot.desired.complete:
        return "stays until the datastore was read"
    if not snapshot.desired.bgp_complete and snapshot.ownership.is_learned(route):
        return "stays until BGP has converged"
    if snapshot.desired.lost:
        return "to be removed, unless it is older than this start: a stored value cannot be read"
    return "to be removed"
