"""Which router is at the other end of each uplink, of all that is seen there; a core.

Strategy. An uplink is a cable to one router. Anybody on the link can forge every sign of a router, so signs only say
whom to call: a session, and its password, say who it is. The first that is found stays as long as its session lives,
whatever others say; one that gives no session makes room for the next after a while.
Promises: pure, no time of its own; at most MOST_LINKS uplinks and MOST_ROUTERS routers on each; never an interface of
pods, a tunnel or the loopback, whatever the settings' pattern says. Does not know: sockets, netlink, sessions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from ipaddress import IPv6Address

from agent.configuration.config import POD_INTERFACES, UplinkSettings
from agent.dataplane.kernel.calico_names import OUR_TUNNELS
from agent.netlink.objects import Address
from agent.uplinks.router_discovery import Heard, Message
from bgp.wire.families import in_zone

MOST_LINKS = 16
"""Uplinks of a node; those beyond, in the order of their names, are told and not used."""
MOST_ROUTERS = 4
"""Routers remembered on one link; what others there say is not listened to until one is forgotten."""
SILENT_SECONDS = 60.0
"""How long a sign counts that has no time of its own."""
LONGEST_SECONDS = 1800.0
"""How long an advertisement counts at most (RFC 4861 section 6.2.1 has 9,000 s)."""
PATIENCE_SECONDS = 10.0
"""How long the chosen router may be without a session while there is another one."""
FOUND_WITHIN_SECONDS = 15.0
"""An uplink that has had a carrier for so long and no session is a trouble."""
NEVER_KINDS = frozenset({"vxlan", "ipip", "sit", "gre", "ip6tnl", "tun", "wireguard", "dummy"})
"""Devices that lead through others: no cable ends there."""


class Sign(Enum):
    """Why somebody counts as a router; the first ones are believed more."""

    DEFAULT_ROUTER = "router advertisement"
    DEFAULT_ROUTE6 = "IPv6 default route"
    DEFAULT_ROUTE4 = "IPv4 default route"
    ADVERTISEMENT = "router advertisement without a lifetime"
    NEIGHBOUR = "neighbour table"
    ALL_ROUTERS = "answers to all routers (ff02::2)"


RANKS = {sign: rank for rank, sign in enumerate(Sign)}


@dataclass(frozen=True, slots=True)
class UplinkLink:
    """An interface as the kernel has it, and who is known there."""

    name: str
    number: int
    up: bool
    carrier: bool
    kind: str | None = None
    mac: str | None = None
    addresses: tuple[IPv6Address, ...] = ()
    """Our link-local ones that can be used."""
    neighbours: tuple[tuple[Address, str, bool], ...] = ()
    """Address, MAC, and whether it says that it is a router (NTF_ROUTER)."""
    gateways: tuple[Address, ...] = ()
    """Of its default routes."""

    @property
    def works(self) -> bool:
        """Whether packets can pass."""
        return self.up and self.carrier and bool(self.addresses)


@dataclass(slots=True)
class Router:
    """Somebody who looks like a router."""

    address: Address
    """A link-local one has its zone."""
    found: float
    signs: dict[Sign, float] = field(default_factory=dict)
    """Sign -> until when it counts."""

    @property
    def best(self) -> Sign:
        """The sign that is believed most."""
        return min(self.signs, key=RANKS.__getitem__)


@dataclass(slots=True)
class Uplink:
    """One uplink as it is known now."""

    settings: UplinkSettings
    link: UplinkLink
    since: float
    """Since when it works, or does not."""
    routers: dict[Address, Router] = field(default_factory=dict)
    chosen: Address | None = None
    without_session_since: float = 0.0
    overflow: bool = False
    """Somebody was not remembered because there were MOST_ROUTERS already."""
    said_at: float | None = None
    """When we last advertised ourselves; None: not since it works."""
    called_at: float = float("-inf")
    """When its router was called without regard to ConnectRetry last."""
    asked: int = 0
    """How often we have asked for routers since it works."""


def is_possible(name: str, kind: str | None) -> bool:
    """Whether an interface can be an uplink at all."""
    return (
        name != "lo"
        and name not in OUR_TUNNELS
        and not name.startswith(POD_INTERFACES)
        and kind not in NEVER_KINDS
    )


def settings_for(name: str, settings: Sequence[UplinkSettings]) -> UplinkSettings | None:
    """The first settings whose pattern an interface's name matches."""
    return next((one for one in settings if fnmatchcase(name, one.interface)), None)


