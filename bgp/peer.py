"""One neighbour: its connections (at most one each way), when to call it, and its graceful restart.

Promises: pure; inputs come with the time, outputs are values. Graceful restart belongs to the neighbour, not to a
connection: paths stay, marked stale, from the loss of a session until the neighbour's End-of-RIB or its restart time,
and a path that is stale already keeps its first deadline, so a neighbour that dies over and over cannot keep it alive.
Does not know: sockets, other neighbours, which path is best.
RFC 4271 sections 6.8 and 8, RFC 4724, RFC 6286.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from bgp.capabilities import Capabilities, GracefulRestart
from bgp.config import PeerConfig, SpeakerConfig
from bgp.fsm import State
from bgp.iana import Cease, Error
from bgp.messages import Notification, Open, Update
from bgp.nlri import Nlri
from bgp.rib import Path, Rib, Source
from bgp.session import Down, Event, Local, Opened, Received, RefreshAsked, Session, Up, is_hard

FIRST_DELAY_SECONDS = (0.05, 0.3)
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 5.0
STABLE_SECONDS = 60.0
"""An established session this old forgets earlier failures."""
CONNECT_SECONDS = 10.0
"""A call that is not answered by then is given up."""

Connection = int
"""Names a TCP connection between the shell and this core."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a TCP connection and report it as `connected` with this name."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes to write."""

    connection: Connection
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close after what was sent."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Established:
    """Everything we originate is now to be told."""


@dataclass(frozen=True, slots=True)
class Learned:
    """These prefixes have another best path."""

    prefixes: frozenset[Nlri]


@dataclass(frozen=True, slots=True)
class Refresh:
    """The neighbour asked for everything again."""


Output = Dial | Send | Close | Established | Learned | Refresh


class Peer:
    """The neighbour's state machine."""

    def __init__(
        self,
        config: PeerConfig,
        speaker: SpeakerConfig,
        rib: Rib,
        restarting: Callable[[], bool],
        now: float,
    ) -> None:
        """`restarting` tells whether our own restart is still under way (the R bit)."""
        self.config = config
        self._speaker = speaker
        self._rib = rib
        self._restarting = restarting
        self._sessions: dict[Connection, Session] = {}
        self._outgoing: set[Connection] = set()
        self._dialing: tuple[Connection, float] | None = None
        """The call under way, and when it is given up."""
        self._dial_at: float | None = None if config.passive else now + random.uniform(*FIRST_DELAY_SECONDS)
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._next_connection = 1
        self._established: Connection | None = None
        self._up_at = 0.0
        self._stale_until: dict[Nlri, float] = {}
        self.heard_all = False
        """Whether this neighbour has sent End-of-RIB in our present life."""
        self.last_error = ""

    # -- what the shell reads -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The furthest of its connections."""
        states = {session.state for session in self._sessions.values()}
        for state in (State.ESTABLISHED, State.OPEN_CONFIRM, State.OPEN_SENT):
            if state in states:
                return state
        if self._dialing is not None:
            return State.CONNECT
        return State.ACTIVE

    @property
    def is_stale(self) -> bool:
        """Whether its paths are kept through its restart."""
        return bool(self._stale_until)

    @property
    def next_deadline(self) -> float | None:
        """When `handle_timer` is due."""
        times = [session.next_deadline for session in self._sessions.values()]
        times += [self._dial_at, self._dialing[1] if self._dialing else None]
        times += [min(self._stale_until.values(), default=None)]
        return min((at for at in times if at is not None), default=None)

    @property
    def session(self) -> Session | None:
        """The established session."""
        return self._sessions.get(self._established) if self._established is not None else None

    def new_connection(self) -> Connection:
        """A name for a connection that the neighbour opened."""
        self._next_connection += 1
        return self._next_connection

    # -- inputs -------------------------------------------------------------------------------------------------------

    def connected(self, connection: Connection, now: float, *, outgoing: bool) -> list[Output]:
        """TCP is up."""
        if outgoing:
            if self._dialing is None or self._dialing[0] != connection:
                return [Close(connection)]  # given up meanwhile
            self._dialing = None
            self._outgoing.add(connection)
        same_way = [known for known in self._sessions if (known in self._outgoing) == outgoing]
        outputs: list[Output] = []
        for known in same_way:  # the neighbour would not call twice if it still had the first
            if known != self._established:
                outputs += self._drop(known, Down("replaced by a newer connection"), now)
        self._sessions[connection] = Session(self._local(), self.config.asn, now)
        return outputs + self._flush(connection)

    def dial_failed(self, connection: Connection, why: str, now: float) -> list[Output]:
        """The call did not succeed."""
        if self._dialing is not None and self._dialing[0] == connection:
            self._dialing = None
            self.last_error = why
            self._schedule(now)
        return []

    def received(self, connection: Connection, data: bytes, now: float) -> list[Output]:
        """Bytes arrived."""
        session = self._sessions.get(connection)
        if session is None:
            return []
        outputs: list[Output] = []
        for event in session.receive_data(data, now):
            outputs += self._event(connection, event, now)
        # What the session itself has to say goes out before what `Established` makes the shell send.
        return [*self._flush(connection), *outputs]

    def disconnected(self, connection: Connection, why: str, now: float) -> list[Output]:
        """TCP ended underneath."""
        session = self._sessions.get(connection)
        return self._drop(connection, session.lost(why), now) if session is not None else []

    def handle_timer(self, now: float) -> list[Output]:
        """Do what is due."""
        outputs: list[Output] = []
        for connection, session in list(self._sessions.items()):
            for event in session.handle_timer(now):
                outputs += self._event(connection, event, now)
            outputs += self._flush(connection)
        if self._dialing is not None and now >= self._dialing[1]:
            outputs += self.dial_failed(self._dialing[0], f"no answer within {CONNECT_SECONDS:g} s", now)
        if self._dial_at is not None and now >= self._dial_at:
            self._dial_at = None
            if not self._sessions:
                connection = self.new_connection()
                self._dialing = (connection, now + CONNECT_SECONDS)
                outputs.append(Dial(connection))
        expired = [prefix for prefix, at in self._stale_until.items() if now >= at]
        return outputs + self._forget(expired)

    def tell(self, update: Update) -> list[Output]:
        """Send an UPDATE on the established session."""
        if self.session is None or self._established is None:
            return []
        self.session.send(update)
        return self._flush(self._established)

    def deconfigure(self, now: float) -> list[Output]:
        """The neighbour is no longer wanted: say so, and forget all it said."""
        outputs: list[Output] = []
        for connection, session in list(self._sessions.items()):
            session.close(Notification(Error.CEASE, Cease.PEER_DECONFIGURED), "no longer configured")
            outputs += [*self._flush(connection), Close(connection)]
        self._sessions.clear()
        self._established = self._dialing = self._dial_at = None
        return outputs + self._forget(self._rib.of_peer(self.config.address))

    # -- rules --------------------------------------------------------------------------------------------------------

    def _local(self) -> Local:
        restart = GracefulRestart(
            self._speaker.restart_seconds,
            restarting=self._restarting(),
            forwarding_kept=self._speaker.restarting,
        )
        offer = Capabilities(four_octet_as=self._speaker.asn, route_refresh=True, graceful_restart=restart)
        return Local(self._speaker.asn, self._speaker.router_id, self.config.hold_seconds, offer)

    def _flush(self, connection: Connection) -> list[Output]:
        session = self._sessions.get(connection)
        data = session.data_to_send() if session is not None else b""
        return [Send(connection, data)] if data else []

    def _event(self, connection: Connection, event: Event, now: float) -> list[Output]:
        match event:
            case Opened(message):
                return self._resolve_collision(connection, message, now)
            case Up():
                return self._up(connection, now)
            case Received(update):
                return self._learn(connection, update)
            case RefreshAsked():
                return [Refresh()]
            case Down():
                return self._drop(connection, event, now)

    def _resolve_collision(self, connection: Connection, message: Open, now: float) -> list[Output]:
        """RFC 4271 section 6.8: of two connections the one that the greater BGP id opened survives."""
        outputs: list[Output] = []
        for other, session in list(self._sessions.items()):
            if other == connection:
                continue
            if session.state is State.ESTABLISHED:
                if self._restart_of(session) is not None:
                    # RFC 4724 section 5: a new connection means that the neighbour has restarted.
                    outputs += self._drop(other, session.lost("the neighbour has connected anew"), now)
                    continue
                loser = connection
            elif session.state is State.OPEN_CONFIRM:
                ours_wins = (int(self._speaker.router_id), self._speaker.asn) > (int(message.router_id), message.asn)
                keep_outgoing = ours_wins
                loser = other if (connection in self._outgoing) == keep_outgoing else connection
            else:
                continue
            down = self._sessions[loser].close(
                Notification(Error.CEASE, Cease.COLLISION_RESOLUTION), "another connection to this neighbour stays"
            )
            outputs += [*self._flush(loser), *self._drop(loser, down, now)]
        return outputs

    def _restart_of(self, session: Session) -> GracefulRestart | None:
        restart = session.peer.offer.graceful_restart if session.peer is not None else None
        return restart if restart is not None and restart.ipv4 and restart.restart_seconds else None

    def _up(self, connection: Connection, now: float) -> list[Output]:
        outputs: list[Output] = []
        for other in [known for known in self._sessions if known != connection]:
            outputs += self._drop(other, Down("another connection was established"), now)
        self._established, self._up_at, self.last_error = connection, now, ""
        self._dial_at = self._dialing = None
        restart = self._restart_of(self._sessions[connection])
        if self._stale_until and (restart is None or not restart.forwarding_kept):
            outputs += self._forget(list(self._stale_until))  # RFC 4724 section 4.2: its forwarding state is gone
        return [*outputs, Established()]

    def _learn(self, connection: Connection, update: Update) -> list[Output]:
        session = self._sessions[connection]
        if update.is_end_of_rib and not update.faults:
            self.heard_all = True
            return self._forget(list(self._stale_until))
        changed = self._rib.forget(update.withdrawn, self.config.address)
        for prefix in (*update.withdrawn, *update.announced):
            self._stale_until.pop(prefix, None)
        if update.announced and update.attributes is not None and session.peer is not None:
            path = Path(update.attributes, Source(self.config.address, session.peer.router_id, session.internal))
            if self._usable(path):
                changed |= self._rib.learn(update.announced, path)
            else:
                changed |= self._rib.forget(update.announced, self.config.address)
        return [Learned(frozenset(changed))] if changed else []

    def _usable(self, path: Path) -> bool:
        """Loops and our own routes that came back are as good as withdrawn (RFC 4271 section 9.1.2, RFC 4456)."""
        attributes = path.attributes
        numbers = {number for _, segment in attributes.as_path for number in segment}
        return (
            self._speaker.asn not in numbers
            and attributes.originator_id != self._speaker.router_id
            and self._speaker.router_id not in attributes.cluster_list
            and attributes.next_hop is not None
            and attributes.next_hop != self._speaker.listen_address
            and (not attributes.next_hop.is_loopback or self.config.address.is_loopback)
        )

    def _drop(self, connection: Connection, down: Down, now: float) -> list[Output]:
        """A session is over: its routes go, or stay as stale ones."""
        session = self._sessions.pop(connection, None)
        if session is None:
            return []
        data = session.data_to_send()
        outputs: list[Output] = [Send(connection, data)] if data else []
        outputs.append(Close(connection))
        self._outgoing.discard(connection)
        if connection == self._established:
            self._established = None
            outputs += self._keep_or_forget(session, down, now)
            if now - self._up_at >= STABLE_SECONDS:
                self._retry_seconds = FIRST_RETRY_SECONDS
        self.last_error = down.why
        if not self._sessions:
            self._schedule(now)
        return outputs

    def _keep_or_forget(self, session: Session, down: Down, now: float) -> list[Output]:
        prefixes = self._rib.of_peer(self.config.address)
        restart = self._restart_of(session)
        if restart is None or is_hard(down):
            return self._forget(prefixes)
        changed: set[Nlri] = set()
        for prefix in prefixes:
            self._stale_until.setdefault(prefix, now + restart.restart_seconds)
            path = self._rib.path(prefix, self.config.address)
            if path is not None and not path.stale:
                changed |= self._rib.learn([prefix], Path(path.attributes, path.source, stale=True))
        return [Learned(frozenset(changed))] if changed else []

    def _forget(self, prefixes: list[Nlri]) -> list[Output]:
        for prefix in prefixes:
            self._stale_until.pop(prefix, None)
        changed = self._rib.forget(prefixes, self.config.address)
        return [Learned(frozenset(changed))] if changed else []

    def _schedule(self, now: float) -> None:
        """Call again later, a little later each time. A passive side only waits."""
        if self.config.passive or self._dial_at is not None or self._dialing is not None:
            return
        self._dial_at = now + self._retry_seconds * random.uniform(0.75, 1.0)
        self._retry_seconds = min(self._retry_seconds * 2, LONGEST_RETRY_SECONDS)
