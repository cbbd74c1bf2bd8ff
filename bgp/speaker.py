"""The speaker: moves bytes and deadlines between TCP and the peers' cores, and keeps what was learned ready to be read.

Promises: `configure` and `announce` take the whole wish and are idempotent; own prefixes are told at once.
Cancelling `run` closes every connection without a NOTIFICATION: the neighbours keep our paths (RFC 4724).
Does not know: where peers and prefixes come from, what becomes of a learned route.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Protocol

from bgp import nlri, updates
from bgp.config import PeerConfig, SpeakerConfig
from bgp.errors import ListenFailed
from bgp.fsm import State
from bgp.nlri import Nlri
from bgp.peer import Close, Connection, Dial, Established, Learned, Output, Peer, Refresh, Send
from bgp.rib import Rib

MOST_UNSENT_BYTES = 4 << 20
"""A neighbour that takes nothing until this much waits for it is disconnected."""
BACKLOG = 128


class Clock(Protocol):
    """What the speaker needs of time."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def wall(self) -> datetime:
        """The present moment in UTC."""
        ...


class Log(Protocol):
    """What the speaker needs of a structured log."""

    def info(self, event: str, **fields: Any) -> Any:
        """Something changed."""
        ...

    def warning(self, event: str, **fields: Any) -> Any:
        """Something was tolerated or is tried again."""
        ...


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """The best path to a prefix."""

    prefix: IPv4Network
    next_hop: IPv4Address
    peer: IPv4Address
    stale: bool


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A neighbour, for people."""

    address: IPv4Address
    asn: int
    description: str
    state: State
    since: datetime
    received: int
    announced: int
    last_error: str
    restarting: bool


@dataclass(slots=True)
class _Neighbour:
    """A peer's core with its connections and what it was told."""

    core: Peer
    state: State
    since: datetime
    transports: dict[Connection, asyncio.Transport] = field(default_factory=dict)
    dialing: dict[Connection, asyncio.Task[None]] = field(default_factory=dict)
    told: frozenset[Nlri] = frozenset()
    """Adj-RIB-Out: all of it has the same attributes."""


