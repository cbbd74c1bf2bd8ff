"""Carries planned steps out, and keeps the picture of the kernel in step with what was carried out.

Promises: one refusal stops no other object; a refused one waits longer each time; nothing unsupported is an error: the
feature is reported as not in force. Does not know: why a step is planned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from enum import Enum, auto
from itertools import islice
from typing import Any, TypeVar

from agent.clock import Clock
from agent.dataplane.kernel.protocol import Kernel, Refusal
from agent.dataplane.kinds.delta import Delta
from agent.dataplane.kinds.diff import ActualState, RoutePlan
from agent.dataplane.kinds.nexthop_moves import NextHopMove
from agent.dataplane.kinds.retries import Retries
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.dataplane.report import Counters
from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.objects import (
    FdbEntry,
    ForwardChain,
    ForwardKey,
    Kind,
    Masquerade,
    Neighbour,
    Route,
    RouteKey,
    Sysctl,
    Tunnel,
)

K = TypeVar("K")
V = TypeVar("V", Route, Neighbour, FdbEntry, Sysctl)
ObjectKey = tuple[Kind, Any]
Step = tuple["Verb", Any]
"""What is done, and with which value."""
OBJECTS_PER_TURN = 2000
"""Some 20 ms of the loop."""
MASQUERADE_KEY: ObjectKey = (Kind.MASQUERADE, "natOutgoing")


class Verb(Enum):
    """What is done with an object; part of the step that a refusal holds back."""

    ADD = auto()
    PUT = auto()
    REMOVE = auto()


class Applier:
    """All writes of one reconciler."""

    def __init__(
        self,
        kernel: Kernel,
        picture: ActualState,
        tally: Counters,
        budget: MassDeleteGuard,
        clock: Clock,
        log: Any,
    ) -> None:
        self._budget = budget
        self._kernel = kernel
        self._picture = picture
        self._tally = tally
        self._clock = clock
        self._log = log
        self.retries: Retries[ObjectKey] = Retries()
        self.doubtful: set[Kind] = set()
        """Kinds whose picture a refusal proved wrong: to be read again."""
        self._pending: set[ObjectKey] = set()
        """Of what was refused before or now: what this pass still needed."""
        self.unfinished: set[RouteKey] = set()
        """Routes that this pass should have put or removed and did not: refused, waiting or held."""

    def begin(self) -> None:
        """A pass begins."""
        self._pending.clear()
        self.unfinished.clear()

    def end(self) -> None:
        """A pass ends: what it did not need to do is no longer refused."""
        for key in self.retries.failures().keys() - self._pending:
            self.retries.succeeded(key)

    def link_changed(self, name: str) -> None:
        """What was refused on this link is worth a try, and what may have stood in the way went with it."""
        for key, failure in self.retries.failures().items() if self.retries.any else ():
            verb, value = failure.step
            if verb is Verb.ADD or getattr(value, "device", None) == name:
                self.retries.forget_wait(key)

    async def put_tunnels(self, delta: Delta[str, Tunnel]) -> bool:
        """Make and adjust devices; whether any changed, so that links must be read again."""
        changed = False
        for tunnel in self._due(Kind.TUNNEL, Verb.PUT, delta.wanted).values():
            actual = self._picture.tunnels.get(tunnel.name)
            reasons = tunnel.immutable_differences(actual) if actual is not None else ()
            if reasons:
                self._log.warning("tunnel.recreated", device=tunnel.name, why="; ".join(reasons))
                self._picture.forget_devices({tunnel.name})
            elif actual is not None:
                self._log.info("tunnel.adjusted", device=tunnel.name, was=str(actual), now=str(tunnel))
            put = self._kernel.put_tunnel(tunnel)
            changed = (
                await self._one(Kind.TUNNEL, tunnel.name, tunnel.name, (Verb.PUT, tunnel), put) or changed
            )
            self._picture.tunnels[tunnel.name] = tunnel
        return changed

    async def remove_tunnels(self, names: Iterable[str]) -> None:
        """Delete devices that are no longer wished."""
        for name in self._due(Kind.TUNNEL, Verb.REMOVE, dict.fromkeys(names)):
            remove = self._kernel.remove_tunnel(name)
            if await self._one(Kind.TUNNEL, name, name, (Verb.REMOVE, None), remove):
                self._picture.tunnels.pop(name, None)
                self._picture.forget_devices({name})
                self._tally.removed[Kind.TUNNEL] += 1
                self._log.info("tunnel.removed", device=name)

    async def put_masquerade(self, wish: Masquerade | None) -> None:
        """Replace the nftables table."""
        kind, key = MASQUERADE_KEY
        if wish is None or not self._due(kind, Verb.PUT, {key: wish}):
            return
        if await self._one(kind, key, "masquerade", (Verb.PUT, wish), self._kernel.put_masquerade(wish)):
            self._picture.masquerade = wish if wish.sources else None

    async def put_forward_chains(self, chains: Mapping[ForwardKey, ForwardChain]) -> None:
        """Open or close others' forward chains to pods."""
        for key, chain in self._due(Kind.FORWARD, Verb.PUT, chains).items():
            feature = f"forwarding through {' '.join(key)}"
            put = self._kernel.put_forward_chain(chain)
            if await self._one(Kind.FORWARD, key, feature, (Verb.PUT, chain), put):
                self._picture.forward[key] = chain
                word = "forward.opened" if chain.opened else "forward.closed"
                self._log.info(word, chain=" ".join(key))

    async def _one(self, kind: Kind, key: Any, feature: str, step: Step, call: Awaitable[None]) -> bool:
        try:
            await call
        except KernelError as error:
            if isinstance(error, Unsupported):
                self._tally.not_in_force[feature] = str(error)
            self._refused(kind, key, str(error), step)
            return False
        self._tally.not_in_force.pop(feature, None)
        self._tally.written[kind] += 1
        self.retries.succeeded((kind, key))
        return True

    async def put(
        self,
        kind: Kind,
        wanted: Mapping[K, V],
        send: Callable[[Sequence[V]], Awaitable[tuple[Refusal, ...]]],
        standing: MutableMapping[K, V],
        verb: Verb = Verb.PUT,
    ) -> None:
        """Create or replace any number."""
        due = self._due(kind, verb, wanted)
        if not due:
            return
        refused = await self._in_turns(kind, verb, due, send, standing.update)
        self._tally.written[kind] += len(due) - refused
        self._log.info(f"{kind.name.lower()}.written", count=len(due) - refused, refused=refused)

    async def remove(
        self,
        kind: Kind,
        unwanted: Mapping[K, V],
        send: Callable[[Sequence[V]], Awaitable[tuple[Refusal, ...]]],
        standing: MutableMapping[K, V],
        asked_for: Collection[K] = (),
    ) -> None:
        """Delete a batch, unless it is so large that it has to be wished for a while.

        What is in `asked_for` never waits: somebody said that it should go.
        """
        due = self._due(kind, Verb.REMOVE, unwanted)
        known = kind in self._budget.held
        reading, count = self._tally.readings[kind], len(unwanted) - len(asked_for)
        if not self._budget.allows(kind, count, len(standing), reading, self._clock.now()):
            if not known:
                self._log.warning("removal.held", kind=kind.name.lower(), why=str(self._budget.held[kind]))
            due = {key: value for key, value in due.items() if key in asked_for}
            self._leave_open(kind, unwanted.keys() - due.keys())
        if not due:
            return

        def struck_off(part: Iterable[tuple[K, V]]) -> None:
            for key, _ in part:
                standing.pop(key, None)

        refused = await self._in_turns(kind, Verb.REMOVE, due, send, struck_off)
        self._tally.removed[kind] += len(due) - refused
        self._log.info(f"{kind.name.lower()}.removed", count=len(due) - refused, refused=refused)

    async def _in_turns(
        self,
        kind: Kind,
        verb: Verb,
        due: Mapping[K, V],
        send: Callable[[Sequence[V]], Awaitable[tuple[Refusal, ...]]],
        carried_out: Callable[[Iterable[tuple[K, V]]], object],
    ) -> int:
        """Send in parts, others run in between; the picture follows part by part. How many were refused."""
        count, rest = 0, iter(due.items())
        while part := tuple(islice(rest, OBJECTS_PER_TURN)):
            refused = self._refusals(kind, verb, part, await send([value for _, value in part]))
            done = part if not refused else [pair for pair in part if pair[0] not in refused]
            carried_out(done)
            if self.retries.any:
                for key, _ in done:
                    self.retries.succeeded((kind, key))
            count += len(refused)
            self._leave_open(kind, refused)
            if len(part) == OBJECTS_PER_TURN:
                await asyncio.sleep(0)
        return count

    async def put_routes(self, steps: RoutePlan) -> None:
        """Add routes where nothing stands (what stands there unseen stays), turn or replace ours."""

        async def add(routes: Sequence[Route]) -> tuple[Refusal, ...]:
            return await self._kernel.put_routes(routes, replace=False)

        await self.put(Kind.ROUTE, steps.delta.create, add, self._picture.routes, Verb.ADD)
        replaced = steps.delta.replace
        if not self.retries.any:  # what was refused waits, and would be turned with the others
            for turn in steps.moves:
                if await self._turned(turn):
                    replaced = {key: route for key, route in replaced.items() if key not in turn.routes}
        await self.put(Kind.ROUTE, replaced, self._kernel.put_routes, self._picture.routes)

    async def _turned(self, turn: NextHopMove) -> bool:
        if not await self._kernel.turn_routes(turn.was, turn.now, turn.routes.keys()):
            return False
        self._picture.routes.update(turn.routes)
        self._tally.written[Kind.ROUTE] += len(turn.routes)
        self._log.info(
            "route.turned", count=len(turn.routes), was=str(turn.was.gateway), now=str(turn.now.gateway)
        )
        return True

    def _due(self, kind: Kind, verb: Verb, objects: Mapping[K, Any]) -> Mapping[K, Any]:
        waiting = set()
        now = self._clock.now()
        for refused_kind, key in self.retries.failures() if self.retries.any else ():
            if refused_kind is kind and key in objects:
                self._pending.add((kind, key))
                if not self.retries.may_try((kind, key), now, (verb, objects[key])):
                    waiting.add(key)
        self._leave_open(kind, waiting)
        return {key: value for key, value in objects.items() if key not in waiting} if waiting else objects

    def _leave_open(self, kind: Kind, keys: Collection[Any]) -> None:
        if kind is Kind.ROUTE:
            self.unfinished.update(keys)

    def _refusals(
        self, kind: Kind, verb: Verb, due: Sequence[tuple[K, V]], refusals: tuple[Refusal, ...]
    ) -> set[K]:
        if not refusals:
            return set()
        keys = {id(value): key for key, value in due}
        refused: set[K] = set()
        for refusal in refusals:
            key = keys[id(refusal.what)]
            refused.add(key)
            self._refused(kind, key, refusal.why, (verb, refusal.what))
            if refusal.exists:
                self.doubtful.add(kind)
        return refused

    def _refused(self, kind: Kind, key: Any, why: str, step: Step) -> None:
        known = self.retries.failure((kind, key))
        if known is None or known.why != why:
            self._log.warning("kernel.refused", kind=kind.name.lower(), what=str(key), why=why)
        self.retries.failed((kind, key), why, self._clock.now(), step)
        self._pending.add((kind, key))
