"""Neighbours as listeners: with which address and which rules each is told, and the telling itself.

Promises: pure; a neighbour is only ever told what it does not have yet, its Adj-RIB-Out sees to that.
Does not know: connections, which path is best.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from bgp.peer import Peer
from bgp.peer_config import SpeakerConfig
from bgp.policy.origination import OwnBlocks
from bgp.rib.export import ExportTarget, concerns_internal, exporter, own_next_hop
from bgp.rib.loc_rib import LocRib
from bgp.wire.families import Family, number_of
from bgp.wire.nlri import Nlri


def listener_of(us: SpeakerConfig, peer: Peer, family: Family, *, lowered: bool) -> ExportTarget | None:
    """A neighbour as one that can be told; None while it has no session."""
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
        lowered,
    )


def tell(
    peer: Peer, to: ExportTarget, family: Family, rib: LocRib, blocks: OwnBlocks, prefixes: Iterable[Nlri]
) -> None:
    """Have a neighbour told what now holds of these prefixes."""
    out = peer.adj_ribs_out[family]
    judged = exporter(to, peer.export_policy[family], blocks)
    for prefix in prefixes:
        best = rib.best(prefix)
        attributes = judged(prefix, best) if best is not None else None
        if attributes is not None or prefix in out:
            out.set(prefix, attributes)


def not_internal(prefixes: Set[Nlri], rib: LocRib, own: Set[Nlri]) -> set[Nlri]:
    """Of these those whose best path is our own or another AS's: in a mesh few of very many."""
    some = (prefixes & own) | (prefixes & rib.ebgp_prefixes)
    return {one for one in some if concerns_internal(rib.best(one))}
