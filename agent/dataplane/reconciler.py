"""Makes the kernel hold what is desired, and has it stay so.

Strategy. Whoever changes a fact triggers a pass; one loop does passes: links, the desired state, what the kernel holds
(read again only where something may have changed since, and all of it every 90 s), then for each kind of object the
difference and the writes. Kinds are created from tunnels to forward chains, and deleted in the opposite order.
Promises: with the kernel as desired a pass writes nothing; a refused object stops no other one and is tried again; a
lost notification, an interrupted dump and an error all end in reading everything again; stopping leaves everything.
Does not know: why something is desired, what a kind of object is, netlink.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from itertools import chain
from typing import Any

from agent.clock import Clock
from agent.dataplane.apply import Applier
from agent.dataplane.conntrack_cleanup import ConntrackCleanup
from agent.dataplane.cooperative import run_cooperatively
from agent.dataplane.event_triage import EventTriage, Urgency
from agent.dataplane.filter_monitor import FilterState
from agent.dataplane.inherited import Inherited
from agent.dataplane.inputs.next_hops import NextHopResolver
from agent.dataplane.kernel.calico_names import WORKLOAD_PREFIX
from agent.dataplane.kernel.dataplane_objects import Dataplane, Kind
from agent.dataplane.kernel.filter_table import NAME as FILTER_TABLE
from agent.dataplane.kernel.ownership import Installed, Ownership
from agent.dataplane.kernel.protocol import Changes, Kernel, KernelEvent, ObjectsChanged, Overrun
from agent.dataplane.kinds.all_kinds import all_kinds
from agent.dataplane.kinds.gateway_moves import move_gateways
from agent.dataplane.kinds.kernel_routes import RoutePlan, conflict_reason, moved_pods
from agent.dataplane.kinds.object_kind import Delta, ObjectKind
from agent.dataplane.kinds.states import (
    ActualState,
    Comparison,
    DesiredState,
    RouteSnapshot,
    is_pod,
    pods_among,
)
from agent.dataplane.link_cache import LinkCache
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.dataplane.report import Counters, Report
from agent.dataplane.trigger import PassLimiter, PassTiming, Trigger
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address, Link, Route, RouteKey
from agent.trouble import Trouble, TroubleKind

__all__ = ["DesiredState", "Reconciler", "Report"]

JITTER = 0.2
"""Share of the resync interval by which nodes drift apart."""
MOST_REFUSALS = 3
"""After so many, whoever waits for a route gets the reason; a device that is just coming up refuses once or twice."""


class RoutesToCompare:
    """Which routes the next pass must compare: of very many routes a pass looks only at those that may differ.

    They may differ where the desired routes changed, where routes went with their device, and where the last pass left
    something to do (a conflict, a missing device, a refusal, a removal held back). After a whole reading of the
    kernel's routes, a change of a link that is no pod's, or of how much may be deleted, they may differ anywhere.

    The order in which they were added stays: what BGP learned together has one target and neighbouring prefixes, and
    is encoded and taken by the kernel at half the cost of the same routes in any order.
    """

    def __init__(self) -> None:
        self._anywhere = True
        self._keys: list[Collection[RouteKey]] = []
        self.unsettled: frozenset[RouteKey] = frozenset()
        """Where the last pass left something to do."""

    def add(self, keys: Collection[RouteKey] | None) -> None:
        """Routes may differ at these keys, which stay as they are; None: anywhere."""
        if keys is None:
            self._anywhere, self._keys = True, []
        elif keys and not self._anywhere:
            self._keys.append(keys)

    def take(self) -> Collection[RouteKey] | None:
        """Where to compare now, each key once; None: everywhere. What is added from now on is for the pass after."""
        is_anywhere, some = self._anywhere, self._keys
        self._anywhere, self._keys = False, []
        if is_anywhere:
            return None
        if self.unsettled:
            some.append(self.unsettled)
        return some[0] if len(some) == 1 else dict.fromkeys(chain.from_iterable(some)).keys()


class Reconciler:
    """One per network namespace; owns the actual state of its kernel."""

    def __init__(
        self,
        kernel: Kernel,
        compute_desired: Callable[[Mapping[str, Link]], Awaitable[DesiredState]],
        clock: Clock,
        log: Any,
        *,
        look_ahead: Callable[[], None] = lambda: None,
        on_pass: Callable[[], None] = lambda: None,
        ownership: Ownership | None = None,
        next_hops: NextHopResolver | None = None,
        guard: MassDeleteGuard | None = None,
        timing: PassTiming | None = None,
    ) -> None:
        """`compute_desired` makes the desired state of the links there are; `on_pass` is called after each pass.

        `look_ahead` is called before: what it finds of ways to next hops moves routes before anything is computed.
        `next_hops` gets the links and the routes as they are read and as they change.
        """
        self._kernel = kernel
        self._compute_desired = compute_desired
        self._look_ahead = look_ahead
        self._clock = clock
        self._log = log
        self._on_pass = on_pass
        self._ownership = ownership or Ownership()
        self._timing = timing or PassTiming()
        self.kinds: tuple[ObjectKind[Any, Any], ...] = all_kinds(
            kernel, log, ownership=self._ownership, tunnel_grace_seconds=self._timing.grace_seconds
        )
        self._trigger = Trigger()
        self._limiter = PassLimiter(self._timing.share, self._timing.burst_seconds)
        self._actual = ActualState()
        self._links = LinkCache(kernel)
        self._resync_at = self._resynced_at = 0.0
        self._counters = Counters()
        self._guard = guard or MassDeleteGuard()
        self._applier = Applier(self._actual, self._counters, self._guard, clock, log)
        self.next_hops = next_hops or NextHopResolver(self._ownership)
        self._events = EventTriage(self._links, self._applier, self._actual, self._ownership, self.next_hops)
        self._cleanup = ConntrackCleanup(kernel, self._counters, log)
        self._is_later_due = False
        """Whether what was deferred will be taken in."""
        self._inherited = Inherited()
        self._desired = DesiredState(Dataplane(), complete=False, bgp_complete=False)
        self._avoided: frozenset[Address] = frozenset()
        self._plan = RoutePlan({}, {}, {}, {}, {})
        """The last pass's, for routes."""
        self._to_compare = RoutesToCompare()
        self._computed = 0
        """How often the desired state was computed: whoever waits needs a pass that began after it asked."""
        self._finished = 0
        self._pass_over = asyncio.Event()
        """Of the pass that comes or is under way; each pass has its own."""

    # -- what others see ------------------------------------------------------------------------------------------

    def trigger(self) -> None:
        """A fact changed: one more pass, soon. Many calls before it are one."""
        self._trigger.fire()

    def trigger_soon(self) -> None:
        """A fact went that the kernel has dropped already: a pass in a moment, with what else comes meanwhile."""
        asyncio.get_running_loop().call_later(self._timing.soon_seconds, self._trigger.fire)

    def read_routes(self) -> None:
        """The kernel's routes are read again soon."""
        self._events.stale.add(Kind.ROUTE)
        self.trigger()

    @property
    def installed(self) -> Mapping[RouteKey, Route]:
        """The routes of ours that the kernel held after the last pass; a view, read at once."""
        return Installed(self._actual.routes, self._ownership)

    @property
    def passes(self) -> int:
        """How many passes have ended well."""
        return self._counters.passes

    def troubles(self) -> Iterator[Trouble]:
        """That the last pass could not finish."""
        if self._counters.trouble is not None:
            evidence = f"a pass over the kernel did not finish: {self._counters.trouble}"
            yield Trouble(TroubleKind.KERNEL, "", evidence, "what is desired may not be in force")

    def report(self) -> Report:
        """How the last pass went and what is not as desired."""
        return self._counters.report(self.kinds, self._actual, self._applier.retries, self._plan, self._guard)

    def filter_state(self) -> FilterState:
        """The workload filter of the last pass."""
        failure = self._applier.retries.failures.get((Kind.FILTER, FILTER_TABLE))
        return FilterState(
            wanted=self._desired.dataplane.workload_filter is not None,
            in_force=bool(self._actual.of(Kind.FILTER)),
            refused=failure.why if failure is not None else None,
        )

    def snapshot(self) -> RouteSnapshot:
        """The last pass, for people; views, read at once."""
        failures = self._applier.retries.failures
        refused = {key: failure.why for (kind, key), failure in failures.items() if kind is Kind.ROUTE}
        above = {
            key: conflict_reason(route)
            for key, route in self._plan.conflicts.items()
            if key not in self._actual.routes  # the other route has another metric, or another prefix
        }
        waiting = {**self._plan.partial, **self._plan.waiting, **above}
        others = tuple(
            (kind, key, failure.why) for (kind, key), failure in failures.items() if kind is not Kind.ROUTE
        )
        return RouteSnapshot(
            self._desired,
            self._actual,
            self._ownership,
            waiting,
            refused,
            self._plan.conflicts,
            others,
            self._computed,
        )

    def now_named(self, device: str) -> str | None:
        """The name that a link has now that was last seen by this one; None: it is gone, or has it still."""
        return self._links.now_named(device)

    async def avoid(self, gateways: frozenset[Address]) -> None:
        """These gateways, and no others, do not answer: by BFD, or by whoever else knows it before BGP.

        A link-local one has its zone.
        Routes that have another next hop leave them, at once for all routes where the kernel has nexthop objects, else
        with the next pass; a gateway that is avoided no more comes back with it. Raises KernelError.
        """
        new, self._avoided = gateways - self._avoided, gateways
        self._to_compare.add(None)
        if new and await self._kernel.leave_next_hops(new):
            self._events.stale.add(Kind.ROUTE)
        self.trigger()

    async def wait_for_routes(self, keys: Iterable[RouteKey], timeout: float) -> None:
        """Wait until the kernel holds the desired route at each key, at least for one whole pass.

        Raises KernelError with the reason when the kernel refuses one, or the rule on prefixes; TimeoutError (naming
        what is missing).
        """
        asked, wanted = self._computed, tuple(keys)
        self.trigger()
        reasons: list[str] = []
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self._finished > asked:
                        reasons = [reason for key in wanted if (reason := self._missing(key)) is not None]
                        if not reasons:
                            return
                    await self._pass_over.wait()
        except TimeoutError:
            still = "; ".join(reasons) or "no pass over the kernel has ended"
            raise TimeoutError(f"not carried out within {timeout:g} s: {still}") from None

    def _missing(self, key: RouteKey) -> str | None:
        """Why the desired route is not there, None when it is. Raises KernelError."""
        desired = self._desired.dataplane.routes.get(key)
        if desired is None:
            if why := self._desired.refusal(key):
                raise KernelError(f"{key.destination} is refused: {why}")
            return f"{key.destination} is not desired"
        if self._actual.routes.get(key) == desired:
            return None
        if key in self._plan.conflicts:
            raise KernelError(f"{desired}: {conflict_reason(self._plan.conflicts[key])}")
        failure = self._applier.retries.failures.get((Kind.ROUTE, key))
        if failure is not None and failure.attempts >= MOST_REFUSALS:
            raise KernelError(f"{desired}: {failure.why}")
        return f"{desired}: {failure.why if failure else self._plan.waiting.get(key, 'not written yet')}"

    # -- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled. Raises KernelError when the kernel's notifications cannot be subscribed to.

        After a failure it may be called again, and reads everything again.
        """
        self._resync_at = 0.0
        changes = self._kernel.changes()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(changes))
                group.create_task(self._do_passes())
                group.create_task(self._cleanup.run())
        finally:
            changes.close()

    async def _follow(self, changes: Changes) -> None:
        while True:
            try:
                await self._take_event(await anext(changes))
            except (KernelError, OSError) as error:
                self._log.warning("kernel.notifications_failed", why=str(error))
                await asyncio.sleep(self._timing.error_seconds)
                await self._take_event(Overrun())

    async def _take_event(self, event: KernelEvent) -> None:
        if isinstance(event, Overrun):
            self._counters.overruns += 1
            self._resync_at = min(self._resync_at, self._resynced_at + self._timing.overrun_seconds)
            urgency = Urgency.NOW
        elif isinstance(event, ObjectsChanged) and event.names:
            urgency = await self._read_named(event.kind, event.names)
        else:
            urgency = self._events.sort(event, self._desired, self._to_compare.unsettled)
        if urgency is Urgency.NOW:
            self.trigger()
        elif urgency is Urgency.SOON:
            self.trigger_soon()
        elif urgency is Urgency.LATER and not self._is_later_due:
            self._is_later_due = True
            asyncio.get_running_loop().call_later(self._timing.later_seconds, self._take_later)

    def _take_later(self) -> None:
        self._is_later_due = False
        if self._events.take_later() is Urgency.NOW:
            self.trigger()

    async def _do_passes(self) -> None:
        while True:
            now = self._clock.now()
            if now >= self._resync_at:
                self._events.invalidate_all()
                self._resynced_at = now
                self._resync_at = now + self._timing.resync_seconds * random.uniform(1 - JITTER, 1 + JITTER)
            self._events.stale |= self._guard.due_readings(now)
            wait = 0.0
            try:
                await self._one_pass()
            except Exception as error:
                is_kernels = isinstance(error, KernelError)
                self._log.warning(
                    "kernel.pass_failed", why=str(error), **({} if is_kernels else {"exc_info": error})
                )
                self._counters.trouble = str(error) or type(error).__name__
                self._events.invalidate_all()
                self.trigger()
                wait = self._timing.error_seconds
            over, self._pass_over = self._pass_over, asyncio.Event()
            over.set()
            await asyncio.sleep(0)  # who waited for the pass goes before who follows it
            self._on_pass()
            ended = self._clock.now()
            pause = self._limiter.spent(ended - now, ended, self._plan.steps)
            await asyncio.sleep(max(wait, pause))
            await self._trigger.wait(self._idle_seconds())

    def _idle_seconds(self) -> float:
        now = self._clock.now()
        moments = (
            self._resync_at,
            self._applier.retries.next_retry_at(),
            self._guard.next_at(),
            *(kind.next_at(now) for kind in self.kinds),
        )
        return max(0.0, min(moment for moment in moments if moment is not None) - now)

    async def _one_pass(self) -> None:
        began = self._clock.now()
        self._actual.drop_invalid_routes()
        await self._read_links()
        self._look_ahead()
        await self._move_gateways()
        self._computed += 1
        serial, resolutions = self._computed, self.next_hops.resolutions
        before, desired = self._desired, await self._compute_desired(self._links.links)
        if self.next_hops.resolutions is not resolutions:
            self.trigger()
        self._desired = replace(desired, avoided=self._avoided) if self._avoided else desired
        self._to_compare.add(self._desired.touched if self._desired.trust == before.trust else None)
        await self._read_stale()
        self._applier.begin()
        await self._carry_out()
        self._applier.end()
        self._finished = serial
        self._counters.pass_ended(self._clock.wall(), self._clock.now() - began)

    async def _move_gateways(self) -> None:
        """What leads along a way that is another one now is led by that before anything is computed."""
        if (moves := self.next_hops.take_moves()) and self._desired.complete:
            routes, log = self._desired.dataplane.routes, self._log
            self._counters.written[Kind.ROUTE] += await move_gateways(
                moves, self._kernel, self._actual, routes, self._ownership, log
            )

    # -- reading --------------------------------------------------------------------------------------------------

    async def _read_links(self) -> None:
        gone, self._events.gone = self._events.gone, set()
        dropped = self._actual.drop_devices(gone)
        self._to_compare.add(dropped)
        if not all(map(is_pod, dropped.values())):
            # A write of ours that followed the loss before its event came may be in force, and is not known any more.
            self._events.stale.add(Kind.ROUTE)
        changed = await self._links.read()
        if changed is None or not all(name.startswith(WORKLOAD_PREFIX) for name in changed | gone):
            self._to_compare.add(None)
        self.next_hops.set_links(self._links.links)

    async def _read_stale(self) -> None:
        for kind in self.kinds:
            if kind.kind in self._events.stale:
                # Taken off before reading: an event that comes meanwhile makes it stale again.
                self._events.stale.discard(kind.kind)
                if kind.kind is Kind.ROUTE:
                    self.next_hops.begin_reading()
                    self._events.route_readings += 1
                try:
                    found = await kind.read(self._desired)
                except (Exception, asyncio.CancelledError):
                    self._events.stale.add(kind.kind)
                    raise
                author = self._events.authors.pop(kind.kind, None)
                log = self._log if author is None else self._log.bind(by=author)
                self._counters.note_reading(kind, self._actual.of(kind.kind), found, log)
                self._actual.adopt(kind.kind, found)
                if kind.kind is Kind.ROUTE:
                    self._to_compare.add(None)
                    await self._resolve_by(found)
                await asyncio.sleep(0)

    async def _resolve_by(self, routes: Mapping[RouteKey, Route]) -> None:
        """Next hops are resolved by these routes; what follows from another way is for the next pass."""
        is_sure, is_changed = await run_cooperatively(self.next_hops.adopt(routes))
        if not is_sure:
            self._events.stale.add(Kind.ROUTE)
        if is_changed or not is_sure:
            self.trigger()

    async def _read_named(self, which: Kind, keys: Set[Any]) -> Urgency:
        """Somebody, perhaps ourselves, wrote to these objects: only those that are not as known need a pass."""
        (kind,) = (one for one in self.kinds if one.kind is which)
        found = await kind.read_some(keys & self._actual.of(which).keys())
        known = self._actual.of(which)
        changed = {key: value for key, value in found.items() if key in known and known[key] != value}
        self._counters.note_drift(kind, changed, known, changed, self._log)
        self._actual.adopt_some(which, changed)
        return Urgency.NOW if changed else Urgency.NOTHING

    # -- writing --------------------------------------------------------------------------------------------------

    async def _carry_out(self) -> None:
        deltas: dict[Kind, Delta[Any, Any]] = {}
        moved: Mapping[RouteKey, Route] = {}
        for kind in self.kinds:
            self._actual.adopt_some(kind.kind, await kind.read_new(self._desired, self._actual))
            keys = self._to_compare.take() if kind.kind is Kind.ROUTE else None
            given = Comparison(self._desired, self._actual, self._links.links, keys)
            delta = self._inherited.spare(kind.kind, await kind.diff(given), given)
            deltas[kind.kind] = delta
            if isinstance(delta, RoutePlan):
                self._plan = delta
                moved = moved_pods(delta, self._actual.routes)
                self._cleanup.schedule(self._actual.take_departures(self._desired))
                await self._cleanup.before_use(key for key, _ in pods_among(delta.create))
            written = await self._applier.put(kind, delta)
            if written and kind.kind is Kind.TUNNEL:
                self._links.invalidate_all()
                await self._read_links()
        for kind in reversed(self.kinds):
            await self._applier.remove(kind, deltas[kind.kind])
            if kind.kind is Kind.ROUTE:
                await self._clean_connections(moved)
        unfinished = self._applier.unfinished[Kind.ROUTE]
        self._to_compare.unsettled = frozenset((*unfinished, *self._plan.conflicts, *self._plan.waiting))
        if self._applier.stale:
            self._events.stale |= self._applier.stale
            self._applier.stale.clear()
            self.trigger()

    async def _clean_connections(self, moved: Mapping[RouteKey, Route]) -> None:
        """Delete the connections of addresses whose route was removed, or leads to another interface since."""
        routes = self._actual.routes
        self._cleanup.schedule(key for key in moved if key not in routes)
        elsewhere = [key for key, was in moved.items() if routes.get(key, was) != was]
        if elsewhere:
            await self._cleanup.clean(elsewhere)
