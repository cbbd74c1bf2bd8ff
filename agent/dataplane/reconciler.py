"""Makes the kernel hold what is wished, and keeps it so.

Strategy. Whoever changes a fact rings; one loop does passes: links, wishes, what the kernel holds (read again only
where something may have changed since, and all of it every 90 s), the difference, the writes. Creates go from tunnels
to masquerading, deletes the other way round.
Promises: with the kernel as wished a pass writes nothing; a refused object stops no other one and is tried again; a
lost notification, an interrupted dump and an error all end in reading everything again; stopping leaves everything.
Does not know: why something is wished, netlink.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from agent.clock import Clock
from agent.dataplane.conntrack_cleanup import ConntrackCleanup
from agent.dataplane.cooperative_loop import run_cooperatively
from agent.dataplane.event_triage import EventTriage, Urgency
from agent.dataplane.explain.route_reasons import RouteSnapshot
from agent.dataplane.kernel.ownership import Installed, Ownership
from agent.dataplane.kernel.protocol import Changes, Kernel, KernelEvent, Overrun
from agent.dataplane.kinds import diff
from agent.dataplane.kinds.apply import Applier
from agent.dataplane.kinds.delta import Delta
from agent.dataplane.kinds.diff import ActualState, DesiredState
from agent.dataplane.kinds.entry_steps import EntrySteps
from agent.dataplane.kinds.link_cache import LinkCache
from agent.dataplane.kinds.read_kind import read
from agent.dataplane.kinds.sysctl_reader import SysctlReader
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.dataplane.pass_limiter import PassLimiter, PassTiming
from agent.dataplane.report import Counters, Report
from agent.dataplane.trigger import Trigger
from agent.dataplane.tunnel_grace import TunnelGracePeriod
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import WORKLOAD_PREFIX, Dataplane, Kind, Link, Route, RouteKey

__all__ = ["Reconciler", "Report", "DesiredState"]

JITTER = 0.2
"""Share of the resync interval by which nodes drift apart."""
SETTLE_ATTEMPTS = 3
"""Refusals after which whoever waits for a route is told; a device that is just coming up refuses once or twice."""


class Reconciler:
    """One per network namespace; owns the picture of the kernel."""

    def __init__(
        self,
        kernel: Kernel,
        wishes: Callable[[Mapping[str, Link]], Awaitable[DesiredState]],
        clock: Clock,
        log: Any,
        *,
        on_pass: Callable[[], None] = lambda: None,
        ownership: Ownership | None = None,
        budget: MassDeleteGuard | None = None,
        tempo: PassTiming | None = None,
    ) -> None:
        self._kernel = kernel
        self._wishes = wishes
        self._clock = clock
        self._log = log
        self._on_pass = on_pass
        self._ownership = ownership or Ownership()
        self._tempo = tempo or PassTiming()
        self._bell = Trigger()
        self._pace = PassLimiter(self._tempo.share, self._tempo.burst_seconds)
        self._picture = ActualState()
        self._interfaces = LinkCache(kernel)
        self._resync_at = self._resynced_at = 0.0
        self._tally = Counters()
        self._budget = budget or MassDeleteGuard()
        self._writes = Applier(kernel, self._picture, self._tally, self._budget, clock, log)
        self._switches = SysctlReader(kernel, self._picture, self._tally, self._ownership, log)
        self._heard = EventTriage(
            self._interfaces, self._switches, self._writes, self._picture, self._ownership
        )
        self._lingering = TunnelGracePeriod(self._tempo.linger_seconds)
        self._forgetting = ConntrackCleanup(kernel, self._tally, log)
        self._wish = DesiredState(Dataplane(), complete=False, bgp_complete=False)
        self._routes_plan = diff.RoutePlan(Delta({}, {}, {}), {}, {})
        self._open: frozenset[RouteKey] = frozenset()
        """Where the last pass left something to do."""
        self._forgotten: set[RouteKey] = set()
        """Where routes went with their device since."""
        self._look_everywhere = True
        """The next plan compares every route: the last one is no ground to build on."""
        self._entries = EntrySteps()
        self._computed = 0
        """How often the wishes were computed: whoever waits needs a pass that began after it asked."""
        self._finished = 0
        self._turn = asyncio.Event()

    # -- what others see ------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """A fact changed: one more pass, soon. Many rings before it are one."""
        self._bell.ring()

    def ring_soon(self) -> None:
        """A fact went that the kernel has forgotten already: a pass in a moment, with what else comes meanwhile."""
        asyncio.get_running_loop().call_later(self._tempo.soon_seconds, self._bell.ring)

    @property
    def installed(self) -> Mapping[RouteKey, Route]:
        """The routes of ours that the kernel held after the last pass; a view, read at once."""
        return Installed(self._picture.routes, self._ownership)

    @property
    def passes(self) -> int:
        """How many passes have ended well."""
        return self._tally.passes

    def report(self) -> Report:
        """How the last pass went and what is not as wished."""
        return self._tally.report(
            self._writes.retries, self._routes_plan, self.installed, self._picture, self._budget
        )

    def situation(self) -> RouteSnapshot:
        """The last pass, for people; views, read at once."""
        refused = {
            key: why.why for (kind, key), why in self._writes.retries.failures().items() if kind is Kind.ROUTE
        }
        waiting = self._routes_plan.waiting
        return RouteSnapshot(
            self._wish, self._picture, self._interfaces.links, self._ownership, waiting, refused
        )

    async def settled(self, keys: Iterable[RouteKey], timeout: float) -> None:
        """Wait until the kernel holds the wished route at each key.

        Raises KernelError with the kernel's reason when it refuses one, TimeoutError (naming what is missing).
        """
        await self._until(tuple(keys), timeout, self._unsettled)

    async def gone(self, keys: Iterable[RouteKey], timeout: float) -> None:
        """Wait until no route of ours stands at these keys. Raises KernelError, TimeoutError."""
        await self._until(tuple(keys), timeout, self._standing)

    async def _until(
        self, keys: tuple[RouteKey, ...], timeout: float, missing: Callable[[RouteKey], str | None]
    ) -> None:
        asked = self._computed
        self.ring()
        reasons: list[str] = []
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self._finished > asked:
                        reasons = [reason for key in keys if (reason := missing(key)) is not None]
                        if not reasons:
                            return
                    await self._turn.wait()
        except TimeoutError:
            still = "; ".join(reasons) or "no pass over the kernel has ended"
            raise TimeoutError(f"not carried out within {timeout:g} s: {still}") from None

    def _unsettled(self, key: RouteKey) -> str | None:
        wished = self._wish.dataplane.routes.get(key)
        if wished is None:
            return f"{key.destination} is not wished"
        if self._picture.routes.get(key) == wished:
            return None
        if key in self._routes_plan.conflicts:
            raise KernelError(f"{wished}: {diff.conflict_reason(self._routes_plan.conflicts[key])}")
        failure = self._writes.retries.failure((Kind.ROUTE, key))
        if failure is not None and failure.attempts >= SETTLE_ATTEMPTS:
            raise KernelError(f"{wished}: {failure.why}")
        return (
            f"{wished}: {failure.why if failure else self._routes_plan.waiting.get(key, 'not written yet')}"
        )

    def _standing(self, key: RouteKey) -> str | None:
        route = self._picture.routes.get(key)
        if route is None or not self._ownership.is_ours(route):
            return None
        return f"{route} is still wished" if key in self._wish.dataplane.routes else f"{route} is still there"

    # -- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled. Raises KernelError when the kernel's notifications cannot be subscribed to."""
        changes = self._kernel.changes()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(changes))
                group.create_task(self._work())
                group.create_task(self._forgetting.run())
        finally:
            changes.close()

    async def _listen(self, changes: Changes) -> None:
        while True:
            try:
                event = await anext(changes)
            except KernelError as error:
                self._log.warning("kernel.notifications_failed", why=str(error))
                await asyncio.sleep(self._tempo.error_seconds)
                event = Overrun()
            await self._note(event)

    async def _note(self, event: KernelEvent) -> None:
        if isinstance(event, Overrun):
            self._tally.overruns += 1
            self._resync_at = min(self._resync_at, self._resynced_at + self._tempo.overrun_seconds)
            self._bell.ring()
            return
        worth = await self._heard.note(event, self._wish, self._open)
        if worth is Urgency.NOW:
            self._bell.ring()
        elif worth is Urgency.SOON:
            self.ring_soon()

    async def _work(self) -> None:
        while True:
            now = self._clock.now()
            if now >= self._resync_at:
                self._heard.doubt_everything()
                self._resynced_at = now
                self._resync_at = now + self._tempo.resync_seconds * random.uniform(1 - JITTER, 1 + JITTER)
            self._heard.stale |= self._budget.ripe(now)
            wait = 0.0
            try:
                await self._one_pass()
            except KernelError as error:
                self._log.warning("kernel.pass_failed", why=str(error))
                self._tally.failed(str(error))
                self._heard.doubt_everything()
                self._bell.ring()
                wait = self._tempo.error_seconds
            turn, self._turn = self._turn, asyncio.Event()
            turn.set()
            await asyncio.sleep(0)  # who waited for the pass goes before who follows it
            self._on_pass()
            ended = self._clock.now()
            pause = self._pace.spent(ended - now, ended, self._routes_plan.delta.steps)
            await asyncio.sleep(max(wait, pause))
            await self._bell.wait(self._idle_seconds())

    def _idle_seconds(self) -> float:
        moments = (
            self._resync_at,
            self._writes.retries.next_retry_at(),
            self._budget.next_at(),
            self._lingering.next_at(self._clock.now()),
        )
        return max(0.0, min(moment for moment in moments if moment is not None) - self._clock.now())

    async def _one_pass(self) -> None:
        began = self._clock.now()
        self._picture.drop_doubted()
        await self._read_links()
        self._computed += 1
        serial = self._computed
        before, self._wish = self._wish, await self._wishes(self._interfaces.links)
        if self._wish.touched is None or self._wish.trust != before.trust:
            self._look_everywhere = True
        await self._read_stale()
        self._writes.begin()
        if await self._writes.put_tunnels(diff.tunnel_steps(self._wish, self._picture)):
            self._interfaces.doubt_all()
            await self._read_links()
        await self._write()
        self._writes.end()
        self._finished = serial
        self._tally.passed(self._clock.wall(), self._clock.now() - began)

    # -- reading --------------------------------------------------------------------------------------------------

    async def _read_links(self) -> None:
        lost, self._heard.lost = self._heard.lost, set()
        gone = self._picture.forget_devices(lost)
        self._forgotten |= gone.keys()
        if not all(map(diff.is_pod, gone.values())):
            # A write of ours that followed the loss before it was heard of may stand, and now looks as if it did not.
            self._heard.stale.add(Kind.ROUTE)
        changed = await self._interfaces.read()
        if changed is None or not all(name.startswith(WORKLOAD_PREFIX) for name in changed | lost):
            self._look_everywhere = True

    async def _read_stale(self) -> None:
        for kind in sorted(self._heard.stale):
            # Taken off before reading: an event that comes meanwhile makes it stale again.
            self._heard.stale.discard(kind)
            before = diff.of_kind(self._picture, kind)
            try:
                await self._read(kind)
            except (KernelError, asyncio.CancelledError):
                self._heard.stale.add(kind)
                raise
            log = (
                self._log.bind(by=self._heard.authors.pop(kind)) if kind in self._heard.authors else self._log
            )
            self._tally.read(kind, before, diff.of_kind(self._picture, kind), self._ownership, log)
            await asyncio.sleep(0)

    async def _read(self, kind: Kind) -> None:
        if kind is Kind.SYSCTL:
            await self._switches.read_all(self._wish)
        else:
            await read(self._kernel, self._picture, kind)
        self._look_everywhere = self._look_everywhere or kind is Kind.ROUTE

    # -- writing --------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        picture, kernel, writes = self._picture, self._kernel, self._writes
        links = self._interfaces.links
        neighbours, fdb = self._entries.steps(self._wish, picture, links)
        keys = None if self._look_everywhere else self._wish.touched
        if keys is not None and (more := self._open | self._forgotten):
            keys |= more
        self._routes_plan = await run_cooperatively(
            diff.route_work(self._wish, picture, links, self._ownership, keys)
        )
        self._look_everywhere = False
        self._forgotten.clear()
        routes = self._routes_plan.delta
        await writes.put(Kind.NEIGHBOUR, neighbours.wanted, kernel.put_neighbours, picture.neighbours)
        await writes.put(Kind.FDB, fdb.wanted, kernel.put_fdb, picture.fdb)
        await self._switches.read_missing(self._wish)
        await writes.put(
            Kind.SYSCTL, diff.sysctl_steps(self._wish, picture), kernel.put_sysctls, picture.sysctls
        )
        self._forgetting.later(diff.departures(self._wish, picture))
        moving = diff.moves(routes, picture.routes)
        await self._forgetting.before_use(key for key, route in routes.create.items() if diff.is_pod(route))
        await writes.put_routes(self._routes_plan)
        await writes.put_masquerade(diff.masquerade_step(self._wish, picture))
        await writes.put_forward_chains(diff.forward_steps(self._wish, picture))
        withdrawn = self._routes_plan.withdrawn
        await writes.remove(Kind.ROUTE, routes.delete, kernel.remove_routes, picture.routes, withdrawn)
        await self._forget(moving)
        await writes.remove(Kind.FDB, fdb.delete, kernel.remove_fdb, picture.fdb)
        await writes.remove(Kind.NEIGHBOUR, neighbours.delete, kernel.remove_neighbours, picture.neighbours)
        unwished = {
            name: await kernel.received(name) for name in diff.tunnel_steps(self._wish, picture).delete
        }
        await writes.remove_tunnels(self._lingering.over(unwished, self._clock.now()))
        conflicts, waiting = self._routes_plan.conflicts, self._routes_plan.waiting
        self._open = frozenset((*writes.unfinished, *conflicts, *waiting))
        if writes.doubtful:
            self._heard.stale |= writes.doubtful
            writes.doubtful.clear()
            self._bell.ring()

    async def _forget(self, moving: Mapping[RouteKey, Route]) -> None:
        """Connections of addresses whose route was removed, or leads to another interface since."""
        routes = self._picture.routes
        self._forgetting.later(key for key in moving if key not in routes)
        turned = [key for key, was in moving.items() if routes.get(key, was) != was]
        if turned:
            await self._forgetting.now(turned)
