"""What one peer is advertised: how the export rules see it, and the way from the Loc-RIB to its Adj-RIB-Out.

Promises: pure; a peer without a session is advertised nothing. Does not know: connections, other peers.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.peer import Peer
from bgp.peer_config import SpeakerConfig
from bgp.policy.origination import OwnBlocks
from bgp.rib.export import ExportTarget, exporter, own_next_hop
from bgp.rib.loc_rib import LocRib
from bgp.wire.families import Family, number_of
from bgp.wire.nlri import Nlri


def export_target(
    peer: Peer, us: SpeakerConfig, family: Family, *, graceful_shutdown: bool
) -> ExportTarget | None:
    """A peer as the export rules see it; None while it has no session."""
    session, config = peer.session, peer.config
    if session is None:
        return None
    own = (config.local_address, session.local.address, *us.addresses)
    return ExportTarget(
        number_of(config.address),
        session.internal,
        session.local.asn,
        own_next_hop(own, family),
        config.next_hop_mode,
        config.route_reflector_client,
        us.cluster_id or us.router_id,
        config.link_local_address if family is Family.IPV6 else None,
        graceful_shutdown,
        session.peer is not None and session.peer.offer.long_lived is not None,
    )


def advertise(
    peer: Peer, to: ExportTarget, family: Family, rib: LocRib, blocks: OwnBlocks, prefixes: Iterable[Nlri]
) -> None:
    """Put what now holds of these prefixes into the Adj-RIB-Out, which sends only what is new to the peer."""
    out, export = peer.adj_ribs_out[family], exporter(to, peer.export_policy[family], blocks)
    for prefix in prefixes:
        best = rib.best(prefix)
        attributes = export(prefix, best) if best is not None else None
        if attributes is not None or prefix in out:
            out.set(prefix, attributes)
