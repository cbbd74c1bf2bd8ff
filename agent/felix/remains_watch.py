"""Watches for rules that a Felix left: a trouble while they are there, and no new pod while they drop its packets.

Strategy. nftables notifies each change, and every object of Calico's bears one of its names or comments, so
others' changes cost a search. iptables-legacy notifies nobody: the size of its tables is asked for four times a second.
Promises: a change is seen within a second; readings take at most a fifth of the time; what was read last
holds while nothing can be read, and that is a trouble too.
Does not know: how the rules are read or taken away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from agent.clock import Clock
from agent.felix.felix_rules import FilterRemains
from agent.netlink import nftables as nft
from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.netlink_socket import NETLINK_NETFILTER, Lost, Subscription, readable
from agent.trouble import Trouble, TroubleKind

SLOW_SECONDS = 10.0
"""Between two readings that nothing asks for."""
STAMP_SECONDS = 0.25
"""Between two questions for the size of iptables-legacy's tables.

With the reading, and the time that a trouble must last before it is told, this has to stay within a second.
"""
FEWEST_SECONDS, SHARE = 0.1, 5.0
"""Between two readings at least; and so many times what one takes."""
MOST_DATAGRAMS_AT_ONCE = 1024
MARKS = (b"cali-", b"cali:", b"calico\0")
"""In what notifies of its chains and rules, and of anything in its table; not in the names of pods' interfaces."""
MOST_TABLES_SHOWN = 4
CURE = "`tortie node remove-calico` shows what is left and takes it away"


class RemainsWatch:
    """What of Calico's rules this machine holds now."""

    def __init__(
        self,
        read: Callable[[], Awaitable[FilterRemains]],
        legacy_stamp: Callable[[], object],
        clock: Clock,
    ) -> None:
        self._read = read
        self._legacy_stamp = legacy_stamp
        self._clock = clock
        self._remains: FilterRemains | None = None
        """None until the first reading."""
        self._failure: str | None = None

    def drops_new_pods(self) -> str | None:
        """None, or why this machine would drop a new pod's packets, or why that is not known yet."""
        if self._remains is None:
            return None if self._failure else "the kernel's filter rules have not been read yet"
        dropped = self._remains.dropped
        return f"{dropped}; {CURE}" if dropped else None

    def troubles(self) -> Iterator[Trouble]:
        """What is left, and what could not be read."""
        remains = self._remains or FilterRemains()
        if remains.tables:
            dropped = remains.dropped
            evidence = str(dropped) if dropped else f"{_text(remains)} filter by policies that nobody updates"
            loss = "no pod is attached meanwhile" if dropped else "pods' packets may be dropped"
            kind = TroubleKind.CALICO if dropped else TroubleKind.LEFTOVER
            yield Trouble(kind, "rules left by Calico", evidence, loss, CURE)
        for why in (*remains.unread, *filter(None, (self._failure,))):
            yield Trouble(
                TroubleKind.LEFTOVER,
                "rules left by Calico",
                f"cannot be looked for: {why}",
                "some may drop pods' packets",
            )

    async def run(self) -> None:
        """Look whenever something changes, until cancelled. Raises KernelError without notifications."""
        subscriptions: list[Subscription] = []
        with suppress(Unsupported):
            subscriptions.append(Subscription(NETLINK_NETFILTER, (nft.NFNLGRP_NFTABLES,)))
        try:
            while True:
                began, stamp = self._clock.now(), self._legacy_stamp()
                await self.look()
                await asyncio.sleep(max(FEWEST_SECONDS, SHARE * (self._clock.now() - began)))
                while self._legacy_stamp() == stamp and self._clock.now() < began + SLOW_SECONDS:
                    if await _changed(subscriptions, STAMP_SECONDS):
                        break
        finally:
            for subscription in subscriptions:
                subscription.close()

    async def look(self) -> None:
        """Read once; a failure leaves what was read before."""
        try:
            self._remains = await self._read()
            self._failure = None
        except (KernelError, OSError) as error:
            self._failure = str(error)


def _text(remains: FilterRemains) -> str:
    shown = ", ".join(map(str, remains.tables[:MOST_TABLES_SHOWN]))
    more = len(remains.tables) - MOST_TABLES_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")


async def _changed(subscriptions: list[Subscription], seconds: float) -> bool:
    """Whether something of Calico's changes in nftables, or may have, within this time; waits for it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                await readable(subscriptions)
                if any(_concerns(subscription) for subscription in subscriptions):
                    return True
    return False


def _concerns(subscription: Subscription) -> bool:
    """Take what has come; whether any of it is about Calico's, or was lost."""
    found = False
    for _ in range(MOST_DATAGRAMS_AT_ONCE):
        try:
            data = subscription.read()
        except Lost:
            return True
        if data is None:
            break
        found = found or any(mark in data for mark in MARKS)
    return found