class Speaker:
    """One BGP speaker; a shell."""

    def __init__(self, config: SpeakerConfig, clock: Clock, on_change: Callable[[], None], log: Log) -> None:
        self._config = config
        self._clock = clock
        self._on_change = on_change
        self._log = log
        self._rib = Rib()
        self._learned: dict[IPv4Network, LearnedRoute] = {}
        self._neighbours: dict[IPv4Address, _Neighbour] = {}
        self._announced: frozenset[Nlri] = frozenset()
        self._started_at = clock.now()
        self._configured = False
        self._running = False
        self._said_converged = False
        self._timer: asyncio.TimerHandle | None = None
        self._dialers: set[asyncio.Task[None]] = set()

    # -- wishes -------------------------------------------------------------------------------------------------------

    def configure(self, peers: Mapping[IPv4Address, PeerConfig]) -> None:
        """These are the neighbours, and no others."""
        now = self._clock.now()
        self._configured = True
        for address in [known for known, one in self._neighbours.items() if peers.get(known) != one.core.config]:
            gone = self._neighbours[address]
            self._perform(gone, gone.core.deconfigure(now))
            del self._neighbours[address]
        for address, config in peers.items():
            if address not in self._neighbours:
                core = Peer(
                    config, self._config, self._rib, lambda: self._config.restarting and not self.converged, now
                )
                self._neighbours[address] = _Neighbour(core, core.state, self._clock.wall())
        self._rearm()

    def announce(self, prefixes: frozenset[IPv4Network]) -> None:
        """This is what we originate, and nothing else."""
        wanted = frozenset(map(nlri.pack, prefixes))
        if wanted == self._announced:
            return
        self._announced = wanted
        for neighbour in self._neighbours.values():
            self._tell(neighbour)

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def learned(self) -> Mapping[IPv4Network, LearnedRoute]:
        """The best path to every prefix that neighbours told us."""
        return self._learned

    @property
    def converged(self) -> bool:
        """Whether what is not learned may be taken as not existing: every neighbour has said all, or had time to."""
        if not self._configured or not self._running:
            return False
        if self._clock.now() - self._started_at >= self._config.deferral_seconds:
            return True
        return all(one.core.heard_all for one in self._neighbours.values())

    def status(self) -> tuple[PeerStatus, ...]:
        """All neighbours by address."""
        return tuple(
            PeerStatus(
                address=address,
                asn=one.core.config.asn,
                description=one.core.config.description,
                state=one.core.state,
                since=one.since,
                received=len(self._rib.of_peer(address)),
                announced=len(one.told) if one.core.state is State.ESTABLISHED else 0,
                last_error=one.core.last_error,
                restarting=one.core.is_stale,
            )
            for address, one in sorted(self._neighbours.items())
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Listen and serve until cancelled. Raises ListenFailed."""
        loop = asyncio.get_running_loop()
        address, port = str(self._config.listen_address), self._config.port
        try:
            server = await loop.create_server(lambda: _Tcp(self, None, 0), address, port, backlog=BACKLOG)
        except OSError as error:
            reason = "another process has it" if error.errno == errno.EADDRINUSE else error.strerror
            raise ListenFailed(f"cannot listen for BGP on {address} port {port}: {reason}") from error
        self._running = True
        self._started_at = self._clock.now()
        deferral = loop.call_later(self._config.deferral_seconds, self._on_change)
        self._rearm()
        try:
            await loop.create_future()
        finally:
            self._running = False
            deferral.cancel()
            server.close()
            self._abandon()

    def _abandon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._dialers:
            task.cancel()
        for neighbour in self._neighbours.values():
            for transport in neighbour.transports.values():
                transport.abort()
            neighbour.transports.clear()

    def _rearm(self) -> None:
        """One timer for the earliest deadline of all neighbours."""
        if not self._running:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((at for one in self._neighbours.values() if (at := one.core.next_deadline) is not None), default=None)
        if due is not None:
            delay = max(0.0, due - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock.now()
        for neighbour in list(self._neighbours.values()):
            self._perform(neighbour, neighbour.core.handle_timer(now))
        self._rearm()

    def _perform(self, neighbour: _Neighbour, outputs: list[Output]) -> None:
        """Carry out what a core asks for; no await, so nothing comes in between."""
        for output in outputs:
            match output:
                case Dial(connection):
                    task = asyncio.get_running_loop().create_task(self._dial(neighbour, connection))
                    self._dialers.add(task)
                    task.add_done_callback(self._dialers.discard)
                case Send(connection, data):
                    self._write(neighbour, connection, data)
                case Close(connection):
                    if (transport := neighbour.transports.pop(connection, None)) is not None:
                        transport.close()
                case Established():
                    neighbour.told = frozenset()
                    self._tell(neighbour, end_of_rib=True)
                case Refresh():
                    neighbour.told = frozenset()
                    self._tell(neighbour)
                case Learned(prefixes):
                    self._publish(prefixes)
        self._note_state(neighbour)
        if not self._said_converged and self.converged:
            self._said_converged = True
            self._on_change()

    def _write(self, neighbour: _Neighbour, connection: Connection, data: bytes) -> None:
        transport = neighbour.transports.get(connection)
        if transport is None:
            return
        transport.write(data)
        if transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            transport.abort()

    def _note_state(self, neighbour: _Neighbour) -> None:
        state = neighbour.core.state
        if state is neighbour.state:
            return
        was_up = State.ESTABLISHED in (neighbour.state, state)
        neighbour.state, neighbour.since = state, self._clock.wall()
        if was_up:
            peer, name = str(neighbour.core.config.address), neighbour.core.config.description
            self._log.info("bgp.session", peer=peer, name=name, state=state.value, why=neighbour.core.last_error)

    def _publish(self, prefixes: frozenset[Nlri]) -> None:
        for packed in prefixes:
            prefix, path = nlri.unpack(packed), self._rib.best.get(packed)
            if path is None or path.attributes.next_hop is None:
                self._learned.pop(prefix, None)
            else:
                route = LearnedRoute(prefix, path.attributes.next_hop, path.source.address, path.stale)
                self._learned[prefix] = route
        self._on_change()

    def _tell(self, neighbour: _Neighbour, *, end_of_rib: bool = False) -> None:
        """Bring a neighbour's Adj-RIB-Out up to what we originate."""
        session, core = neighbour.core.session, neighbour.core
        if session is None:
            return
        next_hop = core.config.local_address or self._config.listen_address
        attributes = updates.originated(next_hop, self._config.asn, internal=session.internal)
        outputs: list[Output] = []
        for update in updates.withdrawals(neighbour.told - self._announced):
            outputs += core.tell(update)
        for update in updates.announcements(self._announced - neighbour.told, attributes, session.context):
            outputs += core.tell(update)
        if end_of_rib:
            outputs += core.tell(updates.END_OF_RIB)
        neighbour.told = self._announced
        for output in outputs:
            if isinstance(output, Send):
                self._write(neighbour, output.connection, output.data)

    # -- TCP ----------------------------------------------------------------------------------------------------------

    async def _dial(self, neighbour: _Neighbour, connection: Connection) -> None:
        config = neighbour.core.config
        source = config.local_address or self._config.listen_address
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: _Tcp(self, neighbour, connection), str(config.address), config.port, local_addr=(str(source), 0)
            )
        except OSError as error:
            reason = error.strerror or str(error)
            self._perform(neighbour, neighbour.core.dial_failed(connection, reason, self._clock.now()))
            self._rearm()

    def accept(self, remote: IPv4Address) -> tuple[_Neighbour, Connection] | None:
        """Whose connection this is; None: nobody's, close it."""
        neighbour = self._neighbours.get(remote)
        return (neighbour, neighbour.core.new_connection()) if neighbour is not None and self._running else None

    def opened(
        self, neighbour: _Neighbour, connection: Connection, transport: asyncio.Transport, outgoing: bool
    ) -> None:
        """TCP is up."""
        if neighbour not in self._neighbours.values() or not self._running:
            transport.abort()
            return
        neighbour.transports[connection] = transport
        self._perform(neighbour, neighbour.core.connected(connection, self._clock.now(), outgoing=outgoing))
        self._rearm()

    def arrived(self, neighbour: _Neighbour, connection: Connection, data: bytes) -> None:
        """Bytes from a neighbour."""
        self._perform(neighbour, neighbour.core.received(connection, data, self._clock.now()))
        self._rearm()

    def ended(self, neighbour: _Neighbour, connection: Connection, why: str) -> None:
        """TCP is down."""
        if self._running:
            neighbour.transports.pop(connection, None)
            self._perform(neighbour, neighbour.core.disconnected(connection, why, self._clock.now()))
            self._rearm()


class _Tcp(asyncio.Protocol):
    """One connection: hands everything to the speaker."""

    def __init__(self, speaker: Speaker, neighbour: _Neighbour | None, connection: Connection) -> None:
        self._speaker = speaker
        self._neighbour = neighbour
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        outgoing = self._neighbour is not None
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._neighbour is None:
            known = self._speaker.accept(IPv4Address(transport.get_extra_info("peername")[0]))
            if known is None:
                transport.abort()
                return
            self._neighbour, self._connection = known
        self._speaker.opened(self._neighbour, self._connection, transport, outgoing)

    def data_received(self, data: bytes) -> None:
        if self._neighbour is not None:
            self._speaker.arrived(self._neighbour, self._connection, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._neighbour is not None:
            self._speaker.ended(self._neighbour, self._connection, str(exc) if exc else "the neighbour closed")
