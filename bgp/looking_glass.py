"""The looking glass: Loc-RIB, Adj-RIB-In and Adj-RIB-Out of an instance, page by page, each path with its reason.

Promises: values only, made from the instance as it is now; a page is bounded, and the next one begins behind its last
prefix whatever changed meanwhile. Does not know: time, sockets, how anything is shown.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import ip_network
from itertools import chain

from bgp.instance import Instance
from bgp.path import Path
from bgp.peer import Peer
from bgp.policy.policy import Candidate, Own
from bgp.rib.add_path_out import AddPathOut
from bgp.rib.adj_rib_in import AdjRibIn
from bgp.rib.decision import in_order, is_eligible, why_best, why_not
from bgp.rib.export import ExportTarget, export_attributes, why_not_exported
from bgp.rib.multipath import single_hops
from bgp.wire import nlri
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Address, Family, Prefix, family_of
from bgp.wire.nlri import LONGEST, Nlri, prefix_of

MOST_PREFIXES = 2000
"""The most prefixes of one page: it is made in one go."""

Position = tuple[Family, bytes, int]
"""Where a prefix is in the order of pages: family, address, length."""


class RibView(Enum):
    """Which table is looked at."""

    KNOWN = "known"
    """The Loc-RIB, and what is in no Loc-RIB because it was refused on import."""
    RECEIVED = "received"
    """A peer's Adj-RIB-In, before policy."""
    ADVERTISED = "advertised"
    """A peer's Adj-RIB-Out, and why what is not in it is not."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question to the looking glass."""

    view: RibView = RibView.KNOWN
    peer: Address | None = None
    """The peer whose table it is, for RECEIVED and ADVERTISED."""
    prefix: Prefix | None = None
    """Only this one; with the length of a host also the longest known prefix that holds it."""
    after: Prefix | None = None
    """The last prefix of the page before."""
    most: int = MOST_PREFIXES


@dataclass(frozen=True, slots=True)
class PathView:
    """One path of one prefix, as it is shown."""

    prefix: Prefix
    path: Path
    best: bool
    """Whether it is the best one; of ADVERTISED: whether it is advertised."""
    stale: bool
    reason: str
    """Why it is the best, why it is or is not used, or why it is not advertised."""
    used: bool | None = None
    """Whether packets may take it, as the best one or beside it; None: that is not the question."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the answer."""

    paths: tuple[PathView, ...]
    last: Prefix | None
    """The prefix behind which the next page begins; None: this is the last page."""


def query(instance: Instance, question: Query) -> Page:
    """One page of an answer. Raises ValueError for an address that is no peer."""
    peer = None
    if question.view is not RibView.KNOWN:
        peer = instance.peers.get(question.peer) if question.peer is not None else None
        if peer is None:
            raise ValueError(f"{question.peer} is not a peer")
    more = False
    if question.prefix is not None:
        chosen = _longest(instance, peer, question.view, question.prefix)
    else:
        most = max(1, min(question.most, MOST_PREFIXES))
        chosen = heapq.nsmallest(most + 1, _behind(_positions(instance, peer, question.view), question.after))
        more, chosen = len(chosen) > most, chosen[:most]
    prefixes = [ip_network((network, length)) for _, network, length in chosen]
    refusing = {family: _refusing(instance, family) for family in Family} if peer is None else {}
    paths = (one for prefix in prefixes for one in _paths(instance, peer, question.view, prefix, refusing))
    return Page(tuple(paths), prefixes[-1] if more else None)


# -- which prefixes ---------------------------------------------------------------------------------------------------


