"""Keeps looking who is at the other end of each uplink, and lets this node be found there; a shell.

A router that is FRR knows its `neighbor eth1 interface` by the router advertisements that it receives (zebra/rtadv.c,
rtadv_process_advert), so an uplink sends some: with router lifetime 0, which makes it nobody's default router.
Promises: without settings nothing is opened and nothing sent; what is sent on a link is bounded (SAY_SECONDS,
LEAST_SAY_SECONDS, FIRST_ASKS), whatever comes there; a change of who is found is reported once.
Does not know: how a router is chosen, sessions.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from agent.clock import Clock
from agent.configuration.config import UplinkSettings
from agent.netlink.kernel_errors import KernelError
from agent.netlink.netlink_socket import readable
from agent.netlink.objects import Address
from agent.trouble import Trouble, TroubleKind
from agent.uplinks.discovery import FOUND_WITHIN_SECONDS, MOST_LINKS, MOST_ROUTERS, Discovery, Uplink
from agent.uplinks.discovery_socket import ALL_NODES, ALL_ROUTERS, DiscoverySocket
from agent.uplinks.link_reader import LinkEvents, read_links
from agent.uplinks.router_discovery import Heard, Message, advertisement, echo_request, solicitation
from ipam.address_text import text_of

LOOK_SECONDS = 1.0
"""Between two looks while nothing happens: signs end, sessions come and go."""
LEAST_LOOK_SECONDS = 0.2
"""Between two looks whatever happens: a flood on a link costs five looks in a second."""
SAY_SECONDS = 10.0
"""Between two advertisements of ours, as FRR does it for its unnumbered neighbours."""
LEAST_SAY_SECONDS = 1.0
"""Between two of them whoever asks."""
CALL_SECONDS = 10.0
"""After a link has come: how long its router is called, and told of us, more often."""
LEAST_CALL_SECONDS = 0.9
"""Between two such calls: one in each look that nothing has caused."""
FIRST_ASKS = 5
"""Looks in a row that ask for routers on a link that has just come; then it is every SAY_SECONDS."""

PeerState = Callable[[], Mapping[Address, tuple[str, str]]]
"""BGP peer -> the state of its session, and its last error."""

log = structlog.get_logger()


class Uplinks:
    """The uplinks of this node."""

    def __init__(
        self,
        settings: Sequence[UplinkSettings],
        sessions: PeerState,
        clock: Clock,
        changed: Callable[[], None],
        call_now: Callable[[Address], None],
    ) -> None:
        """`call_now`: the link to a router is there again, so that there is no use in waiting."""
        self._call_now = call_now
        self._discovery = Discovery(settings)
        self._settings = tuple(settings)
        self._sessions = sessions
        self._clock = clock
        self._changed = changed
        self._found: Mapping[Address, UplinkSettings] = {}
        self._asked_at: dict[str, float] = {}
        self._started = clock.now()
        self._stale = False
        self.failure = ""
        """Why nothing can be found; empty: it can."""

    @property
    def found(self) -> Mapping[Address, UplinkSettings]:
        """The routers to peer with, and how."""
        return self._found

    async def run(self) -> None:
        """Look until cancelled. Raises KernelError, OSError."""
        if not self._settings:
            await asyncio.get_running_loop().create_future()
        try:
            echo = os.getpid() & 0xFFFF
            self._socket, self._events = DiscoverySocket(echo), LinkEvents()
        except (OSError, KernelError) as error:
            self.failure = f"no socket for router discovery: {error}"
            raise
        self.failure = ""
        try:
            self._stale = True
            while True:
                await self._look()
                await self._wait()
        finally:
            self._events.close()
            self._socket.close()

    async def _wait(self) -> None:
        """Until something that counts has happened, or it is time for a look."""
        until = self._clock.now() + LOOK_SECONDS
        await asyncio.sleep(LEAST_LOOK_SECONDS)
        while (left := until - self._clock.now()) > 0:
            try:
                async with asyncio.timeout(left):
                    await readable([self._events, self._socket])
            except TimeoutError:
                return
            numbers = frozenset(one.link.number for one in self._discovery.uplinks.values())
            if self._events.concern(self._discovery.wants, numbers):
                self._stale = True
            for one in self._socket.read():
                self._hear(one)
            if self._stale:
                return

    def _hear(self, one: Heard) -> None:
        now = self._clock.now()
        uplink = self._discovery.hear(one, now)
        if uplink is None:
            return
        self._stale = self._stale or (uplink.chosen is None and bool(uplink.routers))
        # Who asks, or has just come, should find us at once.
        is_new = one.kind is Message.ROUTER_ADVERTISEMENT and uplink.chosen is None
        if (is_new or one.kind is Message.ROUTER_SOLICITATION) and _is_due(uplink, now, LEAST_SAY_SECONDS):
            self._say(uplink, now)

    async def _look(self) -> None:
        now = self._clock.now()
        discovery = self._discovery
        # The kernel's neighbours and default routes change without a word to us.
        discovery.take_links(await read_links(discovery.wants), now)
        self._stale = False
        self._socket.join((one.link.name, one.link.number) for one in discovery.uplinks.values())
        sessions = self._sessions()
        discovery.choose([peer for peer, (state, _) in sessions.items() if state == "Established"], now)
        for uplink in discovery.uplinks.values():
            if uplink.link.works:
                state = sessions.get(uplink.chosen, ("", ""))[0] if uplink.chosen is not None else ""
                is_fresh = now - uplink.since < CALL_SECONDS and state != "Established"
                self._be_found(uplink, now, is_fresh=is_fresh)
                if is_fresh:
                    self._call(uplink, now)
        self._report()

    def _call(self, uplink: Uplink, now: float) -> None:
        """Call a router whose link has just come, again and again for a moment.

        Its own address may be none yet (RFC 4862), and what the kernel sends meanwhile waits longer each time.
        """
        chosen = uplink.chosen
        if chosen is not None and chosen in self._found and now - uplink.called_at >= LEAST_CALL_SECONDS:
            uplink.called_at = now
            self._call_now(chosen)

    def _be_found(self, uplink: Uplink, now: float, *, is_fresh: bool) -> None:
        """Advertise ourselves, and ask who is there while nobody is known.

        More often on a link that has just come: FRR forgets its neighbour with the link, and its own end may not hear
        the first word.
        """
        if _is_due(uplink, now, LEAST_SAY_SECONDS if is_fresh else SAY_SECONDS):
            self._say(uplink, now)
        name, works_since = uplink.link.name, uplink.since
        asked = self._asked_at.get(name, 0.0)
        every = LEAST_SAY_SECONDS if uplink.asked < FIRST_ASKS else SAY_SECONDS
        if uplink.chosen is None and (asked < works_since or now - asked >= every):
            self._asked_at[name], uplink.asked = now, uplink.asked + 1
            self._send(uplink, solicitation(uplink.link.mac), ALL_ROUTERS)
            self._send(uplink, echo_request(os.getpid() & 0xFFFF), ALL_ROUTERS)

    def _say(self, uplink: Uplink, now: float) -> None:
        uplink.said_at = now
        self._send(uplink, advertisement(uplink.link.mac), ALL_NODES)

    def _send(self, uplink: Uplink, data: bytes, to: str) -> None:
        link = uplink.link
        try:
            self._socket.send(data, to, link.number, link.addresses[0])
        except (OSError, IndexError) as error:  # its address or the link has just gone: the next look says so
            log.debug("uplinks.not_sent", interface=link.name, why=str(error))

    def _report(self) -> None:
        found = self._discovery.chosen()
        if found == self._found:
            return
        for address in found.keys() - self._found.keys():
            uplink = next(one for one in self._discovery.uplinks.values() if one.chosen == address)
            router = uplink.routers.get(address)
            how = router.best.value if router is not None and router.signs else ""
            log.info("uplinks.found", interface=uplink.link.name, router=str(address), how=how)
        for address in self._found.keys() - found.keys():
            log.info("uplinks.lost", router=str(address))
        self._found = found
        self._changed()

    # -- for people ---------------------------------------------------------------------------------------------------

    def report(self) -> list[dict[str, Any]]:
        """Every uplink: what was found there, how, since when, and why there is no session."""
        now, sessions = self._clock.now(), self._sessions()
        rows = [self._row(one, now, sessions) for _, one in sorted(self._discovery.uplinks.items())]
        rows += [
            _empty(one.interface, self.failure or "no interface has such a name")
            for one in self._discovery.missing()
        ]
        beyond = f"more than {MOST_LINKS} uplinks"
        return [*rows, *(_empty(name, beyond) for name in self._discovery.beyond)]

    def _row(self, uplink: Uplink, now: float, sessions: Mapping[Address, tuple[str, str]]) -> dict[str, Any]:
        chosen = uplink.chosen
        router = uplink.routers.get(chosen) if chosen is not None else None
        state, error = sessions.get(chosen, ("", "")) if chosen is not None else ("", "")
        signs = sorted(router.signs, key=lambda one: one.value) if router is not None else []
        works = state == "Established" and uplink.link.works
        return {
            "interface": uplink.link.name,
            "as": uplink.settings.remote_as,
            "router": text_of(chosen) if chosen is not None else None,
            "found_by": [one.value for one in signs],
            "found_seconds": round(now - router.found, 1) if router is not None else None,
            "state": state or None,
            "why_not": "" if works else self.failure or self._discovery.why_not(uplink, state, error),
            "others": [text_of(one) for one in self._discovery.others(uplink)],
            "overflow": uplink.overflow,
            "advertised_seconds": round(now - uplink.said_at, 1) if uplink.said_at is not None else None,
        }

    def troubles(self) -> Iterator[Trouble]:
        """Uplinks that are wanted and lead to no router, or to more than one."""
        now = self._clock.now()
        for row in self.report():
            uplink = self._discovery.uplinks.get(row["interface"])
            since = uplink.since if uplink is not None else self._started
            about, cure = f"uplink {row['interface']}", "see: tortie bgp uplinks"
            if row["why_not"] and now - since >= FOUND_WITHIN_SECONDS:
                loss = "nothing is learned or announced over it"
                yield Trouble(TroubleKind.PEERING, about, row["why_not"], loss, cure)
            if row["others"] or row["overflow"]:
                many = f"more than {MOST_ROUTERS}" if row["overflow"] else str(1 + len(row["others"]))
                named = ", ".join(row["others"])
                evidence = f"{many} routers are on this link, beside {row['router']} also {named}"
                loss = "there is a session with one of them alone, the one that was found first"
                cure = "an uplink is a cable to one router: see who else is there; a BGPPeer names a router itself"
                yield Trouble(TroubleKind.PEERING, about, evidence, loss, cure)


def _is_due(uplink: Uplink, now: float, seconds: float) -> bool:
    return uplink.link.works and (uplink.said_at is None or now - uplink.said_at >= seconds)


def _empty(name: str, why: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("as", "router", "found_seconds", "state", "advertised_seconds"))
    return {"interface": name, **nothing, "found_by": [], "why_not": why, "others": [], "overflow": False}
