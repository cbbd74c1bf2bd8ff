"""Several routers joined in memory under virtual time: TCP that connects late, cuts bytes anywhere, breaks on demand.

Nothing here waits. `run` advances the clock to whatever is due next; which of the things that are due at the same
moment comes first is up to a seeded random, so a test walks many orders, and a seed is one history, which replays.
Named faults: `cut` (both ends see TCP break), `power_off` (nobody hears anything; a node started in its place resets
what it does not know), `frozen` nodes (their kernel acknowledges, for good, and that is all), `unplugged` addresses
answer nothing, `impostor` (another one calls from a node's address), `slow_accept_seconds`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from bgp.events import Close, Connection, Dial, LimitNear, PeerFailed, Probe, Refused, Send, UpdateFaults
from bgp.instance import Instance, ShellAction
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.session.fsm import State
from bgp.wire import nlri
from bgp.wire.families import Address

MOST_STEPS = 200_000
HOP_SECONDS = 0.001


def address(last: int) -> IPv4Address:
    return IPv4Address(f"10.0.0.{last}")


def address6(last: int) -> IPv6Address:
    return IPv6Address(f"fd00::{last}")


@dataclass(slots=True)
class End:
    """One end of a connection."""

    node: Node
    connection: Connection
    other: End | None = None
    closed: bool = False
    dialed: bool = False


@dataclass(slots=True)
class Node:
    """A router and its cables."""

    own: Address
    router: Instance
    ends: dict[Connection, End] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    changes: list[tuple[str, str | None]] = field(default_factory=list)
    """(prefix, next hop) of every best path that changed; None: gone."""
    refused: list[str] = field(default_factory=list)
    down: bool = False
    frozen: bool = False

    def learned(self) -> dict[str, str]:
        """Prefix -> next hop."""
        found = {}
        for family, rib in self.router.ribs.items():
            for prefix in rib.prefixes:
                best = rib.best(prefix)
                if best is not None and not best.source.is_own:
                    found[str(nlri.unpack(prefix, family))] = str(best.attributes.next_hop)
        return found

    def stale(self) -> set[str]:
        return {
            str(nlri.unpack(nlri.prefix_of(key), family))
            for peer in self.router.peers.values()
            for family, rib in peer.adj_ribs_in.items()
            for key in rib.stale
        }

    def state(self, peer: Node) -> State:
        return self.router.peers[peer.own].state


class Wire:
    """The world."""

    def __init__(self, seed: int = 0, slow_accept_seconds: float = 0.0) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.nodes: dict[Address, Node] = {}
        self.impostors: list[Node] = []
        self.unplugged: set[Address] = set()
        self.may_fail = False
        """Whether an exception inside of a router is what the test is about."""
        self.slow_accept_seconds = slow_accept_seconds
        self.calls: list[tuple[float, Address, Address]] = []
        """When who called whom."""
        self.sent: list[tuple[float, Address, Address, bytes]] = []
        """When who wrote what to whom."""
        self._queue: list[tuple[float, float, int, Callable[[], None]]] = []
        self._count = 0

    # -- building -----------------------------------------------------------------------------------------------------

    def node(
        self,
        last: int,
        asn: int = 64512,
        *,
        restarting: bool = False,
        restart_seconds: int = 120,
        cluster_id: IPv4Address | None = None,
        by_ipv6: bool = False,
        own: Address | None = None,
    ) -> Node:
        """A speaker that starts now, in place of an earlier one of that address; it has one of each family."""
        own = own or (address6(last) if by_ipv6 else address(last))
        config = SpeakerConfig(
            asn,
            address(last),
            own,
            restarting=restarting,
            restart_seconds=restart_seconds,
            cluster_id=cluster_id,
            second_address=address6(last) if own.version == 4 else address(last),
        )
        node = Node(own, Instance(config, self.random.random, self.now))
        self.nodes[own] = node
        return node

    def peer(
        self,
        node: Node,
        *others: tuple[int, int] | int,
        passive: bool = False,
        hold_seconds: int = 90,
        **more: Any,
    ) -> None:
        """Configure a node's neighbours: numbers, or (number, AS)."""
        peers: dict[Address, PeerConfig] = {}
        name = address6 if isinstance(node.own, IPv6Address) else address
        for other in others:
            last, asn = other if isinstance(other, tuple) else (other, node.router.config.asn)
            one = PeerConfig(
                name(last), asn, passive=passive, hold_seconds=hold_seconds, local_address=node.own, **more
            )
            peers[one.address] = one
        self.configure(node, peers)

    def configure(self, node: Node, peers: Mapping[Address, PeerConfig]) -> None:
        node.router.configure(peers, self.now)
        self.settle(node)

    def shutdown(self, node: Node, text: str) -> None:
        node.router.shutdown(text)
        self.settle(node)

    def announce(self, node: Node, *prefixes: str) -> None:
        node.router.announce([ip_network(prefix) for prefix in prefixes])
        self.settle(node)

    # -- faults -------------------------------------------------------------------------------------------------------

    def kill(self, node: Node) -> None:
        """The process dies: its kernel closes all connections."""
        node.down = True
        for end in list(node.ends.values()):
            self._hang_up(end)

    def vanish(self, node: Node) -> None:
        """The machine dies: nobody hears anything."""
        node.down = True
        self.unplugged.add(node.own)

    def power_off(self, node: Node) -> None:
        """The machine stops without a word; one that starts in its place knows none of its connections."""
        node.down = True
        node.ends.clear()

    def impostor(self, node: Node, asn: int = 64512) -> Node:
        """A speaker that calls from this node's address; calls to the address still reach the node."""
        config = replace(node.router.config, asn=asn)
        made = Node(node.own, Instance(config, self.random.random, self.now))
        self.impostors.append(made)
        return made

    def cut(self, one: Node, two: Node) -> None:
        """TCP between two nodes breaks, both ends see it."""
        for end in list(one.ends.values()):
            if end.other is not None and end.other.node is two:
                self._hang_up(end)
                self._lose(end)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self._until(self.now + seconds, lambda: False)

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let time pass until the condition holds; it must within that time."""
        self._until(self.now + seconds, condition)
        assert condition(), [(str(node.own), node.log) for node in self.nodes.values()]

    def _until(self, end: float, condition: Callable[[], bool]) -> None:
        for _ in range(MOST_STEPS):
            if condition():
                return
            awake = [
                one for one in (*self.nodes.values(), *self.impostors) if not one.down and not one.frozen
            ]
            timers = [(at, node) for node in awake if (at := self._due(node))]
            next_timer = min((at for at, _ in timers), default=end)
            next_event = self._queue[0][0] if self._queue else end
            if min(next_timer, next_event) >= end:
                self.now = end
                return
            if next_event <= next_timer:
                self.now, *_, action = heapq.heappop(self._queue)
                action()
            else:
                self.now = max(self.now, next_timer)
                for at, node in timers:
                    if at <= self.now:
                        node.router.handle_timer(self.now)
                        self.settle(node)
        raise AssertionError(f"more than {MOST_STEPS} steps")

    def _due(self, node: Node) -> float | None:
        return node.router.next_deadline()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self.random.random(), self._count, action))

    # -- the cables ---------------------------------------------------------------------------------------------------

    def settle(self, node: Node) -> None:
        """What the asyncio shell does after each input."""
        if node.down:
            return
        while True:
            wire, changed = node.router.flush(self.now)
            for _, one in wire:
                self.perform(node, one)
            for connection in node.router.writable():
                while data := node.router.next_update(connection):
                    self._send(node, connection, data)
            for family, prefix in ((family, one) for family, some in changed.items() for one in some):
                best = node.router.ribs[family].best(prefix)
                hop = str(best.attributes.next_hop) if best is not None else None
                node.changes.append((str(nlri.unpack(prefix, family)), hop))
            if not node.router.is_busy:
                break
        self._check(node)

    def _check(self, node: Node) -> None:
        """What the router keeps in mind of its neighbours is what they would say if all were asked."""
        peers = node.router.peers.values()
        times = [at for peer in peers if (at := peer.next_deadline) is not None]
        due = node.router.next_deadline()
        if node.router.converged:
            assert due == min(times, default=None)
        else:
            assert due is None or due <= min(times, default=due)
        assert not any(peer.is_waiting for peer in peers)

    def perform(self, node: Node, one: ShellAction) -> None:
        """What a node's core asks for, or a test has it do."""
        match one:
            case Dial(connection, config):
                self.calls.append((self.now, node.own, config.address))
                self._later(HOP_SECONDS, lambda c=connection, p=config: self._dial(node, c, p.address))  # type: ignore[misc]
            case Send(connection, data):
                self._send(node, connection, data)
            case Close(connection):
                if (end := node.ends.get(connection)) is not None:
                    self._hang_up(end)
            case Probe(connection):
                self._later(2.5 * HOP_SECONDS, lambda: self._probed(node, connection))
            case Refused(why):
                node.refused.append(why)
            case UpdateFaults(faults):
                node.log += faults
            case LimitNear(why):
                node.log.append(why)
            case PeerFailed(why, traceback):
                assert self.may_fail, traceback
                node.log.append(why)

    def _probed(self, node: Node, connection: Connection) -> None:
        end = node.ends.get(connection)
        if (
            end is not None
            and end.other is not None
            and self._is_known(end.other)
            and self._is_reached(end.other)
        ):
            node.router.probed(connection, self.now)
            self.settle(node)

    def _is_known(self, end: End) -> bool:
        """Whether the kernel at this end has the connection."""
        return end.node.ends.get(end.connection) is end

    def _is_reached(self, end: End) -> bool:
        """Whether some machine of this end's address answers."""
        here = self.nodes.get(end.node.own)
        is_up = (here is not None and not here.down) or not end.node.down
        return is_up and end.node.own not in self.unplugged

    def _dial(self, caller: Node, connection: Connection, to: Address) -> None:
        callee = self.nodes.get(to)
        if caller.down or to in self.unplugged:
            return  # no answer: the caller's own timer ends it
        theirs = None if callee is None or callee.down else callee.router.accept(caller.own)
        if callee is None or callee.down:
            caller.router.dial_failed(connection, "Connection refused", self.now)
            self.settle(caller)
            return
        end = caller.ends[connection] = End(caller, connection, dialed=True)
        if theirs is not None:
            end.other = callee.ends[theirs] = End(callee, theirs, end)
        caller.router.connected(connection, caller.own, self.now, outgoing=True)
        self.settle(caller)
        if end.other is None:
            self._later(HOP_SECONDS, lambda: self._lose(end))
            return
        other = end.other
        delay = self.slow_accept_seconds * self.random.random()
        self._later(delay, lambda: self._accepted(other))

    def _accepted(self, end: End) -> None:
        if not end.closed and not end.node.down:
            end.node.router.connected(end.connection, end.node.own, self.now, outgoing=False)
            self.settle(end.node)

    def _send(self, node: Node, connection: Connection, data: bytes) -> None:
        """Bytes arrive in order, cut anywhere."""
        end = node.ends.get(connection)
        if end is None or end.closed or end.other is None:
            return
        self.sent.append((self.now, node.own, end.other.node.own, data))
        cut = self.random.randint(0, len(data))
        for part in (data[:cut], data[cut:]):
            if part:
                self._queue_in_order(end.other, lambda o=end.other, p=part: self._arrive(o, p))  # type: ignore[misc]

    def _queue_in_order(self, end: End, action: Callable[[], None]) -> None:
        # A tie-break of 2 and the running count keep the bytes of all connections in order among themselves.
        self._count += 1
        delay = max(HOP_SECONDS, self.slow_accept_seconds)
        heapq.heappush(self._queue, (self.now + delay, 2.0, self._count, action))

    def _arrive(self, end: End, data: bytes) -> None:
        if not self._is_known(end) and self._is_reached(end) and end.other is not None:
            self._queue_in_order(end.other, lambda: self._lose(end.other))  # a reset
        elif (
            not end.closed
            and not end.node.down
            and not end.node.frozen
            and end.node.own not in self.unplugged
        ):
            end.node.router.received(end.connection, data, self.now)
            self.settle(end.node)

    def _hang_up(self, end: End) -> None:
        if not end.closed:
            end.closed = True
            end.node.ends.pop(end.connection, None)
            if end.other is not None and end.node.own not in self.unplugged:
                self._queue_in_order(end.other, lambda: self._lose(end.other))

    def _lose(self, end: End | None) -> None:
        if end is not None and not end.node.down:
            end.closed = True
            end.node.ends.pop(end.connection, None)
            end.node.router.disconnected(end.connection, "the peer closed TCP", self.now)
            self.settle(end.node)
