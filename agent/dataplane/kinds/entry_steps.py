"""What to do for neighbours and forwarding entries: nothing, as long as neither wish, picture nor links are others.

Promises: pure but for its memory of what was compared last; there may be thousands of entries, and most passes are for
something else. Does not know: how a step is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.dataplane.kinds import diff
from agent.dataplane.kinds.delta import Delta
from agent.dataplane.kinds.diff import ActualState, DesiredState
from agent.netlink.objects import VXLAN_DEVICES, Address, FdbEntry, Link, Neighbour

Neighbours = Delta[tuple[str, Address], Neighbour]
Forwarding = Delta[tuple[str, str], FdbEntry]


class EntrySteps:
    """One per reconciler."""

    def __init__(self) -> None:
        self._quiet: tuple[object, ...] = ()
        """What was compared when there was nothing to do; empty when there was something."""

    def steps(
        self, wish: DesiredState, picture: ActualState, links: Mapping[str, Link]
    ) -> tuple[Neighbours, Forwarding]:
        """Entries to make, replace and remove."""
        own = (links.get(name) for name in VXLAN_DEVICES)
        ground = (wish.dataplane.neighbours, wish.dataplane.fdb, picture.neighbours, picture.fdb, *own)
        if self._quiet and all(one is other for one, other in zip(ground, self._quiet, strict=True)):
            return Delta({}, {}, {}), Delta({}, {}, {})
        neighbours, fdb = diff.neighbour_steps(wish, picture, links), diff.fdb_steps(wish, picture, links)
        self._quiet = () if neighbours or fdb or not wish.complete else ground
        return neighbours, fdb