class Discovery:
    """All uplinks."""

    def __init__(self, settings: Sequence[UplinkSettings]) -> None:
        self._settings = tuple(settings)
        self.uplinks: dict[str, Uplink] = {}
        self.beyond: tuple[str, ...] = ()
        """Interfaces that match, and are more than MOST_LINKS."""

    # -- what is seen -------------------------------------------------------------------------------------------------

    def wants(self, name: str, kind: str | None = None) -> bool:
        """Whether an interface is an uplink by the settings."""
        return is_possible(name, kind) and settings_for(name, self._settings) is not None

    def take_links(self, links: Iterable[UplinkLink], now: float) -> None:
        """The interfaces that match, as they are now; one that is not among them is gone."""
        present = sorted((one for one in links if self.wants(one.name, one.kind)), key=lambda one: one.name)
        self.beyond = tuple(one.name for one in present[MOST_LINKS:])
        named = {one.name: one for one in present[:MOST_LINKS]}
        for name in self.uplinks.keys() - named.keys():
            del self.uplinks[name]
        for name, link in named.items():
            known = self.uplinks.get(name)
            settings = settings_for(name, self._settings)
            assert settings is not None
            if known is None or known.link.number != link.number:
                known = self.uplinks[name] = Uplink(settings, link, now)
            elif known.link.works != link.works:
                known.since, known.said_at, known.asked = now, None, 0
            known.link = link
            self._see(known, now)

    def _see(self, uplink: Uplink, now: float) -> None:
        """The kernel's own words: neighbours that say they are routers, and the gateways of default routes."""
        link = uplink.link
        by_mac = {mac: one for one, mac, _ in link.neighbours if one.version == 6 and one.is_link_local}
        macs = {one: mac for one, mac, _ in link.neighbours}
        for gateway in link.gateways:
            on_link = by_mac.get(macs.get(gateway, ""), gateway)  # of an IPv4 gateway its link-local address
            sign = Sign.DEFAULT_ROUTE6 if gateway.version == 6 else Sign.DEFAULT_ROUTE4
            if on_link.version == 4 or on_link.is_link_local:
                self._sign(uplink, on_link, sign, now, SILENT_SECONDS)
        for neighbour, _, is_router in link.neighbours:
            if is_router and neighbour.version == 6 and neighbour.is_link_local:
                self._sign(uplink, neighbour, Sign.NEIGHBOUR, now, SILENT_SECONDS)

    def hear(self, one: Heard, now: float) -> Uplink | None:
        """Somebody said something on a link; answers the uplink, None where there is none."""
        uplink = next((known for known in self.uplinks.values() if known.link.number == one.interface), None)
        if uplink is None or one.source in {IPv6Address(int(own)) for own in uplink.link.addresses}:
            return None
        if one.kind is Message.ECHO_REPLY:
            self._sign(uplink, one.source, Sign.ALL_ROUTERS, now, SILENT_SECONDS)
        elif one.kind is Message.ROUTER_ADVERTISEMENT:
            lasts = min(float(one.lifetime_seconds) or SILENT_SECONDS, LONGEST_SECONDS)
            sign = Sign.DEFAULT_ROUTER if one.lifetime_seconds else Sign.ADVERTISEMENT
            self._sign(uplink, one.source, sign, now, lasts)
        return uplink

    def _sign(self, uplink: Uplink, address: Address, sign: Sign, now: float, lasts: float) -> None:
        if isinstance(address, IPv6Address):
            address = in_zone(address, uplink.link.name)
        router = uplink.routers.get(address)
        if router is None:
            if len(uplink.routers) >= MOST_ROUTERS:
                uplink.overflow = True
                return
            router = uplink.routers[address] = Router(address, now)
        router.signs[sign] = now + lasts

    # -- what follows -------------------------------------------------------------------------------------------------

    def choose(self, established: Collection[Address], now: float) -> None:
        """Forget who is silent, and have one router for each uplink; `established`: peers with a session."""
        for uplink in self.uplinks.values():
            lives = uplink.chosen is not None and uplink.chosen in established
            for address, router in list(uplink.routers.items()):
                router.signs = {sign: until for sign, until in router.signs.items() if until > now}
                if not router.signs and not (lives and address == uplink.chosen):
                    del uplink.routers[address]
            uplink.overflow = uplink.overflow and len(uplink.routers) >= MOST_ROUTERS
            if lives:
                uplink.without_session_since = now
            elif uplink.chosen not in uplink.routers:
                self._take(uplink, self._candidates(uplink), now)
            elif now - uplink.without_session_since >= PATIENCE_SECONDS:
                others = [one for one in self._candidates(uplink) if one != uplink.chosen]
                if others and uplink.link.works:
                    chosen, before = uplink.chosen, self._candidates(uplink)
                    behind = before[before.index(chosen) + 1 :] if chosen in before else []
                    self._take(uplink, behind or others, now)

    @staticmethod
    def _candidates(uplink: Uplink) -> list[Address]:
        """Who may be called, the most likely first; one with an IPv4 address only where there is nobody else."""
        routers = sorted(
            (one for one in uplink.routers.values() if one.signs),
            key=lambda one: (one.address.version == 4, RANKS[one.best], one.found),
        )
        on_link: list[Address] = [one.address for one in routers if one.address.version == 6]
        return on_link or [one.address for one in routers]

    @staticmethod
    def _take(uplink: Uplink, candidates: Sequence[Address], now: float) -> None:
        uplink.chosen = candidates[0] if candidates else None
        uplink.without_session_since = now

    def chosen(self) -> dict[Address, UplinkSettings]:
        """The routers to peer with."""
        return {one.chosen: one.settings for one in self.uplinks.values() if one.chosen is not None}

    def others(self, uplink: Uplink) -> list[Address]:
        """Who else looks like a router on a link, and is not the chosen one."""
        return [one for one in self._candidates(uplink) if one != uplink.chosen]

    # -- for people ---------------------------------------------------------------------------------------------------

    def why_not(self, uplink: Uplink, session: str, last_error: str) -> str:
        """Why there is no session over an uplink; `session`: its state, empty where there is no peer yet."""
        link = uplink.link
        if not link.up:
            return "the interface is down"
        if not link.carrier:
            return "no link: there is no carrier"
        if not link.addresses:
            return "the interface has no link-local address yet (is net.ipv6.conf.*.disable_ipv6 1?)"
        if uplink.chosen is None:
            return (
                "no router: no advertisement (RA), no neighbour that says it is one, no answer to ff02::2, "
                "and no default route leads there"
            )
        if not session:
            return "the session is not configured yet; see the troubles in: tortie node status"
        return last_error or f"the session is {session}"

    def missing(self) -> Iterator[UplinkSettings]:
        """Settings whose pattern no interface matches."""
        used = {one.settings.interface for one in self.uplinks.values()}
        return (one for one in self._settings if one.interface not in used)
