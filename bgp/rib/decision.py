"""The decision process: which of several paths to a prefix is used (RFC 4271 section 9.1.2, RFC 9494).

Promises: pure, and independent of the order in which paths came. Does not know: RIBs, sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from bgp.path import Path, local_pref
from bgp.wire.families import Address
from bgp.wire.iana import WellKnown

Rule = Callable[[list[Path]], list[Path]]
UNREACHABLE = "next hop not reachable"
"""Why a path is not eligible (RFC 4271 section 9.1.2.1)."""


def is_eligible(path: Path, unreachable: Collection[Address]) -> bool:
    """Whether a path may be used at all: its next hop can be reached."""
    return path.attributes.next_hop not in unreachable


def best_path(candidates: Iterable[Path], unreachable: Collection[Address] = ()) -> Path:
    """The best of at least one path; one that is not eligible only where no other is.

    1. our own   2. not long-lived stale (RFC 9494 section 4.4)   3. highest LOCAL_PREF   4. shortest AS_PATH
    5. lowest ORIGIN   6. lowest MED per neighbouring AS   7. external over internal   8. lowest ORIGINATOR_ID or BGP
    identifier   9. shortest CLUSTER_LIST (RFC 4456)   10. lowest peer address   11. lowest path identifier (RFC 7911)

    Own first is not in the RFC: a peer with a high LOCAL_PREF must not take our own blocks from us.
    """
    paths = list(candidates)
    if unreachable:
        paths = [path for path in paths if is_eligible(path, unreachable)] or paths
    for _, rule in _RULES:
        if len(paths) == 1:
            break
        paths = rule(paths)
    return paths[0]


def why_not(path: Path, candidates: Iterable[Path], unreachable: Collection[Address] = ()) -> str:
    """The rule by which a path lost against the others; empty for the one that is used."""
    if not is_eligible(path, unreachable):
        return UNREACHABLE
    return _lost_by(path, [one for one in candidates if is_eligible(one, unreachable)], _RULES)


def _lost_by(path: Path, paths: list[Path], rules: Iterable[tuple[str, Rule]]) -> str:
    for name, rule in rules:
        paths = rule(paths)
        if path not in paths:
            return name
    return ""


def equally_good(candidates: Iterable[Path], unreachable: Collection[Address] = ()) -> list[Path]:
    """The eligible paths that are as good as the best one in all but the last resorts, the best one first.

    The last resorts are what only makes the choice unique: identifiers, CLUSTER_LIST, addresses.
    """
    paths = (
        [path for path in candidates if is_eligible(path, unreachable)] if unreachable else list(candidates)
    )
    for _, rule in _PREFERENCES:
        if len(paths) < 2:
            return paths
        paths = rule(paths)
    return sorted(paths, key=_last_resort) if len(paths) > 1 else paths


def why_not_equal(path: Path, candidates: Iterable[Path], unreachable: Collection[Address] = ()) -> str:
    """The rule by which a path is not `equally_good`; empty: it is."""
    if not is_eligible(path, unreachable):
        return UNREACHABLE
    return _lost_by(path, [one for one in candidates if is_eligible(one, unreachable)], _PREFERENCES)


def in_order(candidates: Iterable[Path], unreachable: Collection[Address] = ()) -> Iterator[Path]:
    """All eligible paths, each the best of those that are left."""
    left = [path for path in candidates if is_eligible(path, unreachable)]
    while left:
        best = best_path(left)
        yield best
        left.remove(best)


def why_best(candidates: Iterable[Path]) -> str:
    """The rule by which the last competitor of the best path lost; empty for the only path."""
    paths, decided = list(candidates), ""
    for name, rule in _RULES:
        if len(paths) < 2:
            break
        left = rule(paths)
        if len(left) < len(paths):
            decided, paths = name, left
    return decided


def _least_med_of_each_as(paths: list[Path]) -> list[Path]:
    """RFC 4271 section 9.1.2.2 c: MED compares only paths of one neighbouring AS; a missing MED is 0.

    So MED is no order over all paths: compared two at a time, the outcome would depend on the order of arrival.
    Instead all paths are grouped by neighbouring AS, and each group keeps those with its least MED, at once.
    """
    least: dict[int, int] = {}
    for path in paths:
        group, med = path.attributes.neighbour_as, path.attributes.med or 0
        least[group] = min(med, least.get(group, med))
    return [path for path in paths if (path.attributes.med or 0) == least[path.attributes.neighbour_as]]


def _least(key: Callable[[Path], int]) -> Rule:
    def rule(paths: list[Path]) -> list[Path]:
        least = min(map(key, paths))
        return [path for path in paths if key(path) == least]

    return rule


def _identifier(path: Path) -> int:
    return int(path.attributes.originator_id or path.source.router_id)


def _clusters(path: Path) -> int:
    return len(path.attributes.cluster_list)


def _path_id(path: Path) -> int:
    return path.source.path_id or 0


def _last_resort(path: Path) -> tuple[int, int, int, int]:
    """The order that _LAST_RESORTS give, at once."""
    return _identifier(path), _clusters(path), path.source.key, _path_id(path)


_PREFERENCES: tuple[tuple[str, Rule], ...] = (
    ("not our own", _least(lambda path: not path.source.is_own)),
    ("long-lived stale", _least(lambda path: WellKnown.LLGR_STALE in path.attributes.communities)),
    ("lower LOCAL_PREF", _least(lambda path: -local_pref(path))),
    ("longer AS_PATH", _least(lambda path: path.attributes.as_path_length)),
    ("higher ORIGIN", _least(lambda path: path.attributes.origin)),
    ("higher MED", _least_med_of_each_as),
    ("internal", _least(lambda path: path.source.internal)),
)
"""What makes a path better: the rules in order, what a path has that the rule removes, and which paths it leaves."""
_LAST_RESORTS: tuple[tuple[str, Rule], ...] = (
    ("higher identifier", _least(_identifier)),
    ("longer CLUSTER_LIST", _least(_clusters)),
    ("higher peer address", _least(lambda path: path.source.key)),
    ("higher path identifier", _least(_path_id)),
)
"""What only makes the choice unique (RFC 4271 section 9.1.2.2 f and g): multipath disregards it."""
_RULES = _PREFERENCES + _LAST_RESORTS
