"""Who we are and whom we peer with, checked when made. Knows no files and no datastore."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from bgp.iana import PORT

LARGEST_AS = 0xFFFFFFFF
SHORTEST_HOLD_SECONDS = 3
"""RFC 4271 section 4.2: zero, or at least three."""
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

    def __post_init__(self) -> None:
        _check(self.asn, self.port)
        if self.hold_seconds and self.hold_seconds < SHORTEST_HOLD_SECONDS:
            raise ValueError(
                f"hold time {self.hold_seconds}: must be 0 or at least {SHORTEST_HOLD_SECONDS} seconds"
            )


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

    def __post_init__(self) -> None:
        _check(self.asn, self.port)
        if int(self.router_id) == 0:
            raise ValueError("router id 0.0.0.0 is not allowed (RFC 6286)")
        if not 0 <= self.restart_seconds <= LONGEST_RESTART_SECONDS:
            raise ValueError(
                f"restart time {self.restart_seconds}: must be 0 to {LONGEST_RESTART_SECONDS} seconds"
            )
