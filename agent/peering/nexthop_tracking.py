"""Looks up in the kernel whether BGP next hops lead anywhere (RFC 4271 section 9.1.2.1).

Promises: a next hop counts as leading nowhere only after the kernel has had no way to it for a while, and never when
that would be true of all of them: then the fault is this node's, there is nothing to choose from, and routes stay. A
look that fails for another reason changes nothing. What is on a link's subnet needs no question.
Does not know: paths, which of them is best.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import structlog

from agent.clock import Clock
from agent.dataplane.inputs.facts import on_link
from agent.dataplane.kernel.protocol import Kernel
from agent.dataplane.trigger import Trigger
from agent.netlink.kernel_errors import KernelError, NoWay
from agent.netlink.objects import Address, Link

LOOK_SECONDS = 30.0
"""Between two looks at the same next hops: not every change of a route is heard of."""
NOWHERE_SECONDS = 5.0
"""How long there must be no way."""
MOST_LOOKUPS = 256
"""Questions in one look; what is beyond counts as reachable."""
OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::1"}
"""Of documentation (RFC 5737, RFC 3849): a way there is a default route, and all else has one, too."""

log = structlog.get_logger()


class NexthopTracking:
    """The next hops that lead nowhere, kept up to date."""

    def __init__(
        self,
        kernel: Kernel,
        next_hops: Callable[[], Collection[Address]],
        lead_nowhere: Callable[[Collection[Address]], None],
        clock: Clock,
    ) -> None:
        self._kernel = kernel
        self._next_hops = next_hops
        self._lead_nowhere = lead_nowhere
        self._clock = clock
        self._bell = Trigger()
        self._seen: tuple[frozenset[Address], Mapping[str, Link]] = (frozenset(), {})
        self._since: dict[Address, float] = {}
        """Next hop -> when the kernel was first found to have no way to it."""

    def update(self, links: Mapping[str, Link]) -> None:
        """Look again if something changed. Called after every pass."""
        now = (frozenset(self._next_hops()), links)
        if now != self._seen:
            self._seen = now
            self._bell.ring()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._bell.wait(NOWHERE_SECONDS if self._since else LOOK_SECONDS)
            try:
                await self.check()
            except KernelError as error:
                log.warning("bgp.next_hops_not_looked_up", why=str(error))

    async def check(self) -> None:
        """One look, and tell what it shows. Raises KernelError; then nothing is told."""
        next_hops, links = self._seen
        missing = await self.unreachable(next_hops, links)
        now = self._clock.now()
        self._since = {hop: self._since.get(hop, now) for hop in missing}
        nowhere = {hop for hop, since in self._since.items() if now - since >= NOWHERE_SECONDS}
        self._lead_nowhere(nowhere if nowhere < next_hops else set())

    async def unreachable(
        self, next_hops: Collection[Address], links: Mapping[str, Link]
    ) -> frozenset[Address]:
        """The next hops to which the kernel has no way now. Raises KernelError."""
        distant = [hop for hop in next_hops if on_link(links, hop) is None]
        found: list[Address] = []
        for version in {hop.version for hop in distant}:
            some = [hop for hop in distant if hop.version == version]
            outside = type(some[0])(OUTSIDE[version])
            if not await self._is_reachable(outside):
                found += [hop for hop in some[:MOST_LOOKUPS] if not await self._is_reachable(hop)]
        return frozenset(found)

    async def _is_reachable(self, host: Address) -> bool:
        try:
            await self._kernel.path_to(host)
        except NoWay:
            return False
        return True
