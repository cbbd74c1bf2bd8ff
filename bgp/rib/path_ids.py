"""The identifiers by which paths go out to peers that take several of a prefix (RFC 7911 section 3).

Promises: a path keeps its identifier as long as its source announces any path under the same name, whatever its
attributes become; no two sources have one at a time. All prefixes of a source share it, so it costs nothing per prefix.
Does not know: prefixes, which paths go out.
"""

from __future__ import annotations

from bgp.path import Source

Name = tuple[int, int | None]
"""What tells the paths to one prefix apart here: the source's key, and the identifier under which it announced it."""
LARGEST = 0xFFFFFFFF


class PathIds:
    """The identifiers of one Loc-RIB's paths: from 1, each used again only after all others."""

    def __init__(self) -> None:
        self._counts: dict[Name, int] = {}
        """How many paths of each name there are."""
        self._ids: dict[Name, int] = {}
        self._taken: set[int] = set()
        self._last = 0

    def add(self, source: Source, many: int) -> None:
        """So many more paths have this source."""
        name = source.key, source.path_id
        self._counts[name] = self._counts.get(name, 0) + many

    def remove(self, source: Source, many: int) -> None:
        """So many have left."""
        name = source.key, source.path_id
        self._counts[name] -= many
        if not self._counts[name]:
            del self._counts[name]
            self._taken.discard(self._ids.pop(name, 0))

    def of(self, source: Source) -> int:
        """The identifier of the paths of a source that has some."""
        name = source.key, source.path_id
        found = self._ids.get(name)
        if found is None:
            found = self._ids[name] = self._next()
        return found

    def _next(self) -> int:
        # It ends: there are fewer paths than numbers.
        while True:
            self._last = self._last % LARGEST + 1
            if self._last not in self._taken:
                self._taken.add(self._last)
                return self._last
