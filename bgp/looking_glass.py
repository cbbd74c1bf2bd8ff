"""The looking glass: what is known, what a neighbour told and was told, page by page, each path with its reason.

Promises: values only, made from the instance as it is now; a page is bounded, and the next one begins behind its last
prefix whatever changed meanwhile. Does not know: time, sockets, how anything is shown.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import ip_network

from bgp.instance import Instance
from bgp.path import Path
from bgp.peer import Peer
from bgp.policy.policy import Candidate
from bgp.rib.decision import is_eligible, why_best, why_not
from bgp.rib.export import export_attributes, why_not_exported
from bgp.wire import nlri
from bgp.wire.families import Address, Family, Prefix, family_of
from bgp.wire.nlri import LONGEST, Nlri, prefix_of

MOST_PREFIXES = 2000
"""Of one page: one turn of the event loop."""

Place = tuple[Family, bytes, int]
"""Where a prefix stands in the order: family, address, length."""


class RibView(Enum):
    """What is looked at."""

    KNOWN = "known"
    RECEIVED = "received"
    ADVERTISED = "advertised"


@dataclass(frozen=True, slots=True)
class Query:
    """A question."""

    view: RibView = RibView.KNOWN
    peer: Address | None = None
    """Whose, for RECEIVED and ADVERTISED."""
    prefix: Prefix | None = None
    """Only this one; with the length of a host also the longest known prefix that holds it."""
    after: Prefix | None = None
    """The last prefix of the page before."""
    most: int = MOST_PREFIXES


@dataclass(frozen=True, slots=True)
class PathView:
    """One path."""

    prefix: Prefix
    path: Path
    best: bool
    """In use; of what is advertised: told."""
    stale: bool
    reason: str
    """Why it is the best, why it is not used, or why it is not told."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the answer."""

    paths: tuple[PathView, ...]
    last: Prefix | None
    """The next page begins behind it; None: this is the end."""


def query(instance: Instance, view: Query) -> Page:
    """One page. Raises ValueError for a peer that there is not."""
    peer = _peer(instance, view)
    tell = _TELLERS[view.view]
    if view.prefix is not None:
        found = _longest(instance, peer, view)
        chosen = [] if found is None else [found]
        more = False
    else:
        most = max(1, min(view.most, MOST_PREFIXES))
        chosen = heapq.nsmallest(most + 1, _behind(_prefixes(instance, peer, view.view), view.after))
        more = len(chosen) > most
        chosen = chosen[:most]
    prefixes = [_prefix(place) for place in chosen]
    paths = tuple(seen for prefix in prefixes for seen in tell(instance, peer, prefix))
    return Page(paths, prefixes[-1] if more else None)


def _peer(instance: Instance, view: Query) -> Peer | None:
    if view.view is RibView.KNOWN:
        return None
    if view.peer is None or view.peer not in instance.peers:
        raise ValueError(f"{view.peer} is not a peer")
    return instance.peers[view.peer]


# -- which prefixes ---------------------------------------------------------------------------------------------------


