"""What one peer is advertised: how the export rules see it, and the way from the Loc-RIB to its Adj-RIB-Out.

Promises: pure; a peer without a session is advertised nothing. Does not know: connections, other peers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from ipaddress import IPv6Address

from bgp.path import Path
from bgp.peer import Peer
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.policy.origination import OwnBlocks
from bgp.rib.add_path_out import AddPathOut
from bgp.rib.decision import in_order
from bgp.rib.export import Export, ExportTarget, exporter, own_next_hop
from bgp.rib.loc_rib import LocRib
from bgp.session.session import Session
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Address, Family, number_of, without_zone
from bgp.wire.nlri import Nlri


def export_target(
    peer: Peer, us: SpeakerConfig, family: Family, *, graceful_shutdown: bool
) -> ExportTarget | None:
    """A peer as the export rules see it; None while it has no session."""
    session, config = peer.session, peer.config
    if session is None:
        return None
    next_hop, link_local = _own_next_hops(session, config, us, family)
    return ExportTarget(
        number_of(config.address),
        session.internal,
        session.local.asn,
        next_hop,
        config.next_hop_mode,
        config.route_reflector_client,
        us.cluster_id or us.router_id,
        link_local,
        graceful_shutdown,
        session.peer is not None and session.peer.offer.long_lived is not None,
        takes_ipv6=family is Family.IPV6 or family in session.context.ipv6_next_hops,
    )


def takes_several(peers: Iterable[Peer], family: Family) -> bool:
    """Whether any of these peers is advertised several paths to a prefix."""
    return any(isinstance(peer.adj_ribs_out.get(family), AddPathOut) for peer in peers)


def concerned(
    peers: Iterable[Peer],
    family: Family,
    rib: LocRib,
    own: Set[Nlri],
    best: Set[Nlri],
    touched: Set[Nlri],
    *,
    reflects: bool,
) -> Iterator[tuple[Peer, Set[Nlri]]]:
    """Each peer with a session, and what to advertise to it anew.

    `own` is what we originate; of `best` the best path changed, of `touched` any, for those who take several.
    """
    of_internal: dict[bool, Set[Nlri]] = {}
    for peer in peers:
        out = peer.adj_ribs_out.get(family)
        if out is None:
            continue
        several = isinstance(out, AddPathOut)
        some = touched if several else best
        if not peer.is_internal:
            yield peer, some
            continue
        # In a mesh nearly all is learned from iBGP and goes to nobody: only what does not, and what the peer has.
        if several not in of_internal:
            of_internal[several] = some if reflects else rib.not_from_ibgp(some, own, only_best=not several)
        yield peer, of_internal[several] | out.known(some)


def _own_next_hops(
    session: Session, config: PeerConfig, us: SpeakerConfig, family: Family
) -> tuple[Address | None, IPv6Address | None]:
    """Our next hop in a family, and our address on the link beside it (RFC 2545 section 3).

    Over a session between link-local addresses the link is known: what we announce is there, for IPv4 too where that
    was agreed (RFC 8950). A global address goes with it, if we have one: for those to whom the peer passes it on.
    """
    own = (config.local_address, session.local.address, *us.addresses)
    on_link = without_zone(session.local.address)
    agreed = family is Family.IPV6 or family in session.context.ipv6_next_hops
    if agreed and isinstance(on_link, IPv6Address) and on_link.is_link_local:
        known = own_next_hop(own, Family.IPV6)
        return (on_link, None) if known is None else (known, on_link)
    found = own_next_hop(own, family)
    if found is None and agreed:
        found = own_next_hop(own, Family.IPV6)
    return found, config.link_local_address if family is Family.IPV6 else None


def advertise(
    peer: Peer, to: ExportTarget, family: Family, rib: LocRib, blocks: OwnBlocks, prefixes: Iterable[Nlri]
) -> None:
    """Put what now holds of these prefixes into the Adj-RIB-Out, which sends only what is new to the peer."""
    out, export = peer.adj_ribs_out[family], exporter(to, peer.export_policy[family], blocks)
    if isinstance(out, AddPathOut):
        _advertise_several(out, export, rib, peer.config.paths_sent, prefixes)
        return
    for prefix in prefixes:
        best = rib.best(prefix)
        attributes = export(prefix, best) if best is not None else None
        if attributes is not None or prefix in out:
            out.set(prefix, attributes)


def _advertise_several(
    out: AddPathOut, export: Export, rib: LocRib, most: int, prefixes: Iterable[Nlri]
) -> None:
    """The best paths that may go to the peer, at most so many to each prefix (RFC 7911)."""
    known: dict[int, tuple[object, list[tuple[int, Path]]]] = {}  # by identity; what is held keeps its number
    for prefix in prefixes:
        paths = rib.candidates(prefix)
        found = known.get(id(paths))
        if found is None:
            ordered = [(rib.sent_ids.of(path.source), path) for path in in_order(paths, rib.unreachable)]
            found = known[id(paths)] = paths, ordered
        some: dict[int, PathAttributes] = {}
        for path_id, path in found[1]:
            if len(some) < most and (attributes := export(prefix, path)) is not None:
                some[path_id] = attributes
        if some or prefix in out:
            out.set_paths(prefix, some)
