"""Adj-RIB-Out of a peer that takes several paths to a prefix, each with an identifier (RFC 7911 section 3).

Promises: as Adj-RIB-Out's, of each path alone: one that leaves is withdrawn by its identifier, one that stays is not
sent again. Does not know: which paths there are, how they came by their identifiers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set

from bgp.rib.adj_rib_out import AdjRibOut
from bgp.rib.graceful_restart import RestartDeferral
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Family
from bgp.wire.nlri import ID_MARK, PATH_ID_BYTES, Nlri, identified

MOST_SHARED = 4096
"""Sets of identifiers that are kept as one object."""


class AddPathOut(AdjRibOut):
    """The Adj-RIB-Out of one session and one family, by path; it begins empty.

    What it holds by NLRI has the identifier in it; what it is asked for from outside is prefixes.
    """

    def __init__(self, family: Family = Family.IPV4, deferral: RestartDeferral | None = None) -> None:
        super().__init__(family, deferral)
        self._longest_nlri += PATH_ID_BYTES
        self._unsent_octets = len(ID_MARK)
        self._paths: dict[Nlri, tuple[int, ...]] = {}
        """Prefix -> the identifiers of the paths that the peer should have."""
        self._shared: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Very many prefixes have the same few, as one object."""

    def __contains__(self, prefix: Nlri) -> bool:
        return prefix in self._paths

    def __iter__(self) -> Iterator[Nlri]:
        """The prefixes of which the peer should have a path."""
        return iter(self._paths)

    def known(self, prefixes: Set[Nlri]) -> set[Nlri]:
        """Of very many prefixes the few of which the peer should have a path."""
        return self._paths.keys() & prefixes

    def path_ids(self, prefix: Nlri) -> tuple[int, ...]:
        """The identifiers of the paths to a prefix that the peer should have."""
        return self._paths.get(prefix, ())

    def set_paths(self, prefix: Nlri, paths: Mapping[int, PathAttributes]) -> None:
        """The peer should have these paths to the prefix, by identifier, and no others."""
        for path_id in self._paths.pop(prefix, ()):
            if path_id not in paths:
                self.set(identified(path_id, prefix), None)
        for path_id, attributes in paths.items():
            self.set(identified(path_id, prefix), attributes)
        if paths:
            ids = tuple(paths)
            if len(self._shared) > MOST_SHARED:
                self._shared.clear()
            self._paths[prefix] = self._shared.setdefault(ids, ids)


def adj_ribs_out(
    families: Collection[Family], several: Collection[Family], deferral: RestartDeferral | None
) -> dict[Family, AdjRibOut]:
    """Those of a new session, by family; of `several` the peer takes several paths to a prefix."""
    return {
        family: (AddPathOut if family in several else AdjRibOut)(family, deferral)
        for family in sorted(families)
    }
