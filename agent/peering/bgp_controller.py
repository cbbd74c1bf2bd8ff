"""Keeps the BGP speaker as the facts say: who it is, whom it peers with, what it announces.

Promises: a session is touched only when what it was made of changes; a block is announced only after its blackhole is
in the kernel; the speaker is started anew only when its own identity (AS, address, port, cluster id) changes. Stopping
leaves every session without a NOTIFICATION, so peers keep our routes; draining withdraws them, and says why.
Does not know: wire formats, routes' forms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import structlog

from agent.clock import Clock
from agent.configuration.config import BgpSettings, local_prefixes
from agent.dataplane.inputs.facts import Facts
from agent.datastore.state_cache import StateCache
from agent.netlink.objects import Address, Prefix, RouteKey
from agent.peering import looking_glass_api
from agent.peering.drain import LONGEST_TEXT_BYTES, Drained, DrainFile
from agent.peering.originations import BorrowedAddresses, originations, policy_interfaces, with_local_address
from agent.peering.passwords import PasswordFiles
from agent.peering.peer_policies import PolicyInputs, names_interfaces, policy
from agent.peering.peer_policies import troubles as policy_troubles
from agent.peering.peers import DesiredPeers, PeeringInputs, desired_peers, required_passwords
from agent.peering.speaker_identity import identity
from bgp.peer_config import SpeakerConfig
from bgp.transport.speaker import PeerStatus, Speaker
from bgp.wire.errors import ListenFailed
from bgp.wire.families import Family

LISTEN_RETRY_SECONDS = 2.0
FAMILIES = {4: Family.IPV4, 6: Family.IPV6}
"""By the version of IP."""
DRAIN_SECONDS = 0.4
"""How long a node that leaves is the last choice before it is none."""

log = structlog.get_logger()


class NextHops(Mapping[RouteKey, Address]):
    """A view of the learned paths: nothing is copied for those who ask for a few of very many."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def __getitem__(self, key: RouteKey) -> Address:
        if (next_hop := self._next_hop(key)) is None:
            raise KeyError(key)
        return next_hop

    def __contains__(self, key: object) -> bool:
        return isinstance(key, RouteKey) and self._next_hop(key) is not None

    def _next_hop(self, key: RouteKey) -> Address | None:
        version, packed, _, _ = key
        next_hop = self._speaker.next_hop(FAMILIES[version], packed)
        return next_hop if next_hop is not None and next_hop.version == version else None

    def pairs(self) -> Iterator[tuple[RouteKey, Address]]:
        """All of them; what changes meanwhile may be told or not."""
        for version, family in FAMILIES.items():
            for packed, hop in self._speaker.next_hops_of(family, list(self._speaker.packed(family))):
                if hop is not None and hop.version == version:
                    yield RouteKey.of_packed(version, packed), hop

    def __iter__(self) -> Iterator[RouteKey]:
        return (key for key, _ in self.pairs())

    def items(self) -> ItemsView[RouteKey, Address]:
        """A view that does not look everything up twice."""
        return _Pairs(self)

    def __len__(self) -> int:
        return sum(1 for _ in self.pairs())


class _Pairs(ItemsView[RouteKey, Address]):
    def __init__(self, hops: NextHops) -> None:
        super().__init__(hops)
        self._hops = hops

    def __iter__(self) -> Iterator[tuple[RouteKey, Address]]:
        return self._hops.pairs()


