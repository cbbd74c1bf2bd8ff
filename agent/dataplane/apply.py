"""Carries the steps of every kind out, and has the actual state follow what was carried out.

Promises: one refusal stops no other object; a refused one waits longer each time; nothing unsupported is an error: the
feature is reported as not in force. Does not know: why a step is planned, what the objects are.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from agent.clock import Clock
from agent.dataplane.kernel.dataplane_objects import Kind
from agent.dataplane.kernel.protocol import Refusal
from agent.dataplane.kinds.object_kind import Batch, Delta, ObjectKind, SingleKind, Verb
from agent.dataplane.kinds.states import ActualState
from agent.dataplane.mass_delete_guard import MassDeleteGuard
from agent.dataplane.report import Counters
from agent.dataplane.retries import Retries
from agent.netlink.objects import Route

ObjectKey = tuple[Kind, Any]
Objects = Mapping[Any, Any]
Send = Callable[[Sequence[Any]], Awaitable[tuple[Refusal, ...]]]
Step = tuple[Verb, Any]
"""What is done, and with which value."""
TUNNEL_SECONDS, LACKING_SECONDS = 0.4, 10.0
"""The longest wait of a tunnel: nobody says when the program that has its port ends, and there are three of them. A
module that is loaded makes a link, and is noticed by that."""
OBJECTS_PER_PART = 2000
"""Some 20 ms of the loop."""


class Applier:
    """All writes of one reconciler."""

    def __init__(
        self, actual: ActualState, counters: Counters, guard: MassDeleteGuard, clock: Clock, log: Any
    ) -> None:
        self._actual = actual
        self._counters = counters
        self._guard = guard
        self._clock = clock
        self._log = log
        self.retries: Retries[ObjectKey] = Retries()
        self.stale: set[Kind] = set()
        """Kinds of which a refusal proved the actual state wrong: to be read again."""
        self._pending: set[ObjectKey] = set()
        """Of what was refused before or now: what this pass still needed."""
        self.unfinished: dict[Kind, set[Any]] = defaultdict(set)
        """What this pass should have put or removed and did not: refused, waiting or held."""

    def begin(self) -> None:
        """A pass begins."""
        self._pending.clear()
        self.unfinished.clear()

    def end(self) -> None:
        """A pass ends: what it did not need to do is no longer refused."""
        for key in self.retries.failures.keys() - self._pending:
            self.retries.succeeded(key)

    def link_changed(self, name: str) -> None:
        """What was refused on this link is worth a try, and what may have been in the way went with it."""
        for key, failure in self.retries.failures.items():
            verb, value = failure.step
            devices = value.target.devices() if isinstance(value, Route) else {getattr(value, "device", None)}
            if verb is Verb.ADD or key[0] is Kind.TUNNEL or name in devices:
                self.retries.retry_now(key)

    async def put(self, kind: ObjectKind[Any, Any], delta: Delta[Any, Any]) -> int:
        """Create and replace; how many objects were written."""
        written = 0
        for batch in kind.batches(delta, self._actual.of(kind.kind)) if delta else ():
            # What was refused waits, and would be moved with the others.
            if batch.at_once is not None and not self._refused(kind.kind) and await batch.at_once():
                self._note_put(kind, batch.objects.items())
                written += len(batch.objects)
            else:
                written += await self._put_batch(kind, batch)
        return written

    async def _put_batch(self, kind: ObjectKind[Any, Any], batch: Batch[Any, Any]) -> int:
        due = self._due(kind.kind, batch.verb, batch.objects)
        if not due:
            return 0
        refused = await self._send(kind, batch.verb, due, batch.send, lambda part: self._note_put(kind, part))
        if kind.is_bulk:
            self._log.info(f"{kind.name}.written", count=len(due) - refused, refused=refused)
        return len(due) - refused

    def _note_put(self, kind: ObjectKind[Any, Any], part: Collection[tuple[Any, Any]]) -> None:
        self._actual.wrote(kind.kind, part)
        self._counters.written[kind.kind] += len(part)
        if isinstance(kind, SingleKind):
            for _, value in part:
                self._counters.not_in_force.pop(kind.feature(value), None)

    async def remove(self, kind: ObjectKind[Any, Any], delta: Delta[Any, Any]) -> None:
        """Delete, unless it is so much that it has to be unwanted for a while; what is withdrawn never waits."""
        now = self._clock.now()
        unwanted = await kind.may_go(delta.delete, now)
        due = self._due(kind.kind, Verb.REMOVE, unwanted)
        is_known = kind.kind in self._guard.held
        count, readings = len(unwanted) - len(delta.withdrawn), self._counters.readings[kind.kind]
        if not self._guard.allows(kind.kind, count, len(self._actual.of(kind.kind)), readings, now):
            if not is_known:
                self._log.warning("removal.held", kind=kind.name, why=str(self._guard.held[kind.kind]))
            due = {key: value for key, value in due.items() if key in delta.withdrawn}
            self.unfinished[kind.kind].update(unwanted.keys() - due.keys())
        if not due:
            return

        def note(part: Collection[tuple[Any, Any]]) -> None:
            self._actual.removed(kind.kind, (key for key, _ in part))
            self._counters.removed[kind.kind] += len(part)

        refused = await self._send(kind, Verb.REMOVE, due, kind.remove, note)
        if kind.is_bulk:
            self._log.info(f"{kind.name}.removed", count=len(due) - refused, refused=refused)

    async def _send(
        self,
        kind: ObjectKind[Any, Any],
        verb: Verb,
        due: Objects,
        send: Send,
        note: Callable[[Collection[tuple[Any, Any]]], None],
    ) -> int:
        """Send in parts, others run in between; the actual state follows part by part. How many were refused."""
        count, rest = 0, iter(due.items())
        while part := tuple(islice(rest, OBJECTS_PER_PART)):
            refused = self._refusals(kind, verb, part, await send([value for _, value in part]))
            done = part if not refused else tuple(pair for pair in part if pair[0] not in refused)
            note(done)
            if refused_before := self._refused(kind.kind):
                for key in refused_before.intersection(key for key, _ in done):
                    self.retries.succeeded((kind.kind, key))
            count += len(refused)
            if len(part) == OBJECTS_PER_PART:
                await asyncio.sleep(0)
        return count

    def _due(self, kind: Kind, verb: Verb, objects: Objects) -> Objects:
        """Without those whose last refusal was of this very step, and not long enough ago."""
        waiting = set()
        now = self._clock.now()
        for key in self._refused(kind):
            if key in objects:
                self._pending.add((kind, key))
                if not self.retries.may_try((kind, key), now, (verb, objects[key])):
                    waiting.add(key)
        if not waiting:
            return objects
        self.unfinished[kind] |= waiting
        return {key: value for key, value in objects.items() if key not in waiting}

    def _refused(self, kind: Kind) -> set[Any]:
        """The objects of a kind that are refused at present."""
        return {key for refused_kind, key in self.retries.failures if refused_kind is kind}

    def _refusals(
        self,
        kind: ObjectKind[Any, Any],
        verb: Verb,
        part: Iterable[tuple[Any, Any]],
        refusals: tuple[Refusal, ...],
    ) -> set[Any]:
        if not refusals:
            return set()
        keys = {id(value): key for key, value in part}
        refused = set()
        for refusal in refusals:
            key = keys[id(refusal.what)]
            refused.add(key)
            self._note_refused((kind.kind, key), refusal, (verb, refusal.what))
            if refusal.exists:
                self.stale.add(kind.kind)
            if refusal.permanent and isinstance(kind, SingleKind):
                self._counters.not_in_force[kind.feature(refusal.what)] = refusal.why
        self.unfinished[kind.kind] |= refused
        return refused

    def _note_refused(self, key: ObjectKey, refusal: Refusal, step: Step) -> None:
        most = None
        if key[0] is Kind.TUNNEL:  # each try without the module has the kernel look for it: that is a process
            most = LACKING_SECONDS if refusal.permanent else TUNNEL_SECONDS
        self.retries.failed(key, refusal.why, self._clock.now(), step, most)
        self._pending.add(key)
