"""The one list of troubles: all parts are asked again and again, and whoever shows troubles shows this list.

Strategy. What is true for a moment only is no trouble: one is listed once it has been there for HOLD_SECONDS, and is
over once it has been away as long, so that what comes and goes faster is one trouble, and not many. Everything is
compared when somebody reports a change, and every LOOK_SECONDS: within a second of its cause a trouble is listed,
within a second of its end it is not.
Promises: a trouble goes on, with its beginning, while its numbers change, and if it is about something by its name,
while its evidence does. The log has a line when one begins and one when it ends; of one that comes again and again
MOST_LINES in FLAP_SECONDS, and then how many were left out; its last line always says how things are. A source that
fails takes no other one's troubles away. Does not know: who has troubles, who shows them.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from agent.clock import Clock
from agent.dataplane.trigger import Trigger
from agent.trouble import Source, Trouble, TroubleKind

HOLD_SECONDS = 0.35
LOOK_SECONDS = 0.2
FEWEST_SECONDS = 0.05
"""Between two looks, however much changes."""
SHARE = 20
"""Looking takes a twentieth of the time at most, as long as there are two looks a second."""
MOST_TROUBLES = 2000
"""That are followed at once; the sources are bounded themselves, far below."""
MOST_LINES = 6
"""That the log has of one trouble in FLAP_SECONDS: three times come and gone."""
FLAP_SECONDS = 60.0
MOST_NAMED = 20
"""Troubles that begin or end in one look and are logged by name; the rest is counted."""

Identity = tuple[TroubleKind, str, str]


@dataclass(frozen=True, slots=True)
class ListedTrouble:
    """A trouble, and since when there is one."""

    trouble: Trouble
    since: datetime
    """Wall clock, UTC: when it was first seen."""


@dataclass(slots=True)
class _Entry:
    identity: Identity
    trouble: Trouble
    since: datetime
    began: float
    """Monotonic seconds, as the next."""
    seen: float
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A trouble that began or ended."""

    identity: Identity
    trouble: Trouble
    lasted: float | None = None
    """Seconds; None: it began."""


class TroubleList:
    """Which troubles there are and since when; a core with a memory."""

    def __init__(self, hold_seconds: float = HOLD_SECONDS) -> None:
        self._hold_seconds = hold_seconds
        self._entries: dict[tuple[TroubleKind, str], list[_Entry]] = {}
        """By kind and object; several of one object differ in their evidence."""
        self._looked = 0.0

    def compare(self, found: Iterable[Trouble], now: float, wall: datetime) -> list[Change]:
        """Take over what there is at `now` (monotonic seconds); what began and what ended by it."""
        seen: dict[tuple[TroubleKind, str], list[Trouble]] = defaultdict(list)
        for trouble in islice(dict.fromkeys(found), MOST_TROUBLES):
            seen[trouble.kind, trouble.about].append(trouble)
        changes: list[Change] = []
        after: dict[tuple[TroubleKind, str], list[_Entry]] = {}
        for about in dict.fromkeys((*seen, *self._entries)):
            known = self._entries.get(about, [])
            entries = [*_matched(seen.get(about, []), known, now, wall)]
            held = {id(one) for one in entries}
            for entry in known:
                if id(entry) not in held and now - entry.seen < self._hold_seconds:
                    entries.append(entry)
                elif id(entry) not in held and entry.is_listed:
                    changes.append(Change(entry.identity, entry.trouble, entry.seen - entry.began))
            for entry in entries:
                if not entry.is_listed and entry.seen == now and now - entry.began >= self._hold_seconds:
                    entry.is_listed = True
                    changes.append(Change(entry.identity, entry.trouble))
            if entries:
                after[about] = entries
        self._entries, self._looked = after, now
        return changes

    def listed(self) -> Iterator[ListedTrouble]:
        """Those that there are, in the order of their sources."""
        for entries in self._entries.values():
            for entry in entries:
                if entry.is_listed:
                    yield ListedTrouble(entry.trouble, entry.since)

    def due(self, now: float) -> float:
        """The seconds until the next one may be listed or be over, if nothing changes; infinity: none waits."""
        looked = self._looked
        waiting = (
            (entry.seen if entry.seen < looked else entry.began) + self._hold_seconds - now
            for entries in self._entries.values()
            for entry in entries
            if entry.seen < looked or not entry.is_listed
        )
        return max(0.0, min(waiting, default=float("inf")))


def _stem(evidence: str) -> str:
    """What stays of a text while its numbers change."""
    return re.sub(r"\d+", "#", evidence)


