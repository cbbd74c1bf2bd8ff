"""One BGP instance without I/O: all peers, a Loc-RIB per family, one deadline.

Promises: pure; inputs come with the time, outputs are values. Changes are collected and advertised in one go by
`flush`, so a burst of UPDATEs costs one round over the peers. What we originate is advertised at once, never deferred.
An exception out of the work for one peer resets that peer's sessions and is reported (`PeerFailed`); to the others
nothing happens (decision 36).
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
    LimitNear,
    Output,
    PeerFailed,
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
from bgp.peer_export import advertise, concerned, export_target, takes_several
from bgp.peer_index import PeerIndex
from bgp.policy.block_claims import NO_CLAIMS, BlockClaims, Touched
from bgp.policy.origination import OURSELVES, Origination, OwnBlocks, by_family, changed_originations
from bgp.renewal import bfd_changed, ends_by_bfd, restart_session
from bgp.rib.adj_rib_out import AdjRibOut
from bgp.rib.export import ExportTarget
from bgp.rib.graceful_restart import RestartDeferral
from bgp.rib.limits import Excess, held_octets
from bgp.rib.loc_rib import LocRib
from bgp.rib.pending_changes import pending_changes
from bgp.rib.rib_walks import SLICE_PREFIXES, RibWalk, run_walks, slice_size, slices
from bgp.wire.attributes import Context
from bgp.wire.families import Address, Family, Prefix, number_of
from bgp.wire.iana import Cease
from bgp.wire.messages import UNSPECIFIC_CEASE, encode
from bgp.wire.nlri import Nlri

ANY_CONTEXT = Context(four_octet_as=False, internal=False)
"""A NOTIFICATION means the same whatever was negotiated."""
ShellAction = Dial | Send | Close | Probe | Refused | UpdateFaults | PeerFailed | LimitNear
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
        self.ribs = {family: LocRib(config.multipath) for family in Family}
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
        self._pending = pending_changes()
        self._actions: list[tuple[Address, ShellAction]] = []
        self._walks: deque[RibWalk] = deque()
        """Walks under way; the first slice of a new one comes in a later `flush`."""
        self._index = PeerIndex()
        self._now = now
        """Of the last input or `flush`: for what is done without an input of its own."""
        self._claims = dict.fromkeys(Family, NO_CLAIMS)

    # -- configuration ------------------------------------------------------------------------------------------------

    def configure(self, peers: Mapping[_Addresses, PeerConfig], now: float) -> None:
        """Have these peers, and no others. A session ends only where what it was negotiated for changed."""
        self._now = now
        desired: dict[Address, PeerConfig] = dict(peers.items())
        self._reflects = any(one.route_reflector_client for one in desired.values())
        self.deferral.configured(now)
        for address, peer in list(self.peers.items()):
            before, after = peer.config, desired.get(address)
            if after == before:
                continue
            if after is not None and same_session(before, after):
                self._work(peer, partial(peer.reconfigure, after, now))
                if changes_export(before, after):
                    self._advertise_all(peer)
            elif after is not None and same_peer(before, after):
                self._work(peer, partial(restart_session, peer, after, now))
            else:
                del self.peers[address]
                self._work(peer, peer.deconfigure)
                self._forget_staleness(address)
        for address, config in desired.items():
            if address not in self.peers:
                new_connection = partial(self._name_connection, config.address)
                try:
                    peer = Peer(config, self.config, self.deferral, new_connection, self._random, now)
                except Exception as error:
                    self._actions.append((address, PeerFailed.of(error)))
                    continue
                self.peers[address] = peer
                self._reindex(peer)
        self._give_claims()

    def _give_claims(self) -> None:
        """To tables that are new."""
        for peer in self.peers.values():
            for rib in peer.adj_ribs_in.values():
                rib.claims = self._claims[rib.family]

    def set_block_claims(self, claims: Mapping[Family, BlockClaims]) -> None:
        """Whose the blocks are: what contradicts it is not believed of peers whose policy asks for that."""
        for family, now in claims.items():
            is_touched, self._claims[family] = now.changed(self._claims[family]), now
            for peer in self.peers.values():
                rib = peer.adj_ribs_in.get(family)
                if rib is not None and rib.take_claims(now) and is_touched is not None:
                    self._walks.append(self._walk_import(peer, family, is_touched))

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
        rib = self.ribs[family]
        self._pending[family].add(rib.drop(before.keys() - desired.keys(), OURSELVES.key))
        for origination, some in changed_originations(before, desired).items():
            self._pending[family].add(rib.put(some, origination.path()))
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
            self._work(peer, partial(peer.deconfigure, Cease.ADMINISTRATIVE_SHUTDOWN, text))

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

    def on_demand(self, address: Address, work: Callable[[Peer], list[Output]], now: float) -> None:
        """Do what a person asks of one peer. Raises ValueError where that cannot be done."""
        outputs = work(peer := self.peers[address])
        self._work(peer, lambda: outputs, now)

    # -- TCP and time -------------------------------------------------------------------------------------------------

    def accept(self, remote: Address) -> Connection | None:
        """A name for a connection that a peer opened; None: `remote` is no peer."""
        return self._name_connection(remote) if remote in self.peers else None

    def connected(self, connection: Connection, local: Address, now: float, *, outgoing: bool) -> None:
        """TCP is up; `local` is the address of our end."""
        if (peer := self._peer(connection)) is not None:
            self._work(peer, partial(peer.connected, connection, local, now, outgoing=outgoing), now)

    def dial_failed(self, connection: Connection, why: str, now: float) -> None:
        """TCP did not come up."""
        if (peer := self._peer(connection)) is not None:
            self._work(peer, partial(peer.dial_failed, connection, why, now), now)
            self._connections.pop(connection, None)

    def received(self, connection: Connection, data: bytes, now: float) -> None:
        """Octets arrived."""
        if (peer := self._peer(connection)) is not None:
            self._work(peer, partial(peer.received, connection, data, now), now)
            self._bound_memory(now)

    def _bound_memory(self, now: float) -> None:
        """Where all peers together need too much, the one that needs most goes; who has little does not pay for it."""
        if (most := self.config.maximum_octets) and self._index.held_octets > most:
            peer = max(self.peers.values(), key=lambda one: held_octets(one.adj_ribs_in))
            why = f"the paths of all peers need more than {most >> 20} MiB of memory, and its most of it"
            self._work(peer, partial(peer.exceed, Excess(why, Cease.OUT_OF_RESOURCES), now), now)

    def bfd_changed(self, address: Address, now: float, *, up: bool, independent: bool) -> None:
        """BFD has found a peer (`up`) or lost it: see `renewal.bfd_changed`."""
        if (peer := self.peers.get(address)) is not None:
            self._work(peer, partial(bfd_changed, peer, now, up=up, independent=independent), now)

    def ends_by_bfd(self, address: Address, *, independent: bool) -> bool:
        """Whether a failure of a peer's BFD session ends its paths: see `renewal.bfd_changed`."""
        peer = self.peers.get(address)
        return peer is not None and ends_by_bfd(peer, independent=independent)

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
            self._work(peer, partial(peer.disconnected, connection, why, now), now)
            self._connections.pop(connection, None)

    def overdue(self, now: float) -> list[Connection]:
        """The connections that a hold timer is about to end: look for unread octets first."""
        return [one for address in self._index.due(now) for one in self.peers[address].overdue(now)]

    def extend_hold(self, connection: Connection, now: float, *, unread: bool, writable: bool) -> None:
        """An overdue connection has octets to be read, or takes some again: its end waits for what they say."""
        if (peer := self._peer(connection)) is not None:
            peer.extend_hold(connection, now, unread=unread, writable=writable)
            self._reindex(peer)

    def blocked(self, connection: Connection, now: float, *, is_full: bool) -> None:
        """The other end takes no more octets (`is_full`), or takes them again."""
        if (peer := self._peer(connection)) and peer.session and peer.connection == connection:
            peer.session.blocked(now, is_full=is_full)
            self._reindex(peer)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for address in self._index.due(now):
            peer = self.peers[address]
            self._work(peer, partial(peer.handle_timer, now), now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` and `flush` are due."""
        times = self._index.deadline, self.deferral.deadline(self._waits())
        return min((at for at in times if at is not None), default=None)

    # -- what comes out -----------------------------------------------------------------------------------------------

    def flush(self, now: float) -> tuple[list[tuple[Address, ShellAction]], Changed]:
        """What the shell must do, in order, and the prefixes whose best path (or its staleness) changed.

        Of a great change it is a part; the rest comes with the next calls, as long as `is_busy`.
        """
        self._now = now
        most = slice_size(len(self.peers))
        run_walks(self._walks, most)
        changed = self._export_pending(most)
        for family in Family:
            if hops := self._pending[family].take_hops(most):
                changed[family] = changed.get(family, {}) | hops
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
        return bool(self._walks) or any(self._pending.values())

    def next_update(self, connection: Connection) -> bytes:
        """The next UPDATE for a connection that can take one; empty: there is none."""
        if (peer := self._peer(connection)) is None or peer.connection != connection:
            return b""
        try:
            return peer.next_update()
        except Exception as error:
            self._fail(peer, error)
            return b""

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
        return self.ribs[family].is_stale(prefix, path)

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

    def _work(self, peer: Peer, work: Callable[[], list[Output]], now: float | None = None) -> None:
        """Do some work for a peer and carry out what it asks for; an exception is that peer's end of the session."""
        self._now = self._now if now is None else now
        try:
            self._apply(peer, work())
        except Exception as error:
            self._fail(peer, error)

    def fail(self, address: Address, error: Exception, now: float) -> None:
        """The shell could not do what it was asked to do for a peer."""
        self._now = now
        if (peer := self.peers.get(address)) is not None:
            self._fail(peer, error)

    def _fail(self, peer: Peer, error: Exception) -> None:
        """Reset a peer after an exception, so that no half of what it said is taken for the whole.

        What of its paths is in the Loc-RIB and not in its Adj-RIB-In goes; what is missing comes with the next session.
        """
        address, why = peer.config.address, f"{type(error).__name__}: {error}"
        is_configured = self.peers.get(address) is peer
        peer.counts.failures += 1
        peer.failure = why
        try:
            self._apply(peer, peer.fail(why, self._now))
            still_due = peer.next_deadline
            broken = still_due is not None and still_due <= self._now
        except Exception:
            broken = True
        if broken and is_configured:
            self.peers[address] = peer = peer.replaced(self._now)
            self._forget_staleness(address)
            self._reindex(peer)
        for connection, remote in self._connections.items():
            if remote == address:
                if broken:
                    self._actions.append((address, Send(connection, encode(UNSPECIFIC_CEASE, ANY_CONTEXT))))
                self._actions.append((address, Close(connection)))
        self._walks += [self._walk_orphans(family, address) for family in Family]
        self._actions.append((address, PeerFailed.of(error)))

    def _forget_staleness(self, address: Address) -> None:
        """A peer has gone, or has new tables: what of its paths was stale is so no more."""
        for rib in self.ribs.values():
            rib.stale.pop(number_of(address), None)

    def _apply(self, peer: Peer, outputs: list[Output]) -> None:
        """Carry out what a peer's core asks for, or pass it on to the shell."""
        key = number_of(peer.config.address)
        for output in outputs:
            match output:
                case Learned(prefixes, path, family):
                    self._pending[family].add(self.ribs[family].put(prefixes, path))
                case Withdrawn(prefixes, family, path_id):
                    if len(prefixes) > SLICE_PREFIXES:
                        self._walks.append(self._walk_withdrawn(peer.config.address, output))
                    else:
                        self._pending[family].add(self.ribs[family].drop(prefixes, key, path_id))
                case ReapplyImportPolicy(family):
                    self._walks.append(self._walk_import(peer, family))
                case StaleChanged(prefixes, family):
                    self._note_stale(peer, prefixes, family)
                case Established():
                    self._advertise_all(peer)
                    if self._has_announced:
                        for out in peer.adj_ribs_out.values():
                            out.end_of_rib()
                case _:
                    self._actions.append((peer.config.address, output))
        self._reindex(peer)

    def _note_stale(self, peer: Peer, prefixes: Collection[Nlri], family: Family) -> None:
        """Paths became stale, or fresh again: perhaps others are used now, which the Loc-RIB finds when asked."""
        if (rib_in := peer.adj_ribs_in.get(family)) is not None:
            self.ribs[family].stale[number_of(peer.config.address)] = rib_in.stale
        self._pending[family].add_stale(prefixes)

    def _reindex(self, peer: Peer) -> None:
        """Something may have changed about a peer."""
        address = peer.config.address
        if self.peers.get(address) is peer:
            held = held_octets(peer.adj_ribs_in)
            self._index.update(address, peer.next_deadline, is_waiting=peer.is_waiting, held_octets=held)
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
            self._pending[family].best |= {
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
            self._pending[gone.family].add(rib.drop(some, key, gone.path_id))
            yield len(some)

    def _walk_import(self, peer: Peer, family: Family, is_touched: Touched | None = None) -> RibWalk:
        """Apply the present import policy to all that a peer announced, or to the prefixes that are touched."""
        rib_in = peer.adj_ribs_in.get(family)
        for some in slices(list(rib_in.pre_policy) if rib_in is not None else ()):
            if self.peers.get(peer.config.address) is not peer or peer.adj_ribs_in.get(family) is not rib_in:
                return
            if rib_in is not None:
                self._work(peer, partial(rib_in.reapply_policy, some, is_touched))
            yield len(some)

    def _walk_orphans(self, family: Family, address: Address) -> RibWalk:
        """After a failure: remove a peer's paths that are not in its Adj-RIB-In from the Loc-RIB."""
        rib, key = self.ribs[family], number_of(address)
        for some in slices(list(rib.prefixes)):
            peer = self.peers.get(address)
            rib_in = peer.adj_ribs_in.get(family) if peer is not None else None
            for prefix in some:
                for path_id in rib.path_ids(prefix, key):
                    if rib_in is None or not rib_in.is_accepted(prefix, path_id):
                        self._pending[family].add(rib.drop([prefix], key, path_id))
            yield len(some)

    def _walk_nexthops(self, family: Family, next_hops: Collection[Address]) -> RibWalk:
        """Decide anew on every prefix that has a path over one of these next hops."""
        rib = self.ribs[family]
        for some in slices(list(rib.prefixes)):
            over = (one for one in some if rib.uses_nexthop(one, next_hops))
            self._pending[family].best |= dict.fromkeys(rib.reselect(over))
            yield len(some)

    # -- what each peer is advertised ---------------------------------------------------------------------------------

    def _export_pending(self, most: int) -> Changed:
        """Advertise some of what changed, and answer it. After an exception the next call has it all."""
        changed: Changed = {}
        for family, pending in self._pending.items():
            best, beside = pending.take(most, several=takes_several(self.peers.values(), family))
            try:
                if best or beside:
                    self._export(family, best.keys(), beside.keys() | best.keys() if beside else best.keys())
            except Exception:
                pending.put_back(best, beside)
                for done, some in changed.items():
                    self._pending[done].put_back(some, {})
                raise
            if best:
                changed[family] = best
        return changed

    def _export(self, family: Family, best: Set[Nlri], touched: Set[Nlri]) -> None:
        """Advertise where the best path changed, and (`touched`) any path, to those who take several."""
        rib, own, peers = self.ribs[family], self._originated[family].keys(), list(self.peers.values())
        for peer, some in concerned(peers, family, rib, own, best, touched, reflects=self._reflects):
            self._advertise(family, peer, some)

    def _advertise(self, family: Family, peer: Peer, prefixes: Iterable[Nlri]) -> None:
        try:
            if (to := self.export_target(peer, family)) is not None:
                advertise(peer, to, family, self.ribs[family], self.blocks[family], prefixes)
                if peer.is_waiting:
                    self._index.waiting.add(peer.config.address)
        except Exception as error:
            self._fail(peer, error)

    def export_target(self, peer: Peer, family: Family) -> ExportTarget | None:
        """A peer as the export rules see it; None while it has no session."""
        return export_target(peer, self.config, family, graceful_shutdown=self._graceful_shutdown)
