"""Has routes leave a peer at once whose way BFD has found broken, and tells BGP of it then.

BGP's decision walks all that the peer announced before the kernel hears of any of it: of 100,000 routes that is a good
part of a second. Where routes have another next hop, one message takes the dead one out of it.
Promises: BGP hears of everything, in order, whatever the kernel answers, and at most LEAVE_SECONDS later. A peer is
avoided until BFD, or a new session of BGP, says that it is reached, or nobody wants it any more; and never for a
failure that ends no session (RFC 5882 section 4.3.2).
Does not know: BFD's sessions, the kernel, which routes there are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import structlog

from agent.dataplane.trigger import Trigger
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address
from bgp.bfd.door import MOST_SESSIONS

LEAVE_SECONDS = 1.0
"""How long BGP waits for the kernel."""
MOST_WAITING = 4 * MOST_SESSIONS
"""Events that wait; one more goes to BGP alone."""
IDLE_SECONDS = 3600.0

log = structlog.get_logger()


class Speaking(Protocol):
    """BGP's side."""

    @property
    def peers(self) -> Collection[Address]:
        """Whom this node should have as peers."""
        ...

    @property
    def established(self) -> frozenset[Address]:
        """The peers whose session is up."""
        ...

    def ends_by_bfd(self, address: Address, *, independent: bool) -> bool:
        """Whether a failure that BFD has found ends the peer's paths."""
        ...

    def bfd_changed(self, address: Address, *, up: bool, independent: bool) -> None:
        """The way to a peer works (`up`), or has failed; `independent`: the peer's C bit."""
        ...


class FailedPeers:
    """Between the BFD client and BGP; a shell."""

    def __init__(self, bgp: Speaking, avoid: Callable[[frozenset[Address]], Awaitable[None]]) -> None:
        """`avoid` has routes leave these gateways, and no others. It may raise KernelError."""
        self._bgp = bgp
        self._avoid = avoid
        self._events: deque[tuple[Address, bool, bool]] = deque()
        self._trigger = Trigger()
        self._failed: set[Address] = set()
        self._avoided: frozenset[Address] = frozenset()

    def bfd_changed(self, address: Address, *, up: bool, independent: bool) -> None:
        """What BFD found of a peer: the way to it works (`up`), or has failed."""
        if len(self._events) >= MOST_WAITING:
            self._bgp.bfd_changed(address, up=up, independent=independent)
            return
        self._events.append((address, up, independent))
        self._trigger.fire()

    def look(self) -> None:
        """Sessions or peers may be others; called after each pass."""
        if self._failed and not self._events and self._failed & self._reached():
            self._trigger.fire()

    async def run(self) -> None:
        """Carry out what comes, until cancelled."""
        while True:
            await self.step()
            await self._trigger.wait(IDLE_SECONDS)

    async def step(self) -> None:
        """All that has come by now: first the kernel, then BGP."""
        # What BGP was told before counts, what it is told below does not yet: its session still seems to be up.
        self._failed -= self._reached()
        events = list(self._events)
        for address, up, independent in events:
            if up:
                self._failed.discard(address)
            elif self._bgp.ends_by_bfd(address, independent=independent):
                self._failed.add(address)
        try:
            if (failed := frozenset(self._failed)) != self._avoided:
                await self._leave(failed)
        finally:
            for _ in events:
                address, up, independent = self._events.popleft()
                self._bgp.bfd_changed(address, up=up, independent=independent)

    async def _leave(self, failed: frozenset[Address]) -> None:
        self._avoided = failed
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._avoid(failed)
        except (KernelError, TimeoutError) as error:
            log.warning("bfd.routes_not_moved", peers=sorted(map(str, failed)), why=str(error) or "too slow")

    def _reached(self) -> set[Address]:
        """Those that are no failure any more."""
        return {one for one in self._failed if one in self._bgp.established or one not in self._bgp.peers}
