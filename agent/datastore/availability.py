"""Whether the datastore answers and takes writes: asked every second, and at once when there is doubt.

Promises: a refused connection and an alarm of etcd (NOSPACE) are known within a second, and so is their end; the log
says once when they come and once when they go. Nothing is written to find out.
Does not know: what is read and written, what follows for pods.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Protocol

import structlog

from agent.clock import Clock
from agent.trouble import Trouble, TroubleKind
from ipam.failures import StoreError

LOOK_SECONDS = 1.0
"""Between two questions; etcd answers one out of its memory, without its log or its disk."""
LOOK_AWAY_SECONDS = 0.25
"""The same while it is away."""
SOONEST_SECONDS = 0.05
"""Between two questions, whatever is doubted."""
ALARMS = {
    "NOSPACE": "etcd takes no writes: NOSPACE",
    "CORRUPT": "etcd takes no reads and no writes: CORRUPT",
}
"""What each alarm of etcd means."""
NO_PODS = "no pod can be attached, and releases (CNI DEL) are written down here until it takes them"
CURES = {
    "NOSPACE": "compact and defragment etcd or raise its --quota-backend-bytes, then: etcdctl alarm disarm",
    "CORRUPT": "see etcd's log; restore the member, then: etcdctl alarm disarm",
}

log = structlog.get_logger()


class Asked(Protocol):
    """The part of the datastore's connection that is asked."""

    @property
    def doubtful(self) -> asyncio.Event:
        """Set when something happened that makes a question worth while."""
        ...

    @property
    def unheard(self) -> Mapping[str, str]:
        """Prefix of a watch that has no stream now -> why."""
        ...

    async def health(self) -> tuple[str, ...]:
        """The alarms of the cluster. Raises StoreError when no member answers."""
        ...


AWAY, DEAF = "away", "deaf"
"""What else can be wrong, beside alarms by their names."""


class Availability:
    """Remembers the last answers; a shell."""

    def __init__(self, store: Asked, endpoints: tuple[str, ...], clock: Clock) -> None:
        self._store = store
        self._endpoints = ", ".join(endpoints)
        self._clock = clock
        self._wrong: Mapping[str, str] = {}
        """What is wrong now -> how it was said by the last look."""
        self._since: Mapping[str, datetime] = {}
        """What is wrong now -> since when."""
        self._unheard: Mapping[str, str] = {}
        """Of the last look."""

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            self._store.doubtful.clear()
            await self.look()
            await asyncio.sleep(SOONEST_SECONDS)
            seconds = LOOK_AWAY_SECONDS if self._wrong else LOOK_SECONDS * random.uniform(0.75, 1.0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._store.doubtful.wait(), seconds)

    async def look(self) -> None:
        """Ask once."""
        wrong: dict[str, str] = {}
        unheard = dict(self._store.unheard)
        try:
            wrong |= {
                alarm: ALARMS.get(alarm, f"etcd's alarm {alarm} is on")
                for alarm in await self._store.health()
            }
        except StoreError as error:
            wrong[AWAY] = str(error)
        # A watch that is being made again is no news; one that two looks found without a stream is.
        if AWAY not in wrong and (deaf := unheard.keys() & self._unheard.keys()):
            prefix = min(deaf)
            wrong[DEAF] = f"nothing is heard of changes below {prefix}: {unheard[prefix]}"
        self._unheard = unheard
        self._note(wrong)

    def _note(self, wrong: Mapping[str, str]) -> None:
        """Log what came and what went."""
        now, before = self._clock.wall(), self._since
        self._wrong = wrong
        self._since = {kind: before.get(kind, now) for kind in wrong}
        for kind in wrong.keys() - before.keys():
            log.warning(f"datastore.{_event(kind)}", why=wrong[kind], etcd=self._endpoints)
        for kind in before.keys() - wrong.keys():
            seconds = round((now - before[kind]).total_seconds(), 1)
            log.info(f"datastore.{_event(kind)}_over", after_seconds=seconds, etcd=self._endpoints)

    def _said(self, kind: str) -> str:
        return f"{self._wrong[kind]} since {self._since[kind]:%Y-%m-%d %H:%M:%S} UTC"

    @property
    def away(self) -> str | None:
        """Why no member answers, and since when; None: one does."""
        return self._said(AWAY) if AWAY in self._wrong else None

    @property
    def no_writes(self) -> str | None:
        """Why a datastore that answers takes no writes; None: it takes them, or it is away."""
        alarms = [self._said(kind) for kind in sorted(self._wrong) if kind not in (AWAY, DEAF)]
        return "; ".join(alarms) or None

    def troubles(self) -> Iterator[Trouble]:
        """What the datastore does not do now."""
        about = f"etcd {self._endpoints}"
        for kind in sorted(self._wrong):
            match kind:
                case "away":
                    loss, cure = (
                        f"routes stay as they are, {NO_PODS}",
                        "start it, or see why it cannot be reached",
                    )
                case "deaf":
                    loss, cure = "what is known of it may be old", "see etcd's log"
                case _:
                    loss, cure = f"reads go on; {NO_PODS}", CURES.get(kind, "see etcd's log")
            yield Trouble(TroubleKind.DATASTORE, about, self._said(kind), loss, cure)


def _event(kind: str) -> str:
    return {"NOSPACE": "no_space", "CORRUPT": "corrupt"}.get(kind, kind if kind in (AWAY, DEAF) else "alarm")
