"""Keeps BGP informed of the next hops that cannot be reached (RFC 4271 section 9.1.2.1).

How one is reached is looked up elsewhere, when routes and links change; here is what follows for paths. A next hop that
resolves another way says nothing to BGP: the routes behind it are led the other way. One that resolves no more keeps
its routes until BGP has moved them to other paths, so that no packet is lost in between.
Promises: a next hop is unreachable LOSS_SECONDS after its way was lost, no earlier, and reachable once it has one;
never are all of them unreachable: then the fault is this node's, there is nothing to choose from, and routes stay as
long as their interface is up. What does not resolve is a trouble with its reason, whether BGP uses it or not.
Does not know: the kernel's routes, paths, which of them is best.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice

import structlog

from agent.clock import Clock
from agent.dataplane.inputs.next_hops import OWN_ADDRESS, NextHopResolver, Resolution
from agent.dataplane.trigger import Trigger
from agent.netlink.objects import Address
from agent.trouble import Trouble, TroubleKind
from bgp.transport.speaker import Speaker

LOSS_SECONDS = 0.05
"""How long a way must be gone: a route that is deleted and made again, as `dhclient` does, is no loss."""
MOST_NAMED = 10
"""Next hops that are troubles one by one; the rest is counted."""
LOST_ROUTES = "its paths are not used while others are; where there is no other, the routes go"
KEPT_ROUTES = "no next hop resolves: the routes stay, along the way of before, while its interface is up"

log = structlog.get_logger()


class NexthopTracking:
    """Tells the speaker of its unreachable next hops; a shell."""

    def __init__(
        self,
        resolver: NextHopResolver,
        speaker: Callable[[], Speaker | None],
        clock: Clock,
        read_again: Callable[[], None] = lambda: None,
    ) -> None:
        """`read_again` has the kernel's routes read."""
        self._resolver = resolver
        self._speaker = speaker
        self._clock = clock
        self._read_again = read_again
        self._trigger = Trigger()
        resolver.changed = self._trigger.fire
        self._seen: object = None
        self._since: dict[Address, float] = {}
        """Next hop without a way -> when that was first found."""
        self._reported: frozenset[Address] = frozenset()
        """What the speaker was told last."""

    @property
    def next_hops(self) -> frozenset[Address]:
        """Those of all paths now."""
        speaker = self._speaker()
        return frozenset(speaker.instance.next_hops) if speaker is not None else frozenset()

    def update(self, nodes: frozenset[Address] = frozenset()) -> None:
        """Look again if a next hop or a way is another one; called after every pass. `nodes` are followed as well."""
        speaker, next_hops = self._speaker(), self.next_hops
        if self._resolver.track(next_hops | nodes):
            self._read_again()
        seen = speaker, next_hops, self._resolver.resolutions
        if seen != self._seen:
            self._seen = seen
            self._trigger.fire()

    async def run(self) -> None:
        """Tell the speaker what there is to tell, until cancelled."""
        while True:
            await self._trigger.wait(self.check())
            await asyncio.sleep(0)

    def check(self) -> float | None:
        """Tell the speaker; the seconds after which that is to be done again, None: when something changes."""
        now, lost = self._clock.now(), self.lost()
        next_hops = self.next_hops
        self._since = {hop: self._since.get(hop, now) for hop in lost}
        reported = frozenset(hop for hop, since in self._since.items() if now >= since + LOSS_SECONDS)
        reported = reported if reported < next_hops else frozenset()
        if (speaker := self._speaker()) is not None:
            speaker.set_unreachable_nexthops(reported)
        for hop in sorted(reported - self._reported, key=str):
            log.warning("bgp.next_hop_lost", next_hop=str(hop), why=lost[hop].why)
        for hop in sorted((self._reported - reported) & next_hops, key=str):
            log.info("bgp.next_hop_found", next_hop=str(hop), by=str(self._resolver.resolutions.of(hop).by))
        self._reported = reported
        due = [since + LOSS_SECONDS - now for since in self._since.values() if since + LOSS_SECONDS > now]
        return min(due, default=None)

    def lost(self) -> dict[Address, Resolution]:
        """The next hops that do not resolve, with the reason; none before the kernel's routes were read."""
        if not self._resolver.is_known:
            return {}
        resolutions = ((hop, self._resolver.resolutions.of(hop)) for hop in self.next_hops)
        return {hop: way for hop, way in resolutions if way.why and way.why != OWN_ADDRESS}

    def troubles(self) -> Iterator[Trouble]:
        """The next hops that do not resolve; of one whose routes nothing leads on, their own trouble tells."""
        some = {hop: way for hop, way in self.lost().items() if hop in self._reported or way.hops}
        for hop in islice(sorted(some, key=lambda one: (one.version, int(one))), MOST_NAMED):
            loss = LOST_ROUTES if hop in self._reported else KEPT_ROUTES
            yield Trouble(
                TroubleKind.ROUTE, f"BGP next hop {hop}", f"it does not resolve: {some[hop].why}", loss
            )
        if len(some) > MOST_NAMED:
            more = f"{len(some) - MOST_NAMED} more BGP next hops do not resolve"
            yield Trouble(TroubleKind.ROUTE, "BGP next hops", more, LOST_ROUTES)