def _place(family: Family, packed: Nlri) -> Place:
    return family, packed[1:].ljust(LONGEST[family] // 8, b"\0"), packed[0]


def _prefix(place: Place) -> Prefix:
    _, address, length = place
    return ip_network((address, length))


def _prefixes(instance: Instance, peer: Peer | None, which: RibView) -> Iterator[Place]:
    for family in Family:
        for packed in _of_family(instance, peer, which, family):
            yield _place(family, packed)


def _of_family(instance: Instance, peer: Peer | None, which: RibView, family: Family) -> Iterable[Nlri]:
    if peer is None:
        return instance.ribs[family].prefixes
    if which is RibView.RECEIVED:
        return set(map(prefix_of, peer.adj_ribs_in[family].pre_policy)) if family in peer.adj_ribs_in else ()
    return peer.adj_ribs_out.get(family, ())


def _behind(places: Iterator[Place], after: Prefix | None) -> Iterator[Place]:
    if after is None:
        return places
    border = _place(family_of(after), nlri.pack(after))
    return (place for place in places if place > border)


def _longest(instance: Instance, peer: Peer | None, view: Query) -> Place | None:
    """The prefix asked for; for an address the longest one that holds it."""
    prefix = view.prefix
    assert prefix is not None
    family = family_of(prefix)
    known = _of_family(instance, peer, view.view, family)
    known = known if isinstance(known, set) else set(known)
    is_host = prefix.prefixlen == prefix.max_prefixlen
    for length in range(prefix.prefixlen, -1 if is_host else prefix.prefixlen - 1, -1):
        packed = nlri.pack(prefix.supernet(new_prefix=length))
        if packed in known:
            return _place(family, packed)
    # What a peer is not told has a reason, too.
    is_known = instance.ribs[family].best(nlri.pack(prefix)) is not None
    return _place(family, nlri.pack(prefix)) if view.view is RibView.ADVERTISED and is_known else None


# -- what there is to say of each -------------------------------------------------------------------------------------


def _known(instance: Instance, _: Peer | None, prefix: Prefix) -> Iterator[PathView]:
    family, packed = family_of(prefix), nlri.pack(prefix)
    candidates, nowhere = instance.ribs[family].candidates(packed), instance.ribs[family].unreachable
    decided = why_best([path for path in candidates if is_eligible(path, nowhere)])
    won = f"the others have: {decided}" if decided else "the only path"
    for path in candidates:
        lost = why_not(path, candidates, nowhere)
        yield PathView(prefix, path, not lost, instance.is_stale(family, packed, path), lost or won)


def _received(instance: Instance, peer: Peer | None, prefix: Prefix) -> Iterator[PathView]:
    assert peer is not None
    family, packed = family_of(prefix), nlri.pack(prefix)
    intake, rib = peer.adj_ribs_in[family], instance.ribs[family]
    candidates = rib.candidates(packed)
    for key in intake.keys_of(packed):
        told = intake.pre_policy.get(key)
        if told is None:
            continue
        refused, stale = intake.rejected.get(key), instance.is_stale(family, packed, told)
        if refused is not None:
            yield PathView(prefix, told, False, stale, f"refused: {refused}")
            continue
        used = next((path for path in candidates if path.source == told.source), told)
        lost = why_not(used, candidates, rib.unreachable)
        yield PathView(prefix, used, not lost, stale, lost or "in use")


def _advertised(instance: Instance, peer: Peer | None, prefix: Prefix) -> Iterator[PathView]:
    assert peer is not None
    family, packed = family_of(prefix), nlri.pack(prefix)
    best, to, out = (
        instance.ribs[family].best(packed),
        instance.export_target(peer, family),
        peer.adj_ribs_out.get(family),
    )
    if best is None:
        return
    if to is None or out is None:
        yield PathView(prefix, best, False, False, "there is no session of this family")
        return
    judged, reason = _judged(instance, peer, family, packed, best)
    told = export_attributes(judged, to) if judged is not None else None
    if told is None:
        yield PathView(prefix, best, False, False, reason if judged is None else why_not_exported(best, to))
    else:
        yield PathView(prefix, replace(best, attributes=told), True, False, reason or "told")


def _judged(
    instance: Instance, peer: Peer, family: Family, packed: Nlri, best: Path
) -> tuple[Path | None, str]:
    judge = peer.export_policy.get(family)
    if judge is None:
        return best, ""
    learned, relation = not best.source.is_own, instance.blocks[family].relation(packed)
    verdict = judge(Candidate(packed, best.attributes, learned, relation))
    changed = None if verdict.attributes is None else replace(best, attributes=verdict.attributes)
    return changed, verdict.reason


_TELLERS: dict[RibView, Callable[[Instance, Peer | None, Prefix], Iterator[PathView]]] = {
    RibView.KNOWN: _known,
    RibView.RECEIVED: _received,
    RibView.ADVERTISED: _advertised,
}