def _position(family: Family, packed: Nlri) -> Position:
    return family, packed[1:].ljust(LONGEST[family] // 8, b"\0"), packed[0]


def _positions(instance: Instance, peer: Peer | None, view: RibView) -> Iterator[Position]:
    return (
        _position(family, packed) for family in Family for packed in _of_family(instance, peer, view, family)
    )


def _of_family(instance: Instance, peer: Peer | None, view: RibView, family: Family) -> Iterable[Nlri]:
    if peer is None:
        known = instance.ribs[family].prefixes
        return chain(known, (one for one in _refused(instance, family) if one not in known))
    if view is RibView.RECEIVED:
        return set(map(prefix_of, peer.adj_ribs_in[family].pre_policy)) if family in peer.adj_ribs_in else ()
    return peer.adj_ribs_out.get(family, ())


def _refusing(instance: Instance, family: Family) -> list[AdjRibIn]:
    """The Adj-RIBs-In of which something is refused."""
    ribs = (peer.adj_ribs_in.get(family) for peer in instance.peers.values())
    return [rib for rib in ribs if rib is not None and rib.rejected]


def _refused(instance: Instance, family: Family) -> set[Nlri]:
    return {prefix_of(key) for rib in _refusing(instance, family) for key in rib.rejected}


def _behind(positions: Iterator[Position], after: Prefix | None) -> Iterator[Position]:
    if after is None:
        return positions
    border = _position(family_of(after), nlri.pack(after))
    return (position for position in positions if position > border)


def _longest(instance: Instance, peer: Peer | None, view: RibView, prefix: Prefix) -> list[Position]:
    """The prefix asked for; for an address the longest one that holds it, and a longer one that is refused."""
    family, packed = family_of(prefix), nlri.pack(prefix)
    tables = [set(_of_family(instance, peer, view, family))]
    if view is RibView.KNOWN:
        tables = [set(instance.ribs[family].prefixes), _refused(instance, family)]
    shortest = 0 if prefix.prefixlen == prefix.max_prefixlen else prefix.prefixlen
    found: list[Position] = []
    for length in range(prefix.prefixlen, shortest - 1, -1):
        holder = nlri.truncated(packed, length)
        if any(holder in known for known in tables):
            found.append(_position(family, holder))
            if holder in tables[0]:
                break
    if found:
        return found[::-1]
    # What a peer is not advertised has a reason, too.
    is_known = instance.ribs[family].best(packed) is not None
    return [_position(family, packed)] if view is RibView.ADVERTISED and is_known else []


# -- what there is to say of each -------------------------------------------------------------------------------------


def _paths(
    instance: Instance,
    peer: Peer | None,
    view: RibView,
    prefix: Prefix,
    refusing: Mapping[Family, Collection[AdjRibIn]],
) -> Iterator[PathView]:
    if peer is None:
        return _known(instance, prefix, refusing[family_of(prefix)])
    return (
        _received(instance, peer, prefix) if view is RibView.RECEIVED else _advertised(instance, peer, prefix)
    )


def _known(instance: Instance, prefix: Prefix, refusing: Collection[AdjRibIn]) -> Iterator[PathView]:
    family, packed = family_of(prefix), nlri.pack(prefix)
    table = instance.ribs[family]
    candidates, unreachable = table.candidates(packed), table.unreachable
    decided = why_best([path for path in candidates if is_eligible(path, unreachable)])
    won = f"the others have: {decided}" if decided else "the only path"
    several = len(single_hops(table.hops(packed)))
    member = f"in the set of {several} next hops" if several > 1 else "in use, with the same next hop"
    for path in candidates:
        is_best, out = not why_not(path, candidates, unreachable), table.why_not_used(packed, path)
        reason = out or member
        if is_best:
            reason = won if several < 2 and not out else f"{won}; {reason}"
        yield PathView(prefix, path, is_best, instance.is_stale(family, packed, path), reason, not out)
    for rib in refusing:
        for key in rib.keys_of(packed):
            if (why := rib.rejected.get(key)) is not None and (path_ := rib.pre_policy.get(key)) is not None:
                yield PathView(
                    prefix, path_, False, instance.is_stale(family, packed, path_), f"refused: {why}"
                )


def _received(instance: Instance, peer: Peer, prefix: Prefix) -> Iterator[PathView]:
    family, packed = family_of(prefix), nlri.pack(prefix)
    rib_in, rib = peer.adj_ribs_in[family], instance.ribs[family]
    candidates = rib.candidates(packed)
    for key in rib_in.keys_of(packed):
        path = rib_in.pre_policy.get(key)
        if path is None:
            continue
        rejected, stale = rib_in.rejected.get(key), instance.is_stale(family, packed, path)
        if rejected is not None:
            yield PathView(prefix, path, False, stale, f"refused: {rejected}")
            continue
        used = next((one for one in candidates if one.source == path.source), path)
        is_best, out = not why_not(used, candidates, rib.unreachable), rib.why_not_used(packed, used)
        yield PathView(prefix, used, is_best, stale, out or "in use", not out)


def _advertised(instance: Instance, peer: Peer, prefix: Prefix) -> Iterator[PathView]:
    family, packed = family_of(prefix), nlri.pack(prefix)
    rib, to, out = instance.ribs[family], instance.export_target(peer, family), peer.adj_ribs_out.get(family)
    best = rib.best(packed)
    if best is None:
        return
    if to is None or out is None:
        yield PathView(prefix, best, False, False, "there is no session of this family")
        return
    relation = instance.blocks[family].relation(packed)
    if not isinstance(out, AddPathOut):
        yield _exported(peer, to, prefix, best, relation)
        return
    left = peer.config.paths_sent
    for path in in_order(rib.candidates(packed), rib.unreachable):
        view = _exported(peer, to, prefix, path, relation)
        if view.best and not left:
            view = PathView(prefix, path, False, False, f"more than paths_sent ({peer.config.paths_sent})")
        left -= view.best
        yield view


def _exported(peer: Peer, to: ExportTarget, prefix: Prefix, path: Path, relation: Own | None) -> PathView:
    """A path as the peer is advertised it, or why it is not."""
    attributes: PathAttributes | None = path.attributes
    rule = ""
    if (policy := peer.export_policy.get(family_of(prefix))) is not None:
        result = policy(Candidate(nlri.pack(prefix), path.attributes, not path.source.is_own, relation))
        attributes, rule = result.attributes, result.reason
    exported = export_attributes(replace(path, attributes=attributes), to) if attributes is not None else None
    if exported is None:
        return PathView(
            prefix, path, False, False, rule if attributes is None else why_not_exported(path, to)
        )
    return PathView(prefix, replace(path, attributes=exported), True, False, rule or "advertised")
