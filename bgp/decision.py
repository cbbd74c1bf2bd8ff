"""The decision process: which of several paths to a prefix is used (RFC 4271 section 9.1.2).

Promises: pure, and independent of the order in which paths came. Does not know: RIBs, sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from bgp.attributes import DEFAULT_LOCAL_PREF, PathAttributes


@dataclass(frozen=True, slots=True)
class Source:
    """Whom a path came from."""

    key: int
    """Names the source: the peer's address as a number; 0 is ourselves."""
    address: IPv4Address
    router_id: IPv4Address
    internal: bool
    client: bool = False
    """Whether it is a client of ours (RFC 4456)."""

    @property
    def is_own(self) -> bool:
        """Whether we originate the path."""
        return self.key == 0


@dataclass(frozen=True, slots=True)
class Path:
    """A prefix's attributes as one source gave them."""

    attributes: PathAttributes
    source: Source


def best_path(candidates: Iterable[Path]) -> Path:
    """The best of at least one path.

    1. our own   2. highest LOCAL_PREF   3. shortest AS_PATH   4. lowest ORIGIN   5. lowest MED per neighbour AS
    6. external over internal   7. lowest ORIGINATOR_ID or BGP identifier   8. shortest CLUSTER_LIST (RFC 4456)
    9. lowest peer address

    Own first is not in the RFC: a peer with a high LOCAL_PREF must not take our own blocks from us.
    """
    paths = list(candidates)
    for key in _BEFORE_MED:
        paths = _least(paths, key)
    paths = _least_med_of_each_neighbour(paths)
    for key in _AFTER_MED:
        paths = _least(paths, key)
    return paths[0]


def local_pref(path: Path) -> int:
    """LOCAL_PREF, or its default where the peer gave none."""
    given = path.attributes.local_pref
    return DEFAULT_LOCAL_PREF if given is None else given


_BEFORE_MED: tuple[Callable[[Path], int], ...] = (
    lambda path: not path.source.is_own,
    lambda path: -local_pref(path),
    lambda path: path.attributes.as_path_length,
    lambda path: path.attributes.origin,
)
_AFTER_MED: tuple[Callable[[Path], int], ...] = (
    lambda path: path.source.internal,
    lambda path: int(path.attributes.originator_id or path.source.router_id),
    lambda path: len(path.attributes.cluster_list),
    lambda path: path.source.key,
)


def _least(paths: list[Path], key: Callable[[Path], int]) -> list[Path]:
    if len(paths) == 1:
        return paths
    least = min(map(key, paths))
    return [path for path in paths if key(path) == least]


def _least_med_of_each_neighbour(paths: list[Path]) -> list[Path]:
    """MED compares only paths of one neighbour AS, so it is no order over all of them; a missing one is 0."""
    least: dict[int, int] = {}
    for path in paths:
        neighbour, med = path.attributes.neighbour_as, path.attributes.med or 0
        least[neighbour] = min(med, least.get(neighbour, med))
    return [path for path in paths if (path.attributes.med or 0) == least[path.attributes.neighbour_as]]
