"""Why each route is there, and whether what is wished and what the kernel holds agree: for people.

Promises: pure; a page is bounded, and the next one begins behind its last key whatever changed meanwhile. Does not
know: who asks, how it is printed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from agent.dataplane.inputs.facts import Facts
from agent.dataplane.kinds.routes import conflict_reason
from agent.dataplane.kinds.states import RouteSnapshot
from agent.netlink.objects import PROTOCOL_NAMES, RTPROT_KERNEL, Prefix, Route, RouteKey

MOST_ROUTES = 1000
"""Of one page: one turn of the event loop."""
IN_PLACE = "in place"


class Sort(Enum):
    """What a route is for."""

    POD = "pod"
    BLACKHOLE = "blackhole"
    BGP = "bgp"
    DATASTORE = "datastore"
    PEER = "peer"
    """The way to a BGP peer that is on no link."""
    KERNEL = "kernel"
    """The kernel's own, of an interface's address."""
    FOREIGN = "foreign"
    """Somebody else's."""
    LEFT = "left"
    """Ours, and nothing asks for it any more."""


class Reasons:
    """Why routes are wished, from the facts they were made of."""

    def __init__(
        self, facts: Facts, pods: Mapping[str, str], told_by: Callable[[Prefix], str] = lambda _: ""
    ) -> None:
        """`pods` names the pod behind each interface; `told_by` whose best path a prefix has."""
        self._facts = facts
        self._told_by = told_by
        self._pods = {
            RouteKey.of_packed(address.version, bytes((address.max_prefixlen,)) + address.packed): pods.get(
                one.interface, one.interface
            )
            for one in facts.endpoints
            for address in one.addresses
        }
        self._blocks = {RouteKey(block): owner for block, owner in facts.block_owners.items()}
        self._borrowed = {RouteKey(one): owner for one, owner in facts.borrowed.items()}
        self._peers = {
            RouteKey.of_packed(peer.version, bytes((peer.max_prefixlen,)) + peer.packed)
            for peer in facts.gateways
        }

    def of(self, key: RouteKey) -> tuple[Sort, str]:
        """What a wished route is for, and why it is wished; in the order in which producers go."""
        facts, owner = self._facts, self._blocks.get(key)
        if key in self._pods:
            return Sort.POD, f"pod {self._pods[key]}"
        if owner == facts.node:
            return Sort.BLACKHOLE, "this node's block: what no pod has must not leave"
        if key in self._peers:
            return Sort.PEER, "a BGP peer that is on no link"
        if (hop := facts.learned.get(key)) is not None and not self._is_stored(key):
            teller = self._told_by(key.destination)
            block = f", block of {owner}" if owner is not None else ""
            return Sort.BGP, f"told by {teller}{block}" if teller else f"BGP, next hop {hop}{block}"
        if owner is not None:
            return Sort.DATASTORE, f"block of {owner}, by its claim"
        if key in self._borrowed:
            return Sort.DATASTORE, f"address that {self._borrowed[key]} borrowed"
        return Sort.DATASTORE, "the datastore"

    def _is_stored(self, key: RouteKey) -> bool:
        """Whether the datastore's word goes before BGP's: in VXLAN's pools, or by the setting."""
        if key not in self._blocks and key not in self._borrowed:
            return False
        pool = self._facts.pool_of(key.destination)
        return self._facts.from_datastore or (pool is not None and pool.vxlan.value != "Never")


@dataclass(frozen=True, slots=True)
class Explained:
    """One route for people."""

    destination: str
    route: str
    """As `ip route` prints it; the kernel's, where it holds one."""
    via: str
    device: str
    protocol: str
    sort: Sort
    why: str
    agrees: bool
    """Whether wish and kernel agree, or the route is no concern of ours."""
    state: str

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        names = ("destination", "route", "via", "device", "protocol", "why", "agrees", "state")
        return {**{name: getattr(self, name) for name in names}, "kind": self.sort.value}


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
        sort, why = reasons.of(key)
        state = _state(seen, key, wished, standing)
        if standing is not None and not seen.ownership.is_ours(standing):
            sort, why = Sort.FOREIGN, f"stands where ours should: {wished} ({why})"
    elif seen.ownership.is_ours(shown):
        sort, why, state = Sort.LEFT, "nothing asks for it any more", _lingering(seen, shown)
    elif shown.protocol == RTPROT_KERNEL:
        sort, why, state = Sort.KERNEL, f"an address of {shown.device}", IN_PLACE
    else:
        sort, why, state = Sort.FOREIGN, f"set by {protocol_name(shown.protocol)}, not by us", IN_PLACE
    return Explained(
        destination=str(key),
        route=str(shown),
        via=str(shown.gateway or ""),
        device=shown.device or "",
        protocol=protocol_name(shown.protocol),
        sort=sort,
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


def _lingering(seen: RouteSnapshot, route: Route) -> str:
    if not seen.desired.complete:
        return "kept until the datastore was read"
    if not seen.desired.bgp_complete and seen.ownership.is_learned(route):
        return "kept until BGP has heard every peer"
    return "to be removed"


def protocol_name(number: int) -> str:
    """As `ip route` prints it."""
    return PROTOCOL_NAMES.get(number, str(number))
