"""Which paths to a prefix are used side by side, and the next hops that they come to (BIRD `merge paths`, FRR
`maximum-paths`).

Promises: pure, and independent of the order in which paths came; equal sets of next hops are one object, so that very
many prefixes share them. The best path is the decision's, whatever is used beside it. Does not know: RIBs, sessions,
how a next hop is reached.
draft-ietf-idr-link-bandwidth section 2; decision page 52.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from weakref import WeakValueDictionary

from bgp.path import Path
from bgp.peer_config import Multipath
from bgp.rib.decision import equally_good, why_not, why_not_equal
from bgp.wire.communities import link_bandwidth
from bgp.wire.families import Address

LARGEST_WEIGHT = 256
"""The kernel's: an octet, and one (rtnexthop's rtnh_hops)."""

IsStale = Callable[[Path], bool]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class NextHopSet:
    """Several next hops of one prefix, with the share of flows that each takes; made by `of`."""

    members: tuple[tuple[Address, int], ...]
    """(address, weight from 1 to 256), sorted, at least two."""

    @classmethod
    def of(cls, weights: Mapping[Address, int]) -> NextHopSet:
        """The set of these next hops: one object as long as somebody holds it."""
        members = tuple(sorted(weights.items(), key=_order))
        known = _SETS.get(members)
        if known is None:
            known = _SETS[members] = cls(members)
        return known

    def __str__(self) -> str:
        return ", ".join(
            str(hop) if weight == 1 else f"{hop} weight {weight}" for hop, weight in self.members
        )


NextHops = Address | NextHopSet
"""What a prefix's used paths come to: most often one next hop."""
_SETS: WeakValueDictionary[tuple[tuple[Address, int], ...], NextHopSet] = WeakValueDictionary()


def _order(member: tuple[Address, int]) -> tuple[int, int, str]:
    hop = member[0]
    return hop.version, int(hop), str(hop)  # the zone of a link-local address is in its text alone


def single_hops(hops: NextHops | None) -> tuple[Address, ...]:
    """The addresses of what a prefix has as next hops."""
    if isinstance(hops, NextHopSet):
        return tuple(hop for hop, _ in hops.members)
    return () if hops is None else (hops,)


def used_paths(
    paths: Sequence[Path],
    how: Multipath,
    unreachable: Collection[Address] = (),
    is_stale: IsStale | None = None,
) -> list[Path]:
    """Of the paths of a prefix those that are used, the best of them first; none where none is eligible.

    Our own is used alone, and so is the best one where one is the maximum. A stale path (RFC 4724) is not used beside
    a fresh one: whether its peer still forwards is a hope, and whoever has another way need not stake half of its flows
    on it. Where all are stale, all are used: then nothing is lost by waiting.
    """
    equal = equally_good(paths, unreachable)
    if how.maximum_paths == 1 or len(equal) < 2 or equal[0].source.is_own:
        return equal[:1]
    if is_stale is not None:
        equal = [path for path in equal if not is_stale(path)] or equal
    if not how.as_relax:
        equal = [path for path in equal if _same_as(path, equal[0])]
    return _within(how.maximum_paths, equal)


def why_not_used(
    path: Path,
    paths: Sequence[Path],
    how: Multipath,
    unreachable: Collection[Address] = (),
    is_stale: IsStale | None = None,
) -> str:
    """Why a path is not among the used ones; empty: it is."""
    used = used_paths(paths, how, unreachable, is_stale)
    if path in used:
        return ""
    alone = how.maximum_paths == 1 or (used and used[0].source.is_own)
    if lost := (why_not if alone else why_not_equal)(path, paths, unreachable):
        return lost
    if is_stale is not None and is_stale(path) and not is_stale(used[0]):
        return "stale, beside a fresh one"
    if not how.as_relax and not _same_as(path, used[0]):
        return "another AS_PATH" if path.source.internal else "another neighbouring AS"
    return f"more than maximum_paths ({how.maximum_paths})"


def next_hops(used: Sequence[Path], how: Multipath) -> NextHops | None:
    """What used paths come to: a next hop, several with their weights, or None for our own and for no path."""
    if not used or used[0].source.is_own:
        return None
    if len(used) == 1:
        return used[0].attributes.next_hop
    widths: dict[Address, float | None] = {}
    for path in used:
        if (hop := path.attributes.next_hop) is not None:
            width = link_bandwidth(path.attributes.extended_communities) if how.link_bandwidth else None
            widths[hop] = max((one for one in (width, widths.get(hop)) if one is not None), default=None)
    if len(widths) < 2:
        return next(iter(widths), None)
    return NextHopSet.of(_weights(widths))


def _weights(widths: Mapping[Address, float | None]) -> dict[Address, int]:
    """Shares as the bandwidths are; all alike unless each next hop has one.

    Half a knowledge is none: who says no bandwidth is not slow (FRR does it so, too).
    """
    known = [width for width in widths.values() if width is not None]
    if len(known) < len(widths):
        return dict.fromkeys(widths, 1)
    widest = max(known)
    scaled = {hop: max(1, round((width or 0) / widest * LARGEST_WEIGHT)) for hop, width in widths.items()}
    common = gcd(*scaled.values())
    return {hop: weight // common for hop, weight in scaled.items()}


def _same_as(path: Path, best: Path) -> bool:
    if path.source.internal:
        return path.attributes.as_path == best.attributes.as_path
    return path.attributes.neighbour_as == best.attributes.neighbour_as


def _within(most: int, paths: Iterable[Path]) -> list[Path]:
    """Paths of at most so many next hops; several reflectors announce the same one, which counts once."""
    hops: set[Address | None] = set()
    found = []
    for path in paths:
        hop = path.attributes.next_hop
        if hop in hops or len(hops) < most:
            hops.add(hop)
            found.append(path)
    return found
