"""Facts to identity: who this node is as a BGP speaker, and where it listens.

Promises: pure. The router id is the node's IPv4 address; a node without one takes Calico's hash of its name.
Does not know: peers, sockets.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv6Address

from agent.peering.peers import PeeringInputs
from bgp.peer_config import SpeakerConfig
from bgp.wire.families import Address
from ipam.model import NodeName

ANYWHERE: dict[int, Address] = {4: IPv4Address("0.0.0.0"), 6: IPv6Address("::")}
LARGEST_UNICAST = 223
"""An IPv4 address that begins with more is no host's."""


def identity(
    situation: PeeringInputs, restart_seconds: int = 120, deferral_seconds: float = 60.0
) -> SpeakerConfig | None:
    """The speaker of this node; None: it has no address yet."""
    if situation.me not in situation.nodes:
        return None
    found = [situation.address(situation.me, version) for version in (4, 6)]
    own = [address for address in found if address is not None]
    if not own:
        return None
    listen = own if situation.cluster.bind_mode != "None" else [ANYWHERE[one.version] for one in own]
    return SpeakerConfig(
        asn=situation.asn(situation.me),
        router_id=own[0] if isinstance(own[0], IPv4Address) else hashed(situation.me),
        listen_address=listen[0],
        second_address=listen[1] if len(listen) > 1 else None,
        port=situation.port(situation.me),
        restart_seconds=restart_seconds,
        deferral_seconds=deferral_seconds,
        cluster_id=cluster_id(situation),
    )


def hashed(name: NodeName) -> IPv4Address:
    """The router id that Calico makes of a name."""
    octets = bytearray(hashlib.sha256(name.encode()).digest()[:4])
    if octets[0] > LARGEST_UNICAST:
        octets[0] -= 32
    return IPv4Address(bytes(octets))


def cluster_id(situation: PeeringInputs) -> IPv4Address | None:
    """Of this node as a route reflector; None when it is none, or its id cannot be read."""
    try:
        return IPv4Address(situation.reflector_cluster_id(situation.me) or "")
    except ValueError:
        return None
