"""Facts to identity: what this node is as a BGP speaker, and where it listens.

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
"""An IPv4 address whose first octet is greater is no host's."""


def identity(
    inputs: PeeringInputs, restart_seconds: int = 120, deferral_seconds: float = 60.0
) -> SpeakerConfig | None:
    """The identity of this node's speaker; None: the node has no address yet."""
    if inputs.me not in inputs.nodes:
        return None
    found = [inputs.address(inputs.me, version) for version in (4, 6)]
    own = [address for address in found if address is not None]
    if not own:
        return None
    listen = own if inputs.cluster.bind_mode != "None" else [ANYWHERE[one.version] for one in own]
    return SpeakerConfig(
        asn=inputs.asn(inputs.me),
        router_id=own[0] if isinstance(own[0], IPv4Address) else hashed(inputs.me),
        listen_address=listen[0],
        second_address=listen[1] if len(listen) > 1 else None,
        port=inputs.port(inputs.me),
        restart_seconds=restart_seconds,
        deferral_seconds=deferral_seconds,
        cluster_id=cluster_id(inputs),
    )


def hashed(name: NodeName) -> IPv4Address:
    """The router id that Calico makes of a node's name."""
    octets = bytearray(hashlib.sha256(name.encode()).digest()[:4])
    if octets[0] > LARGEST_UNICAST:
        octets[0] -= 32
    return IPv4Address(bytes(octets))


def cluster_id(inputs: PeeringInputs) -> IPv4Address | None:
    """The cluster id of this node as a route reflector; None when it is none, or its id cannot be read."""
    try:
        return IPv4Address(inputs.reflector_cluster_id(inputs.me) or "")
    except ValueError:
        return None
