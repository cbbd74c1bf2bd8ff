"""Which BFD sessions this node wants, by its peers and links; and which of them are not in force.

Promises: pure. A peer on a link's subnet has a session over that link alone (RFC 5881); a node of the mesh that is
not on one has a session over several hops (RFC 5883); another peer that is not has none, for
`BFDIfDirectlyConnected`. Does not know: who carries the sessions out, how these are reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from agent.configuration.config import BfdSettings
from agent.netlink.objects import Address, Link
from agent.peering.bfd.bfd_timers import InterfaceTimers, timers_over
from agent.peering.peer_links import link_of
from agent.peering.peers import DesiredPeer, PeerKind
from agent.trouble import Trouble, TroubleKind
from bgp.bfd.door import MOST_SESSIONS, SHORTEST_IDLE_MS, DesiredSession, SessionKey, SessionReport
from ipam.address_text import text_of

LEAST_TTL = 192
"""Of packets over several hops: no node is 64 routers away."""
COMING_UP_SECONDS = 10.0
"""How long a session may need to come up before that is a trouble: both sides begin with a packet a second."""
NOT_CONNECTED = "not directly connected"
TOO_MANY = f"more than {MOST_SESSIONS} sessions are wanted"
OTHER_TIMERS = "BFD notices a failure later or sooner than that asks for"
HOLD_TIMER = "a broken way is noticed by BGP's hold timer alone"


@dataclass(frozen=True, slots=True)
class BfdSessions:
    """What follows from the peers."""

    sessions: Mapping[Address, DesiredSession]
    """By the peer's address."""
    left_out: Mapping[Address, str]
    """Peers with `bfd` that have no session, and why."""
    not_kept: tuple[str, ...] = ()
    """What of BFDConfigurations is not in force on the links of these sessions."""


NO_SESSIONS = BfdSessions({}, {})


def bfd_sessions(
    peers: Mapping[Address, DesiredPeer],
    links: Mapping[str, Link],
    settings: BfdSettings,
    asked: tuple[InterfaceTimers, ...] = (),
) -> BfdSessions:
    """The sessions that are wanted; `asked`: what BFDConfigurations say for this node."""
    sessions: dict[Address, DesiredSession] = {}
    left_out: dict[Address, str] = {}
    not_kept: dict[str, None] = {}
    for address, peer in peers.items():
        if not peer.bfd:
            continue
        key = _key(address, peer, links)
        if key is None or len(sessions) >= MOST_SESSIONS:
            left_out[address] = NOT_CONNECTED if key is None else TOO_MANY
            continue
        ttl = {"minimum_ttl": LEAST_TTL} if key.multihop else {}
        timers, sentences = timers_over(key.interface, asked, settings)
        not_kept |= dict.fromkeys(sentences)
        sessions[address] = DesiredSession(
            key, timers.min_tx, timers.min_rx, timers.multiplier, timers.idle, **ttl
        )
    return BfdSessions(sessions, left_out, tuple(not_kept))


def _key(address: Address, peer: DesiredPeer, links: Mapping[str, Link]) -> SessionKey | None:
    local = peer.config.local_address
    own = text_of(local) if local is not None and local.version == address.version else ""
    if isinstance(address, IPv6Address) and address.is_link_local:
        zone = address.scope_id
        return SessionKey(text_of(address).partition("%")[0], "", zone) if zone and zone in links else None
    link = link_of(links, address)
    if link is not None:
        return SessionKey(text_of(address), own, link.name)
    return SessionKey(text_of(address), own, multihop=True) if peer.kind is PeerKind.MESH else None


def bfd_troubles(
    wanted: BfdSessions, reports: Mapping[SessionKey, SessionReport], names: Mapping[Address, str]
) -> Iterator[Trouble]:
    """The sessions that are wanted and not up, as the BFD process reports them."""
    for address, desired in wanted.sessions.items():
        report = reports.get(desired.key)
        if report is None or report.state == "Up":
            continue
        patience = COMING_UP_SECONDS + (desired.idle_ms - SHORTEST_IDLE_MS) / 1000
        if report.seconds < patience and not report.error:
            continue
        yield Trouble(
            TroubleKind.PEERING,
            f"BFD with {names.get(address) or 'peer'} ({text_of(address)})",
            report.error or _evidence(report),
            HOLD_TIMER,
            "" if report.error else "see whether BFD is on at the other end, for this address",
        )
    for address, why in wanted.left_out.items():
        if why == TOO_MANY:
            about = f"BFD with {names.get(address) or 'peer'} ({text_of(address)})"
            yield Trouble(TroubleKind.PEERING, about, why, HOLD_TIMER)
    for sentence in wanted.not_kept:
        about, _, evidence = sentence.partition(": ")
        yield Trouble(TroubleKind.PEERING, about, evidence, OTHER_TIMERS, "change the BFDConfiguration")


def _evidence(report: SessionReport) -> str:
    if report.remote_state == "AdminDown":
        return "the peer has put it down (AdminDown)"
    if not report.remote_discriminator:
        heard = f", the last time for: {report.diagnostic}" if report.diagnostic else ""
        return f"it is {report.state}, and nothing is heard of the peer{heard}"
    theirs = f" ({report.remote_diagnostic})" if report.remote_diagnostic else ""
    return f"it is {report.state} here, {report.remote_state} there{theirs}"
