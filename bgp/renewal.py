"""What makes a peer's paths new: a refresh of both tables in the session that there is, a new session, BFD's word.

Promises: pure. Whoever asks for what cannot be done gets one sentence (ValueError), and nothing has changed.
Does not know: other peers, who asks.
RFC 2918, RFC 5882 section 4.3, RFC 7313 section 4, RFC 8538, RFC 9384.
"""

from __future__ import annotations

from bgp.events import Output, Send
from bgp.peer import Peer
from bgp.peer_config import PeerConfig
from bgp.peer_status import why_down
from bgp.session.fsm import State
from bgp.session.session import Down, Session
from bgp.wire.families import UNICAST
from bgp.wire.iana import Cease, Error
from bgp.wire.messages import Notification, RouteRefresh, Subtype


def refresh(peer: Peer) -> list[Output]:
    """Ask for everything again, and send everything again (RFC 2918). Raises ValueError without a session."""
    session, connection = peer.session, peer.connection
    if session is None or connection is None:
        raise ValueError(f"there is no session with {peer.config.address}: {why_down(peer)}")
    offer = session.peer.offer if session.peer is not None else None
    for family, out in peer.adj_ribs_out.items():
        out.readvertise(marked=session.enhanced_refresh)
        if offer is not None and offer.route_refresh:
            session.send(RouteRefresh(family, UNICAST, Subtype.REQUEST))
    return [Send(connection, session.data_to_send())]


def reset(peer: Peer, now: float, *, is_hard: bool) -> list[Output]:
    """Begin a new session; the paths outlive that, or go on both sides (`is_hard`). Raises ValueError."""
    if peer.is_disabled:
        raise ValueError(f"{peer.config.address} is disabled here; enable it instead")
    subcode, why = Cease.ADMINISTRATIVE_RESET, "it was reset here"
    if is_hard:
        outputs = peer.end_all(lambda session: session.cease(subcode, why), now)
        outputs += [*peer.connect_retry.cancel(), *peer.adj_ribs_in.withdraw_all()]
    else:
        outputs = end_softly(peer, subcode, why, now)
    peer.connect_retry.start_over(now)
    return outputs


def restart_session(peer: Peer, config: PeerConfig, now: float) -> list[Output]:
    """Begin a new session under a configuration that needs one; as in a restart, paths outlive that on both sides."""
    if config.shutdown is not None:
        return [*peer.reconfigure(config, now), *peer.adj_ribs_in.configure(config)]
    outputs = end_softly(peer, Cease.OTHER_CONFIGURATION_CHANGE, "the configuration changed", now)
    outputs += peer.reconfigure(config, now)
    peer.connect_retry.schedule(now)
    return outputs + peer.adj_ribs_in.configure(config)


def end_softly(peer: Peer, subcode: Cease, why: str, now: float) -> list[Output]:
    """End all connections so that paths outlive them on both sides, and call no more.

    RFC 8538 lets a Cease do that; without it only a connection that breaks without a NOTIFICATION does (RFC 4724).
    """

    def end(session: Session) -> Down:
        quiet = peer.restart_of(session) is not None and not session.is_soft
        return session.lost(why) if quiet else session.close(Notification(Error.CEASE, subcode), why)

    peer.collisions.current = None
    return [*peer.end_all(end, now), *peer.connect_retry.cancel()]


def bfd_changed(peer: Peer, now: float, *, up: bool, independent: bool) -> list[Output]:
    """The way to the peer works, as BFD sees it (`up`): call at once. Or it has failed: its session ends, and its paths
    go at once (RFC 9384).

    Not if the peer restarts gracefully and its BFD restarts with it (`independent` is false: it said C = 0): then the
    failure says no more than that (RFC 5882 section 4.3.2). With C = 1 it was the forwarding, and what was kept for the
    restart goes as well (section 4.3.1).
    """
    if up:
        peer.connect_retry.hurry(now)
    if up or not ends_by_bfd(peer, independent=independent):
        return []
    peer.last_error = why = "BFD: the way to the peer has failed"
    ended = peer.end_all(lambda session: session.cease(Cease.BFD_DOWN, why), now)
    return ended + peer.adj_ribs_in.withdraw_all()


def link_failed(peer: Peer, now: float, why: str) -> list[Output]:
    """The link to the peer carries nothing: its session is over, and its paths go at once, stale ones as well.

    No NOTIFICATION could get there; the end of the connection does once the link is back, and leaves our routes there
    to a graceful restart.
    """
    peer.last_error = why
    ended = peer.end_all(lambda session: session.lost(why), now)
    return ended + peer.adj_ribs_in.withdraw_all()


def ends_by_bfd(peer: Peer, *, independent: bool) -> bool:
    """Whether a failure that BFD finds ends the peer's session and paths."""
    return independent or not any(rib.stale for rib in peer.adj_ribs_in.values())


def call_now(peer: Peer, now: float) -> list[Output]:
    """What kept the other end from answering is over, such as a cable that was out: call it at once."""
    is_alone = peer.state in (State.ACTIVE, State.CONNECT)
    return peer.connect_retry.begin_anew(now) if is_alone else []
