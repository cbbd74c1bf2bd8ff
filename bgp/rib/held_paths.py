"""What the paths of one peer and family cost in memory, by estimate, and which of them are one object.

Promises: pure; `octets` is the sum over what was added and not removed, so a bound on it is a bound on memory, however
the peer packs: many prefixes, many sets of attributes, or few huge ones. Equal attributes that the decoder made one
object are one path. Does not know: prefixes, limits.

The estimate was measured (CPython 3.11): a prefix in Adj-RIB-In and Loc-RIB, a path with its attributes, a number in a
list, a text of octets. What the dataplane makes of a best path costs about as much again; Adj-RIB-Out is another
hundred octets for each peer that is advertised it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bgp.path import Path, Source
from bgp.wire.attributes import PathAttributes

PREFIX_OCTETS = 250
"""One NLRI with its entries in both RIBs."""
SET_OCTETS = 700
"""One set of path attributes without its lists, and its path."""
NUMBER_OCTETS = 44
"""One AS number or community: Python's integer, and its place in a tuple."""
ITEM_OCTETS = 80
"""One value that is an object of its own: an address, a large community, an unknown attribute beside its octets."""


def cost_of(attributes: PathAttributes) -> int:
    """What a set of attributes takes in memory, in octets."""
    numbers = sum(len(some) for _, some in attributes.as_path) + len(attributes.communities)
    items = len(attributes.as_path) + len(attributes.cluster_list) + len(attributes.unknown)
    items += len(attributes.extended_communities) + len(attributes.large_communities)
    unknown = sum(len(value) for _, _, value in attributes.unknown)
    return SET_OCTETS + NUMBER_OCTETS * numbers + ITEM_OCTETS * items + unknown


@dataclass(slots=True)
class _Held:
    path: Path
    key: tuple[int, int | None]
    cost: int
    prefixes: int = 0


class HeldPaths:
    """The paths of one Adj-RIB-In."""

    def __init__(self) -> None:
        self.octets = 0
        """Of all prefixes and paths together."""
        self._held: dict[int, _Held] = {}
        """By the identity of the path, which is alive as long as it is here."""
        self._shared: dict[tuple[int, int | None], Path] = {}
        """The present session's paths by the identity of their attributes, and path identifier."""

    def begin_session(self) -> None:
        """Paths of an earlier session have another source: none of them is shared any more."""
        self._shared.clear()

    def shared(self, attributes: PathAttributes, source: Source, path_id: int | None) -> Path:
        """The path with these attributes: one object for all prefixes that the peer gives it."""
        found = self._shared.get((id(attributes), path_id))
        if found is not None:
            return found
        return Path(attributes, source if path_id is None else replace(source, path_id=path_id))

    def add(self, path: Path, prefixes: int) -> None:
        """So many more prefixes have this path."""
        held = self._held.get(id(path))
        if held is None:
            key = id(path.attributes), path.source.path_id
            held = self._held[id(path)] = _Held(path, key, cost_of(path.attributes))
            self._shared[key] = path
            self.octets += held.cost
        held.prefixes += prefixes
        self.octets += PREFIX_OCTETS * prefixes

    def remove(self, paths: Iterable[Path]) -> None:
        """These paths have left, one for each prefix; most are the same object."""
        for number, prefixes in Counter(map(id, paths)).items():
            held = self._held[number]
            held.prefixes -= prefixes
            self.octets -= PREFIX_OCTETS * prefixes
            if not held.prefixes:
                del self._held[number]
                self.octets -= held.cost
                if self._shared.get(held.key) is held.path:
                    del self._shared[held.key]

    def clear(self) -> None:
        """Nothing is left."""
        self.octets = 0
        self._held.clear()
        self._shared.clear()
