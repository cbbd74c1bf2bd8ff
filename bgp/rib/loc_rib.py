"""Loc-RIB: every path of every prefix that was accepted, the best one first (RFC 4271 sections 3.2 and 9.1).

Promises: every change answers which prefixes now have another best path, other next hops beside it, or other paths at
all, in the order they were given in, because what was announced together lies together in memory. NLRI stay wire
octets, and all prefixes of one UPDATE share one path, and one tuple of paths where they had one, so a million fit.
Does not know: sessions, time, what becomes of a best path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Set
from functools import partial
from typing import NamedTuple

from bgp.path import Path
from bgp.peer_config import USUAL_MULTIPATH, Multipath
from bgp.rib.decision import best_path, is_eligible
from bgp.rib.graceful_restart import Staleness
from bgp.rib.multipath import NextHops, next_hops, used_paths, why_not_used
from bgp.rib.path_ids import PathIds
from bgp.wire.families import Address
from bgp.wire.nlri import Nlri, identified


class Changes(NamedTuple):
    """The prefixes that an input changed; each is in one of the lists at most."""

    best: list[Nlri]
    """Another best path, or none any more."""
    hops: list[Nlri]
    """The same best path, but other next hops are used beside its own."""
    others: list[Nlri]
    """Another path has changed that is not used."""


class LocRib:
    """The Loc-RIB of one family."""

    def __init__(self, multipath: Multipath = USUAL_MULTIPATH) -> None:
        self.multipath = multipath
        """How many paths are used side by side."""
        self.stale: dict[int, Staleness] = {}
        """Source -> its stale NLRI, as they are now (RFC 4724)."""
        self.sent_ids = PathIds()
        """The identifiers by which paths go out (RFC 7911)."""
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

    def is_stale(self, prefix: Nlri, path: Path) -> bool:
        """Whether a path is retained through its peer's restart."""
        stale = self.stale.get(path.source.key)
        return stale is not None and identified(path.source.path_id, prefix) in stale

    def used(self, prefix: Nlri) -> list[Path]:
        """The paths that are used side by side, the best of them first."""
        paths = self._paths.get(prefix, ())
        is_stale = partial(self.is_stale, prefix) if len(paths) > 1 and self.stale else None
        return used_paths(paths, self.multipath, self.unreachable, is_stale)

    def why_not_used(self, prefix: Nlri, path: Path) -> str:
        """Why a path of a prefix is not among the used ones; empty: it is."""
        is_stale = partial(self.is_stale, prefix)
        return why_not_used(path, self.candidates(prefix), self.multipath, self.unreachable, is_stale)

    def hops(self, prefix: Nlri) -> NextHops | None:
        """The next hops of the paths that are used; None where there is no path, or it is our own."""
        # Most that are asked for one by one were withdrawn: no path, nothing to decide.
        return next_hops(self.used(prefix), self.multipath) if prefix in self._paths else None

    def hops_among(self, prefix: Nlri, passes: Callable[[Address], bool]) -> NextHops | None:
        """`hops` as if there were only the paths whose next hop passes, eligible all of them; None also of our own."""
        paths = self.candidates(prefix)
        if not paths or paths[0].source.is_own:
            return None
        some = [path for path in paths if (hop := path.attributes.next_hop) is not None and passes(hop)]
        is_stale = partial(self.is_stale, prefix) if len(some) > 1 and self.stale else None
        return next_hops(used_paths(some, self.multipath, (), is_stale), self.multipath) if some else None

    def next_hops_of(self, prefixes: Collection[Nlri]) -> Iterator[tuple[Nlri, NextHops | None]]:
        """`hops` of very many prefixes, most of which share their paths: each tuple of paths is looked at once."""
        all_paths = list(map(self._paths.get, prefixes))
        numbers: list[object] = list(map(id, all_paths))  # the list keeps what they are the identities of
        restarting = {source for source, stale in self.stale.items() if stale}
        if restarting:
            # Of a restarting peer's paths some are stale, and some were announced again.
            several = zip(prefixes, all_paths, strict=True)
            numbers = [self._by_staleness(prefix, paths, restarting) for prefix, paths in several]
        ones = dict(zip(numbers, prefixes, strict=True))
        known = {number: self.hops(prefix) for number, prefix in ones.items()}
        return zip(prefixes, map(known.__getitem__, numbers), strict=True)

    def _by_staleness(self, prefix: Nlri, paths: tuple[Path, ...] | None, restarting: Set[int]) -> object:
        """The same for prefixes with the same paths of which the same are stale."""
        if paths is None or not any(one.source.key in restarting for one in paths):
            return id(paths)
        return id(paths), *(self.is_stale(prefix, one) for one in paths)

    def candidates(self, prefix: Nlri) -> tuple[Path, ...]:
        """All paths of a prefix, the best one first."""
        return self._paths.get(prefix, ())

    def path_ids(self, prefix: Nlri, source: int) -> list[int | None]:
        """The path identifiers of a source's paths to a prefix (RFC 7911); None among them: one without."""
        paths = self._paths.get(prefix, ())
        return [path.source.path_id for path in paths if path.source.key == source]

    def not_from_ibgp(self, prefixes: Set[Nlri], own: Set[Nlri], *, only_best: bool = True) -> set[Nlri]:
        """Of these, prefixes whose best path is our own or an eBGP peer's; `own` is what we originate.

        Only these may go to an iBGP peer that is no client; in a mesh they are few of very many, so the sets are
        intersected before any path is looked at. Not `only_best`: any of whose paths may be one.
        """
        some = set(prefixes & own) | (prefixes & self.ebgp_prefixes)
        if not only_best:
            return some
        return {
            one
            for one in some
            if (best := self.best(one)) is not None and (best.source.is_own or not best.source.internal)
        }

    def put(self, prefixes: Collection[Nlri], path: Path) -> Changes:
        """A source announces a path to these prefixes."""
        changes, alone = Changes([], [], []), (path,)
        new = changes.best
        key, path_id, known = path.source.key, path.source.path_id, self._paths
        self._count(path, len(prefixes))
        gone: list[Path] = []
        if not path.source.internal:
            self.ebgp_prefixes.update(prefixes)
        # Very many prefixes share what they had, so they share what comes of it; by identity, which the entry keeps.
        outcomes: dict[int, tuple[object, tuple[Path, ...], list[Path], list[Nlri]]] = {}
        for prefix in prefixes:
            before = known.get(prefix)
            if before is None:
                known[prefix] = alone
                new.append(prefix)
                continue
            outcome = outcomes.get(id(before))
            if outcome is None:
                others, went = _parted(before, key, path_id)
                after = self._best_first([*others, path]) if others else alone
                outcome = outcomes[id(before)] = before, after, went, self._place(before, after, changes)
            _, known[prefix], went, place = outcome
            gone += went
            place.append(prefix)
        self._uncount(gone)
        return changes

    def drop(self, prefixes: Iterable[Nlri], source: int, path_id: int | None = None) -> Changes:
        """A source (its key) withdraws a path of these prefixes."""
        changes, emptied, gone = Changes([], [], []), list[Nlri](), list[Path]()
        outcomes: dict[int, tuple[object, tuple[Path, ...], list[Path], list[Nlri]]] = {}
        for prefix in prefixes:
            before = self._paths.get(prefix)
            if before is None:
                continue
            outcome = outcomes.get(id(before))
            if outcome is None:
                others, went = _parted(before, source, path_id)
                after = self._best_first(others) if others and went else tuple(others)
                outcome = outcomes[id(before)] = before, after, went, self._place(before, after, changes)
            _, after, went, place = outcome
            if not went:
                continue
            gone += went
            place.append(prefix)
            if after:
                self._paths[prefix] = after
            else:
                del self._paths[prefix]
                emptied.append(prefix)
        self._uncount(gone)
        if self.ebgp_prefixes:
            self.ebgp_prefixes.difference_update(emptied)
        return changes

    def _place(self, before: tuple[Path, ...], after: tuple[Path, ...], changes: Changes) -> list[Nlri]:
        """Where a prefix stands whose paths change so."""
        if not after or after[0] != before[0]:
            return changes.best
        if before == after:
            return []
        # Staleness is each prefix's own, and told by itself.
        old, new = (
            next_hops(used_paths(paths, self.multipath, self.unreachable), self.multipath)
            for paths in (before, after)
        )
        return changes.hops if old != new else changes.others

    def uses_nexthop(self, prefix: Nlri, next_hops: Collection[Address]) -> bool:
        """Whether a path of a prefix, best or not, has one of these next hops."""
        return any(path.attributes.next_hop in next_hops for path in self._paths.get(prefix, ()))

    def reselect(self, prefixes: Iterable[Nlri]) -> list[Nlri]:
        """Decide anew after `unreachable` changed; answers those of the prefixes that have a path."""
        known = {prefix: paths for prefix in prefixes if (paths := self._paths.get(prefix))}
        chosen: dict[int, tuple[Path, ...]] = {}  # by identity: `known` keeps them
        for prefix, paths in known.items():
            if id(paths) not in chosen:
                chosen[id(paths)] = self._best_first(list(paths))
            self._paths[prefix] = chosen[id(paths)]
        return list(known)

    def _best_first(self, paths: list[Path]) -> tuple[Path, ...]:
        best = best_path(paths, self.unreachable)
        return (best, *(path for path in paths if path is not best))

    def _count(self, path: Path, many: int) -> None:
        hop = path.attributes.next_hop
        if not many:
            return
        self.sent_ids.add(path.source, many)
        if hop is not None:
            self._path_counts[hop] = self._path_counts.get(hop, 0) + many

    def _uncount(self, gone: Collection[Path]) -> None:
        """These paths have left, one for each prefix; most are the same object."""
        paths = {id(path): path for path in gone}
        for number, many in Counter(map(id, gone)).items():
            self.sent_ids.remove(paths[number].source, many)
            hop = paths[number].attributes.next_hop
            if hop is not None:
                self._path_counts[hop] -= many
                if not self._path_counts[hop]:
                    del self._path_counts[hop]


def _parted(paths: tuple[Path, ...], source: int, path_id: int | None) -> tuple[list[Path], list[Path]]:
    """The paths of others, and the source's own with this path identifier."""
    others: list[Path] = []
    went: list[Path] = []
    for one in paths:
        is_it = one.source.key == source and one.source.path_id == path_id
        (went if is_it else others).append(one)
    return others, went
