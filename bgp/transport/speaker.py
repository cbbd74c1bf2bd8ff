"""The speaker: moves octets and deadlines between TCP and the instance, and logs what happens to peers.

Promises: `configure` and `announce` take the whole desired state and are idempotent. Cancelling `run` closes every
connection without a NOTIFICATION, so the peers keep our paths (RFC 4724). There is no await inside of one step.
Does not know: where peers and prefixes come from, what becomes of a learned route.
"""

from __future__ import annotations

import asyncio
import os
import random
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol, TypeVar

from bgp import renewal
from bgp.events import Close, Connection, Dial, LimitNear, PeerFailed, Probe, Refused, Send, UpdateFaults
from bgp.instance import Changed, Instance, ShellAction
from bgp.learned_routes import Learned, LearnedRoute
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.peer_status import PeerStatus, peer_status
from bgp.policy.block_claims import BlockClaims
from bgp.policy.origination import Origination
from bgp.scheduler import Scheduler, Seen
from bgp.session.fsm import State
from bgp.transport.listeners import Listeners
from bgp.transport.md5_keys import optmem_needed
from bgp.transport.session_log import SessionLog
from bgp.transport.socket_addresses import socket_address
from bgp.transport.tcp import Tcp, outgoing_socket
from bgp.wire.errors import ListenFailed
from bgp.wire.families import Address, Family, Prefix, number_of, zone_of

__all__ = ["Clock", "LearnedRoute", "ListenFailed", "Log", "PeerStatus", "Speaker", "State"]

MOST_FAULTS_LOGGED = 20
"""Tolerated mistakes, and refused connections, logged per peer and state change; a bad peer must not fill the disk."""
PROBE_CHECK_SECONDS = 0.1
"""Between two looks whether a probe is acknowledged: the kernel announces resets, but no acknowledgements."""

STEP_RETRY_SECONDS = 1.0
"""How long after a step that failed the next is taken, if nothing happens before."""
SECURITY_RETRY_SECONDS = 1.0
"""How long after the kernel has refused an MD5 key it is asked again: somebody may have given it the memory."""

_Addresses = TypeVar("_Addresses", bound=Address)
_Prefixes = TypeVar("_Prefixes", bound=Prefix)


class Clock(Protocol):
    """The clocks that the speaker reads."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wall(self) -> datetime:
        """The present moment in UTC."""


class Log(Protocol):
    """The structured log that the speaker writes."""

    def info(self, event: str, **fields: Any) -> Any:
        """Something changed."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Something was tolerated or is tried again."""

    def error(self, event: str, **fields: Any) -> Any:
        """Something is wrong with this program."""


