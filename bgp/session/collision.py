"""Collision detection: of two connections to one peer one stays (RFC 4271 6.8, RFC 6286, RFC 4724 section 4.2).

Promises: pure. The first connection whose OPEN is accepted goes on; a second one is held (`fsm`) until the peer has
closed one of them, or this is known of the first: its kernel resets it (the peer has restarted: the second takes its
place), acknowledges (it lives: the second is refused), or is silent for `PROBE_SECONDS` (it is dead). Only while
neither side has established the first, and the peer has confirmed the second, do the identifiers decide.
Does not know: what is sent, whose paths go.

Where it differs from the RFC, on purpose: it has each side decide when the second OPEN arrives, but the two see the
first connection in different states at that moment. BIRD, which has just established it, closes the second; we, who
still wait for its KEEPALIVE, close the first by the identifiers: both are gone, and a BIRD that restarts gives its
graceful restart up. So the peer's decision is waited for. RFC 4724 takes a new connection for a restart of the peer at
once; whoever can call from its address could end its session by that.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from bgp.events import Connection
from bgp.session.fsm import State
from bgp.session.session import Session

PATIENCE_SECONDS = 0.5
"""How long the peer's decision is waited for while no connection is established."""
REFUSAL_SECONDS = 3.0
"""How long it is waited for beside a session that lives: the wait costs nothing, a wrong decision both connections."""
PROBE_SECONDS = 15.0
"""A connection of which nothing is acknowledged for so long is dead: the kernel has sent its octets again six times."""
PROBE_REST_SECONDS = 1.0
"""So long the answer to a probe holds: no two KEEPALIVEs come sooner one after the other (RFC 4271 section 4.4)."""
SILENT_SECONDS = 2.0
"""A connection that came in and brought no OPEN in this time gives way to the next one."""


def confirmed(sessions: Mapping[Connection, Session], without: Connection | None = None) -> list[Connection]:
    """The connections that went on after their OPEN: one at most, as any other is held."""
    states = (State.OPEN_CONFIRM, State.ESTABLISHED)
    return [one for one, session in sessions.items() if session.state in states and one != without]


def gives_way(session: Session, now: float) -> bool:
    """Whether a connection that came in makes room for another one that comes in."""
    return session.peer is None and now - session.began >= SILENT_SECONDS


@dataclass(slots=True)
class Lost:
    """How a collision was decided."""

    connection: Connection
    """The one to be closed; the other goes on."""
    is_dead: bool = False
    """It is silent: there is nobody to be told why."""


@dataclass(slots=True)
class Collision:
    """Two connections to a peer, until one is closed."""

    first: Connection
    waiting: Connection
    """The second, which is held."""
    since: float
    lives: bool = False
    """Whether the first one's other end has acknowledged, or said, something since then."""
    deadline: float = field(init=False)
    """When `decide` is due."""

    def __post_init__(self) -> None:
        self.deadline = self.since + PATIENCE_SECONDS

    def first_lives(self, now: float) -> None:
        """The other end of the first connection is there."""
        self.lives = True
        self.deadline = max(now, self.since + PATIENCE_SECONDS)

    def decide(
        self, sessions: Mapping[Connection, Session], outgoing: Set[Connection], router_id: int, now: float
    ) -> Lost | None:
        """Which one is to be closed now; None: `deadline` says when to ask again. `router_id` is ours."""
        if not self.lives and now >= self.since + PROBE_SECONDS:
            return Lost(self.first, is_dead=True)
        if sessions[self.first].state is not State.ESTABLISHED:
            if sessions[self.waiting].is_confirmed:
                return Lost(self._loser(sessions, outgoing, router_id))
            self.deadline = now + PATIENCE_SECONDS  # its KEEPALIVE is under way, or the peer holds it as well
        elif self.lives and now >= self.since + REFUSAL_SECONDS:
            return Lost(self.waiting)
        else:
            self.deadline = self.since + (REFUSAL_SECONDS if self.lives else PROBE_SECONDS)
        return None

    def _loser(
        self, sessions: Mapping[Connection, Session], outgoing: Set[Connection], router_id: int
    ) -> Connection:
        """By the identifiers: the connection that the greater one opened stays.

        Equal identifiers are those of two autonomous systems, and the greater number of these decides (RFC 6286).
        """
        session = sessions[self.waiting]
        if session.peer is None:
            return self.waiting
        ours_is_greater = (router_id, session.local.asn) > (int(session.peer.router_id), session.peer.asn)
        return self.first if (self.waiting in outgoing) == ours_is_greater else self.waiting


class Collisions:
    """What is known of the collisions of one peer: the present one, and who came beside a session."""

    def __init__(self, now: float) -> None:
        self.current: Collision | None = None
        self.further: set[Connection] = set()
        """Connections that came in while a session stood, not just begun."""
        self.refused = 0
        """How many of these came to nothing while that session lived."""
        self._lived_at = now - PROBE_REST_SECONDS
        """When the other end of a connection was last known to be there."""

    @property
    def deadline(self) -> float | None:
        """When the present collision may be decided."""
        return self.current.deadline if self.current is not None else None

    def begin(self, first: Connection, waiting: Connection, now: float) -> bool:
        """A second connection is held; answers whether the first is to be probed."""
        self.current = Collision(first, waiting, now)
        if now - self._lived_at >= PROBE_REST_SECONDS:
            return True
        self.current.first_lives(now)
        return False

    def is_probing(self, connection: Connection) -> bool:
        """Whether it is not known yet if the other end of a connection lives, and matters."""
        return self.current is not None and self.current.first == connection and not self.current.lives

    def lives(self, connection: Connection, now: float) -> None:
        """The other end of a connection is there."""
        if self.current is not None and self.is_probing(connection):
            self.current.first_lives(now)
            self._lived_at = now

    def end(self, gone: Connection) -> Collision | None:
        """A connection has gone; answers the collision that this ends, if the other one is left waiting."""
        collision = self.current
        if collision is None or gone not in (collision.first, collision.waiting):
            return None
        self.current = None
        return collision if gone == collision.first else None
