"""Watches whether another machine on the link has this node's IPv4 address, too: the kernel does not (RFC 5227).

Of IPv6 the kernel itself says so (duplicate address detection), with the address.
Promises: whoever names the address as its own in any ARP packet is a trouble at once. Another's answer can only win
where somebody asks all machines for the address, and then this node asks as well; it asks every PROBE_SECONDS
besides, and every second while there is a trouble, so it ends HOLD_SECONDS after the other machine has gone silent.
This machine's own interfaces are no other machine. Without the right to packet sockets nothing is watched, and the log
says so.
Does not know: what the other machine is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Protocol

from agent.clock import Clock
from agent.dataplane.inputs.facts import Facts
from agent.netlink.arp import ArpNews, ArpSocket
from agent.netlink.objects import Link
from agent.trouble import Trouble, TroubleKind

TICK_SECONDS = 1.0
PROBE_SECONDS = 10.0
FEWEST_SECONDS = 0.2
"""Between two probes, however often others ask."""
HOLD_SECONDS = 3.5
"""Three probes without an answer."""
MOST_CLAIMANTS = 8
"""Machines with the address that are remembered at one time."""
MOST_AT_ONCE = 64
"""Packets taken in one go."""


class Claims(Protocol):
    """What is asked of a socket."""

    def fileno(self) -> int: ...
    def send_probe(self, mac: str) -> None: ...
    def read(self) -> ArpNews | None: ...
    def close(self) -> None: ...


class AddressConflicts:
    """Who else has the node's address; a shell that owns one packet socket."""

    def __init__(
        self,
        facts: Callable[[], Facts],
        clock: Clock,
        log: Any,
        opened: Callable[[str, IPv4Address], Claims] = ArpSocket,
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._log = log
        self._opened = opened
        self._socket: Claims | None = None
        self._watched: tuple[str, int, IPv4Address] | None = None
        """Name and index of the interface, and the address."""
        self._seen: dict[str, float] = {}
        """MAC of another machine -> when it last said that the address is its own."""
        self._probed_at: float | None = None
        self._asked = False
        """Whether somebody asked all machines for the address since the last probe."""
        self._logged: frozenset[str] = frozenset()
        self._forbidden = False

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                self.tick()
                await asyncio.sleep(TICK_SECONDS)
        finally:
            self._close()

    def tick(self) -> None:
        """Watch the right interface, ask, and forget who is silent."""
        facts = self._facts()
        link, own = facts.parent_of(4), facts.me.underlay if facts.me is not None else None
        if link is None or own is None or link.mac is None:
            self._close()
            return
        watched = link.name, link.index, own.ip
        if watched != self._watched:
            self._close()
            self._open(link, own.ip)
            self._watched = watched
        now = self._clock.now()
        self._probe(link, PROBE_SECONDS if not (self._seen or self._asked) else FEWEST_SECONDS)
        self._seen = {mac: at for mac, at in self._seen.items() if now - at < HOLD_SECONDS}
        self._report()

    def _open(self, link: Link, address: IPv4Address) -> None:
        try:
            self._socket = self._opened(link.name, address)
        except PermissionError as error:
            if not self._forbidden:
                self._log.warning("node.conflicts_not_watched", why=f"{error}: it needs CAP_NET_RAW")
            self._forbidden = True
            return
        except OSError as error:  # the interface went just now
            self._log.debug("node.conflicts_not_watched", why=str(error))
            return
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self.receive)

    def _close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        self._socket, self._watched, self._probed_at, self._asked = None, None, None, False
        self._seen.clear()
        self._report()

    def _probe(self, link: Link, interval: float) -> None:
        """Ask who has the address, unless this was done less than so many seconds ago."""
        now = self._clock.now()
        if self._socket is None or link.mac is None:
            return
        if self._probed_at is not None and now - self._probed_at < interval:
            return
        self._probed_at, self._asked = now, False
        with suppress(OSError):  # the interface is down: nobody answers
            self._socket.send_probe(link.mac)

    def receive(self) -> None:
        """Take what has come: somebody has the address, too, or asks for it."""
        links = self._facts().links
        own = {link.mac for link in links.values()}
        with suppress(OSError):  # the interface went: the next tick opens another socket
            for _ in range(MOST_AT_ONCE):
                news = self._socket.read() if self._socket is not None else None
                if news is None:
                    break
                mac = news.claimant
                if mac is None:
                    self._asked = True
                elif mac not in own and (mac in self._seen or len(self._seen) < MOST_CLAIMANTS):
                    self._seen[mac] = self._clock.now()
        if self._asked and self._watched is not None and (link := links.get(self._watched[0])) is not None:
            self._probe(link, FEWEST_SECONDS)
        self._report()

    def _report(self) -> None:
        now = frozenset(self._seen)
        if now and not self._logged:
            for trouble in self.troubles():
                self._log.warning("node.address_conflict", why=str(trouble))
        elif self._logged and not now:
            self._log.info("node.address_conflict_over", others=sorted(self._logged))
        self._logged = now

    def troubles(self) -> Iterator[Trouble]:
        """Who else has the address now."""
        if self._watched is None:
            return
        name, _, address = self._watched
        for mac in sorted(self._seen):
            yield Trouble(
                TroubleKind.UNDERLAY,
                f"the node's address {address}",
                f"the machine with the MAC {mac} on the link of {name} says that it is its own",
                "packets for this node go to the one or to the other",
                "give that machine another address",
            )
