"""Looks up in the kernel whether BGP next hops can be reached (RFC 4271 section 9.1.2.1).

Promises: a next hop counts as unreachable only after the kernel has had no route to it for a while, and never when
that would be true of all of them: then the fault is this node's, there is nothing to choose from, and routes stay. A
check that fails for another reason changes nothing. A next hop on a link's subnet needs no question.
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
from bgp.transport.speaker import Speaker

CHECK_SECONDS = 30.0
"""Between two checks of the same next hops: not every change of a route is notified."""
UNREACHABLE_SECONDS = 5.0
"""How long there must be no route."""
MOST_LOOKUPS = 256
"""Questions in one check; the next hops beyond count as reachable."""
OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::1"}
"""Of documentation (RFC 5737, RFC 3849): a route there is a default route, and all else has one, too."""

log = structlog.get_logger()


class NexthopTracking:
    """Keeps the speaker informed of its unreachable next hops; a shell."""

    def __init__(self, kernel: Kernel, speaker: Callable[[], Speaker | None], clock: Clock) -> None:
        self._kernel = kernel
        self._speaker = speaker
        self._clock = clock
        self._trigger = Trigger()
        self._seen: tuple[frozenset[Address], Mapping[str, Link]] = (frozenset(), {})
        self._since: dict[Address, float] = {}
        """Next hop -> when the kernel was first found to have no route to it."""

    def update(self, links: Mapping[str, Link]) -> None:
        """Check again if a next hop or a link changed. Called after every pass."""
        speaker = self._speaker()
        now = (frozenset(speaker.instance.next_hops if speaker is not None else ()), links)
        if now != self._seen:
            self._seen = now
            self._trigger.fire()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self._trigger.wait(UNREACHABLE_SECONDS if self._since else CHECK_SECONDS)
            try:
                await self.check()
            except KernelError as error:
                log.warning("bgp.next_hops_not_looked_up", why=str(error))

    async def check(self) -> None:
        """Look all next hops up and inform the speaker. Raises KernelError; then the speaker is not informed."""
        next_hops, links = self._seen
        missing = await self._unreachable(next_hops, links)
        now = self._clock.now()
        self._since = {hop: self._since.get(hop, now) for hop in missing}
        lost = {hop for hop, since in self._since.items() if now - since >= UNREACHABLE_SECONDS}
        if (speaker := self._speaker()) is not None:
            speaker.set_unreachable_nexthops(lost if lost < next_hops else set())

    async def _unreachable(
        self, next_hops: Collection[Address], links: Mapping[str, Link]
    ) -> frozenset[Address]:
        """The next hops to which the kernel has no route now. Raises KernelError."""
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
