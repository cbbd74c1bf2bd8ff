"""Keeps the BGP speaker as the facts say: its identity, its peers, what it originates.

Promises: a session is touched only when what it was made of changes; a block is announced only after its blackhole is
in the kernel; the speaker is started anew only when its own identity (AS, address, port, cluster id) changes. Stopping
leaves every session without a NOTIFICATION, so peers keep our routes; draining withdraws them, and says why.
Does not know: wire formats, the kernel, what becomes of learned routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter

import structlog

from agent.clock import Clock
from agent.configuration.config import BfdSettings, BgpSettings, local_prefixes, paths_sent_to
from agent.dataplane.inputs.facts import Facts
from agent.datastore.state_cache import StateCache
from agent.memo import Memo
from agent.netlink.objects import Address, Link, Route, RouteKey
from agent.peering.bfd.bfd_sessions import NO_SESSIONS, BfdSessions, bfd_sessions
from agent.peering.bfd.bfd_timers import InterfaceTimers, interface_timers
from agent.peering.disabled_peers import FILE_NAME, DisabledPeers
from agent.peering.drain import LONGEST_TEXT_BYTES, Drained, DrainFile
from agent.peering.looking_glass_api import LookingGlass
from agent.peering.originations import (
    BorrowedAddresses,
    inherited_blocks,
    loopback_addresses,
    originations,
    policy_interfaces,
    with_local_address,
)
from agent.peering.passwords import PasswordFiles
from agent.peering.peer_links import PeerLinks
from agent.peering.peer_policies import PolicyInputs, block_claims, names_interfaces, policy
from agent.peering.peer_policies import troubles as policy_troubles
from agent.peering.peer_verbs import PeerVerbs
from agent.peering.peers import (
    DesiredPeers,
    PeeringInputs,
    PeerKind,
    desired_peers,
    identity,
    required_passwords,
)
from agent.peering.refused_prefixes import refused_prefixes
from agent.peering.session_troubles import refused_keys, refused_lately, session_troubles
from agent.peering.uplink_peers import uplink_peers
from agent.trouble import Trouble
from agent.uplinks.uplinks import Uplinks
from bgp.peer_config import Multipath, SpeakerConfig
from bgp.policy.block_claims import BlockClaims
from bgp.rib.multipath import NextHops
from bgp.session.fsm import State
from bgp.transport.speaker import Speaker
from bgp.wire.errors import ListenFailed
from bgp.wire.families import Family, without_zone
from ipam.model import NodeName

LISTEN_RETRY_SECONDS = 2.0
DRAIN_SECONDS = 0.4
"""How long a node that leaves is the last choice before it is none."""

FAMILIES = {4: Family.IPV4, 6: Family.IPV6}
"""By the version of IP."""

log = structlog.get_logger()


class LearnedRoutes(Mapping[RouteKey, NextHops]):
    """What a speaker has learned: key -> next hop, or several, as it is at the moment of the question.

    A view: nothing is copied for a caller that asks for a few of very many. The next hop of an IPv4 prefix may be an
    IPv6 address (RFC 8950), a link-local one with its zone.
    """

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def __getitem__(self, key: RouteKey) -> NextHops:
        if (next_hop := self._next_hop(key)) is None:
            raise KeyError(key)
        return next_hop

    def __contains__(self, key: object) -> bool:
        return isinstance(key, RouteKey) and self._next_hop(key) is not None

    def _next_hop(self, key: RouteKey) -> NextHops | None:
        version, packed, _, _ = key
        return self._speaker.instance.ribs[FAMILIES[version]].hops(packed)

    def pairs(self) -> Iterator[tuple[RouteKey, NextHops]]:
        """All of them; a change during the iteration may be seen or not."""
        for version, family in FAMILIES.items():
            rib = self._speaker.instance.ribs[family]
            for packed, hop in rib.next_hops_of(list(rib.prefixes)):
                if hop is not None:
                    yield RouteKey.of_packed(version, packed), hop

    def __iter__(self) -> Iterator[RouteKey]:
        return (key for key, _ in self.pairs())

    def items(self) -> ItemsView[RouteKey, NextHops]:
        """A view that does not look everything up twice."""
        return _Pairs(self)

    def __len__(self) -> int:
        return sum(1 for _ in self.pairs())


class _Pairs(ItemsView[RouteKey, NextHops]):
    def __init__(self, routes: LearnedRoutes) -> None:
        super().__init__(routes)
        self._routes = routes

    def __iter__(self) -> Iterator[tuple[RouteKey, NextHops]]:
        return self._routes.pairs()


class BgpController:
    """Owns at most one running speaker; a shell."""

    def __init__(
        self,
        settings: BgpSettings,
        passwords: PasswordFiles,
        drain_file: DrainFile,
        disabled: DisabledPeers,
        clock: Clock,
        changed: Callable[[], None],
        bfd: BfdSettings | None = None,
    ) -> None:
        self._settings = settings
        self._bfd_settings = bfd or BfdSettings()
        self._bfd_timers: tuple[InterfaceTimers, ...] = ()
        """What BFDConfigurations say for this node."""
        self.bfd_status: Callable[[Address], Mapping[str, object] | None] = lambda _: None
        """The BFD session beside a peer's, for people; set by who knows."""
        self.uplinks = Uplinks(settings.uplink, self.sessions, clock, changed, self._call_now)
        """Who is found on the wire; a part of its own, which the agent runs."""
        self._local_prefixes = local_prefixes(settings)
        self._paths_sent_to = paths_sent_to(settings)
        self._multipath = Multipath(
            settings.maximum_paths, settings.multipath_as_relax, settings.link_bandwidth_weights
        )
        self._passwords, self._drain_file, self._disabled = passwords, drain_file, disabled
        self.drained = drain_file.read()
        """Set: this node has left its peers, or is about to, until `undrain`."""
        self._leaving: asyncio.Task[None] | None = None
        self._clock = clock
        self._changed = changed
        self._identity: SpeakerConfig | None = None
        self.speaker: Speaker | None = None
        """The running speaker; None before the node has an address, and on a drained node."""
        self._taken_from: Speaker | None = None
        """The speaker whose changes were taken last."""
        self._task: asyncio.Task[None] | None = None
        self._peering_inputs: PeeringInputs | None = None
        self._policy_inputs: PolicyInputs | None = None
        self._desired = DesiredPeers({})
        self._borrowed = BorrowedAddresses()
        self._claims = Memo[Mapping[Family, BlockClaims]](by_identity=True)
        self._taken_claims: Mapping[Family, BlockClaims] | None = None
        """Those that the speaker has."""
        self._policy_troubles: tuple[str, ...] = ()
        self.gateways: Mapping[Address, Address] = {}
        """Peer -> the gateway to it (`reachableBy`)."""
        self.speakers: frozenset[tuple[Address, int]] = frozenset()
        """Address and port of each peer, wherever it was named or found: pods are kept from them."""
        self.restarting = False
        """Set before the first facts: whether routes of an earlier life were found in the kernel."""
        self.trouble: str | None = None
        """Why the speaker cannot listen."""
        self._peer_links = PeerLinks()

    def reconcile(self, state: StateCache, facts: Facts, installed: Mapping[RouteKey, Route]) -> None:
        """Adopt the present facts; no work when nothing changed. Raises what ended the speaker, if anything did."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
        inputs = self._look(state)
        self._bfd_timers = interface_timers(state.bfd_configurations, state.own_node)
        speaker_identity = identity(inputs, self._settings.restart_seconds, self._settings.deferral_seconds)
        if speaker_identity is None:
            return
        started = speaker_identity != self._identity and self.drained is None
        if started:
            self._start(speaker_identity)
        if self.speaker is None:
            return
        own_addresses = loopback_addresses(facts)
        policy_inputs = PolicyInputs(
            pools=facts.pools,
            local_prefixes=self._local_prefixes,
            own_addresses=own_addresses,
            cluster=state.bgp_configuration,
            node=state.own_bgp_configuration,
            filters=(filters := state.bgp_filters),
            interfaces=policy_interfaces(facts, self._local_prefixes) if names_interfaces(filters) else (),
            from_mesh=facts.from_mesh,
            from_peers=facts.from_peers,
        )
        if inputs != self._peering_inputs:
            self._peering_inputs, self._desired, self._policy_inputs = inputs, desired_peers(inputs), None
        if started or policy_inputs != self._policy_inputs:
            self._policy_inputs = policy_inputs
            self._configure(self.speaker, policy_inputs)
        claims = self._claims.get(
            lambda: block_claims(facts), facts.block_owners, facts.nodes, facts.borrowed, facts.settings
        )
        if started or claims is not self._taken_claims:
            self._taken_claims = claims
            self.speaker.set_block_claims(claims)
        local = with_local_address(self._local_prefixes, facts.links)
        borrowed = self._borrowed.of(facts)
        inherited = inherited_blocks(state.lost_claims, state.node, installed)
        others = (*local, *own_addresses, *borrowed)
        self.speaker.announce(originations(facts, installed, others, inherited))

    def _configure(self, speaker: Speaker, inputs: PolicyInputs) -> None:
        peers = self._desired.peers
        kinds = {(one.filters, one.kind is PeerKind.MESH) for one in peers.values()}
        shared = {kind: policy(inputs, kind[0], is_mesh=kind[1]) for kind in kinds}
        policies = {address: shared[one.filters, one.kind is PeerKind.MESH] for address, one in peers.items()}
        shut = {address: one.text for address, one in self._disabled.peers.items()}
        speaker.configure(
            {
                address: replace(one.config, policy=policies[address], shutdown=shut.get(address))
                for address, one in peers.items()
            }
        )
        speakers = frozenset((without_zone(address), one.config.port) for address, one in peers.items())
        if speakers != self.speakers:
            self.speakers = speakers
            self._changed()
        gateways = {address: one.gateway for address, one in peers.items() if one.gateway is not None}
        if gateways != self.gateways:
            self.gateways = gateways
            self._changed()
        named = {one.resource: one.filters for one in peers.values()}
        self._policy_troubles = tuple(policy_troubles(inputs, named))

    def _look(self, state: StateCache) -> PeeringInputs:
        inputs = PeeringInputs(
            me=state.node,
            nodes=state.nodes,
            settings=state.bgp_configurations,
            peers=state.bgp_peers,
            hold_seconds=self._settings.hold_seconds,
            long_lived_stale_seconds=self._settings.long_lived_stale_seconds,
            enforce_first_as=self._settings.enforce_first_as,
            mesh_ttl_security=self._settings.mesh_ttl_security,
            mesh_maximum_prefixes=self._settings.mesh_maximum_prefixes,
            maximum_prefixes=self._settings.maximum_prefixes,
            maximum_octets=self._settings.maximum_mebibytes << 20,
            bfd_mesh=self._bfd_settings.mesh,
            bfd_peers=frozenset(self._bfd_settings.peers),
            multipath=self._multipath,
            paths_sent=self._settings.paths_sent,
            paths_sent_to=self._paths_sent_to,
            uplinks=uplink_peers(self.uplinks.found),
        )
        required = required_passwords(inputs)
        if not required:
            return inputs
        passwords = self._passwords.read(required)
        return replace(inputs, passwords=passwords, unreadable=dict(self._passwords.unreadable))

    def _start(self, speaker_identity: SpeakerConfig) -> None:
        if self._task is not None:
            self._task.cancel()
            self.restarting = True  # the kernel keeps what the speaker before learned and advertised
        self._identity = speaker_identity
        config = replace(speaker_identity, restarting=self.restarting)
        self.speaker = Speaker(config, self._clock, self._changed, log)
        self._task = asyncio.create_task(self._run(self.speaker, self._task))

    async def _run(self, speaker: Speaker, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            with suppress(asyncio.CancelledError):
                await before
        while True:
            try:
                self.trouble = None
                await speaker.run()
            except ListenFailed as error:
                self.trouble = str(error)
                await asyncio.sleep(LISTEN_RETRY_SECONDS)
            except Exception as error:
                log.error("bgp.speaker_failed", why=str(error), exc_info=error)
                self.trouble = f"the speaker failed and is started again: {error}"
                await asyncio.sleep(LISTEN_RETRY_SECONDS)
            else:
                return

    # -- draining -----------------------------------------------------------------------------------------------------

    def drain(self, text: str) -> None:
        """Leave all peers, now and after every start, until `undrain`. Raises ValueError for a text, OSError."""
        drained = self._drained(text)
        self._drain_file.write(drained)
        self._begin_leaving(drained)

    def leave(self, text: str) -> None:
        """Leave all peers for this life of the agent alone: the machine goes down. Raises ValueError for a text."""
        drained = self._drained(text)
        if self.drained is None:
            self._begin_leaving(drained)

    def _drained(self, text: str) -> Drained:
        if len(text.encode()) > LONGEST_TEXT_BYTES:
            raise ValueError(f"the text must be at most {LONGEST_TEXT_BYTES} bytes (RFC 9003)")
        return Drained(self._clock.wall(), text)

    def _begin_leaving(self, drained: Drained) -> None:
        self.drained = drained
        log.info("bgp.draining", text=drained.text)
        if self.speaker is not None and self._leaving is None:
            self.speaker.graceful_shutdown()
            self._leaving = asyncio.create_task(self._leave(self.speaker))
        self._changed()

    def undrain(self) -> None:
        """Be a peer again. Raises OSError."""
        if self.drained is None:
            return
        self._drain_file.write(None)
        self.drained = None
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self.speaker is not None:
            self.speaker.graceful_shutdown(wanted=False)
        log.info("bgp.undrained")
        self._changed()

    @property
    def has_left(self) -> bool:
        """Whether a drained node has no peers any more."""
        return self.drained is not None and self.speaker is None

    async def _leave(self, speaker: Speaker) -> None:
        """RFC 8326: be the last choice for a moment, so that peers move to other paths; then go."""
        await asyncio.sleep(DRAIN_SECONDS)
        text = self.drained.text if self.drained is not None else ""
        speaker.announce(frozenset())
        speaker.shutdown(text)
        task, self._task, self._leaving = self._task, None, None
        self.speaker = self._identity = None
        self.restarting = True  # what was learned stays in the kernel, and is checked again after `undrain`
        if task is not None:
            task.cancel()
        log.info("bgp.drained")
        self._changed()

    async def close(self) -> None:
        """Drop all sessions silently."""
        if self._leaving is not None:
            self._leaving.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def follow_links(self, links: Mapping[str, Link]) -> None:
        """End the sessions over links that carry nothing while others live; call their peers when these are back."""
        if self.speaker is not None:
            self._peer_links.follow(links, self._desired.peers, self.speaker, lambda: self.established)

    # -- for the dataplane --------------------------------------------------------------------------------------------

    @property
    def learned(self) -> Mapping[RouteKey, NextHops]:
        """Key -> next hop, or several, of what BGP learned, as it is now; of the versions of IP each with its own."""
        return LearnedRoutes(self.speaker) if self.speaker is not None else {}

    def hops_among(self, key: RouteKey, passes: Callable[[Address], bool]) -> NextHops | None:
        """The next hops of a key's paths that are used if only those count whose next hop passes; None: none is."""
        if self.speaker is None:
            return None
        return self.speaker.instance.ribs[FAMILIES[key.version]].hops_among(key.packed, passes)

    def take_changed_routes(self) -> Mapping[RouteKey, NextHops | None] | None:
        """Where the used paths changed since the last call, with their next hops of now (None: there is no path).

        None: anywhere, because the speaker is another one.
        """
        if self.speaker is None:
            return None
        touched, found = self.speaker.take_changed(), dict[RouteKey, NextHops | None]()
        if self._taken_from is not self.speaker:
            self._taken_from = self.speaker
            return None
        for version, family in FAMILIES.items():
            if some := touched.get(family):
                hops = map(itemgetter(1), self.speaker.instance.ribs[family].next_hops_of(some))
                found.update(zip(RouteKey.of_many(version, some), hops, strict=True))
        return found

    @property
    def peers(self) -> Collection[Address]:
        """Whom this node should have as peers."""
        return self._desired.peers.keys()

    @property
    def established(self) -> frozenset[Address]:
        """The peers whose session is up."""
        known = self.speaker.status() if self.speaker is not None else ()
        return frozenset(peer.address for peer in known if peer.state is State.ESTABLISHED)

    def _call_now(self, peer: Address) -> None:
        if self.speaker is not None:
            self.speaker.call_now(peer)

    def sessions(self) -> dict[Address, tuple[str, str]]:
        """Peer -> the state of its session, and why the last connection ended."""
        known = self.speaker.status() if self.speaker is not None else ()
        return {peer.address: (peer.state.value, peer.last_error) for peer in known}

    @property
    def converged(self) -> bool:
        """Whether what is not learned may be taken as not existing."""
        return self.speaker is not None and self.speaker.converged

    # -- for people ---------------------------------------------------------------------------------------------------

    @property
    def troubles(self) -> tuple[str, ...]:
        """Everything that is not as the resources and settings say, a sentence each."""
        known = self._peering_inputs.passwords if self._peering_inputs is not None else {}
        passwords = (
            f"a BGP password cannot be read, and the last good one stays in use: {why}"
            for ref, why in self._passwords.unreadable.items()
            if ref in known
        )
        listening = (self.trouble,) if self.trouble else ()
        known_peers = self.speaker.status() if self.speaker is not None else ()
        refused = refused_lately(known_peers, self._clock.wall())
        unreadable = self._disabled.unreadable
        lost = (f"{FILE_NAME}: {unreadable}; no peer is disabled: disable again whom you meant",)
        return (
            *(lost if unreadable else ()),
            *listening,
            *refused,
            *self._desired.troubles,
            *self._policy_troubles,
            *passwords,
        )

    def session_troubles(self) -> Iterator[Trouble]:
        """What is wrong with sessions: limits, near and exceeded, refused passwords, errors of this program."""
        yield from self.uplinks.troubles()
        if self.speaker is None:
            return
        mesh = {address for address, one in self._desired.peers.items() if one.kind is PeerKind.MESH}
        yield from session_troubles(self.speaker.status(), self.speaker.failure, mesh, self._clock.wall())
        yield from refused_keys(self.speaker.refused_keys, self.speaker.optmem_needed)

    def mesh_sessions(self) -> dict[NodeName, str]:
        """Node of the mesh -> the state of the session with it, in words."""
        mesh = {
            address: one.config.description
            for address, one in self._desired.peers.items()
            if one.kind is PeerKind.MESH
        }
        return {
            NodeName(mesh[peer]): f"the session with it is {state}"
            for peer, (state, _) in self.sessions().items()
            if peer in mesh
        }

    def refused(self) -> Iterator[Trouble]:
        """The peers that announce what nobody may have from them."""
        return refused_prefixes(self.speaker)

    @property
    def peer_verbs(self) -> PeerVerbs:
        """What a person can do with one peer."""

        def follow() -> None:
            if self.speaker is not None and self._policy_inputs is not None:
                self._configure(self.speaker, self._policy_inputs)
            self._changed()

        return PeerVerbs(
            lambda: self.speaker, lambda: self._desired.peers, self._disabled, follow, self._clock
        )

    @property
    def looking_glass(self) -> LookingGlass:
        """The present speaker and peers, to be queried at once."""
        return LookingGlass(self.speaker, self._desired.peers, self.bfd_status)

    # -- BFD ----------------------------------------------------------------------------------------------------------

    def bfd_sessions(self, links: Mapping[str, Link]) -> BfdSessions:
        """The BFD sessions that are wanted; none on a drained node."""
        if self.speaker is None:
            return NO_SESSIONS
        return bfd_sessions(self._desired.peers, links, self._bfd_settings, self._bfd_timers)

    @property
    def peer_names(self) -> Mapping[Address, str]:
        """Peer -> the node or BGPPeer that it is."""
        return {address: one.config.description for address, one in self._desired.peers.items()}

    def ends_by_bfd(self, address: Address, *, independent: bool) -> bool:
        """Whether a failure that BFD has found ends the peer's paths; not if it restarts gracefully, with its BFD."""
        speaker = self.speaker
        return speaker is not None and speaker.instance.ends_by_bfd(address, independent=independent)

    def bfd_changed(self, address: Address, *, up: bool, independent: bool) -> None:
        """What BFD found of a peer: the way to it works (`up`), or has failed."""
        if self.speaker is not None:
            self.speaker.bfd_changed(address, up=up, independent=independent)
