"""Why each route is there, and whether what is wished and what the kernel holds agree: for people.

Promises: pure; a page is bounded, and the next one begins behind its last key whatever changed meanwhile. Does not
know: who asks, how it is printed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.dataplane.desired.route_producers import RouteClass
from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kinds.routes import conflict_reason
from agent.dataplane.kinds.states import RouteSnapshot
from agent.netlink.objects import PROTOCOL_NAMES, RTPROT_KERNEL, Prefix, Route, RouteKey

MOST_ROUTES = 1000
"""Of one page: one turn of the event loop."""
IN_PLACE = "in place"


KINDS = {
    RouteClass.WORKLOAD: "pod",
    RouteClass.OWN_BLOCK: "blackhole",
    RouteClass.PEER_GATEWAY: "peer",
    RouteClass.BORROWED_ADDRESS: "datastore",
    RouteClass.REMOTE_BLOCK: "datastore",
    RouteClass.LEARNED: "bgp",
}
"""The column KIND of desired routes."""
KERNEL, FOREIGN, OBSOLETE = "kernel", "foreign", "obsolete"
"""KIND of the others: the kernel's own, of an interface's address; somebody else's; ours, but not desired any more."""


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
            case RouteClass.BORROWED_ADDRESS:
                return f"address that {facts.borrowed.get(destination, 'a node')} borrowed"
            case RouteClass.REMOTE_BLOCK:
                return f"block of {owner or 'a node'}, by its claim"
            case RouteClass.LEARNED:
                peer = self._learned_from(destination)
                block = f", block of {owner}" if owner is not None else ""
                hop = facts.bgp_nexthops.get(route.key, route.gateway)
                return f"learned from {peer}{block}" if peer else f"BGP, next hop {hop}{block}"


@dataclass(frozen=True, slots=True)
class Explained:
    """One route for people."""

    destination: str
    route: str
    """As `ip route` prints it; the kernel's, where it holds one."""
    via: str
    device: str
    protocol: str
    kind: str
    why: str
    agrees: bool
    """Whether wish and kernel agree, or the route is no concern of ours."""
    state: str

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the table."""

    routes: tuple[Explained, ...]
    last: RouteKey | None
    """The next page begins behind it; None: this is the end."""


def page(
    seen: RouteSnapshot,
    reasons: Reasons,
    *,
    near: Prefix | None = None,
    foreign: bool = False,
    after: RouteKey | None = None,
    most: int = MOST_ROUTES,
) -> Page:
    """One page of all routes of the main tables, in the order of their keys.

    With `near` those inside that network and those around it; with `foreign` others' alone, the kernel's left out.
    """
    keys = heapq.nsmallest(most + 1, _keys(seen, near, after, foreign=foreign))
    found = tuple(explained(seen, reasons, key) for key in keys[:most])
    return Page(found, keys[most - 1] if len(keys) > most else None)


def _keys(
    seen: RouteSnapshot, near: Prefix | None, after: RouteKey | None, *, foreign: bool
) -> Iterator[RouteKey]:
    wished, standing = seen.desired.dataplane.routes, seen.actual.routes
    is_near = nearness(near) if near is not None else None
    for table, others in ((standing, None), (wished, standing)):
        for key in table:
            if (after is not None and key <= after) or (others is not None and key in others):
                continue
            if is_near is not None and not is_near(key):
                continue
            if not foreign or _is_foreign(seen, key):
                yield key


def nearness(near: Prefix) -> Callable[[RouteKey], bool]:
    """Whether a key lies in a network or around it: for very many keys, by comparing octets."""
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


def _is_foreign(seen: RouteSnapshot, key: RouteKey) -> bool:
    route = seen.actual.routes.get(key)
    if route is None or seen.ownership.is_ours(route):
        return False
    return route.protocol != RTPROT_KERNEL or key in seen.desired.dataplane.routes


def explained(seen: RouteSnapshot, reasons: Reasons, key: RouteKey) -> Explained:
    """One key's account."""
    wished, standing = seen.desired.dataplane.routes.get(key), seen.actual.routes.get(key)
    shown = standing or wished
    assert shown is not None
    if wished is not None:
        kind, why = KINDS[RouteClass(wished.target.route_class)], reasons.of(wished)
        state = _state(seen, key, wished, standing)
        if standing is not None and not seen.ownership.is_ours(standing):
            kind, why = FOREIGN, f"stands where ours should: {wished} ({why})"
    elif seen.ownership.is_ours(shown):
        kind, why, state = OBSOLETE, "nothing asks for it any more", _obsolete_state(seen, shown)
    elif shown.protocol == RTPROT_KERNEL:
        kind, why, state = KERNEL, f"an address of {shown.device}", IN_PLACE
    else:
        kind, why, state = FOREIGN, f"set by {protocol_name(shown.protocol)}, not by us", IN_PLACE
    return Explained(
        destination=str(key),
        route=str(shown),
        via=str(shown.gateway or ""),
        device=shown.device or "",
        protocol=protocol_name(shown.protocol),
        kind=kind,
        why=why,
        agrees=state == IN_PLACE,
        state=state,
    )


def _state(seen: RouteSnapshot, key: RouteKey, wished: Route, standing: Route | None) -> str:
    if standing == wished:
        return IN_PLACE
    if standing is not None and not seen.ownership.is_ours(standing):
        return f"conflict: {conflict_reason(standing)}"
    reason = seen.waiting.get(key) or seen.refused.get(key) or "not written yet"
    return f"missing: {reason}" if standing is None else f"differs: {wished} is wished; {reason}"


def _obsolete_state(seen: RouteSnapshot, route: Route) -> str:
    if not seen.desired.complete:
        return "kept until the datastore was read"
    if not seen.desired.bgp_complete and seen.ownership.is_learned(route):
        return "kept until BGP has heard every peer"
    return "to be removed"


def protocol_name(number: int) -> str:
    """As `ip route` prints it."""
    return PROTOCOL_NAMES.get(number, str(number))
