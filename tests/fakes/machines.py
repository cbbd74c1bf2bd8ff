"""Speakers on slow machines in virtual time: every step costs time, and nothing else happens there meanwhile.

A step costs `seconds_per_prefix` for each prefix that it reads, decides or tells. Between machines there are pipes that
hold `pipe_bytes`: a reader that does not read blocks its writer.
`whole` is the fault to compare with: a machine that does all its steps at once, without a look at clock or pipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bgp.events import Close, Connection, Dial, PeerFailed, Send
from bgp.instance import Instance, ShellAction
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.scheduler import Scheduler, Step
from bgp.session.fsm import State
from bgp.wire.families import Address, Family

PIPE_BYTES = 512 << 10
READ_BYTES = 256 << 10
BYTES_PER_PREFIX = 5
IDLE_COST_SECONDS = 0.0001
MOST_STEPS = 200_000


@dataclass(slots=True)
class Pipe:
    """One direction of a connection."""

    to: Machine
    name: Connection
    """Of the connection at its reader."""
    back: Connection
    """And at its writer."""
    data: bytearray = field(default_factory=bytearray)
    most_bytes: int = 0
    """That ever waited in it."""
    ended: bool = False
    was_full: bool = False


@dataclass(slots=True)
class Machine:
    """One of them."""

    own: IPv4Address
    scheduler: Scheduler
    seconds_per_prefix: float = 0.0
    whole: bool = False
    free_at: float = 0.0
    longest_step_seconds: float = 0.0
    out: dict[Connection, Pipe] = field(default_factory=dict)

    @property
    def router(self) -> Instance:
        return self.scheduler.instance

    def known(self) -> int:
        """How many prefixes have a path."""
        return len(self.router.ribs[Family.IPV4])

    def state(self, other: Machine) -> State:
        return self.router.peers[other.own].state

    def sessions(self, other: Machine) -> int:
        return self.router.peers[other.own].sessions


class Room:
    """All machines and the time."""

    def __init__(self, pipe_bytes: int = PIPE_BYTES) -> None:
        self.now = 0.0
        self.pipe_bytes = pipe_bytes
        self.machines: dict[Address, Machine] = {}

    def machine(
        self, last: int, asn: int, seconds_per_prefix: float = 0.0, *, whole: bool = False
    ) -> Machine:
        own = IPv4Address(f"10.0.0.{last}")
        router = Instance(SpeakerConfig(asn, own, own), lambda: 0.5, self.now)
        found = self.machines[own] = Machine(own, Scheduler(router), seconds_per_prefix, whole)
        return found

    def join(self, caller: Machine, callee: Machine, hold_seconds: int, family: Family = Family.IPV4) -> None:
        for one, other in ((caller, callee), (callee, caller)):
            peers = {where: peer.config for where, peer in one.router.peers.items()}
            peers[other.own] = PeerConfig(
                other.own,
                other.router.config.asn,
                passive=one is callee,
                hold_seconds=hold_seconds,
                families=frozenset({family}),
            )
            one.router.configure(peers, self.now)

    # -- running ------------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        end = self.now + seconds
        for _ in range(MOST_STEPS):
            if condition():
                return
            at, machine = min(
                ((self._ready(one), one) for one in self.machines.values()), key=lambda pair: pair[0]
            )
            if at > end:
                break
            self.now = max(self.now, at)
            self._step(machine)
        assert condition(), [
            (
                str(one.own),
                one.known(),
                [(str(peer), p.state, p.last_error) for peer, p in one.router.peers.items()],
            )
            for one in self.machines.values()
        ]

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        self.until(
            lambda: self.now >= end or all(self._ready(one) > end for one in self.machines.values()), seconds
        )
        self.now = end

    def _ready(self, machine: Machine) -> float:
        if machine.scheduler.is_busy or any(self._readable(machine)):
            return machine.free_at
        due = machine.router.next_deadline()
        return max(machine.free_at, due if due is not None else float("inf"))

    def _readable(self, machine: Machine) -> list[Pipe]:
        return [
            pipe
            for other in self.machines.values()
            for pipe in other.out.values()
            if pipe.to is machine
            and (pipe.data or pipe.ended)
            and not machine.scheduler.receive_queue.is_full(pipe.name)
        ]

    def _step(self, machine: Machine) -> None:
        cost = 0.0
        while True:
            self._read(machine)
            step = machine.scheduler.step(self.now)
            self._carry_out(machine, step)
            prefixes = sum(map(len, step.changed.values()))
            prefixes += sum(len(data) for _, data in step.updates) // BYTES_PER_PREFIX
            cost += IDLE_COST_SECONDS + machine.seconds_per_prefix * prefixes
            if not machine.whole or not (machine.scheduler.is_busy or self._readable(machine)):
                break
        machine.longest_step_seconds = max(machine.longest_step_seconds, cost)
        machine.free_at = self.now + cost

    def _read(self, machine: Machine) -> None:
        for pipe in self._readable(machine):
            data = bytes(pipe.data[:READ_BYTES])
            del pipe.data[:READ_BYTES]
            if data:
                machine.scheduler.receive_queue.put(pipe.name, data)
            elif pipe.ended:
                machine.scheduler.receive_queue.end(pipe.name, "the peer closed TCP")
                pipe.ended = False
            writer = next(one for one in self.machines.values() if one.out.get(pipe.back) is pipe)
            if pipe.was_full and len(pipe.data) < self.pipe_bytes:
                pipe.was_full = False
                writer.scheduler.blocked(pipe.back, self.now, is_full=False)

    # -- what a shell does --------------------------------------------------------------------------------------------

    def _carry_out(self, machine: Machine, step: Step) -> None:
        for _, one in step.actions:
            self._perform(machine, one)
        for connection, data in step.updates:
            self._write(machine, connection, data)

    def _perform(self, machine: Machine, one: ShellAction) -> None:
        match one:
            case Dial(connection, config):
                other = self.machines[config.address]
                theirs = other.router.accept(machine.own)
                assert theirs is not None
                machine.out[connection] = Pipe(other, theirs, connection)
                other.out[theirs] = Pipe(machine, connection, theirs)
                other.router.connected(theirs, other.own, self.now, outgoing=False)
                machine.router.connected(connection, machine.own, self.now, outgoing=True)
            case Send(connection, data):
                self._write(machine, connection, data)
            case Close(connection):
                if (pipe := machine.out.get(connection)) is not None:
                    pipe.ended = True
            case PeerFailed(traceback=traceback):
                raise AssertionError(traceback)
            case _:
                pass

    def _write(self, machine: Machine, connection: Connection, data: bytes) -> None:
        pipe = machine.out[connection]
        pipe.data += data
        pipe.most_bytes = max(pipe.most_bytes, len(pipe.data))
        if len(pipe.data) >= self.pipe_bytes and not pipe.was_full:
            pipe.was_full = True
            machine.scheduler.blocked(connection, self.now, is_full=True)