class Speaker:
    """One BGP speaker: an instance with sockets and a clock. What is only read is asked of `instance`."""

    def __init__(self, config: SpeakerConfig, clock: Clock, on_change: Callable[[], None], log: Log) -> None:
        self._config = config
        self._clock = clock
        self._on_change = on_change
        self._log = log
        self.instance = Instance(config, random.random, clock.now())
        """For readers; changes go through the speaker, which then carries out what follows."""
        self._scheduler = Scheduler(self.instance)
        self._learned = Learned(self.instance)
        self._changed: Changed = {}
        """What `take_changed` will answer; no more than there ever were prefixes."""
        self._connections: dict[Connection, Tcp] = {}
        self._listeners = Listeners(lambda: Tcp(self, None))
        self._dialing: dict[Connection, asyncio.Task[None]] = {}
        self._sessions = SessionLog(log)
        self._faults: dict[Address, int] = {}
        self._refused_at: dict[Address, datetime] = {}
        """When a further connection from the address of an established peer was refused last."""
        self._probes: dict[Connection, asyncio.TimerHandle] = {}
        self.listening = asyncio.Event()
        """Set while peers can connect."""
        self.failure = ""
        """The exception that ended the last step; empty: none did."""
        self._step_failures = 0
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_step: asyncio.Handle | None = None
        self._security_retry: asyncio.TimerHandle | None = None
        self._listening: asyncio.Task[None] | None = None
        """Begins to take connections on a link."""

    # -- configuration and what was learned -------------------------------------------------------------------------

    def configure(self, peers: Mapping[_Addresses, PeerConfig]) -> None:
        """Have these peers, and no others."""
        self.instance.configure(peers, self._clock.now())
        self._apply_security()
        for tcp in self._connections.values():
            if (peer := self.instance.peers.get(tcp.remote)) is not None:
                with suppress(OSError):  # the connection has just ended
                    tcp.set_gtsm(peer.config.ttl_security_hops)
        self._schedule()

    def call_now(self, address: Address) -> None:
        """The way to a peer is there again: call it at once, unless there is a session."""
        now = self._clock.now()
        with suppress(KeyError):  # it has just gone
            self.instance.on_demand(address, lambda one: renewal.call_now(one, now), now)
        self._schedule()

    def link_failed(self, address: Address, why: str) -> None:
        """The link to a peer carries nothing: its session and its paths go at once."""
        now = self._clock.now()
        with suppress(KeyError):  # it has just gone
            self.instance.on_demand(address, lambda one: renewal.link_failed(one, now, why), now)
        self._schedule()

    def announce(self, prefixes: Collection[Prefix] | Mapping[_Prefixes, Origination]) -> None:
        """Originate these prefixes, and no others; a mapping says with which attributes."""
        self.instance.announce(prefixes)
        self._schedule()

    def bfd_changed(self, address: Address, *, up: bool, independent: bool) -> None:
        """BFD has found a peer (`up`), or has lost it; `independent`: its BFD does not end with its BGP (the C bit)."""
        self.instance.bfd_changed(address, self._clock.now(), up=up, independent=independent)
        self._schedule()

    def graceful_shutdown(self, *, wanted: bool = True) -> None:
        """Become the last resort of all peers (RFC 8326), or (not `wanted`) no longer; it takes them a moment."""
        self.instance.graceful_shutdown(wanted=wanted)
        self._schedule()

    def shutdown(self, text: str = "") -> None:
        """Leave all peers for good: they remove our paths at once, and their operators read the text (RFC 9003)."""
        self.instance.shutdown(text)
        self._step()

    def refresh(self, peer: Address) -> None:
        """Ask a peer for everything, and send it everything again (RFC 2918). Raises ValueError without a session."""
        self.instance.on_demand(peer, renewal.refresh, self._clock.now())
        self._schedule()

    def reset(self, peer: Address, *, is_hard: bool = False) -> None:
        """Begin a new session; paths outlive it, or go on both sides (`is_hard`). Raises ValueError."""
        now = self._clock.now()
        self.instance.on_demand(peer, lambda one: renewal.reset(one, now, is_hard=is_hard), now)
        self._schedule()

    @property
    def learned(self) -> Mapping[Prefix, LearnedRoute]:
        """The best path to every prefix that peers announced."""
        return self._learned

    def take_changed(self) -> Changed:
        """The prefixes, by family, whose best path or its staleness changed since the last call: for one reader."""
        changed, self._changed = self._changed, {}
        return changed

    def set_unreachable_nexthops(self, next_hops: Collection[Address]) -> None:
        """Declare these next hops, and no others, unreachable: paths over them are not used. Initially: none."""
        self.instance.set_unreachable_nexthops(next_hops)
        self._schedule()

    def set_block_claims(self, claims: Mapping[Family, BlockClaims]) -> None:
        """Whose the blocks are, by the datastore's word. Initially: nobody's."""
        self.instance.set_block_claims(claims)
        self._schedule()

    @property
    def converged(self) -> bool:
        """Whether what is not learned may be taken as not existing: every peer has announced all, or had time to."""
        return self.instance.converged

    def status(self) -> tuple[PeerStatus, ...]:
        """All peers, in the order of their addresses."""
        found = []
        for address, peer in sorted(self.instance.peers.items(), key=lambda item: number_of(item[0])):
            state, sessions = peer.state if self._running else State.IDLE, self._sessions
            refused_at, ended = self._refused_at.get(address), sessions.ended(address)
            found.append(peer_status(peer, state, sessions.since(address), refused_at, ended))
        return tuple(found)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Listen and serve until cancelled. Raises ListenFailed."""
        try:
            self._listeners.bind(self._config.addresses, self._config.port)
            self._apply_security()
            await self._listeners.listen()
            self._running = True
            self.listening.set()
            self._step()
            await asyncio.get_running_loop().create_future()
        finally:
            self._running = False
            self.listening.clear()
            self._listeners.close()
            for handle in (self._timer, self._next_step, self._security_retry, *self._probes.values()):
                if handle is not None:
                    handle.cancel()
            self._timer = self._next_step = self._security_retry = None
            self._probes.clear()
            for task in self._dialing.values():
                task.cancel()
            if self._listening is not None:
                self._listening.cancel()
            for tcp in list(self._connections.values()):
                tcp.abort()  # without a NOTIFICATION

    def _schedule(self) -> None:
        """Take a step in this round of the loop, one for all that happens in it."""
        if self._running and self._next_step is None:
            self._next_step = asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        """Take one step: carry out what the core asks for, report what changed, and set the one timer."""
        if self._next_step is not None:
            self._next_step.cancel()
            self._next_step = None
        now = self._clock.now()
        try:
            self._take_step(now)
        except Exception as error:
            self._step_failed(error)

    def _take_step(self, now: float) -> None:
        was_converged = self.instance.converged
        step = self._scheduler.step(now, self._look)
        for address, one in step.actions:
            self._carry_out(address, one)
        for connection, data in step.updates:
            if (tcp := self._connections.get(connection)) is not None:
                self._carry_out(tcp.remote, Send(connection, data))
        if step.reading is not None:
            self._resume_reading(step.reading)
        self._log_states(step.changed_peers)
        self._add_changed(step.changed)
        self._set_timer(now)
        if self._scheduler.is_busy:
            self._schedule()
        if step.changed or self.instance.converged != was_converged:
            self._on_change()
        self.failure = ""

    def _step_failed(self, error: Exception) -> None:
        """What is about one peer is caught where it is done: this concerns all. Nothing of it ends the speaker."""
        self.failure = f"{type(error).__name__}: {error}"
        self._step_failures += 1
        if self._step_failures <= MOST_FAULTS_LOGGED:
            text = "".join(traceback.format_exception(error))
            self._log.error("bgp.step_failed", why=self.failure, traceback=text)
        if self._timer is not None:
            self._timer.cancel()
        if self._running:
            self._timer = asyncio.get_running_loop().call_later(STEP_RETRY_SECONDS, self._step)

    def _look(self, connections: Collection[Connection]) -> Seen:
        """Whether a peer has spoken, or listens, whatever the loop knows of it yet."""
        looks = {one: tcp.look() for one in connections if (tcp := self._connections.get(one)) is not None}
        unread = [one for one, (is_readable, _) in looks.items() if is_readable]
        return Seen(unread, [one for one, (_, is_writable) in looks.items() if is_writable])

    def _write(self, connection: Connection, data: bytes) -> None:
        if (tcp := self._connections.get(connection)) is not None:
            tcp.write(data)

    def _resume_reading(self, connection: Connection) -> None:
        tcp = self._connections.get(connection)
        if tcp is not None and not self._scheduler.receive_queue.is_full(connection):
            tcp.resume_reading()

    def _carry_out(self, address: Address, one: ShellAction) -> None:
        try:
            self._act(address, one)
        except Exception as error:
            self.instance.fail(address, error, self._clock.now())
            self._schedule()

    def _act(self, address: Address, one: ShellAction) -> None:
        match one:
            case Dial(connection, config):
                task = asyncio.get_running_loop().create_task(self._dial(connection, config))
                self._dialing[connection] = task
                task.add_done_callback(lambda _: self._dialing.pop(connection, None))
            case Send(connection, data):
                self._write(connection, data)
            case Close(connection):
                self._scheduler.closed(connection)
                if (tcp := self._connections.pop(connection, None)) is not None:
                    tcp.close()
                elif (task_ := self._dialing.get(connection)) is not None:
                    task_.cancel()
            case Probe(connection):
                tcp = self._connections.get(connection)
                if tcp is not None and (written := tcp.written_octets()) is not None:
                    self._check_probe_later(connection, written)
            case _:
                self._log_event(address, one)

    def _log_event(self, address: Address, one: Refused | UpdateFaults | LimitNear | PeerFailed) -> None:
        match one:
            case Refused(why):
                self._refused(address, f"its session lives; the other connection: {why}")
            case UpdateFaults(faults):
                self._log_fault("bgp.tolerated", address, "; ".join(faults))
            case LimitNear(why):
                self._log.warning("bgp.limit_near", peer=str(address), why=why)
            case PeerFailed(why, text):
                self._log.error("bgp.internal_error", peer=str(address), why=why, traceback=text)

    def _refused(self, address: Address, why: str) -> None:
        self._refused_at[address] = self._clock.wall()
        self._log_fault("bgp.connection_refused", address, why)

    def _log_fault(self, event: str, address: Address, why: str) -> None:
        count = self._faults[address] = self._faults.get(address, 0) + 1
        if count <= MOST_FAULTS_LOGGED:
            self._log.warning(event, peer=str(address), why=why)

    def _check_probe_later(self, connection: Connection, written: int) -> None:
        loop = asyncio.get_running_loop()
        self._probes[connection] = loop.call_later(
            PROBE_CHECK_SECONDS, self._check_probe, connection, written
        )

    def _check_probe(self, connection: Connection, written: int) -> None:
        """Look whether a probe is acknowledged; the core stops waiting for it by itself."""
        self._probes.pop(connection, None)
        tcp = self._connections.get(connection)
        if tcp is None or not self.instance.is_probing(connection):
            return
        if tcp.is_acknowledged(written):
            self.instance.probed(connection, self._clock.now())
            self._schedule()
        else:
            self._check_probe_later(connection, written)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.instance.next_deadline()
        if due is not None and self._running:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self._step)

    def _log_states(self, changed: set[Address]) -> None:
        for address in changed:
            peer = self.instance.peers.get(address)
            if peer is None:
                self._sessions.forget(address)
                self._refused_at.pop(address, None)
                continue
            if self._sessions.look(address, peer, self._clock.wall()):
                self._faults.pop(address, None)

    def _add_changed(self, changed: Changed) -> None:
        for family, some in changed.items():
            before = self._changed.setdefault(family, some)
            if before is not some:
                before.update(some)

    # -- TCP ----------------------------------------------------------------------------------------------------------

    async def _dial(self, connection: Connection, config: PeerConfig) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = outgoing_socket(config, config.local_address)
            try:
                await loop.sock_connect(sock, socket_address(config.address, config.port))
                await loop.create_connection(lambda: Tcp(self, connection), sock=sock)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            # asyncio puts the address into the text of its own errors, and the reason into the number alone.
            why = os.strerror(error.errno) if error.errno else error.strerror or str(error)
            self.instance.dial_failed(connection, why, self._clock.now())
            self._schedule()

    def _apply_security(self) -> None:
        before, listeners = self._listeners.refused, self._listeners
        zones = {zone_of(address) for address in self.instance.peers} - {""}
        self._follow(zones)
        listeners.apply_security(peer.config for peer in self.instance.peers.values())
        for address, why in listeners.refused.items():
            if address not in before:
                self._log.warning("bgp.no_md5", peer=str(address), why=why)  # `opened` turns it away
        for address in before.keys() - listeners.refused.keys():
            self._log.info("bgp.md5", peer=str(address))
        if self._security_retry is not None:
            self._security_retry.cancel()
        # An interface comes and goes under its name, and with it its socket.
        later = asyncio.get_running_loop().call_later if listeners.refused or zones else None
        self._security_retry = later(SECURITY_RETRY_SECONDS, self._apply_security) if later else None

    def _follow(self, zones: Collection[str]) -> None:
        """Listen on the links with link-local peers."""
        before, listeners = self._listeners.no_links, self._listeners
        listeners.follow(zones)
        for zone in listeners.no_links.keys() - before.keys():
            self._log.warning("bgp.link_not_listened", interface=zone, why=listeners.no_links[zone])
        if self._running and listeners.is_waiting and self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        try:
            await self._listeners.listen()
        except ListenFailed as error:
            self._log.warning("bgp.link_not_listened", why=str(error))
        finally:
            self._listening = None

    @property
    def refused_keys(self) -> Mapping[Address, str]:
        """Peer with a password for which the kernel took no MD5 key -> why; it is asked again every second."""
        return self._listeners.refused

    @property
    def optmem_needed(self) -> int:
        """The net.core.optmem_max with which the kernel takes all MD5 keys."""
        return optmem_needed(self._listeners.keys)

    def opened(self, tcp: Tcp) -> None:
        """TCP is up."""
        if tcp.connection is None and self._running:
            tcp.connection = self.instance.accept(tcp.remote)
        peer = self.instance.peers.get(tcp.remote)
        if tcp.connection is None or peer is None or not self._running:
            tcp.abort()
            return
        why = None if tcp.outgoing else self._listeners.why_not(tcp, peer.config)
        if why is not None:
            tcp.abort()
            self._refused(tcp.remote, why)
            return
        self._connections[tcp.connection] = tcp
        self.instance.connected(tcp.connection, tcp.local, self._clock.now(), outgoing=tcp.outgoing)
        self._schedule()

    def arrived(self, tcp: Tcp, data: bytes) -> None:
        """Octets of a peer arrived."""
        if tcp.connection is not None and self._running:
            self._scheduler.receive_queue.put(tcp.connection, data)
            if self._scheduler.receive_queue.is_full(tcp.connection):
                tcp.pause_reading()
            self._schedule()

    def ended(self, tcp: Tcp, why: str) -> None:
        """TCP is down."""
        if tcp.connection is None:
            return
        self._connections.pop(tcp.connection, None)
        if self._running:
            self._scheduler.closed(tcp.connection)
            self._scheduler.receive_queue.end(tcp.connection, why)
            self._schedule()

    def flow_changed(self, tcp: Tcp) -> None:
        """A peer takes no more octets, or takes them again."""
        if tcp.connection is not None and self._running:
            self._scheduler.blocked(tcp.connection, self._clock.now(), is_full=tcp.is_full)
            self._schedule()
