"""One BGP peer: its connections (at most one each way and an established one), ConnectRetry, and its Adj-RIBs.

Promises: pure; inputs come with the time, outputs are values. Adj-RIB-In belongs to the peer, so graceful restart keeps
it between sessions; Adj-RIB-Out belongs to the session. A connection that comes in beside an established session takes
its place only once that is known to be dead; else it is refused, counted, and leaves no trace in what is shown.
Does not know: sockets, other peers, which path is best.
RFC 4271 sections 6.8 and 8, RFC 4724, RFC 6286, RFC 8538.
"""

from __future__ import annotations

from collections.abc import Callable

from bgp.events import (
    Close,
    Connection,
    Counts,
    Dial,
    Established,
    LimitNear,
    Output,
    Probe,
    Refused,
    Send,
    UpdateFaults,
)
from bgp.path import Source
from bgp.peer_config import PeerConfig, SpeakerConfig, changes_import
from bgp.policy.policy import CompiledPolicy, compiled
from bgp.rib.add_path_out import adj_ribs_out
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.rib.graceful_restart import RestartDeferral, Retention, preserved, retention, wait_until
from bgp.rib.limits import Excess, excess, near_limit
from bgp.rib.ribs_in import RibsIn
from bgp.session.collision import PATIENCE_SECONDS, PROBE_SECONDS, Collision, Collisions, confirmed, gives_way
from bgp.session.connect_retry import (
    CONNECT_SECONDS,
    HOLD_DOWN_AFTER_FAILURE_SECONDS,
    HOLD_DOWN_AFTER_LIMIT_SECONDS,
    ConnectRetry,
)
from bgp.session.fsm import State
from bgp.session.notification_text import shutdown_data
from bgp.session.session import (
    Down,
    Event,
    Ignored,
    LocalParameters,
    Opened,
    Received,
    Refresh,
    Session,
    Up,
    is_hard,
)
from bgp.wire.capabilities import GracefulRestart
from bgp.wire.families import Address, Family, number_of
from bgp.wire.iana import Cease, Error
from bgp.wire.messages import UNSPECIFIC_CEASE, Notification, Subtype
from bgp.wire.update import Update


