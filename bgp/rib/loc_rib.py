"""Loc-RIB: every path of every prefix that was accepted, the best one first (RFC 4271 sections 3.2 and 9.1).

Promises: every change answers which prefixes now have another best path, in the order they were given in, because
what was announced together lies together in memory. NLRI stay wire octets, and all prefixes of one UPDATE share one
path, so a million of them fit. Does not know: sessions, time, what becomes of a best path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, KeysView, Set

from bgp.path import Path
from bgp.rib.decision import best_path, is_eligible
from bgp.wire.families import Address
from bgp.wire.nlri import Nlri


class LocRib:
    """The Loc-RIB of one family."""

    def __init__(self) -> None:
        self._paths: dict[Nlri, tuple[Path, ...]] = {}
        self._path_counts: dict[Address, int] = {}
        """Next hop -> how many paths have it."""
        self.ebgp_prefixes: set[Nlri] = set()
        """Prefixes that some eBGP peer announces; some may stay here whose eBGP path is gone but which have others."""
        self.unreachable: frozenset[Address] = frozenset()
        """Next hops that nobody can reach; their paths are not eligible (RFC 4271 section 9.1.2.1)."""

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def prefixes(self) -> KeysView[Nlri]:
        """All prefixes that have a path."""
        return self._paths.keys()

    @property
    def next_hops(self) -> KeysView[Address]:
        """The next hops of all paths."""
        return self._path_counts.keys()

    def best(self, prefix: Nlri) -> Path | None:
        """The best path; None when there is none that is eligible."""
        paths = self._paths.get(prefix)
        if paths is None:
            return None
        if self.unreachable and paths[0].attributes.next_hop in self.unreachable:
            eligible = [path for path in paths if is_eligible(path, self.unreachable)]
            return best_path(eligible) if eligible else None  # until `reselect` comes to it
        return paths[0]

    def next_hop(self, prefix: Nlri) -> Address | None:
        """The next hop of the best path; None where there is no path, or it is our own."""
        best = self.best(prefix)
        return best.attributes.next_hop if best is not None and not best.source.is_own else None

    def next_hops_of(self, prefixes: Iterable[Nlri]) -> Iterator[tuple[Nlri, Address | None]]:
        """`next_hop` of very many prefixes, most of which share their paths: each tuple of paths is looked at once."""
        known: dict[int, tuple[object, Address | None]] = {}  # by identity; what is held keeps its number
        for prefix in prefixes:
            paths = self._paths.get(prefix)
            found = known.get(id(paths))
            if found is None:
                found = known[id(paths)] = paths, self.next_hop(prefix)
            yield prefix, found[1]

    def candidates(self, prefix: Nlri) -> tuple[Path, ...]:
        """All paths of a prefix, the best one first."""
        return self._paths.get(prefix, ())

    def path_ids(self, prefix: Nlri, source: int) -> list[int | None]:
        """The path identifiers of a source's paths to a prefix (RFC 7911); None among them: one without."""
        paths = self._paths.get(prefix, ())
        return [path.source.path_id for path in paths if path.source.key == source]

    def not_from_ibgp(self, prefixes: Set[Nlri], own: Set[Nlri]) -> set[Nlri]:
        """Of these, prefixes whose best path is our own or an eBGP peer's; `own` is what we originate.

        Only these may go to an iBGP peer that is no client; in a mesh they are few of very many, so the sets are
        intersected before any path is looked at.
        """
        some = (prefixes & own) | (prefixes & self.ebgp_prefixes)
        return {
            one
            for one in some
            if (best := self.best(one)) is not None and (best.source.is_own or not best.source.internal)
        }

    def put(self, prefixes: Collection[Nlri], path: Path) -> list[Nlri]:
        """A source announces a path to these prefixes; answers the prefixes whose best path changed."""
        changed: list[Nlri] = []
        alone, key, path_id = (path,), path.source.key, path.source.path_id
        known = self._paths
        self._count(path, len(prefixes))
        gone: list[Path] = []
        if not path.source.internal:
            self.ebgp_prefixes.update(prefixes)
        for prefix in prefixes:
            before = known.get(prefix)
            if before is None:
                known[prefix] = alone
                changed.append(prefix)
                continue
            others = [one for one in before if one.source.key != key or one.source.path_id != path_id]
            if len(others) != len(before):
                gone += [one for one in before if one.source.key == key and one.source.path_id == path_id]
            after = self._best_first([*others, path]) if others else alone
            known[prefix] = after
            if after[0] != before[0]:
                changed.append(prefix)
        self._uncount(gone)
        return changed

    def drop(self, prefixes: Iterable[Nlri], source: int, path_id: int | None = None) -> list[Nlri]:
        """A source (its key) withdraws a path of these prefixes; answers the prefixes whose best path changed."""
        changed: list[Nlri] = []
        emptied: list[Nlri] = []
        gone: list[Path] = []
        # The tuple of one path that the prefix before had: most prefixes of one withdrawal share it, so for these an
        # identity test replaces the search for the source's path.
        sole: tuple[Path, ...] | None = None
        for prefix in prefixes:
            before = self._paths.get(prefix)
            if before is None:
                continue
            if before is not sole:
                others = [one for one in before if one.source.key != source or one.source.path_id != path_id]
                if len(others) == len(before):
                    continue
                if others:
                    gone += [
                        one for one in before if one.source.key == source and one.source.path_id == path_id
                    ]
                    after = self._paths[prefix] = self._best_first(others)
                    if after[0] is not before[0]:
                        changed.append(prefix)
                    continue
                sole = before
            gone += before
            del self._paths[prefix]
            emptied.append(prefix)
            changed.append(prefix)
        self._uncount(gone)
        if self.ebgp_prefixes:
            self.ebgp_prefixes.difference_update(emptied)
        return changed

    def uses_nexthop(self, prefix: Nlri, next_hops: Collection[Address]) -> bool:
        """Whether a path of a prefix, best or not, has one of these next hops."""
        return any(path.attributes.next_hop in next_hops for path in self._paths.get(prefix, ()))

    def reselect(self, prefixes: Iterable[Nlri]) -> list[Nlri]:
        """Decide anew after `unreachable` changed; answers those of the prefixes that have a path."""
        known = {prefix: paths for prefix in prefixes if (paths := self._paths.get(prefix))}
        for prefix, paths in known.items():
            self._paths[prefix] = self._best_first(list(paths))
        return list(known)

    def _best_first(self, paths: list[Path]) -> tuple[Path, ...]:
        best = best_path(paths, self.unreachable)
        return (best, *(path for path in paths if path is not best))

    def _count(self, path: Path, many: int) -> None:
        hop = path.attributes.next_hop
        if hop is not None and many:
            self._path_counts[hop] = self._path_counts.get(hop, 0) + many

    def _uncount(self, gone: Collection[Path]) -> None:
        """These paths have left, one for each prefix; most are the same object."""
        paths = {id(path): path for path in gone}
        for number, many in Counter(map(id, gone)).items():
            hop = paths[number].attributes.next_hop
            if hop is not None:
                self._path_counts[hop] -= many
                if not self._path_counts[hop]:
                    del self._path_counts[hop]
