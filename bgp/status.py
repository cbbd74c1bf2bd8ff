"""What a speaker shows of itself: learned routes, neighbours, and every path with why it is or is not used.

Promises: values only, made from the router as it is now. Does not know: time, sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network

from bgp import nlri
from bgp.capabilities import Capabilities
from bgp.decision import Path, why_not
from bgp.families import Address
from bgp.fsm import State
from bgp.peer import Peer
from bgp.router import Router


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """The best path to a prefix."""

    prefix: IPv4Network
    next_hop: IPv4Address
    peer: Address
    stale: bool
    """Kept through the peer's restart."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A neighbour, for people."""

    address: Address
    asn: int
    description: str
    state: State
    since: datetime | None
    """When the state was entered."""
    received: int
    announced: int
    last_error: str
    restarting: bool
    """Its paths are kept although its session is gone or new."""
    hold_seconds: int = 0
    """As negotiated; 0 while there is no session, or without a hold timer."""
    router_id: IPv4Address | None = None
    offered: Capabilities | None = None
    """What we can do, as said in our OPEN."""
    received_offer: Capabilities | None = None
    """What the neighbour can do, as said in its OPEN."""


@dataclass(frozen=True, slots=True)
class PathStatus:
    """One path to a prefix, for people."""

    prefix: IPv4Network
    peer: Address | None
    """None: our own."""
    path: Path
    stale: bool
    rejected: str
    """The rule by which it lost; empty for the best one."""


def peer_status(peer: Peer, state: State, since: datetime | None) -> PeerStatus:
    """A neighbour as it is; its state and since when come from the shell."""
    session = peer.session
    return PeerStatus(
        address=peer.config.address,
        asn=peer.config.asn,
        description=peer.config.description,
        state=state,
        since=since,
        received=len(peer.learned),
        announced=len(peer.out) if peer.out is not None else 0,
        last_error=peer.last_error,
        restarting=bool(peer.stale),
        hold_seconds=session.hold_seconds if session is not None else 0,
        router_id=session.peer.router_id if session is not None and session.peer is not None else None,
        offered=session.local.offer if session is not None else None,
        received_offer=session.peer.offer if session is not None and session.peer is not None else None,
    )


def paths(router: Router, prefix: IPv4Network) -> tuple[PathStatus, ...]:
    """All paths to a prefix, the best one first."""
    packed = nlri.pack(prefix)
    candidates = router.loc_rib.candidates(packed)
    found = []
    for path in candidates:
        peer = router.peers.get(path.source.address)
        stale = peer is not None and packed in peer.stale
        address = None if path.source.is_own else path.source.address
        found.append(PathStatus(prefix, address, path, stale, why_not(path, candidates)))
    return tuple(found)
