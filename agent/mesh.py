"""Keeps the BGP speaker as the facts say: who it is, whom it peers with, what it announces.

Promises: a block is announced only after its blackhole is in the kernel; the speaker is started anew only when its own
identity (AS, address, port) changes. Stopping leaves every session without a NOTIFICATION, so peers keep our routes.
Does not know: wire formats, routes' forms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

import structlog

from agent.clock import Clock
from agent.config import BgpSettings
from agent.dataplane.facts import Facts
from agent.dataplane.objects import RouteKey
from agent.datastore.bgp_resources import DEFAULT_PORT
from agent.datastore.cluster import Cluster
from agent.peering import announcements, asn_of, mesh
from bgp.config import SpeakerConfig
from bgp.errors import ListenFailed
from bgp.speaker import PeerStatus, Speaker

LISTEN_RETRY_SECONDS = 2.0

log = structlog.get_logger()


class Mesh:
    """At most one running speaker."""

    def __init__(self, settings: BgpSettings, clock: Clock, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._identity: SpeakerConfig | None = None
        self._speaker: Speaker | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarting = False
        """Set before the first facts: whether routes of an earlier life were found in the kernel."""
        self.trouble: str | None = None

    def follow(self, cluster: Cluster, facts: Facts, installed: Collection[RouteKey]) -> None:
        """Adopt the present facts; no work when nothing changed. Raises what ended the speaker, if anything did."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
        own = cluster.nodes.get(cluster.node)
        if own is None or own.ipv4 is None:
            return
        identity = SpeakerConfig(
            asn=asn_of(own, cluster.bgp),
            router_id=own.ipv4.ip,
            listen_address=own.ipv4.ip,
            port=cluster.bgp.listen_port or DEFAULT_PORT,
            restart_seconds=self._settings.restart_seconds,
            restarting=self.restarting,
            deferral_seconds=self._settings.deferral_seconds,
        )
        if identity != self._identity:
            self._start(identity)
        if self._speaker is not None:
            self._speaker.configure(
                mesh(cluster.node, cluster.nodes, cluster.bgp, self._settings.hold_seconds)
            )
            self._speaker.announce(announcements(facts, installed))

    def _start(self, identity: SpeakerConfig) -> None:
        if self._task is not None:
            self._task.cancel()
        self._identity = identity
        self._speaker = Speaker(identity, self._clock, self._changed, log)
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

    async def close(self) -> None:
        """Drop all sessions silently."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def learned(self) -> Mapping[IPv4Network, IPv4Address]:
        """Prefix -> next hop of each best path."""
        if self._speaker is None:
            return {}
        return {prefix: route.next_hop for prefix, route in self._speaker.learned.items()}

    @property
    def converged(self) -> bool:
        """Whether what is not learned may be taken as not existing."""
        return self._speaker is not None and self._speaker.converged

    def status(self) -> tuple[PeerStatus, ...]:
        """Every peer, for people."""
        return self._speaker.status() if self._speaker is not None else ()
