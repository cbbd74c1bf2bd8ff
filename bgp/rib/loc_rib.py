"""Routing information bases: what one peer said, and the best of what all said (RFC 4271 sections 3.2 and 9.1).

Promises: every change answers which prefixes now have another best path, in the order they were given in, because
what was told together lies together in memory. NLRI stay wire bytes, and all prefixes of one
UPDATE share one path, so a million of them fit. Does not know: sessions, time, what becomes of a best path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, ItemsView, Iterable, Iterator, KeysView

from bgp.path import Path
from bgp.rib.decision import best_path, is_eligible
from bgp.wire.families import Address
from bgp.wire.nlri import Nlri


class _PeerPaths:
    """What one peer announced and did not withdraw."""

    def __init__(self) -> None:
        self._paths: dict[Nlri, Path] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def put(self, prefixes: Iterable[Nlri], path: Path) -> None:
        """The peer announced these."""
        self._paths.update(dict.fromkeys(prefixes, path))

    def drop(self, prefixes: Iterable[Nlri]) -> list[Nlri]:
        """The peer withdrew these; answers those that it had announced."""
        return [prefix for prefix in prefixes if self._paths.pop(prefix, None) is not None]

    def get(self, prefix: Nlri) -> Path | None:
        """The path that the peer announced."""
        return self._paths.get(prefix)

    def items(self) -> ItemsView[Nlri, Path]:
        """All of them with their paths."""
        return self._paths.items()

    def drop_all(self) -> list[Nlri]:
        """The peer is forgotten; answers all that it had announced."""
        gone, self._paths = list(self._paths), {}
        return gone

    @property
    def prefixes(self) -> KeysView[Nlri]:
        """All of them."""
        return self._paths.keys()


class LocRib:
    """Every known path of every prefix, the best one first."""

    def __init__(self) -> None:
        self._paths: dict[Nlri, tuple[Path, ...]] = {}
        self._hops: dict[Address, int] = {}
        """Next hop -> how many paths have it."""
        self.ebgp_prefixes: set[Nlri] = set()
        """What has a path of another autonomous system, or had one besides those that it has."""
        self.unreachable: frozenset[Address] = frozenset()
        """Next hops that lead nowhere; their paths are not eligible (RFC 4271 section 9.1.2.1)."""

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def prefixes(self) -> KeysView[Nlri]:
        """All prefixes that have a path."""
        return self._paths.keys()

    @property
    def next_hops(self) -> KeysView[Address]:
        """The next hops of all paths."""
        return self._hops.keys()

    def best(self, prefix: Nlri) -> Path | None:
        """The chosen path; None when there is none, or none that leads anywhere."""
        paths = self._paths.get(prefix)
        if paths is None:
            return None
        if self.unreachable and paths[0].attributes.next_hop in self.unreachable:
            usable = [path for path in paths if is_eligible(path, self.unreachable)]
            return best_path(usable) if usable else None  # until it is chosen again
        return paths[0]

    def next_hop(self, prefix: Nlri) -> Address | None:
        """That of the chosen path; None where there is none, or it is our own."""
        best = self.best(prefix)
        return best.attributes.next_hop if best is not None and not best.source.is_own else None

    def next_hops_of(self, prefixes: Iterable[Nlri]) -> Iterator[tuple[Nlri, Address | None]]:
        """The same of very many, which share their paths."""
        known: dict[int, tuple[object, Address | None]] = {}  # by identity; what is held keeps its number
        for prefix in prefixes:
            paths = self._paths.get(prefix)
            found = known.get(id(paths))
            if found is None:
                found = known[id(paths)] = paths, self.next_hop(prefix)
            yield prefix, found[1]

    def candidates(self, prefix: Nlri) -> tuple[Path, ...]:
        """All paths, the best one first."""
        return self._paths.get(prefix, ())

    def put(self, prefixes: Collection[Nlri], path: Path) -> list[Nlri]:
        """A source announces with these attributes; answers the prefixes whose best path changed."""
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
            after = self._chosen([*others, path]) if others else alone
            known[prefix] = after
            if after[0] != before[0]:
                changed.append(prefix)
        self._uncount(gone)
        return changed

    def drop(self, prefixes: Iterable[Nlri], source: int, path_id: int | None = None) -> list[Nlri]:
        """A source (its key) takes back a path; answers the prefixes whose best path changed."""
        changed: list[Nlri] = []
        emptied: list[Nlri] = []
        gone: list[Path] = []
        sole: tuple[Path, ...] | None = None
        """The only path of a prefix before, to which most of the others had no other either."""
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
                    after = self._paths[prefix] = self._chosen(others)
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
        """Whether a path to a prefix has one of these next hops."""
        return any(path.attributes.next_hop in next_hops for path in self._paths.get(prefix, ()))

    def reselect(self, prefixes: Iterable[Nlri]) -> list[Nlri]:
        """Decide anew, after `unreachable` changed; answers these prefixes, as far as they are known."""
        known = {prefix: paths for prefix in prefixes if (paths := self._paths.get(prefix))}
        for prefix, paths in known.items():
            self._paths[prefix] = self._chosen(list(paths))
        return list(known)

    def _chosen(self, paths: list[Path]) -> tuple[Path, ...]:
        best = best_path(paths, self.unreachable)
        return (best, *(path for path in paths if path is not best))

    def _count(self, path: Path, many: int) -> None:
        hop = path.attributes.next_hop
        if hop is not None and many:
            self._hops[hop] = self._hops.get(hop, 0) + many

    def _uncount(self, gone: Collection[Path]) -> None:
        """These have left, one for each prefix; most are the same one."""
        paths = {id(path): path for path in gone}
        for number, many in Counter(map(id, gone)).items():
            hop = paths[number].attributes.next_hop
            if hop is not None:
                self._hops[hop] -= many
                if not self._hops[hop]:
                    del self._hops[hop]