def _matched(
    found: Sequence[Trouble], known: Sequence[_Entry], now: float, wall: datetime
) -> Iterator[_Entry]:
    """An entry for each of the troubles of one kind about one object: the one that it had, or a new one."""
    free, used = list(known), {one.identity for one in known}
    chosen: list[_Entry | None] = []
    for trouble in found:
        stem = _stem(trouble.evidence)
        entry = next((one for one in free if _stem(one.trouble.evidence) == stem), None)
        if entry is not None:
            free.remove(entry)
        chosen.append(entry)
    for trouble, match in zip(found, chosen, strict=True):
        entry = match
        if entry is None and trouble.about and free:
            entry = free.pop(0)
        if entry is None:
            identity = (trouble.kind, trouble.about, _stem(trouble.evidence))
            if identity in used:
                identity = (trouble.kind, trouble.about, trouble.evidence)
            used.add(identity)
            entry = _Entry(identity, trouble, wall, now, now)
        entry.trouble, entry.seen = trouble, now
        yield entry


@dataclass(frozen=True, slots=True)
class _Logged:
    """What the log has of one trouble."""

    window: float
    """Monotonic seconds: when its present FLAP_SECONDS began."""
    lines: int
    missed: int
    is_there: bool
    """What its last line says."""
    last: Change


class TroubleLog:
    """Has the log follow the list, and no faster than it may."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._known: dict[Identity, _Logged] = {}
        """Of troubles that are there, or were within FLAP_SECONDS."""

    def follow(self, changes: Sequence[Change], now: float) -> None:
        """Log what began and ended, and what had to be left out before and may be said now."""
        lines: list[Change] = []
        for change in changes:
            before = self._known.get(change.identity)
            if before is None or now - before.window >= FLAP_SECONDS:
                missed = before.missed if before is not None else 0
                self._known[change.identity] = _Logged(now, 1, 0, change.lasted is None, change)
                lines.append(change)
                self._say_missed(change, missed)
            elif before.lines < MOST_LINES:
                self._known[change.identity] = replace(
                    before, lines=before.lines + 1, is_there=change.lasted is None, last=change
                )
                lines.append(change)
            else:
                self._known[change.identity] = replace(before, missed=before.missed + 1, last=change)
        lines += self._overdue(now)
        for change in lines[:MOST_NAMED]:
            self._say(change)
        if len(lines) > MOST_NAMED:
            self._log.warning("trouble.more", count=len(lines) - MOST_NAMED, see="tortie node status")

    def _overdue(self, now: float) -> Iterator[Change]:
        """Forget what is over; what the log's last line is wrong about."""
        for identity, known in tuple(self._known.items()):
            if now - known.window < FLAP_SECONDS:
                continue
            is_there = known.last.lasted is None
            if known.is_there != is_there:
                yield known.last
                self._say_missed(known.last, known.missed)
                self._known[identity] = _Logged(now, 1, 0, is_there, known.last)
            elif not is_there:
                del self._known[identity]

    def _say_missed(self, change: Change, missed: int) -> None:
        if missed:
            kind, about = change.trouble.kind.value, change.trouble.about
            self._log.warning("trouble.flaps", kind=kind, about=about, repeated=missed)

    def _say(self, change: Change) -> None:
        one = change.trouble
        if change.lasted is None:
            more = {name: text for name, text in (("loss", one.loss), ("cure", one.cure)) if text}
            self._log.warning(
                "trouble.began", kind=one.kind.value, about=one.about, evidence=one.evidence, **more
            )
        else:
            self._log.info(
                "trouble.ended",
                kind=one.kind.value,
                about=one.about,
                evidence=one.evidence,
                lasted_seconds=round(change.lasted, 1),
            )


class TroubleWatch:
    """Keeps the list; a shell."""

    def __init__(
        self,
        source: Source,
        clock: Clock,
        log: Any,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`source` answers the troubles of all parts; `changed` hears that the list is another one."""
        self._source = source
        self._clock = clock
        self._changed = changed
        self._list = TroubleList()
        self._log = TroubleLog(log)
        self._trigger = Trigger()
        self.listed: tuple[ListedTrouble, ...] = ()
        """What there is."""

    def trigger(self) -> None:
        """Something changed: one more look, soon."""
        self._trigger.fire()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began = self._clock.now()
            self.look()
            took = self._clock.now() - began
            rest = min(max(FEWEST_SECONDS, SHARE * took), LOOK_SECONDS)
            await asyncio.sleep(rest)
            pause = min(LOOK_SECONDS - rest, self._list.due(self._clock.now()))
            await self._trigger.wait(max(0.0, pause))

    def look(self) -> None:
        """Ask all parts once."""
        now = self._clock.now()
        changes = self._list.compare(self._source(), now, self._clock.wall())
        listed = tuple(self._list.listed())
        is_another = listed != self.listed
        self.listed = listed
        self._log.follow(changes, now)
        if is_another:
            self._changed()
