"""One neighbour: its connections (at most one each way and an established one), when to call it, and its restart.

Promises: pure; inputs come with the time, outputs are values. Graceful restart belongs to the neighbour, not to a
connection. A connection that comes in beside an established session means that the neighbour has restarted.
Does not know: sockets, other neighbours, which path is best.
RFC 4271 sections 6.8 and 8, RFC 4724, RFC 6286, RFC 8538.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from bgp.events import Close, Connection, Dial, Established, Output, Send
from bgp.peer_config import PeerConfig, SpeakerConfig, changes_import
from bgp.policy.policy import CompiledPolicy, compile_policies
from bgp.rib.adj_rib_in import AdjRibIn
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.rib.adj_ribs_in import AdjRibsIn
from bgp.session.collision import PATIENCE_SECONDS, Collision, confirmed, losers
from bgp.session.connect_retry import CONNECT_SECONDS, ConnectRetry
from bgp.session.fsm import State
from bgp.session.notification_text import shutdown_data
from bgp.session.open_parameters import local_parameters
from bgp.session.session import Down, Event, Opened, Received, Refresh, Session, Up, is_hard
from bgp.wire.capabilities import GracefulRestart
from bgp.wire.families import UNICAST, Address, Family
from bgp.wire.iana import Cease, Error
from bgp.wire.messages import Notification, Subtype, Update

TOO_MANY_SECONDS = 300.0
"""How long a neighbour that told too many prefixes is left alone."""
COMING_UP_SECONDS = 15.0
"""How long a neighbour may take to come up before it counts as away."""
TELLING_SECONDS = 5.0
"""How long a neighbour without graceful restart, which may send no End-of-RIB, may take to tell its paths."""


class Peer:
    """The neighbour's state machine."""

    def __init__(
        self,
        config: PeerConfig,
        speaker: SpeakerConfig,
        new_connection: Callable[[], Connection],
        random: Callable[[], float],
        now: float,
    ) -> None:
        self.config = config
        self._speaker = speaker
        self._held: list[AdjRibOut] = []
        """Whose End-of-RIB waits until our restart is over."""
        self.restarting = speaker.restarting
        """Whether our own restart is still under way (R bit); the router clears it."""
        self.last_error = ""
        self.last_down: Down | None = None
        """The last end of a session that had a NOTIFICATION."""
        self.sessions = 0
        """How often one was established."""
        self.hearing = AdjRibsIn(config, speaker)
        self.export_policy = self._tells()
        """What decides of each family whether the neighbour is told a path; None: it is told all."""
        self.adj_ribs_out: dict[Family, AdjRibOut] = {}
        """Of the families agreed, while established."""
        self._new_connection = new_connection
        self._random = random
        self._began = now
        self._sessions: dict[Connection, Session] = {}
        self._outgoing: set[Connection] = set()
        self._beside_established: set[Connection] = set()
        """Connections that came in while another was established."""
        self._collision = Collision()
        self._calling = ConnectRetry(random, now, passive=config.passive)
        self._established: Connection | None = None
        self._up_at = now
        self._was_up = False

    # -- what others read ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The furthest of its connections."""
        states = {session.state for session in self._sessions.values()}
        for state in (State.ESTABLISHED, State.OPEN_CONFIRM, State.OPEN_SENT):
            if state in states:
                return state
        return State.CONNECT if self._calling.is_dialing else State.ACTIVE

    @property
    def adj_ribs_in(self) -> dict[Family, AdjRibIn]:
        """What it told of each family."""
        return self.hearing.intakes

    @property
    def session(self) -> Session | None:
        """The established session."""
        return self._sessions.get(self._established) if self._established is not None else None

    @property
    def connection(self) -> Connection | None:
        """The established session's connection."""
        return self._established

    @property
    def is_waiting(self) -> bool:
        """Whether it is to be told something."""
        return any(out.is_waiting for out in self.adj_ribs_out.values())

    @property
    def next_deadline(self) -> float | None:
        """When `handle_timer` is due."""
        times = [session.next_deadline for session in self._sessions.values()]
        times += [*self.hearing.deadlines, self._calling.deadline, self._collision.deadline]
        return min((at for at in times if at is not None), default=None)

    @property
    def settled_at(self) -> float:
        """When to stop waiting for what this neighbour will tell after our start; -inf: it has told all."""
        if self.session is None:
            heard_all = all(intake.eor_received for intake in self.adj_ribs_in.values())
            return float("-inf") if heard_all else self._began + COMING_UP_SECONDS
        if all(self.adj_ribs_in[family].eor_received for family in self.adj_ribs_out):
            return float("-inf")
        restart = self._restart_of(self.session)
        # Who restarts as well may be waiting for us, so he is not waited for without end (RFC 4724 section 4.1).
        waits = restart is not None and not restart.restarting
        return float("inf") if waits else self._up_at + TELLING_SECONDS

    # -- inputs -------------------------------------------------------------------------------------------------------

    def connected(
        self, connection: Connection, local: Address, now: float, *, outgoing: bool
    ) -> list[Output]:
        """TCP is up; `local` is the address of our end."""
        if outgoing:
            if not self._calling.ended(connection):
                return [Close(connection)]  # given up meanwhile
            self._outgoing.add(connection)
        if self._calling.is_held_down(now):
            return [Close(connection)]
        outputs: list[Output] = []
        for known in list(self._sessions):
            same_way = (known in self._outgoing) == outgoing
            # Nobody calls twice who still has the first connection.
            if same_way and known != self._established:
                outputs += self._drop(
                    known, self._sessions[known].lost("replaced by a newer connection"), now
                )
        is_fresh = self._established in self._outgoing and now - self._up_at < PATIENCE_SECONDS
        if self._established is not None and not outgoing and not is_fresh:
            self._beside_established.add(connection)
        self._calling.stop()
        side = local_parameters(
            self._speaker, self.config, local, restarting=self.restarting, was_up=self._was_up
        )
        self._sessions[connection] = Session(side, self.config.asn, self._random, now)
        return outputs + self._flush(connection)

    def dial_failed(self, connection: Connection, why: str, now: float) -> list[Output]:
        """The call did not succeed."""
        if self._calling.ended(connection):
            self.last_error = why
            if not self._sessions:
                self._calling.schedule(now)
        return []

    def received(self, connection: Connection, data: bytes, now: float) -> list[Output]:
        """Bytes arrived."""
        session = self._sessions.get(connection)
        if session is None:
            return []
        events = session.receive_data(data, now)
        # What the session itself has to say goes out before what an event makes others send.
        outputs = self._flush(connection)
        for event in events:
            outputs += self._event(connection, event, now)
        return outputs

    def extend_hold(self, connection: Connection, now: float) -> None:
        """Bytes of the neighbour wait to be read."""
        if (session := self._sessions.get(connection)) is not None:
            session.extend_hold(now)

    def disconnected(self, connection: Connection, why: str, now: float) -> list[Output]:
        """TCP ended underneath."""
        session = self._sessions.get(connection)
        return self._drop(connection, session.lost(why), now) if session is not None else []

    def handle_timer(self, now: float) -> list[Output]:
        """Do what is due."""
        outputs: list[Output] = []
        for connection, session in list(self._sessions.items()):
            events = session.handle_timer(now)
            outputs += self._flush(connection)
            for event in events:
                outputs += self._event(connection, event, now)
        if self._collision.is_due(now):
            outputs += self._decide_collision(now)
        if (late := self._calling.timed_out(now)) is not None:
            outputs.append(Close(late))
            outputs += self.dial_failed(late, f"no answer within {CONNECT_SECONDS:g} s", now)
        if (call := self._calling.dial_due(now, self._new_connection)) is not None:
            outputs.append(Dial(call, self.config))
        return outputs + self.hearing.expire(now)

    def next_update(self) -> bytes:
        """The next UPDATE for the established session; empty when there is nothing to tell."""
        session = self.session
        if session is None:
            return b""
        for out in self.adj_ribs_out.values():
            message = out.next_message(session.context, session.largest_message)
            if message is not None:
                session.send(message)
                return session.data_to_send()
        return b""

    def reconfigure(self, config: PeerConfig, now: float) -> list[Output]:
        """Go on under a configuration that the present session can live with."""
        before, self.config = self.config, config
        self._calling.passive = config.passive
        if config.passive:
            self._calling.stop()
        elif not self._sessions:
            self._calling.schedule(now)
        for session in self._sessions.values():
            session.set_keepalive(config.keepalive_seconds)
        self.export_policy = self._tells()
        return self.hearing.adopt(config) if changes_import(before, config) else []

    def restart_session(self, config: PeerConfig, now: float) -> list[Output]:
        """Begin a new session under a configuration that needs one; as in a restart, paths outlive that on both sides.

        RFC 8538 lets a Cease do that; without it only a connection that breaks without a word does (RFC 4724).
        """
        outputs: list[Output] = []
        self._calling.passive = config.passive
        for connection, session in list(self._sessions.items()):
            why = "the configuration changed"
            quiet = self._restart_of(session) is not None and not session.is_soft
            cease = Notification(Error.CEASE, Cease.OTHER_CONFIGURATION_CHANGE)
            down = session.lost(why) if quiet else session.close(cease, why)
            outputs += self._drop(connection, down, now)
        self.config = config
        outputs += self._calling.cancel()
        self._calling.schedule(now)
        self.export_policy = self._tells()
        return outputs + self.hearing.adopt(config)

    def _tells(self) -> dict[Family, CompiledPolicy | None]:
        return compile_policies(
            self.config.policy.export_rules, self.config.families, internal=self.hearing.internal
        )

    def deconfigure(self, subcode: Cease = Cease.PEER_DECONFIGURED, text: str = "") -> list[Output]:
        """The neighbour is no longer wanted: say so (with a text, RFC 9003), and forget all it said."""
        outputs: list[Output] = []
        for connection, session in list(self._sessions.items()):
            session.cease(subcode, "no longer configured", shutdown_data(text))
            outputs += [*self._flush(connection), Close(connection)]
        outputs += self._calling.cancel()
        self._sessions.clear()
        self._established, self.adj_ribs_out = None, {}
        return outputs + self.hearing.forget()

    # -- rules --------------------------------------------------------------------------------------------------------

    def _flush(self, connection: Connection) -> list[Output]:
        session = self._sessions.get(connection)
        data = session.data_to_send() if session is not None else b""
        return [Send(connection, data)] if data else []

    def _event(self, connection: Connection, event: Event, now: float) -> list[Output]:
        match event:
            case Opened():
                return self._opened(connection, now)
            case Up():
                return self._up(connection, now)
            case Received(update):
                return self._learn(connection, update, now)
            case Refresh(family, kind):
                return self._refresh(connection, family, kind, now)
            case Down():
                return self._drop(connection, event, now)

    def _opened(self, connection: Connection, now: float) -> list[Output]:
        """Beside an established session a newcomer means a restarted neighbour (RFC 4724 section 5), or is refused."""
        known = self._established
        if connection in self._beside_established and known is not None:
            if self._restart_of(self._sessions[known]) is None:
                return self._lose(connection, now)
            return self._drop(known, self._sessions[known].lost("the neighbour has connected anew"), now)
        if confirmed(self._sessions, without=connection):
            self._collision.begin(now)
        return []

    def _decide_collision(self, now: float) -> list[Output]:
        self._collision.end()
        lost = losers(self._sessions, self._outgoing, int(self._speaker.router_id))
        return [output for connection in lost for output in self._lose(connection, now)]

    def _lose(self, loser: Connection, now: float) -> list[Output]:
        said = Notification(Error.CEASE, Cease.COLLISION_RESOLUTION)
        down = self._sessions[loser].close(said, "another connection to this neighbour stays")
        return self._drop(loser, down, now)

    def _restart_of(self, session: Session) -> GracefulRestart | None:
        restart = session.peer.offer.graceful_restart if session.peer is not None else None
        if restart is None or not restart.restart_seconds:
            return None
        return restart if restart.families & session.context.families else None

    def _up(self, connection: Connection, now: float) -> list[Output]:
        outputs = self._decide_collision(now) if self._established is not None else []
        if connection not in self._sessions:
            return outputs  # it lost a collision, now or a moment ago
        outputs += self._calling.cancel()
        self.sessions += 1
        self._established, self._up_at, self._was_up, self.last_error = connection, now, True, ""
        session = self._sessions[connection]
        self.adj_ribs_out = {family: AdjRibOut(family) for family in sorted(session.context.families)}
        self._held = list(self.adj_ribs_out.values()) if self._waits_for_others() else []
        for out in self._held:
            out.pending_walks += 1
        outputs += self.hearing.returned(session, self._restart_of(session), now)
        return [*outputs, Established()]

    def _waits_for_others(self) -> bool:
        """RFC 4724 section 4.1: after a restart, End-of-RIB to whom we pass on what others tell waits for these."""
        passes_on = (
            not self.hearing.internal or self._speaker.cluster_id or self.config.route_reflector_client
        )
        return self.restarting and bool(passes_on)

    def restarted(self) -> None:
        """Our own restart is over: all others have told all, or had time to."""
        for out in self._held:
            out.pending_walks -= 1
        self._held, self.restarting = [], False

    def _refresh(self, connection: Connection, family: Family, kind: Subtype, now: float) -> list[Output]:
        """RFC 2918, RFC 7313 section 4."""
        session, intake = self._sessions.get(connection), self.adj_ribs_in[family]
        if session is None or connection != self._established:
            return []
        match kind:
            case Subtype.REQUEST:
                self.adj_ribs_out[family].readvertise(marked=session.enhanced_refresh)
            case Subtype.BEGIN:
                if intake.eor_in_session or self._restart_of(session) is None:
                    intake.begin_refresh(now)
            case Subtype.END:
                return intake.end_refresh()
        return []

    def _learn(self, connection: Connection, update: Update, now: float) -> list[Output]:
        session = self._sessions.get(connection)
        if session is None or session.peer is None:
            return []
        outputs = self.hearing.learn(session, session.peer, update)
        return outputs + self._limit(connection, session, self.adj_ribs_in[update.family], now)

    def _limit(self, connection: Connection, session: Session, intake: AdjRibIn, now: float) -> list[Output]:
        """RFC 4486: a neighbour that tells too much is left for a while, not only for a moment."""
        most = self.config.maximum_prefixes
        if not most or len(intake.pre_policy) <= most:
            return []
        data = struct.pack("!HBI", intake.family, UNICAST, most)
        down = session.cease(Cease.MAXIMUM_PREFIXES, f"more than {most} prefixes", data)
        outputs = self._drop(connection, down, now)
        self._calling.hold_down(now + TOO_MANY_SECONDS)
        return outputs

    def _drop(self, connection: Connection, down: Down, now: float) -> list[Output]:
        """A session is over: its routes go, or stay as stale ones."""
        outputs = [*self._flush(connection), Close(connection)]
        session = self._sessions.pop(connection, None)
        if session is None:
            return []
        self._outgoing.discard(connection)
        self._beside_established.discard(connection)
        if connection == self._established:
            self._established, self.adj_ribs_out = None, {}
            restart = None if is_hard(down) else self._restart_of(session)
            outputs += self.hearing.lost(session, restart, now)
            self._calling.reset_backoff(now - self._up_at)
        self.last_error = down.why
        if words := [said for said in (down.sent, down.received) if said is not None]:
            self.last_down = down
        if not self._sessions:
            self._calling.schedule(now, after_error=any(said.code != Error.CEASE for said in words))
        return outputs
