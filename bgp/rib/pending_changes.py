"""What has changed in the Loc-RIBs and is still to be advertised, and reported.

Promises: pure; each prefix waits once, in the order in which it changed first; what was taken and could not be
advertised can be put back. Does not know: paths, peers.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.rib.loc_rib import Changes
from bgp.rib.rib_walks import take_first
from bgp.wire.families import Family
from bgp.wire.nlri import Nlri

Prefixes = dict[Nlri, None]
"""A set that keeps its order."""


class PendingChanges:
    """The prefixes of one family that wait."""

    def __init__(self) -> None:
        self.best: Prefixes = {}
        """Another best path: to be advertised to everybody, and reported."""
        self._beside: Prefixes = {}
        """Another path: to be advertised to the peers that take several."""
        self._hops: Prefixes = {}
        """Other paths are used beside the best one, or some became stale or fresh: to be reported alone."""

    def __bool__(self) -> bool:
        return bool(self.best or self._beside or self._hops)

    def add(self, changes: Changes) -> None:
        """What an input changed."""
        self.best |= dict.fromkeys(changes.best)
        if changes.hops:
            self._hops |= dict.fromkeys(changes.hops)
        if changes.hops or changes.others:
            self._beside |= dict.fromkeys((*changes.hops, *changes.others))

    def add_stale(self, prefixes: Iterable[Nlri]) -> None:
        """Of these prefixes paths became stale, or fresh again."""
        self._hops |= dict.fromkeys(prefixes)

    def take(self, most: int, *, several: bool) -> tuple[Prefixes, Prefixes]:
        """Some prefixes with another best path, and some of which another path changed.

        Not `several`: nobody takes several paths, so the latter concern nobody.
        """
        if not several:
            self._beside.clear()
        return take_first(self.best, most), take_first(self._beside, most)

    def put_back(self, best: Prefixes, beside: Prefixes) -> None:
        """These were taken and not advertised."""
        self.best, self._beside = best | self.best, beside | self._beside

    def take_hops(self, most: int) -> Prefixes:
        """Some that are to be reported though their best path is the same."""
        return take_first(self._hops, most)


def pending_changes() -> dict[Family, PendingChanges]:
    """Nothing waits yet, of any family."""
    return {family: PendingChanges() for family in Family}