class BgpController:
    """At most one running speaker."""

    def __init__(
        self,
        settings: BgpSettings,
        secrets: PasswordFiles,
        drain_file: DrainFile,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._local_prefixes = local_prefixes(settings)
        self._secrets = secrets
        self._drain_file = drain_file
        self.drained = drain_file.read()
        """Set: this node has left its peers, or is about to, until `undrain`."""
        self._leaving: asyncio.Task[None] | None = None
        self._clock = clock
        self._changed = changed
        self._identity: SpeakerConfig | None = None
        self._speaker: Speaker | None = None
        self._asked: Speaker | None = None
        """Whose changes were taken last."""
        self._task: asyncio.Task[None] | None = None
        self._situation: PeeringInputs | None = None
        self._ground: PolicyInputs | None = None
        self._peering = DesiredPeers({})
        self._outsiders = BorrowedAddresses()
        self._troubles: tuple[str, ...] = ()
        self.gateways: Mapping[Address, Address] = {}
        """Peer -> the neighbour by which it is reached."""
        self.restarting = False
        """Set before the first facts: whether routes of an earlier life were found in the kernel."""
        self.trouble: str | None = None
        """Why the speaker cannot listen."""

    def reconcile(self, cluster: StateCache, facts: Facts, installed: Collection[RouteKey]) -> None:
        """Adopt the present facts; no work when nothing changed. Raises what ended the speaker, if anything did."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
        situation = self._look(cluster)
        who = identity(situation, self._settings.restart_seconds, self._settings.deferral_seconds)
        if who is None:
            return
        started = who != self._identity and self.drained is None
        if started:
            self._start(who)
        if self._speaker is None:
            return
        ground = PolicyInputs(
            pools=facts.pools,
            local_prefixes=self._local_prefixes,
            cluster=cluster.bgp_configuration,
            node=cluster.own_bgp_configuration,
            filters=(filters := cluster.bgp_filters),
            interfaces=policy_interfaces(facts, self._local_prefixes) if names_interfaces(filters) else (),
        )
        if situation != self._situation:
            self._situation, self._peering, self._ground = situation, desired_peers(situation), None
        if started or ground != self._ground:
            self._ground = ground
            self._configure(self._speaker, ground)
        told = originations(
            facts, installed, with_local_address(self._local_prefixes, facts.links), self._outsiders
        )
        self._speaker.announce(told)

    def _configure(self, speaker: Speaker, ground: PolicyInputs) -> None:
        peers = self._peering.peers
        shared = {filters: policy(ground, filters) for filters in {one.filters for one in peers.values()}}
        speaker.configure(
            {address: replace(one.config, policy=shared[one.filters]) for address, one in peers.items()}
        )
        gateways = {address: one.gateway for address, one in peers.items() if one.gateway is not None}
        if gateways != self.gateways:
            self.gateways = gateways
            self._changed()
        named = {one.resource: one.filters for one in peers.values()}
        self._troubles = (*self._peering.troubles, *policy_troubles(ground, named))

    def _look(self, cluster: StateCache) -> PeeringInputs:
        situation = PeeringInputs(
            me=cluster.node,
            nodes=cluster.nodes,
            settings=cluster.bgp_configurations,
            peers=cluster.bgp_peers,
            hold_seconds=self._settings.hold_seconds,
        )
        wanted = required_passwords(situation)
        if not wanted:
            return situation
        return replace(
            situation, passwords=self._secrets.read(wanted), unreadable=dict(self._secrets.unreadable)
        )

    def _start(self, who: SpeakerConfig) -> None:
        if self._task is not None:
            self._task.cancel()
            self.restarting = True  # the kernel keeps what the speaker before learned and told
        self._identity = who
        who = replace(who, restarting=self.restarting)
        self._speaker = Speaker(who, self._clock, self._changed, log)
        self._task = asyncio.create_task(self._run(self._speaker, self._task))

    async def _run(self, speaker: Speaker, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            with suppress(asyncio.CancelledError):
                await before
        while True:
            try:
                self.trouble = None
                await speaker.run()
            except ListenFailed as error:
                if self.trouble is None:
                    log.error("bgp.cannot_listen", why=str(error))
                self.trouble = str(error)
                await asyncio.sleep(LISTEN_RETRY_SECONDS)
            else:
                return

    # -- draining -----------------------------------------------------------------------------------------------------

    def drain(self, text: str) -> None:
        """Leave all peers, now and after every start, until `undrain`. Raises ValueError for a text, OSError."""
        drained = self._noted(text)
        self._drain_file.write(drained)
        self._begin_leaving(drained)

    def leave(self, text: str) -> None:
        """The same, for this life of the agent alone: the machine goes down. Raises ValueError for a text."""
        drained = self._noted(text)
        if self.drained is None:
            self._begin_leaving(drained)

    def _noted(self, text: str) -> Drained:
        if len(text.encode()) > LONGEST_TEXT_BYTES:
            raise ValueError(f"the text must be at most {LONGEST_TEXT_BYTES} bytes (RFC 9003)")
        return Drained(self._clock.wall(), text)

    def _begin_leaving(self, drained: Drained) -> None:
        self.drained = drained
        log.info("bgp.draining", text=drained.text)
        if self._speaker is not None and self._leaving is None:
            self._speaker.lower()
            self._leaving = asyncio.create_task(self._leave(self._speaker))
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
        if self._speaker is not None:
            self._speaker.lower(wanted=False)
        log.info("bgp.undrained")
        self._changed()

    @property
    def has_left(self) -> bool:
        """Whether a drained node has no peers any more."""
        return self.drained is not None and self._speaker is None

    async def _leave(self, speaker: Speaker) -> None:
        """RFC 8326: be the last choice for a moment, so that peers move to other paths; then go."""
        await asyncio.sleep(DRAIN_SECONDS)
        text = self.drained.text if self.drained is not None else ""
        speaker.announce(frozenset())
        speaker.drain(text)
        task, self._task, self._leaving = self._task, None, None
        self._speaker = self._identity = None
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

    @property
    def learned(self) -> Mapping[RouteKey, Address]:
        """Key -> next hop of each best path, as it is now; of the versions of IP each with its own."""
        return NextHops(self._speaker) if self._speaker is not None else {}

    def take_changed_routes(self) -> dict[RouteKey, Address | None] | None:
        """Where the best path changed since the last call, with its next hop, of whichever version of IP.

        None: anywhere, because the speaker is another one.
        """
        if self._speaker is None:
            return None
        touched = self._speaker.take_touched()
        if self._asked is not self._speaker:
            self._asked = self._speaker
            return None
        of, found = RouteKey.of_packed, dict[RouteKey, Address | None]()
        for version, family in FAMILIES.items():
            some = self._speaker.next_hops_of(family, touched.get(family, ()))
            found |= {of(version, packed): hop for packed, hop in some}
        return found

    @property
    def next_hops(self) -> frozenset[Address]:
        """Of everything learned: those to be looked up in the kernel."""
        return self._speaker.next_hops if self._speaker is not None else frozenset()

    def lead_nowhere(self, next_hops: Collection[Address]) -> None:
        """These have no way there, so what has them is not used."""
        if self._speaker is not None:
            self._speaker.lead_nowhere(next_hops)

    @property
    def converged(self) -> bool:
        """Whether what is not learned may be taken as not existing."""
        return self._speaker is not None and self._speaker.converged

    @property
    def troubles(self) -> tuple[str, ...]:
        """Everything that is not as it was asked for, a sentence each."""
        still = [
            f"a BGP password cannot be read, and the last good one stays in use: {why}"
            for ref, why in self._secrets.unreadable.items()
            if self._situation is not None and ref in self._situation.passwords
        ]
        return (*([self.trouble] if self.trouble else []), *self._troubles, *still)

    def peers(self) -> tuple[PeerStatus, ...]:
        """Every peer, for monitoring."""
        return self._speaker.status() if self._speaker is not None else ()

    def status(self) -> list[dict[str, Any]]:
        """Every peer, for people: PeerStatus with its type and the BGPPeer it comes from."""
        return [self._described(status) for status in self.peers()]

    def _described(self, status: PeerStatus) -> dict[str, Any]:
        peer = self._peering.peers.get(status.address)
        found = {field.name: getattr(status, field.name) for field in fields(status)}
        if peer is None or self._speaker is None:
            return {**found, "type": ""}
        return {**found, **looking_glass_api.configured(peer, self._speaker.counts(status.address))}

    def routes(self, question: str) -> dict[str, Any]:
        """One page of the looking glass. Raises ValueError."""
        return looking_glass_api.routes(self._speaker, self._peering.peers, question)

    def teller(self, prefix: Prefix) -> str:
        """Whose path to a prefix is in use."""
        return looking_glass_api.best_path_peer(self._speaker, self._peering.peers, prefix)

    def peer(self, word: str) -> dict[str, Any]:
        """One peer in full, by name or address. Raises ValueError."""
        address = looking_glass_api.find_peer(self._peering.peers, word)
        return next((found for found in self.status() if found["address"] == address), {})
