"""Collision detection: of two connections to one peer, one opened by each side, one stays (RFC 4271 6.8, RFC 6286).

Promises: pure. The connection that the greater BGP identifier opened stays, unless the peer closes it first.
Does not know: what is sent, whose paths go.

Where it differs from the RFC, on purpose: it has each side decide when the second OPEN arrives, but the two see the
first connection in different states at that moment. BIRD, which has just established it, closes the second; we, who
still wait for its KEEPALIVE, close the first by the identifiers: both are gone, and a BIRD that restarts gives its
graceful restart up (seen in 3 of 1,497 restarts). So the peer's decision is waited for (`PATIENCE_SECONDS`),
and then ours is made of what is left: both sides know both connections by then, so they choose alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from bgp.events import Connection
from bgp.session.fsm import State
from bgp.session.session import Session

PATIENCE_SECONDS = 0.5
"""How long the peer's decision is waited for; and a session younger than this is not one that a peer has restarted
from, so a connection that it opens was under way already."""


def confirmed(sessions: Mapping[Connection, Session], without: Connection | None = None) -> list[Connection]:
    """The connections that take part: those whose OPEN was accepted."""
    states = (State.OPEN_CONFIRM, State.ESTABLISHED)
    return [one for one, session in sessions.items() if session.state in states and one != without]


def losers(
    sessions: Mapping[Connection, Session], outgoing: Set[Connection], router_id: int
) -> list[Connection]:
    """The connections to close; `router_id` is ours. Empty where fewer than two take part.

    Equal identifiers are those of two autonomous systems, and the greater number of these decides (RFC 6286).
    """
    taking_part = confirmed(sessions)
    if len(taking_part) < 2:
        return []

    def is_opened_by_the_greater(connection: Connection) -> bool:
        session = sessions[connection]
        if session.peer is None:
            return False
        ours_is_greater = (router_id, session.local.asn) > (int(session.peer.router_id), session.peer.asn)
        return (connection in outgoing) == ours_is_greater

    stays = next(filter(is_opened_by_the_greater, taking_part), taking_part[0])
    return [connection for connection in taking_part if connection != stays]
