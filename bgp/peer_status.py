"""What a speaker shows of itself: learned routes, neighbours, and every path with why it is or is not used.

Promises: values only, made from the router as it is now. Does not know: time, sockets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from bgp.instance import Instance
from bgp.path import Path
from bgp.peer import Peer
from bgp.session.fsm import State
from bgp.session.notification_text import describe_notification, where_defined
from bgp.session.session import Down, Session
from bgp.wire import nlri
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Address, Family, Prefix, family_of
from bgp.wire.nlri import Nlri


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """What is said of a best path that neighbours taught; prefixes may share it."""

    next_hop: Address
    peer: Address
    stale: bool
    """Kept through the peer's restart."""
    link_local: IPv6Address | None = None
    """The next hop on the peer's link, when it was told beside a global one."""


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """A NOTIFICATION that ended a session."""

    sent: bool
    """By us; else by the neighbour."""
    code: int
    subcode: int
    name: str
    """With the neighbour's words, where it had some (RFC 9003)."""
    defined_in: str
    data: str
    """In hex."""


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
    agreed: tuple[str, ...] = ()
    """What both can do, in words."""
    last_notification: ErrorStatus | None = None
    """The last one, whoever sent it; it stays until the next."""
    sessions: int = 0
    """How often one was established."""
    messages_sent: tuple[tuple[str, int], ...] = ()
    """By kind, in this session."""
    messages_received: tuple[tuple[str, int], ...] = ()


def peer_status(peer: Peer, state: State, since: datetime | None) -> PeerStatus:
    """A neighbour as it is; its state and since when come from the shell."""
    session = peer.session
    return PeerStatus(
        address=peer.config.address,
        asn=peer.config.asn,
        description=peer.config.description,
        state=state,
        since=since,
        received=sum(len(intake.pre_policy) for intake in peer.adj_ribs_in.values()),
        announced=sum(map(len, peer.adj_ribs_out.values())),
        last_error=peer.last_error,
        restarting=peer.hearing.has_stale,
        hold_seconds=session.hold_seconds if session is not None else 0,
        router_id=session.peer.router_id if session is not None and session.peer is not None else None,
        offered=session.local.offer if session is not None else None,
        received_offer=session.peer.offer if session is not None and session.peer is not None else None,
        agreed=agreed(session) if session is not None else (),
        last_notification=_error(peer.last_down) if peer.last_down is not None else None,
        sessions=peer.sessions,
        messages_sent=_counted(session.sent) if session is not None else (),
        messages_received=_counted(session.received) if session is not None else (),
    )


def _counted(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items()))


def _error(down: Down) -> ErrorStatus | None:
    said = down.sent or down.received
    if said is None:
        return None
    data = said.data.hex()
    name, defined_in = describe_notification(said), where_defined(said)
    return ErrorStatus(down.sent is not None, said.code, said.subcode, name, defined_in, data)


def agreed(session: Session) -> tuple[str, ...]:
    """What the two sides of a session have in common, in words, each with its RFC."""
    ours, theirs = session.local.offer, session.peer.offer if session.peer is not None else Capabilities()
    context = session.context
    found = [f"{family.name.replace('IPV', 'IPv')} unicast (RFC 4760)" for family in sorted(context.families)]
    several = [family.name.replace("IPV", "IPv") for family in sorted(context.path_ids)]
    restarts = ours.graceful_restart is not None and theirs.graceful_restart is not None
    for text, holds in (
        ("four-octet AS numbers (RFC 6793)", context.four_octet_as),
        ("route refresh (RFC 2918)", ours.route_refresh and theirs.route_refresh),
        ("marked route refresh (RFC 7313)", session.enhanced_refresh),
        ("extended messages (RFC 8654)", ours.extended_message and theirs.extended_message),
        ("graceful restart (RFC 4724)", restarts),
        ("graceful restart after a NOTIFICATION (RFC 8538)", session.is_soft),
        (f"several paths received: {', '.join(several)} (RFC 7911)", bool(several)),
    ):
        if holds:
            found.append(text)
    return tuple(found)


class Learned(Mapping[Prefix, LearnedRoute]):
    """The best path to every prefix that neighbours told, as it is when asked: a view of the RIBs, which are large."""

    def __init__(self, router: Instance) -> None:
        self._router = router

    def __getitem__(self, prefix: Prefix) -> LearnedRoute:
        family, packed = family_of(prefix), nlri.pack(prefix)
        best = self._router.ribs[family].best(packed)
        if best is None or best.source.is_own or best.attributes.next_hop is None:
            raise KeyError(prefix)
        attributes, source = best.attributes, best.source.address
        stale = is_stale(self._router, family, packed, best)
        return LearnedRoute(best.attributes.next_hop, source, stale, attributes.link_local)

    def __iter__(self) -> Iterator[Prefix]:
        for family, rib in self._router.ribs.items():
            for packed in list(rib.prefixes):
                if rib.next_hop(packed) is not None:
                    yield nlri.unpack(packed, family)

    def __len__(self) -> int:
        ribs = self._router.ribs.values()
        return sum(1 for rib in ribs for packed in rib.prefixes if rib.next_hop(packed) is not None)

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None


def is_stale(router: Instance, family: Family, packed: Nlri, path: Path) -> bool:
    """Whether a path is kept through its neighbour's restart."""
    peer = router.peers.get(path.source.address)
    intake = peer.adj_ribs_in.get(family) if peer is not None else None
    return intake is not None and intake.is_stale(packed, path.source.path_id)
