"""What our OPEN says: AS number, hold time and capabilities (RFC 5492, RFC 4724, RFC 8538). Pure."""

from __future__ import annotations

from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session.session import LocalParameters
from bgp.wire.capabilities import Capabilities, GracefulRestart
from bgp.wire.families import Address


def local_parameters(
    us: SpeakerConfig, peer: PeerConfig, address: Address, *, restarting: bool, was_up: bool
) -> LocalParameters:
    """Our side of a new connection; `address` is our end's.

    `restarting` sets the R bit. `was_up`: the peer had a session with this process, so its F bits are set: whatever
    breaks a session of ours, the kernel goes on forwarding.
    """
    asn = peer.local_as or us.asn
    restart = GracefulRestart(
        us.restart_seconds if peer.restart_seconds is None else peer.restart_seconds,
        restarting=restarting,
        notification=True,
        families=peer.families,
        forwarding_preserved=peer.families if us.restarting or was_up else frozenset(),
    )
    offer = Capabilities(
        families=peer.families,
        four_octet_as=asn,
        route_refresh=True,
        enhanced_refresh=True,
        add_path_receive=peer.families,
        graceful_restart=restart,
        extended_message=True,
    )
    return LocalParameters(asn, us.router_id, peer.hold_seconds, offer, address, peer.keepalive_seconds)
