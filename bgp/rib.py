"""Routing information bases: what each peer said, and the best of it (RFC 4271 sections 3.2 and 9.1).

Promises: pure; every change answers which prefixes now have another best path. Attributes are shared, NLRI stay wire
bytes. Does not know: sessions, what becomes of a best path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from bgp.attributes import DEFAULT_LOCAL_PREF, PathAttributes
from bgp.nlri import Nlri


@dataclass(frozen=True, slots=True)
class Source:
    """Whom a path came from."""

    address: IPv4Address
    router_id: IPv4Address
    internal: bool


@dataclass(frozen=True, slots=True)
class Path:
    """A prefix's attributes as one peer gave them."""

    attributes: PathAttributes
    source: Source
    stale: bool = False
    """Kept through the peer's restart (RFC 4724)."""


def best_path(candidates: Iterable[Path]) -> Path | None:
    """RFC 4271 section 9.1.2.2.

    1. not stale   2. highest LOCAL_PREF   3. shortest AS_PATH   4. lowest ORIGIN   5. lowest MED per neighbour AS
    6. external over internal   7. lowest originator or BGP id   8. shortest CLUSTER_LIST   9. lowest peer address
    """
    paths = list(candidates)
    if len(paths) < 2:
        return paths[0] if paths else None
    paths = _least(paths, lambda path: path.stale)
    paths = _least(paths, lambda path: -_local_pref(path))
    paths = _least(paths, lambda path: path.attributes.as_path_length)
    paths = _least(paths, lambda path: path.attributes.origin)
    paths = _least_med_of_each_neighbour(paths)
    paths = _least(paths, lambda path: path.source.internal)
    paths = _least(paths, lambda path: int(path.attributes.originator_id or path.source.router_id))
    paths = _least(paths, lambda path: len(path.attributes.cluster_list))
    return min(paths, key=lambda path: int(path.source.address))


def _local_pref(path: Path) -> int:
    given = path.attributes.local_pref
    return DEFAULT_LOCAL_PREF if given is None else given


def _least(paths: list[Path], key: Callable[[Path], int]) -> list[Path]:
    least = min(map(key, paths))
    return [path for path in paths if key(path) == least]


def _least_med_of_each_neighbour(paths: list[Path]) -> list[Path]:
    """MED compares only paths of one neighbour AS, so it is no order over all of them; a missing one is 0."""
    least: dict[int, int] = {}
    for path in paths:
        neighbour, med = path.attributes.neighbour_as, path.attributes.med or 0
        least[neighbour] = min(med, least.get(neighbour, med))
    return [path for path in paths if (path.attributes.med or 0) == least[path.attributes.neighbour_as]]


class Rib:
    """All Adj-RIB-Ins and the Loc-RIB."""

    def __init__(self) -> None:
        self._paths: dict[Nlri, dict[IPv4Address, Path]] = {}
        """Prefix -> peer -> path."""
        self.best: dict[Nlri, Path] = {}

    def learn(self, prefixes: Iterable[Nlri], path: Path) -> set[Nlri]:
        """A peer announces; answers what changed."""
        changed = set()
        for prefix in prefixes:
            self._paths.setdefault(prefix, {})[path.source.address] = path
            if self._decide(prefix):
                changed.add(prefix)
        return changed

    def forget(self, prefixes: Iterable[Nlri], peer: IPv4Address) -> set[Nlri]:
        """A peer withdraws; answers what changed."""
        changed = set()
        for prefix in prefixes:
            by_peer = self._paths.get(prefix, {})
            if by_peer.pop(peer, None) is None:
                continue
            if not by_peer:
                del self._paths[prefix]
            if self._decide(prefix):
                changed.add(prefix)
        return changed

    def _decide(self, prefix: Nlri) -> bool:
        chosen = best_path(self._paths.get(prefix, {}).values())
        before = self.best.get(prefix)
        if chosen is None:
            self.best.pop(prefix, None)
        else:
            self.best[prefix] = chosen
        return chosen != before

    def of_peer(self, peer: IPv4Address) -> list[Nlri]:
        """What a peer has announced and not withdrawn."""
        return [prefix for prefix, by_peer in self._paths.items() if peer in by_peer]

    def path(self, prefix: Nlri, peer: IPv4Address) -> Path | None:
        """What a peer says of a prefix."""
        return self._paths.get(prefix, {}).get(peer)
