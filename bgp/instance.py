"""One BGP instance without I/O: all peers, a Loc-RIB per family, one deadline.

Promises: pure; inputs come with the time, outputs are values. Changes are collected and advertised in one go by
`flush`, so a burst of UPDATEs costs one round over the peers. What we originate is advertised at once, never deferred.
Does not know: sockets, tasks, clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from functools import partial
from typing import TypeVar

from bgp.events import (
    Close,
    Connection,
    Dial,
    Established,
    Learned,
    Output,
    Probe,
    ReapplyImportPolicy,
    Refused,
    Send,
    StaleChanged,
    UpdateFaults,
    Withdrawn,
)
from bgp.path import Path
from bgp.peer import Peer
from bgp.peer_config import PeerConfig, SpeakerConfig, changes_export, same_peer, same_session
from bgp.policy.origination import OURSELVES, Origination, OwnBlocks, by_family, changed_originations
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.rib.export import ExportTarget
from bgp.rib.graceful_restart import RestartDeferral
from bgp.rib.loc_rib import LocRib
from bgp.rib_walks import SLICE_PREFIXES, RibWalk, run_walks, slice_size, slices, take_first
from bgp.wire.families import Address, Family, Prefix, number_of
from bgp.wire.iana import Cease
from bgp.wire.nlri import Nlri

ShellAction = Dial | Send | Close | Probe | Refused | UpdateFaults
"""What is left for the shell to do, or to log."""
Changed = dict[Family, dict[Nlri, None]]
"""Prefixes by family, in the order in which they changed."""
_Addresses = TypeVar("_Addresses", bound=Address)
_Prefixes = TypeVar("_Prefixes", bound=Prefix)


class Instance:
    """The core of one speaker. The shell calls `flush` after each batch of inputs and carries out what it answers."""

    def __init__(self, config: SpeakerConfig, random: Callable[[], float], now: float) -> None:
        self.config = config
        self.peers: dict[Address, Peer] = {}
        self.ribs = {family: LocRib() for family in Family}
        self.blocks = {family: OwnBlocks({}) for family in Family}
        """The blocks among what we originate."""
        self.deferral = RestartDeferral(config.deferral_seconds, is_restart=config.restarting, now=now)
        self._random = random
        self._graceful_shutdown = self._reflects = False
        self._originated: dict[Family, dict[Nlri, Origination]] = {family: {} for family in Family}
        self._has_announced = False
        """Whether we know what to originate; before, no End-of-RIB may be sent."""
        self._connections: dict[Connection, Address] = {}
        self._last_connection = 0
        self._dirty: Changed = {family: {} for family in Family}
        """Prefixes whose best path changed and is still to be advertised."""
        self._stale_changed: Changed = {family: {} for family in Family}
        """Prefixes of which a path became stale or fresh: nothing to advertise, but `flush` reports them."""
        self._actions: list[tuple[Address, ShellAction]] = []
        self._walks: deque[RibWalk] = deque()
        """Walks under way; the first slice of a new one comes in a later `flush`."""
        self._index = PeerIndex()

    # -- configuration ------------------------------------------------------------------------------------------------

    def configure(self, peers: Mapping[_Addresses, PeerConfig], now: float) -> None:
        """Have these peers, and no others. A session ends only where what it was negotiated for changed."""
        desired: dict[Address, PeerConfig] = dict(peers.items())
        self._reflects = any(one.route_reflector_client for one in desired.values())
        self.deferral.configured(now)
        for address, peer in list(self.peers.items()):
            before, after = peer.config, desired.get(address)
            if after == before:
                continue
            if after is not None and same_session(before, after):
                self._apply(peer, peer.reconfigure(after, now))
                if changes_export(before, after):
                    self._advertise_all(peer)
            elif after is not None and same_peer(before, after):
                self._apply(peer, peer.restart_session(after, now))
            else:
                del self.peers[address]
                self._apply(peer, peer.deconfigure())
        for address, config in desired.items():
            if address not in self.peers:
                new_connection = partial(self._name_connection, config.address)
                peer = Peer(config, self.config, self.deferral, new_connection, self._random, now)
                self.peers[address] = peer
                self._reindex(peer)

    def announce(self, prefixes: Iterable[Prefix] | Mapping[_Prefixes, Origination]) -> None:
        """Originate these prefixes, and no others. Before the first call no peer gets an End-of-RIB."""
        before, self._originated = self._originated, by_family(prefixes)
        for family in Family:
            self._originate(family, before[family], self._originated[family])
        if not self._has_announced:
            self._has_announced = True
            for peer in self.peers.values():
                for out in peer.adj_ribs_out.values():
                    out.end_of_rib()
                self._reindex(peer)

    def _originate(
        self, family: Family, before: Mapping[Nlri, Origination], desired: Mapping[Nlri, Origination]
    ) -> None:
        rib, dirty = self.ribs[family], self._dirty[family]
        dirty |= dict.fromkeys(rib.drop(before.keys() - desired.keys(), OURSELVES.key))
        for origination, some in changed_originations(before, desired).items():
            dirty |= dict.fromkeys(rib.put(some, origination.path()))
        blocks, self.blocks[family] = self.blocks[family], OwnBlocks(desired)
        if blocks.prefixes != self.blocks[family].prefixes:
            self._walks.append(self._walk_blocks(family, blocks))

    def graceful_shutdown(self, *, wanted: bool = True) -> None:
        """Advertise what has us as next hop as the last resort, or (not `wanted`) as usual again (RFC 8326)."""
        self._graceful_shutdown = wanted
        for peer in self.peers.values():
            self._advertise_all(peer)

    def shutdown(self, text: str) -> None:
        """Leave all peers for good; their operators read the text (RFC 9003)."""
        peers, self.peers = self.peers, {}
        for peer in peers.values():
            self._apply(peer, peer.deconfigure(Cease.ADMINISTRATIVE_SHUTDOWN, text))

    def set_unreachable_nexthops(self, next_hops: Collection[Address]) -> None:
        """Declare these next hops, and no others, unreachable: their paths are not eligible (RFC 4271 9.1.2.1)."""
        unreachable = frozenset(next_hops)
        for family, rib in self.ribs.items():
            changed = unreachable ^ rib.unreachable
            rib.unreachable = unreachable
            if changed & rib.next_hops:
                self._walks.append(self._walk_nexthops(family, changed))

    @property
    def next_hops(self) -> frozenset[Address]:
        """The next hops of all paths: those whose reachability somebody should track."""
        return frozenset(hop for rib in self.ribs.values() for hop in rib.next_hops)

    # -- TCP and time -------------------------------------------------------------------------------------------------

    def accept(self, remote: Address) -> Connection | None:
        """A name for a connection that a peer opened; None: `remote` is no peer."""
        return self._name_connection(remote) if remote in self.peers else None

    def connected(self, connection: Connection, local: Address, now: float, *, outgoing: bool) -> None:
        """TCP is up; `local` is the address of our end."""
        if (peer := self._peer(connection)) is not None:
            self._apply(peer, peer.connected(connection, local, now, outgoing=outgoing))

    def dial_failed(self, connection: Connection, why: str, now: float) -> None:
        """TCP did not come up."""
        if (peer := self._peer(connection)) is not None:
            self._apply(peer, peer.dial_failed(connection, why, now))
            self._connections.pop(connection, None)

    def received(self, connection: Connection, data: bytes, now: float) -> None:
        """Octets arrived."""
        if (peer := self._peer(connection)) is not None:
            self._apply(peer, peer.received(connection, data, now))

    def probed(self, connection: Connection, now: float) -> None:
        """The other end's kernel has acknowledged what was sent on a connection before its Probe."""
        if (peer := self._peer(connection)) is not None:
            peer.collisions.lives(connection, now)
            self._reindex(peer)

    def is_probing(self, connection: Connection) -> bool:
        """Whether `probed` would still be of use."""
        return (peer := self._peer(connection)) is not None and peer.collisions.is_probing(connection)

    def disconnected(self, connection: Connection, why: str, now: float) -> None:
        """TCP ended underneath."""
        if (peer := self._peer(connection)) is not None:
            self._apply(peer, peer.disconnected(connection, why, now))
            self._connections.pop(connection, None)

    def extend_hold(self, connection: Connection, now: float) -> None:
        """Octets of a peer wait to be read, so its hold timer starts anew."""
        if (peer := self._peer(connection)) is not None:
            peer.extend_hold(connection, now)
            self._reindex(peer)

    def blocked(self, connection: Connection, now: float, *, is_full: bool) -> None:
        """The other end takes no more octets (`is_full`), or takes them again."""
        peer = self._peer(connection)
        if peer is not None and peer.session is not None and peer.connection == connection:
            peer.session.blocked(now, is_full=is_full)
            self._reindex(peer)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for address in self._index.due(now):
            peer = self.peers[address]
            self._apply(peer, peer.handle_timer(now))

    def next_deadline(self) -> float | None:
        """When `handle_timer` and `flush` are due."""
        times = self._index.deadline, self.deferral.deadline(self._waits())
        return min((at for at in times if at is not None), default=None)

    # -- what comes out -----------------------------------------------------------------------------------------------

    def flush(self, now: float) -> tuple[list[tuple[Address, ShellAction]], Changed]:
        """What the shell must do, in order, and the prefixes whose best path (or its staleness) changed.

        Of a great change it is a part; the rest comes with the next calls, as long as `is_busy`.
        """
        most = slice_size(len(self.peers))
        run_walks(self._walks, most)
        changed: Changed = {}
        for family in Family:
            dirty = take_first(self._dirty[family], most)
            if dirty:
                self._export(family, dirty.keys())
            dirty |= take_first(self._stale_changed[family], most)
            if dirty:
                changed[family] = dirty
        if not self.converged and not self.is_busy and self.deferral.end_if_due(self._waits(), now):
            for peer in self.peers.values():
                self._reindex(peer)  # its End-of-RIB is no longer withheld
        actions, self._actions = self._actions, []
        for _, one in actions:
            if isinstance(one, Close):
                self._connections.pop(one.connection, None)
        return actions, changed

    @property
    def converged(self) -> bool:
        """Whether what is not learned may be taken as not existing."""
        return self.deferral.is_over

    @property
    def is_busy(self) -> bool:
        """Whether `flush` has more to do."""
        return bool(self._walks) or any(self._dirty.values()) or any(self._stale_changed.values())

    def next_update(self, connection: Connection) -> bytes:
        """The next UPDATE for a connection that can take one; empty: there is none."""
        peer = self._peer(connection)
        return peer.next_update() if peer is not None and peer.connection == connection else b""

    def writable(self) -> list[Connection]:
        """The connections that `next_update` has something for."""
        peers = [peer for address in self._index.waiting if (peer := self.peers[address]).is_waiting]
        self._index.waiting = {peer.config.address for peer in peers}
        return [peer.connection for peer in peers if peer.connection is not None]

    def take_changed_peers(self) -> set[Address]:
        """The peers to which something happened since the last call."""
        changed, self._index.changed = self._index.changed, set()
        return changed

    def is_stale(self, family: Family, prefix: Nlri, path: Path) -> bool:
        """Whether a path of `prefix` is retained through its peer's restart."""
        peer = self.peers.get(path.source.address)
        rib = peer.adj_ribs_in.get(family) if peer is not None else None
        return rib is not None and rib.is_stale(prefix, path.source.path_id)

    # -- within -------------------------------------------------------------------------------------------------------

    def _name_connection(self, remote: Address) -> Connection:
        self._last_connection += 1
        self._connections[self._last_connection] = remote
        return self._last_connection

    def _peer(self, connection: Connection) -> Peer | None:
        address = self._connections.get(connection)
        return self.peers.get(address) if address is not None else None

    def _waits(self) -> Iterator[float]:
        return (peer.deferred_until for peer in self.peers.values())

    def _apply(self, peer: Peer, outputs: list[Output]) -> None:
        """Carry out what a peer's core asks for, or pass it on to the shell."""
        key = number_of(peer.config.address)
        for output in outputs:
            match output:
                case Learned(prefixes, path, family):
                    self._dirty[family] |= dict.fromkeys(self.ribs[family].put(prefixes, path))
                case Withdrawn(prefixes, family, path_id):
                    if len(prefixes) > SLICE_PREFIXES:
                        self._walks.append(self._walk_withdrawn(peer.config.address, output))
                    else:
                        self._dirty[family] |= dict.fromkeys(self.ribs[family].drop(prefixes, key, path_id))
                case ReapplyImportPolicy(family):
                    self._walks.append(self._walk_import(peer, family))
                case StaleChanged(prefixes, family):
                    self._stale_changed[family] |= dict.fromkeys(prefixes)
                case Established():
                    self._advertise_all(peer)
                    if self._has_announced:
                        for out in peer.adj_ribs_out.values():
                            out.end_of_rib()
                case _:
                    self._actions.append((peer.config.address, output))
        self._reindex(peer)

    def _reindex(self, peer: Peer) -> None:
        """Something may have changed about a peer."""
        address = peer.config.address
        if self.peers.get(address) is peer:
            self._index.update(address, peer.next_deadline, is_waiting=peer.is_waiting)
        elif address not in self.peers:
            self._index.remove(address)

    # -- walks over many prefixes -------------------------------------------------------------------------------------

    # A walk yields after each slice, and other inputs come between two slices: it looks at the tables as they are when
    # the slice comes, and stops where the session or the peer that it was begun for is gone.

    def _advertise_all(self, peer: Peer) -> None:
        for family, out in peer.adj_ribs_out.items():
            out.pending_walks += 1
            self._walks.append(self._walk_advertise(peer, family, out))

    def _walk_advertise(self, peer: Peer, family: Family, out: AdjRibOut) -> RibWalk:
        """Advertise the whole Loc-RIB to one peer, our own prefixes first; End-of-RIB waits for it."""
        own, rib = self._originated[family], self.ribs[family]
        others = rib.ebgp_prefixes | set(out) if peer.is_internal and not self._reflects else rib.prefixes
        many = [*own, *(prefix for prefix in others if prefix not in own)]
        for some in slices(many):
            if peer.adj_ribs_out.get(family) is not out:
                return
            self._advertise(family, peer, some)
            yield len(some)
        out.pending_walks -= 1
        self._reindex(peer)

    def _walk_blocks(self, family: Family, before: OwnBlocks) -> RibWalk:
        """Advertise anew what lies otherwise to our own blocks than before."""
        rib, now = self.ribs[family], self.blocks[family]
        for some in slices(list(rib.prefixes)):
            self._dirty[family] |= {
                one: None for one in some if before.relation(one) is not now.relation(one)
            }
            yield len(some)

    def _walk_withdrawn(self, address: Address, gone: Withdrawn) -> RibWalk:
        """Remove a peer's paths from the Loc-RIB, but for those that it has announced again meanwhile."""
        rib, key = self.ribs[gone.family], number_of(address)
        for some in slices(gone.prefixes):
            peer = self.peers.get(address)
            rib_in = peer.adj_ribs_in.get(gone.family) if peer is not None else None
            if rib_in is not None:
                some = [one for one in some if not rib_in.is_accepted(one, gone.path_id)]
            self._dirty[gone.family] |= dict.fromkeys(rib.drop(some, key, gone.path_id))
            yield len(some)

    def _walk_import(self, peer: Peer, family: Family) -> RibWalk:
        """Apply the present import policy to all that a peer announced."""
        rib_in = peer.adj_ribs_in.get(family)
        for some in slices(list(rib_in.pre_policy) if rib_in is not None else ()):
            if self.peers.get(peer.config.address) is not peer or peer.adj_ribs_in.get(family) is not rib_in:
                return
            if rib_in is not None:
                self._apply(peer, rib_in.reapply_policy(some))
            yield len(some)

    def _walk_nexthops(self, family: Family, next_hops: Collection[Address]) -> RibWalk:
        """Decide anew on every prefix that has a path over one of these next hops."""
        rib = self.ribs[family]
        for some in slices(list(rib.prefixes)):
            over = (one for one in some if rib.uses_nexthop(one, next_hops))
            self._dirty[family] |= dict.fromkeys(rib.reselect(over))
            yield len(some)

    # -- what each peer is advertised ---------------------------------------------------------------------------------

    def _export(self, family: Family, dirty: Set[Nlri]) -> None:
        own = self._originated[family]
        of_internal: Set[Nlri] | None = None
        for peer in self.peers.values():
            out = peer.adj_ribs_out.get(family)
            if out is None:
                continue
            if not peer.is_internal:
                self._advertise(family, peer, dirty)
                continue
            # In a mesh nearly all is learned from iBGP and goes to nobody: only what does not, and what the peer has.
            if of_internal is None:
                of_internal = dirty if self._reflects else self.ribs[family].not_from_ibgp(dirty, own.keys())
            self._advertise(family, peer, of_internal | out.known(dirty))

    def _advertise(self, family: Family, peer: Peer, prefixes: Iterable[Nlri]) -> None:
        if (to := self.export_target(peer, family)) is not None:
            peer.advertise(to, family, self.ribs[family], self.blocks[family], prefixes)
            if peer.is_waiting:
                self._index.waiting.add(peer.config.address)

    def export_target(self, peer: Peer, family: Family) -> ExportTarget | None:
        """A peer as the export rules see it; None while it has no session."""
        return peer.export_target(family, graceful_shutdown=self._graceful_shutdown)


class PeerIndex:
    """Which peers need a look, so that an input costs no more with many peers than one pass over plain numbers."""

    def __init__(self) -> None:
        self._deadlines: dict[Address, float] = {}
        self.changed: set[Address] = set()
        """Peers to which something happened; the reader takes them away."""
        self.waiting: set[Address] = set()
        """Peers for which an UPDATE may wait to be written; the reader drops those for which none does."""

    def update(self, address: Address, deadline: float | None, *, is_waiting: bool) -> None:
        """Something happened to a peer."""
        self.changed.add(address)
        if deadline is None:
            self._deadlines.pop(address, None)
        else:
            self._deadlines[address] = deadline
        if is_waiting:
            self.waiting.add(address)

    def remove(self, address: Address) -> None:
        """A peer is no longer configured."""
        self.changed.add(address)
        self._deadlines.pop(address, None)
        self.waiting.discard(address)

    @property
    def deadline(self) -> float | None:
        """The earliest deadline of all peers."""
        return min(self._deadlines.values(), default=None)

    def due(self, now: float) -> list[Address]:
        """Peers whose deadline has passed."""
        return [address for address, at in self._deadlines.items() if at <= now]