class Peer:
    """One peer of this speaker, configured or about to be removed."""

    def __init__(
        self,
        config: PeerConfig,
        us: SpeakerConfig,
        deferral: RestartDeferral,
        new_connection: Callable[[], Connection],
        random: Callable[[], float],
        now: float,
    ) -> None:
        self.config = config
        self._us = us
        self._deferral = deferral
        self.last_error = ""
        """Why the last connection ended; empty while a session is established."""
        self.last_down: Down | None = None
        """The last end of a connection that had a NOTIFICATION."""
        self.sessions = 0
        """How many sessions have been established since this process began."""
        self.counts = Counts()
        self.failure = ""
        """The last exception that reset its sessions, until it has advertised everything again; empty: none did."""
        self.exceeded = ""
        """The limit for which the peer is left alone, as a sentence; empty: it is not."""
        self._near = ""
        self.adj_ribs_in = RibsIn(config, us)
        self.adj_ribs_out: dict[Family, AdjRibOut] = {}
        """Adj-RIB-Out of each family negotiated, while a session is established."""
        self.export_policy = self._compile_export_policy()
        """Export rules by family; None: everything is advertised."""
        self._new_connection = new_connection
        self._random = random
        self._configured_at = now
        self._sessions: dict[Connection, Session] = {}
        self._outgoing: set[Connection] = set()
        self.collisions = Collisions(now)
        self.connect_retry = ConnectRetry(random, now, passive=config.passive or self.is_disabled)
        self.connection: Connection | None = None
        """The connection of the established session."""
        self._source: Source | None = None
        """What the paths of the established session come from."""
        self._up_at = now
        self._was_up = False

    # -- what others read ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The furthest state of its connections."""
        if self.is_disabled:
            return State.IDLE
        states = {session.state for session in self._sessions.values()}
        for state in (State.ESTABLISHED, State.OPEN_CONFIRM, State.OPEN_SENT):
            if state in states:
                return state
        return State.CONNECT if self.connect_retry.is_dialing else State.ACTIVE

    @property
    def is_disabled(self) -> bool:
        """Whether a person disabled it."""
        return self.config.shutdown is not None

    @property
    def is_internal(self) -> bool:
        """Whether the peer is of our AS (iBGP)."""
        return self.config.is_internal(self._us)

    @property
    def session(self) -> Session | None:
        """The established session."""
        return self._sessions.get(self.connection) if self.connection is not None else None

    @property
    def is_waiting(self) -> bool:
        """Whether `next_update` has something to send."""
        return any(out.is_waiting for out in self.adj_ribs_out.values())

    @property
    def next_deadline(self) -> float | None:
        """When `handle_timer` is due."""
        times = [session.next_deadline for session in self._sessions.values()]
        times += [rib.deadline for rib in self.adj_ribs_in.values()]
        times += [self.connect_retry.deadline, self.collisions.deadline]
        return min((at for at in times if at is not None), default=None)

    @property
    def deferred_until(self) -> float:
        """Until when our restart deferral waits for this peer."""
        if self.is_disabled:
            return float("-inf")
        session = self.session
        families = self.adj_ribs_in if session is None else self.adj_ribs_out
        missing = {family for family in families if not self.adj_ribs_in[family].eor_received}
        restart = self.restart_of(session) if session is not None else None
        return wait_until(
            eor_received=not missing,
            configured_at=self._configured_at,
            up_at=self._up_at if session is not None else None,
            # A capability that leaves a family out promises no End-of-RIB of it (RFC 4724 section 3).
            restart=restart if restart is not None and missing & restart.families else None,
        )

    # -- TCP and time -------------------------------------------------------------------------------------------------

    def connected(
        self, connection: Connection, local: Address, now: float, *, outgoing: bool
    ) -> list[Output]:
        """TCP is up; `local` is the address of our end."""
        if outgoing:
            if not self.connect_retry.ended(connection):
                return [Close(connection)]  # given up meanwhile
            self._outgoing.add(connection)
        if self.connect_retry.is_held_down(now) or self.is_disabled:
            return [Close(connection)]
        outputs: list[Output] = []
        for known in list(self._sessions):
            if (known in self._outgoing) != outgoing or known == self.connection:
                continue
            session = self._sessions[known]
            if not outgoing and not gives_way(session, now):
                session.probe(now)  # if its other end is gone, it makes room for the next call
                return [*outputs, *self._flush(known), Close(connection), *self._refuse("another one waits")]
            outputs += self._drop(known, session.lost("replaced by a newer connection"), now)
        if self.connection is not None and now - self._up_at >= PATIENCE_SECONDS:
            self.collisions.further.add(connection)
        self.connect_retry.stop()
        ours = LocalParameters.configured(
            self._us, self.config, local, restarting=self._deferral.is_restarting, was_up=self._was_up
        )
        self._sessions[connection] = Session(ours, self.config.asn, self._random, now)
        return outputs + self._flush(connection)

    def dial_failed(self, connection: Connection, why: str, now: float) -> list[Output]:
        """TCP did not come up."""
        if self.connect_retry.ended(connection):
            self.last_error = why
            if not self._sessions:
                self.connect_retry.schedule(now)
        return []

    def received(self, connection: Connection, data: bytes, now: float) -> list[Output]:
        """Octets arrived."""
        session = self._sessions.get(connection)
        if session is None:
            return []
        session.is_beside = bool(confirmed(self._sessions, without=connection))
        return self._events(connection, session.receive_data(data, now), now)

    def overdue(self, now: float) -> list[Connection]:
        """The connections that a hold timer is about to end."""
        return [connection for connection, session in self._sessions.items() if session.overdue(now)]

    def extend_hold(self, connection: Connection, now: float, *, unread: bool, writable: bool) -> None:
        """What the sockets show of a connection that is overdue: see `Session.extend_hold`."""
        if (session := self._sessions.get(connection)) is not None:
            session.extend_hold(now, unread=unread, writable=writable)

    def disconnected(self, connection: Connection, why: str, now: float) -> list[Output]:
        """TCP ended underneath."""
        session = self._sessions.get(connection)
        return self._drop(connection, session.lost(why), now) if session is not None else []

    def handle_timer(self, now: float) -> list[Output]:
        """Do what is due."""
        outputs: list[Output] = []
        for connection, session in list(self._sessions.items()):
            outputs += self._events(connection, session.handle_timer(now), now)
        if self.collisions.current is not None and now >= self.collisions.current.deadline:
            outputs += self._decide(self.collisions.current, now)
        if (late := self.connect_retry.timed_out(now)) is not None:
            outputs.append(Close(late))
            outputs += self.dial_failed(late, f"no answer within {CONNECT_SECONDS:g} s", now)
        if (dialed := self.connect_retry.dial_due(now, self._new_connection)) is not None:
            outputs.append(Dial(dialed, self.config))
        return outputs + self.adj_ribs_in.expire(now)

    # -- what is advertised -------------------------------------------------------------------------------------------

    def next_update(self) -> bytes:
        """The next message for the established session; empty when there is nothing to advertise."""
        session = self.session
        if session is None:
            return b""
        for out in self.adj_ribs_out.values():
            message = out.next_message(session.context, session.largest_message)
            if message is not None:
                session.send(message)
                return session.data_to_send()
        return b""

    # -- configuration ------------------------------------------------------------------------------------------------

    def reconfigure(self, config: PeerConfig, now: float) -> list[Output]:
        """Go on under a configuration that the present session can live with."""
        before, self.config = self.config, config
        self.connect_retry.passive = config.passive or self.is_disabled
        shut: list[Output] = []
        if self.is_disabled and before.shutdown is None:
            shut = self._leave(Cease.ADMINISTRATIVE_SHUTDOWN, config.shutdown or "", "it was disabled here")
        if self.connect_retry.passive:
            self.connect_retry.stop()
        elif not self._sessions:
            self.connect_retry.schedule(now)
        limits = config.maximum_prefixes, config.maximum_octets
        if limits != (before.maximum_prefixes, before.maximum_octets):
            self.exceeded = ""
            self.connect_retry.release(now)
        for session in self._sessions.values():
            session.set_keepalive(config.keepalive_seconds)
        self.export_policy = self._compile_export_policy()
        return [*shut, *(self.adj_ribs_in.configure(config) if changes_import(before, config) else [])]

    def deconfigure(self, subcode: Cease = Cease.PEER_DECONFIGURED, text: str = "") -> list[Output]:
        """Leave the peer for good, with a text for its operators (RFC 9003), and withdraw all that it announced."""
        return self._leave(subcode, text, "no longer configured")

    def _leave(self, subcode: Cease, text: str, why: str) -> list[Output]:
        outputs: list[Output] = []
        for connection, session in list(self._sessions.items()):
            session.cease(subcode, why, shutdown_data(text))
            outputs += [*self._flush(connection), Close(connection)]
        outputs += self.connect_retry.cancel()
        self._sessions.clear()
        self._outgoing.clear()
        self.collisions.further.clear()
        self.connection, self.collisions.current, self.adj_ribs_out = None, None, {}
        return outputs + self.adj_ribs_in.withdraw_all()

    def _compile_export_policy(self) -> dict[Family, CompiledPolicy | None]:
        rules = self.config.policy.export_rules
        return {family: compiled(rules, family, internal=self.is_internal) for family in self.config.families}

    # -- what sessions report -----------------------------------------------------------------------------------------

    def _flush(self, connection: Connection) -> list[Output]:
        session = self._sessions.get(connection)
        data = session.data_to_send() if session is not None else b""
        return [Send(connection, data)] if data else []

    def _events(self, connection: Connection, events: list[Event], now: float) -> list[Output]:
        # What the session itself sends goes out before what an event makes others send.
        outputs = self._flush(connection)
        for event in events:
            outputs += self._event(connection, event, now)
        return outputs

    def _event(self, connection: Connection, event: Event, now: float) -> list[Output]:
        match event:
            case Opened():
                return self._opened(connection, now)
            case Up():
                return self._up(connection, now)
            case Received(update):
                return self._receive(connection, update, now)
            case Ignored(why):
                self.counts.tolerated += 1
                self.counts.ignored += 1
                return [UpdateFaults((why,))]
            case Refresh(family, kind):
                return self._refresh(connection, family, kind, now)
            case Down():
                return self._drop(connection, event, now)

    def _opened(self, connection: Connection, now: float) -> list[Output]:
        """A connection beside another is held, while it is found out whether that one lives; a third one is refused."""
        if self._sessions[connection].state is not State.OPEN_HELD:
            return []
        if self.collisions.current is not None:
            return self._lose(connection, now)
        (first,) = confirmed(self._sessions)
        if not self.collisions.begin(first, connection, now):
            return []
        self._sessions[first].probe(now)
        return [*self._flush(first), Probe(first)]

    def _decide(self, collision: Collision, now: float) -> list[Output]:
        lost = collision.decide(self._sessions, self._outgoing, int(self._us.router_id), now)
        if lost is None:
            return []
        if not lost.is_dead:
            return self._lose(lost.connection, now)
        why = f"it acknowledged nothing for {PROBE_SECONDS:g} s, and the peer has connected anew"
        return self._drop(lost.connection, self._sessions[lost.connection].lost(why), now)

    def _lose(self, loser: Connection, now: float) -> list[Output]:
        cease = Notification(Error.CEASE, Cease.COLLISION_RESOLUTION)
        down = self._sessions[loser].close(cease, "another connection to this peer stays")
        return self._drop(loser, down, now)

    def restart_of(self, session: Session) -> GracefulRestart | None:
        """The peer's graceful restart capability, where it covers a family of this session."""
        restart = session.peer.offer.graceful_restart if session.peer is not None else None
        return restart if self._retention(session) else None

    @staticmethod
    def _retention(session: Session) -> dict[Family, Retention]:
        """How long the peer's paths of each family stay once this session is lost."""
        return retention(session.peer.offer, session.context.families) if session.peer is not None else {}

    def _up(self, connection: Connection, now: float) -> list[Output]:
        session = self._sessions.get(connection)
        if session is None or session.peer is None:
            return []  # it has ended in the same octets
        self.collisions.lives(connection, now)
        outputs = self.connect_retry.cancel()
        self.sessions += 1
        self.connection, self._up_at, self._was_up, self.last_error = connection, now, True, ""
        self.exceeded = ""
        config = self.config
        self._source = Source(
            number_of(config.address),
            config.address,
            session.peer.router_id,
            session.internal,
            config.route_reflector_client,
        )
        passes_on = not session.internal or self._us.cluster_id or config.route_reflector_client
        deferral = self._deferral if passes_on else None
        self.adj_ribs_out = adj_ribs_out(session.context.families, session.path_ids_sent, deferral)
        restart = self.restart_of(session)
        if restart is None:
            self.failure = ""  # there will be no End-of-RIB to wait for
        theirs = session.peer.offer
        kept = {family: preserved(theirs, family) for family in session.context.families}
        local, asn = session.local.address, session.peer.asn
        outputs += self.adj_ribs_in.session_established(local, asn, now, kept)
        return [*outputs, Established()]

    def _refresh(self, connection: Connection, family: Family, kind: Subtype, now: float) -> list[Output]:
        """ROUTE-REFRESH: the peer's request, or its BoRR and EoRR (RFC 2918, RFC 7313 section 4)."""
        session, rib = self._sessions.get(connection), self.adj_ribs_in[family]
        if session is None or connection != self.connection:
            return []
        match kind:
            case Subtype.REQUEST:
                self.adj_ribs_out[family].readvertise(marked=session.enhanced_refresh)
            case Subtype.BEGIN:
                if rib.eor_in_session or self.restart_of(session) is None:
                    rib.begin_refresh(now)
            case Subtype.END:
                return rib.end_refresh()
        return []

    def _receive(self, connection: Connection, update: Update, now: float) -> list[Output]:
        session = self._sessions.get(connection)
        if session is None or self._source is None:
            return []
        rib = self.adj_ribs_in[update.family]
        outputs = rib.receive(update, self._source)
        self.counts.tolerated += bool(update.faults)
        self.counts.ignored += update.ignored
        if self.failure and all(self.adj_ribs_in[family].eor_in_session for family in self.adj_ribs_out):
            self.failure = ""
        if (found := excess(self.adj_ribs_in, self.config)) is not None:
            return outputs + self.exceed(found, now)
        before, self._near = self._near, near_limit(self.adj_ribs_in, self.config)
        if self._near and not before:
            outputs.append(LimitNear(self._near))
        return outputs

    def exceed(self, found: Excess, now: float) -> list[Output]:
        """The peer has announced more than it may: forget all of it, and leave the peer alone, each time longer."""
        outputs = self.end_all(lambda session: session.cease(found.subcode, found.why, found.data), now)
        outputs += self.adj_ribs_in.withdraw_all()
        self.exceeded = self.last_error = found.why
        return outputs + self.connect_retry.leave_alone(now, HOLD_DOWN_AFTER_LIMIT_SECONDS)

    def fail(self, why: str, now: float) -> list[Output]:
        """An exception of ours came out of the work for this peer: begin again with what it says in a new session.

        What it had announced stays, as in any restart, where both sides can do that after a NOTIFICATION (RFC 8538).
        """
        why = f"internal error: {why}"
        outputs = self.end_all(lambda session: session.close(UNSPECIFIC_CEASE, why), now)
        self.last_error = why
        return outputs + self.connect_retry.leave_alone(now, HOLD_DOWN_AFTER_FAILURE_SECONDS)

    def replaced(self, now: float) -> Peer:
        """A peer without any of this one's state but its counts, which takes its place after a failure."""
        new = Peer(self.config, self._us, self._deferral, self._new_connection, self._random, now)
        new.sessions, new.counts, new.failure = self.sessions, self.counts, self.failure
        new.connect_retry, new.last_error = self.connect_retry, f"internal error: {self.failure}"
        new.connect_retry.leave_alone(now, HOLD_DOWN_AFTER_FAILURE_SECONDS)
        return new

    def end_all(self, end: Callable[[Session], Down], now: float) -> list[Output]:
        """End all connections, each as `end` does it."""
        ended = [(connection, end(session)) for connection, session in self._sessions.items()]
        return [output for connection, down in ended for output in self._drop(connection, down, now)]

    def _drop(self, connection: Connection, down: Down, now: float) -> list[Output]:
        """A connection is over: if it was the session, its paths are withdrawn or stay as stale ones."""
        outputs = [*self._flush(connection), Close(connection)]
        session = self._sessions.pop(connection, None)
        if session is None:
            return []
        self._outgoing.discard(connection)
        is_further = connection in self.collisions.further
        self.collisions.further.discard(connection)
        if connection == self.connection:
            self.connection, self.adj_ribs_out = None, {}
            retained = {} if is_hard(down) else self._retention(session)
            outputs += self.adj_ribs_in.session_lost(retained, now)
            self.connect_retry.reset_backoff(now - self._up_at)
        if self.connection is not None:
            return outputs + self._end_collision(connection, now) + self._refuse(down.why, counted=is_further)
        self.last_error = down.why
        if notifications := [one for one in (down.sent, down.received) if one is not None]:
            self.last_down = down
        if not self._sessions:
            self.connect_retry.schedule(
                now, after_error=any(one.code != Error.CEASE for one in notifications)
            )
        return outputs + self._end_collision(connection, now)

    def _end_collision(self, gone: Connection, now: float) -> list[Output]:
        """If one of two connections has gone, the other one goes on.

        But not one that came in beside a session that lived then: who restarts calls only after that.
        """
        collision = self.collisions.end(gone)
        if collision is None:
            return []
        waiting = collision.waiting
        if collision.lives and waiting in self.collisions.further:
            return self._lose(waiting, now)
        return self._events(waiting, self._sessions[waiting].release(now), now)

    def _refuse(self, why: str, *, counted: bool = True) -> list[Output]:
        """A further connection came to nothing beside a session that lives."""
        if self.connection is None or not counted:
            return []
        self.collisions.refused += 1
        return [Refused(why)]
