"""Ingress checks: well-formed paths that are rejected before any policy (RFC 4271 section 9.1.2, RFC 4456 section 8).

Promises: pure; the answer is a sentence. A rejected path is as good as withdrawn.
Does not know: what is malformed (attributes decide that), RIBs.
"""

from __future__ import annotations

from dataclasses import replace

from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Address, plain
from bgp.wire.iana import WellKnown


def apply_graceful_shutdown(attributes: PathAttributes) -> PathAttributes:
    """The attributes of a path whose peer is about to leave: it becomes the last resort (RFC 8326 section 4.1)."""
    if WellKnown.GRACEFUL_SHUTDOWN in attributes.communities and attributes.local_pref != 0:
        return replace(attributes, local_pref=0)
    return attributes


def reject_reason(
    attributes: PathAttributes, internal: bool, peer: PeerConfig, us: SpeakerConfig, local: Address | None
) -> str:
    """Why a path is rejected; empty: it is not. `local` is our address on the (last) session."""
    for own in {us.asn, peer.local_as or us.asn}:
        if sum(numbers.count(own) for _, numbers in attributes.as_path) > peer.allowed_local_as:
            return f"our own AS {own} is in AS_PATH"
    if not internal and attributes.neighbour_as != peer.asn:
        return f"AS_PATH does not begin with the peer's AS {peer.asn}"
    if attributes.originator_id == us.router_id:
        return "we are its ORIGINATOR_ID"
    if (us.cluster_id or us.router_id) in attributes.cluster_list:
        return "we are in its CLUSTER_LIST"
    next_hop = attributes.next_hop
    if next_hop is None:
        return "NEXT_HOP is missing"
    if next_hop in (local, peer.local_address, *us.addresses):
        return f"NEXT_HOP {next_hop} is ourselves"
    if plain(next_hop).is_loopback and not plain(peer.address).is_loopback:
        return f"NEXT_HOP {next_hop} is a loopback address"
    return ""
