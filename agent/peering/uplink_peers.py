"""A router that was found on an uplink, as a peer.

Promises: pure; a session over an uplink is between link-local addresses, whose source the kernel knows, and carries
both versions of IP (RFC 8950 for IPv4). Does not know: how a router is found, the other peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.configuration.config import UplinkSettings
from bgp.peer_config import PeerConfig
from bgp.wire.families import Address, Family, zone_of

SecretRef = tuple[str, str]
"""Name and key of a secret."""
EXTERNAL, INTERNAL = "external", "internal"


@dataclass(frozen=True, slots=True)
class UplinkPeer:
    """A router to peer with."""

    address: Address
    """Link-local with its zone, or a gateway of IPv4 where the router has no other address."""
    settings: UplinkSettings

    @property
    def secret(self) -> SecretRef | None:
        """The secret with the password of its session."""
        name, slash, key = self.settings.secret.partition("/")
        return (name, key) if slash else None

    @property
    def name(self) -> str:
        """For people."""
        return f"uplink {zone_of(self.address) or self.settings.interface}"


def uplink_peers(found: Mapping[Address, UplinkSettings]) -> tuple[UplinkPeer, ...]:
    """What was found, in an order of its own."""
    return tuple(UplinkPeer(address, found[address]) for address in sorted(found, key=str))


def uplink_config(
    uplink: UplinkPeer,
    own_as: int,
    password: str,
    *,
    hold_seconds: int,
    maximum_prefixes: int,
    maximum_octets: int,
) -> PeerConfig:
    """How to peer with it."""
    settings = uplink.settings
    asn = settings.remote_as if isinstance(settings.remote_as, int) else None
    if settings.remote_as == INTERNAL:
        asn = own_as
    return PeerConfig(
        address=uplink.address,
        asn=asn,
        port=settings.port,
        hold_seconds=settings.hold_seconds or hold_seconds,
        keepalive_seconds=settings.keepalive_seconds,
        description=uplink.name,
        password=password,
        ttl_security_hops=int(settings.ttl_security),
        families=frozenset(Family) if uplink.address.version == 6 else frozenset({Family.IPV4}),
        maximum_prefixes=maximum_prefixes,
        maximum_octets=maximum_octets,
    )
