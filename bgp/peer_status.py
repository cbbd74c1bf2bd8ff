"""What a speaker shows of a peer: its session, what was negotiated, its counts, and the last NOTIFICATION.

Promises: values only, made from the peer as it is now. Does not know: time, sockets, how anything is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address

from bgp.peer import Peer
from bgp.rib.limits import held_octets, near_limit
from bgp.session.fsm import State
from bgp.session.notification_text import describe_notification, where_defined
from bgp.session.session import Down, Session
from bgp.wire.capabilities import Capabilities
from bgp.wire.families import Address


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """A NOTIFICATION that ended a connection."""

    sent: bool
    """Sent by us; else by the peer."""
    code: int
    subcode: int
    name: str
    """With the text of its sender, where there is one (RFC 9003)."""
    defined_in: str
    data: str
    """The NOTIFICATION's data in hex."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer as it is shown to people."""

    address: Address
    asn: int | None
    """None: any but ours, and it has not said its own yet."""
    description: str
    state: State
    since: datetime | None
    """Since when there is a session, or none; attempts change nothing."""
    received: int
    announced: int
    last_error: str
    """Why there is no session; empty while there is one."""
    restarting: bool
    """Some of its paths are stale: its session is gone or new."""
    hold_seconds: int = 0
    """As negotiated; 0 while there is no session, or without a hold timer."""
    router_id: IPv4Address | None = None
    offered: Capabilities | None = None
    """What we can do, as said in our OPEN."""
    received_offer: Capabilities | None = None
    """What the peer can do, as said in its OPEN."""
    agreed: tuple[str, ...] = ()
    """What both can do, in words."""
    last_notification: ErrorStatus | None = None
    """The last one, whoever sent it; it stays until the next."""
    sessions: int = 0
    """How often one was established."""
    refused: int = 0
    """How many further connections from its address came to nothing while its session lived."""
    refused_at: datetime | None = None
    """When a connection from its address was refused last: for that, or for its TTL or signature."""
    messages_sent: tuple[tuple[str, int], ...] = ()
    """Messages by kind, in this session."""
    messages_received: tuple[tuple[str, int], ...] = ()
    tolerated: int = 0
    """Messages with mistakes that cost no session (RFC 7606), in all sessions."""
    ignored: int = 0
    """Those of them with something of a family that was not negotiated."""
    failures: int = 0
    """How often an error of this program reset its session."""
    failure: str = ""
    """The last of them, until the peer has advertised everything again."""
    held_octets: int = 0
    """Memory that its paths need, by estimate."""
    near_limit: str = ""
    """The limit of prefixes or memory that it is near to, as a sentence."""
    session_ended: str = ""
    """Why the last session ended; empty while there is one, or there was none."""
    disabled: bool = False
    """A person disabled it."""
    exceeded: str = ""
    """The limit that it exceeded, for which it is left alone."""


def peer_status(
    peer: Peer,
    state: State,
    since: datetime | None,
    refused_at: datetime | None = None,
    session_ended: str = "",
) -> PeerStatus:
    """The status of a peer; its state and all moments come from the shell."""
    session = peer.session
    theirs = session.peer if session is not None else None
    return PeerStatus(
        address=peer.config.address,
        asn=peer.config.asn if theirs is None else theirs.asn,
        description=peer.config.description,
        state=state,
        since=since,
        received=sum(len(rib.pre_policy) for rib in peer.adj_ribs_in.values()),
        announced=sum(map(len, peer.adj_ribs_out.values())),
        last_error=why_down(peer),
        restarting=any(rib.stale for rib in peer.adj_ribs_in.values()),
        hold_seconds=session.hold_seconds if session is not None else 0,
        router_id=theirs.router_id if theirs is not None else None,
        offered=session.local.offer if session is not None else None,
        received_offer=theirs.offer if theirs is not None else None,
        agreed=agreed(session) if session is not None else (),
        last_notification=_error(peer.last_down) if peer.last_down is not None else None,
        sessions=peer.sessions,
        refused=peer.collisions.refused,
        refused_at=refused_at,
        messages_sent=tuple(sorted(session.sent.items())) if session is not None else (),
        messages_received=tuple(sorted(session.received.items())) if session is not None else (),
        tolerated=peer.counts.tolerated,
        ignored=peer.counts.ignored,
        failures=peer.counts.failures,
        failure=peer.failure,
        held_octets=held_octets(peer.adj_ribs_in),
        near_limit=near_limit(peer.adj_ribs_in, peer.config),
        session_ended=session_ended,
        disabled=peer.is_disabled,
        exceeded=peer.exceeded,
    )


def why_down(peer: Peer) -> str:
    """Why there is no session with a peer; empty while there is one."""
    config = peer.config
    if peer.connection is not None:
        return ""
    if config.shutdown is not None:
        return f"it is disabled here: {config.shutdown}".removesuffix(": ")
    waits = "it is to connect to us, and has not yet" if config.passive else "it was not called yet"
    return peer.last_error or waits


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
    several, sent = (
        ", ".join(family.name.replace("IPV", "IPv") for family in sorted(some))
        for some in (context.path_ids, session.path_ids_sent)
    )
    restarts = ours.graceful_restart is not None and theirs.graceful_restart is not None
    for text, holds in (
        ("four-octet AS numbers (RFC 6793)", context.four_octet_as),
        ("route refresh (RFC 2918)", ours.route_refresh and theirs.route_refresh),
        ("marked route refresh (RFC 7313)", session.enhanced_refresh),
        ("extended messages (RFC 8654)", ours.extended_message and theirs.extended_message),
        ("graceful restart (RFC 4724)", restarts),
        ("graceful restart after a NOTIFICATION (RFC 8538)", session.is_soft),
        (
            "long-lived graceful restart (RFC 9494)",
            ours.long_lived is not None and theirs.long_lived is not None,
        ),
        ("IPv4 prefixes with IPv6 next hops (RFC 8950)", bool(context.ipv6_next_hops)),
        (f"several paths received: {several} (RFC 7911)", bool(several)),
        (f"several paths sent: {sent} (RFC 7911)", bool(sent)),
    ):
        if holds:
            found.append(text)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many paths of one family went each way."""

    received: int
    refused: int
    stale: int
    long_lived_stale: int
    """Those of the stale ones that are the last choice (RFC 9494)."""
    advertised: int


def counts(peer: Peer) -> dict[str, Counts]:
    """How many paths a peer announced and was advertised, by the family's name."""
    return {
        family.name: Counts(
            received=len(rib.pre_policy),
            refused=len(rib.rejected),
            stale=len(rib.stale),
            long_lived_stale=len(rib.stale.long_lived),
            advertised=len(peer.adj_ribs_out[family]) if family in peer.adj_ribs_out else 0,
        )
        for family, rib in peer.adj_ribs_in.items()
    }
