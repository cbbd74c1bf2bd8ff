"""Leads all routes behind a way that changed along the new one, in one step, before anything is computed anew.

Very many routes stand behind a next hop's gateway. That they should lead by another one follows from the routes in the
kernel alone, so the objects that they refer to are given the new gateway first; the pass that follows finds them as it
wants them. It is done only where it equals replacing each: where all next hops that were reached that way are now
reached by the same other one (`NextHopResolver.take_moves`), and every route of ours refers to an object.
Promises: what cannot be done so is left to the pass. Does not know: prefixes, why a way changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.dataplane.inputs.next_hops import GatewayMove
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.ownership import Ownership
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.kinds.states import ActualState
from agent.netlink.objects import Route, RouteKey, RouteTarget

MANY = 1024
"""Fewer routes are as quickly led by the pass."""


async def move_gateways(
    moves: Sequence[GatewayMove],
    kernel: Kernel,
    actual: ActualState,
    desired: Mapping[RouteKey, Route],
    ownership: Ownership,
    log: Any,
) -> int:
    """Carry the moves out and note them in the actual state; how many routes were moved. Raises KernelError."""
    if len(desired) < MANY:
        return 0
    target, count = RouteTarget(protocol=ownership.learned), 0
    for before, after in moves:
        if await kernel.move_routes(target.through(before), target.through(after), desired.keys()):
            moved = tuple(_moved(actual.routes, ownership, before, after))
            actual.wrote(Kind.ROUTE, moved)
            count += len(moved)
            was, now = (", ".join(str(hop.gateway) for hop in some) for some in (before, after))
            log.info("route.moved", count=len(moved), was=was, now=now)
    return count


def _moved(
    routes: Mapping[RouteKey, Route], ownership: Ownership, before: object, after: Any
) -> Iterator[tuple[RouteKey, Route]]:
    """The routes that led the way before, as they are now; those that share a target still share one."""
    known: dict[int, RouteTarget | None] = {}
    for key, route in routes.items():
        target = route[1]
        if id(target) not in known:
            leads = ownership.is_ours(route) and target.next_hops() == before
            known[id(target)] = target.through(after) if leads else None
        if (now := known[id(target)]) is not None:
            yield key, Route.from_target(key, now)
