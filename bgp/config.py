"""Who we are and whom we peer with, checked when made. Knows no files and no datastore."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from bgp.iana import PORT

LARGEST_AS = 0xFFFFFFFF
SHORTEST_HOLD_SECONDS = 3
"""RFC 4271 section 4.2: zero, or at least three."""
LONGEST_PASSWORD = 80
"""Linux, TCP_MD5SIG_MAXKEYLEN."""
MOST_HOPS = 254
LONGEST_RESTART_SECONDS = 4095
"""RFC 4724 section 3: twelve bits."""


def _check(asn: int, port: int) -> None:
    if not 0 < asn <= LARGEST_AS:
        raise ValueError(f"AS number {asn}: must be 1 to {LARGEST_AS} (RFC 7607 forbids 0)")
    if not 0 < port <= 65535:
        raise ValueError(f"port {port}: must be 1 to 65535")


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One neighbour of the speaker."""

    address: IPv4Address
    asn: int
    port: int = PORT
    passive: bool = False
    """Wait to be called instead of calling."""
    hold_seconds: int = 90
    local_address: IPv4Address | None = None
    """Source of our connections."""
    description: str = ""
    route_reflector_client: bool = False
    """We pass on to it, and from it, what iBGP peers told us (RFC 4456)."""
    maximum_prefixes: int = 0
    """More than this and the session ends; 0: no limit."""
    password: str = ""
    """TCP MD5 (RFC 2385); empty: none."""
    ttl_security_hops: int = 0
    """RFC 5082: packets from further away are dropped; 0: not checked."""

    def __post_init__(self) -> None:
        _check(self.asn, self.port)
        if len(self.password.encode()) > LONGEST_PASSWORD:
            raise ValueError(f"password: must be at most {LONGEST_PASSWORD} octets (TCP MD5)")
        if not 0 <= self.ttl_security_hops <= MOST_HOPS:
            raise ValueError(f"TTL security hops {self.ttl_security_hops}: must be 0 to {MOST_HOPS}")
        if self.hold_seconds and self.hold_seconds < SHORTEST_HOLD_SECONDS:
            raise ValueError(
                f"hold time {self.hold_seconds}: must be 0 or at least {SHORTEST_HOLD_SECONDS} seconds"
            )


def same_session(one: PeerConfig, other: PeerConfig) -> bool:
    """Whether a session made for one may stay for the other: what differs counts only for people or from now on."""
    adjusted = replace(
        one,
        description=other.description,
        passive=other.passive,
        port=other.port,
        maximum_prefixes=other.maximum_prefixes,
    )
    return adjusted == other


@dataclass(frozen=True, slots=True)
class SpeakerConfig:
    """The speaker itself."""

    asn: int
    router_id: IPv4Address
    listen_address: IPv4Address
    port: int = PORT
    restart_seconds: int = 120
    """How long peers keep our paths while we are away."""
    restarting: bool = False
    """Whether our forwarding state survived an earlier life (R and F bits, RFC 4724)."""
    deferral_seconds: float = 60.0
    """How long after the start `converged` may wait for peers."""
    cluster_id: IPv4Address | None = None
    """Of our cluster as route reflector; the router id when not given (RFC 4456 section 7)."""

    def __post_init__(self) -> None:
        _check(self.asn, self.port)
        if int(self.router_id) == 0:
            raise ValueError("router id 0.0.0.0 is not allowed (RFC 6286)")
        if not 0 <= self.restart_seconds <= LONGEST_RESTART_SECONDS:
            raise ValueError(
                f"restart time {self.restart_seconds}: must be 0 to {LONGEST_RESTART_SECONDS} seconds"
            )
