"""What the next pass would change in the kernel, and why; nothing is written.

Promises: pure; the steps are those that the kinds' own comparisons make of the same desired and actual state. A list is
bounded; a count says how many more there are. Does not know: how a step is carried out, how it is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.dataplane.explain.route_reasons import Reasons
from agent.dataplane.kinds.object_kind import ObjectKind, PlannedStep
from agent.dataplane.kinds.states import Comparison
from agent.netlink.objects import RouteKey

MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class NextPass:
    """The next pass."""

    steps: tuple[PlannedStep, ...]
    more: int
    """Steps beyond those listed."""
    reserves: tuple[str, ...]
    """What keeps the pass from doing all that is desired."""


async def dry_run(
    kinds: Iterable[ObjectKind[Any, Any]], given: Comparison, reasons: Reasons, held: Mapping[str, str]
) -> NextPass:
    """All steps of a pass over this state, in its order; `held` are the mass removals that it would put off."""

    def why(key: RouteKey) -> str:
        return reasons.of(given.desired.dataplane.routes[key])

    steps: list[PlannedStep] = []
    more = 0
    for kind in kinds:
        for step in kind.explain(await kind.diff(given), given, why):
            if len(steps) < MOST_STEPS:
                steps.append(step)
            else:
                more += 1
    reserves = []
    if not given.desired.complete:
        reserves.append("the datastore was not read as a whole yet: nothing is replaced or deleted")
    elif not given.desired.bgp_complete:
        reserves.append("BGP has not heard every peer yet: no learned route is deleted")
    if given.desired.lost:
        reserves.append("a stored value was never read: what was in the kernel before this start may stay")
    reserves += [f"a mass removal is held back: {kind}: {reason}" for kind, reason in held.items()]
    return NextPass(tuple(steps), more, tuple(reserves))
