"""The whole speaker without I/O: all neighbours, a Loc-RIB per family, one deadline.

Promises: pure; inputs come with the time, outputs are values. Changes are collected and told in one go by `flush`, so
a burst of UPDATEs costs one round over the neighbours. What we originate is told at once, never deferred.
Does not know: sockets, tasks, clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import TypeVar

from bgp.events import (
    Close,
    Connection,
    Dial,
    Established,
    Learned,
    Output,
    ReapplyImportPolicy,
    Send,
    StaleChanged,
    UpdateFaults,
    Withdrawn,
)
from bgp.export_targets import listener_of, not_internal, tell
from bgp.peer import Peer
from bgp.peer_config import PeerConfig, SpeakerConfig, changes_export, same_peer, same_session
from bgp.peer_index import PeerIndex
from bgp.policy.origination import OURSELVES, Origination, OwnBlocks, by_family, changed_originations
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.rib.export import ExportTarget
from bgp.rib.loc_rib import LocRib
from bgp.rib_walks import SLICE_PREFIXES, RibWalk, RibWalks, slice_size, slices, take_first
from bgp.wire.families import Address, Family, Prefix, number_of
from bgp.wire.iana import Cease
from bgp.wire.nlri import Nlri

ShellAction = Dial | Send | Close | UpdateFaults
"""What is left for the shell."""
Changed = dict[Family, dict[Nlri, None]]
"""Prefixes in the order in which they changed."""
_Addresses = TypeVar("_Addresses", bound=Address)
_Prefixes = TypeVar("_Prefixes", bound=Prefix)


class Instance:
    """One speaker's core. The shell calls `flush` after each batch of inputs and carries out what it answers."""

    def __init__(self, config: SpeakerConfig, random: Callable[[], float], now: float) -> None:
        self.config = config
        self.peers: dict[Address, Peer] = {}
        self.ribs = {family: LocRib() for family in Family}
        self.converged = False
        """Whether what is not learned may be taken as not existing."""
        self._random = random
        self._began = now
        self._configured = False
        self._lowered = self._reflects = False
        self._originated: dict[Family, dict[Nlri, Origination]] | None = None
        self._connections: dict[Connection, Address] = {}
        self._last_connection = 0
        self._dirty: Changed = {family: {} for family in Family}
        self._marked: Changed = {family: {} for family in Family}
        self._wire: list[tuple[Address, ShellAction]] = []
        self._chores = RibWalks()
        self._roster = PeerIndex()
        self.blocks = {family: OwnBlocks({}) for family in Family}

    # -- wishes -------------------------------------------------------------------------------------------------------

    def configure(self, peers: Mapping[_Addresses, PeerConfig], now: float) -> None:
        """These are the neighbours, and no others. A session ends only where what it was made for changed."""
        wishes: dict[Address, PeerConfig] = dict(peers.items())
        self._reflects = any(one.route_reflector_client for one in wishes.values())
        if not self._configured:
            self._configured, self._began = True, now
        for address, peer in list(self.peers.items()):
            wanted = wishes.get(address)
            if wanted == peer.config:
                continue
            if wanted is not None and same_session(peer.config, wanted):
                before = peer.config
                self._adopt(peer, peer.reconfigure(wanted, now))
                if changes_export(before, wanted):
                    self._tell_all(peer)
            elif wanted is not None and same_peer(peer.config, wanted):
                self._adopt(peer, peer.restart_session(wanted, now))
            else:
                del self.peers[address]
                self._adopt(peer, peer.deconfigure())
        for address, config in wishes.items():
            if address not in self.peers:
                peer = self.peers[address] = self._new_peer(config, now)
                self._touch(peer)

    def _new_peer(self, config: PeerConfig, now: float) -> Peer:
        def new_connection() -> Connection:
            return self._name(config.address)

        peer = Peer(config, self.config, new_connection, self._random, now)
        peer.restarting = self.config.restarting and not self.converged
        return peer

    def announce(self, prefixes: Iterable[Prefix] | Mapping[_Prefixes, Origination]) -> None:
        """This is what we originate, and nothing else. Before the first call no neighbour gets an End-of-RIB."""
        first, before = self._originated is None, self._originated or {family: {} for family in Family}
        wanted = by_family(prefixes)
        for family in Family:
            self._originate(family, before[family], wanted[family])
        self._originated = wanted
        if first:
            for peer in self.peers.values():
                for out in peer.adj_ribs_out.values():
                    out.end_of_rib()
                self._touch(peer)

    def _originate(
        self, family: Family, before: Mapping[Nlri, Origination], wanted: Mapping[Nlri, Origination]
    ) -> None:
        rib, dirty = self.ribs[family], self._dirty[family]
        dirty |= dict.fromkeys(rib.drop(before.keys() - wanted.keys(), OURSELVES.key))
        for origination, some in changed_originations(before, wanted).items():
            dirty |= dict.fromkeys(rib.put(some, origination.path()))
        blocks, self.blocks[family] = self.blocks[family], OwnBlocks(wanted)
        if blocks != self.blocks[family]:
            self._chores.add(self._surrounding(family, blocks))

    # -- what happens on the wire -------------------------------------------------------------------------------------

    def accept(self, remote: Address) -> Connection | None:
        """A name for a connection that a neighbour opened; None: it is nobody's."""
        return self._name(remote) if remote in self.peers else None

    def connected(self, connection: Connection, local: Address, now: float, *, outgoing: bool) -> None:
        """TCP is up."""
        if (peer := self._peer(connection)) is not None:
            self._adopt(peer, peer.connected(connection, local, now, outgoing=outgoing))

    def dial_failed(self, connection: Connection, why: str, now: float) -> None:
        """A call did not succeed."""
        if (peer := self._peer(connection)) is not None:
            self._adopt(peer, peer.dial_failed(connection, why, now))
            self._connections.pop(connection, None)

    def received(self, connection: Connection, data: bytes, now: float) -> None:
        """Bytes arrived."""
        if (peer := self._peer(connection)) is not None:
            self._adopt(peer, peer.received(connection, data, now))

    def disconnected(self, connection: Connection, why: str, now: float) -> None:
        """TCP ended underneath."""
        if (peer := self._peer(connection)) is not None:
            self._adopt(peer, peer.disconnected(connection, why, now))
            self._connections.pop(connection, None)

    def extend_hold(self, connection: Connection, now: float) -> None:
        """Bytes wait to be read: the neighbour is not silent."""
        if (peer := self._peer(connection)) is not None:
            peer.extend_hold(connection, now)
            self._touch(peer)

    def blocked(self, connection: Connection, now: float, *, is_full: bool) -> None:
        """The other end takes no more bytes, or takes them again."""
        peer = self._peer(connection)
        if peer is not None and peer.session is not None and peer.connection == connection:
            peer.session.blocked(now, is_full=is_full)
            self._touch(peer)

    @property
    def next_hops(self) -> frozenset[Address]:
        """The next hops of everything learned: those that somebody should look up."""
        return frozenset(hop for rib in self.ribs.values() for hop in rib.next_hops)

    def set_unreachable_nexthops(self, next_hops: Collection[Address]) -> None:
        """No way leads to these next hops, and to all others: paths over these are not eligible (RFC 4271 9.1.2.1)."""
        wanted = frozenset(next_hops)
        for family, rib in self.ribs.items():
            changed = wanted ^ rib.unreachable
            rib.unreachable = wanted
            if changed & rib.next_hops:
                self._chores.add(self._choosing(family, changed))

    def graceful_shutdown(self, *, wanted: bool = True) -> None:
        """Ask all neighbours to take other ways (RFC 8326): what has us as next hop is told as the last resort.

        Not `wanted`: no longer.
        """
        self._lowered = wanted
        for peer in self.peers.values():
            self._tell_all(peer)

    def shutdown(self, text: str) -> None:
        """Leave all neighbours for good, so that they forget us at once; `text` is shown to their operators."""
        peers, self.peers = self.peers, {}
        for peer in peers.values():
            self._adopt(peer, peer.deconfigure(Cease.ADMINISTRATIVE_SHUTDOWN, text))

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for address in self._roster.due(now):
            peer = self.peers[address]
            self._adopt(peer, peer.handle_timer(now))

    # -- what comes out -----------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_timer` and `flush` are due."""
        deadline = self._roster.deadline
        if self.converged or not self._configured:
            return deadline
        return min(self._settled_at(), deadline if deadline is not None else float("inf"))

    def flush(self, now: float) -> tuple[list[tuple[Address, ShellAction]], Changed]:
        """What the shell must do, in order, and the prefixes whose best path (or its staleness) changed.

        Of a great change it is a part; the rest comes with the next calls, as long as the router is busy.
        """
        most = slice_size(len(self.peers))
        self._chores.run(most)
        changed: Changed = {}
        for family in Family:
            dirty = take_first(self._dirty[family], most)
            if dirty:
                self._export(family, dirty.keys())
            dirty |= take_first(self._marked[family], most)
            if dirty:
                changed[family] = dirty
        if not self.converged and self._configured and now >= self._settled_at() and not self.is_busy:
            self.converged = True
            for peer in self.peers.values():
                peer.restarted()
                self._touch(peer)
        wire, self._wire = self._wire, []
        for _, one in wire:
            if isinstance(one, Close):
                self._connections.pop(one.connection, None)
        return wire, changed

    @property
    def is_busy(self) -> bool:
        """Whether `flush` has more to do."""
        return bool(self._chores) or any(self._dirty.values()) or any(self._marked.values())

    def next_update(self, connection: Connection) -> bytes:
        """The next UPDATE for a connection that can take one; empty: there is none."""
        peer = self._peer(connection)
        return peer.next_update() if peer is not None and peer.connection == connection else b""

    def writable(self) -> list[Connection]:
        """The connections that `next_update` has something for."""
        peers = [peer for address in self._roster.writable if (peer := self.peers[address]).is_waiting]
        self._roster.writable = {peer.config.address for peer in peers}
        return [peer.connection for peer in peers if peer.connection is not None]

    def take_changed_peers(self) -> set[Address]:
        """The neighbours to which something happened since the last call."""
        return self._roster.take_changed()

    # -- within -------------------------------------------------------------------------------------------------------

    def _name(self, remote: Address) -> Connection:
        self._last_connection += 1
        self._connections[self._last_connection] = remote
        return self._last_connection

    def _peer(self, connection: Connection) -> Peer | None:
        address = self._connections.get(connection)
        return self.peers.get(address) if address is not None else None

    def _settled_at(self) -> float:
        """When the start is over: all neighbours have told all, or had time to. A dead one holds up nobody."""
        latest = max((peer.settled_at for peer in self.peers.values()), default=self._began)
        return min(latest, self._began + self.config.deferral_seconds)

    def _adopt(self, peer: Peer, outputs: list[Output]) -> None:
        key = number_of(peer.config.address)
        for output in outputs:
            match output:
                case Learned(prefixes, path, family):
                    self._dirty[family] |= dict.fromkeys(self.ribs[family].put(prefixes, path))
                case Withdrawn(prefixes, family, path_id):
                    if len(prefixes) > SLICE_PREFIXES:
                        self._chores.add(self._forgetting(peer.config.address, output))
                    else:
                        self._dirty[family] |= dict.fromkeys(self.ribs[family].drop(prefixes, key, path_id))
                case ReapplyImportPolicy(family):
                    self._chores.add(self._judging(peer, family))
                case StaleChanged(prefixes, family):
                    self._marked[family] |= dict.fromkeys(prefixes)
                case Established():
                    self._begin(peer)
                case _:
                    self._wire.append((peer.config.address, output))
        self._touch(peer)

    def _touch(self, peer: Peer) -> None:
        """Something may have changed about a neighbour."""
        address = peer.config.address
        if self.peers.get(address) is peer:
            self._roster.update(address, peer.next_deadline, is_waiting=peer.is_waiting)
        elif address not in self.peers:
            self._roster.remove(address)

    def _begin(self, peer: Peer) -> None:
        """Tell a neighbour that came up everything, then End-of-RIB."""
        self._tell_all(peer)
        if self._originated is not None:
            for out in peer.adj_ribs_out.values():
                out.end_of_rib()

    def _tell_all(self, peer: Peer) -> None:
        for family, out in peer.adj_ribs_out.items():
            out.pending_walks += 1
            self._chores.add(self._telling(peer, family, out))

    # -- over many prefixes -------------------------------------------------------------------------------------------

    def _telling(self, peer: Peer, family: Family, out: AdjRibOut) -> RibWalk:
        """Everything to one neighbour, our own first; End-of-RIB waits for it."""
        own = self._originated[family] if self._originated is not None else {}
        rib = self.ribs[family]
        others = (
            rib.ebgp_prefixes | set(out) if peer.hearing.internal and not self._reflects else rib.prefixes
        )
        many = [*own, *(prefix for prefix in others if prefix not in own)]
        for some in slices(many):
            if peer.adj_ribs_out.get(family) is not out:
                return
            self._tell(family, [peer], some)
            yield len(some)
        out.pending_walks -= 1
        self._touch(peer)

    def _surrounding(self, family: Family, before: OwnBlocks) -> RibWalk:
        """Our blocks changed, and with them what of others lies inside of one."""
        rib, now = self.ribs[family], self.blocks[family]
        for some in slices(list(rib.prefixes)):
            self._dirty[family] |= {
                one: None for one in some if before.relation(one) is not now.relation(one)
            }
            yield len(some)

    def _forgetting(self, address: Address, gone: Withdrawn) -> RibWalk:
        """A neighbour's paths go from the Loc-RIB, but for those that it has told again meanwhile."""
        rib, key = self.ribs[gone.family], number_of(address)
        for some in slices(gone.prefixes):
            peer = self.peers.get(address)
            intake = peer.adj_ribs_in.get(gone.family) if peer is not None else None
            if intake is not None:
                some = [one for one in some if not intake.is_accepted(one, gone.path_id)]
            self._dirty[gone.family] |= dict.fromkeys(rib.drop(some, key, gone.path_id))
            yield len(some)

    def _judging(self, peer: Peer, family: Family) -> RibWalk:
        """What a neighbour told is judged by the rules of now."""
        intake = peer.adj_ribs_in.get(family)
        for some in slices(list(intake.pre_policy.prefixes) if intake is not None else ()):
            if self.peers.get(peer.config.address) is not peer or peer.adj_ribs_in.get(family) is not intake:
                return
            self._adopt(peer, peer.hearing.judge_some(family, some))
            yield len(some)

    def _choosing(self, family: Family, next_hops: Collection[Address]) -> RibWalk:
        """What has a path over one of these next hops is decided anew."""
        rib = self.ribs[family]
        for some in slices(list(rib.prefixes)):
            over = (one for one in some if rib.uses_nexthop(one, next_hops))
            self._dirty[family] |= dict.fromkeys(rib.reselect(over))
            yield len(some)

    # -- what each neighbour is told ----------------------------------------------------------------------------------

    def _export(self, family: Family, dirty: Set[Nlri]) -> None:
        told = [(peer, peer.session) for peer in self.peers.values() if family in peer.adj_ribs_out]
        internal = [peer for peer, session in told if session is not None and session.internal]
        external = [peer for peer, session in told if session is not None and not session.internal]
        if external:
            self._tell(family, external, dirty)
        if internal:
            # In a mesh nearly all is learned from inside and goes to nobody: only what was told can need a word.
            own = self._originated[family] if self._originated is not None else {}
            candidates = dirty if self._reflects else not_internal(dirty, self.ribs[family], own.keys())
            for peer in internal:
                self._tell(family, [peer], candidates | peer.adj_ribs_out[family].known(dirty))

    def _tell(self, family: Family, peers: list[Peer], prefixes: Iterable[Nlri]) -> None:
        for peer in peers:
            if (to := self.export_target(peer, family)) is not None:
                tell(peer, to, family, self.ribs[family], self.blocks[family], prefixes)
                if peer.is_waiting:
                    self._roster.writable.add(peer.config.address)

    def export_target(self, peer: Peer, family: Family) -> ExportTarget | None:
        """A peer as one that can be told; None while it has no session."""
        return listener_of(self.config, peer, family, lowered=self._lowered)
