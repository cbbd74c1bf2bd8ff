"""Carries out the releases that were written down: by this agent, by an earlier one, or by a shim that found none.

Promises: as soon as the datastore answers, oldest first; one that fails does not hold up the others, and one that can
never be carried out is set aside, whatever is in it. Nothing that lies in the journal ends `run`; what is wrong there
is a trouble for as long as it is.
Does not know: what a release does, how it is written down.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.cni.attachment import lock_name
from agent.cni.dependencies import Dependencies
from agent.cni.plugin import spec
from agent.cni.plugin.options import CniError
from agent.cni.plugin.spec import Request, Verb
from agent.cni.release_journal import (
    MOST_AT_ONCE,
    MOST_REFUSED_COUNTED,
    MOST_REFUSED_NAMED,
    Refused,
    ReleaseJournal,
    Unplayable,
)
from agent.cni.verbs import Verbs
from agent.trouble import Trouble, TroubleKind

REPLAY_SECONDS = 2.0
"""How often the journal is looked at: a shim may have written while no agent was there."""
LOOKS_AT_DIRECTORY = 5
"""Between two looks at the releases."""
ATTEMPTS = 3
"""Of a release that fails in a way that nobody foresaw, until it is set aside; and until any failure is a trouble."""
MOST_REMEMBERED = 1000
"""Releases whose failures are counted."""

log = structlog.get_logger()


class ReleaseReplay:
    """Looks at the journal again and again."""

    def __init__(
        self,
        dependencies: Dependencies,
        journal: ReleaseJournal,
        verbs: Verbs,
        clock: Clock,
        locked: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        """`locked` keeps the calls for one interface of a container from each other."""
        self._dependencies = dependencies
        self._journal = journal
        self._verbs = verbs
        self._clock = clock
        self._locked = locked
        self._playable: set[str] = set()
        """Names whose files were read and are releases; they need not be read again until the datastore answers."""
        self._failing: dict[str, tuple[int, str]] = {}
        """Name -> how often it failed, and why the last time."""
        self._broken: str | None = None
        """Why the journal could not be looked at the last time."""
        self._unwritable: str | None = None
        self._refused = Refused()

    async def run(self) -> None:
        """Replay until cancelled."""
        while True:
            await self.look()
            for _ in range(LOOKS_AT_DIRECTORY):
                await asyncio.sleep(REPLAY_SECONDS / LOOKS_AT_DIRECTORY)
                self._look_at_directory()

    async def look(self) -> None:
        """One look at everything that lies there; whatever is wrong is told, and nothing is raised."""
        broken = None
        try:
            await self.replay()
        except OSError as error:
            broken = str(error)
        except (
            Exception
        ) as error:  # a fault of ours is no reason to stop, and to stop again after the restart
            log.exception("cni.replay_broken")
            broken = f"{type(error).__name__}: {error}"
        self._broken = broken
        self._look_at_directory()

    def _look_at_directory(self) -> None:
        """Whether anything could be written there, and what is put aside in it."""
        self._unwritable = self._journal.unwritable()
        self._refused = self._journal.refused()

    async def replay(self) -> None:
        """One look at the journal; what fails is passed over. Raises OSError."""
        seen: set[str] = set()
        after = ""
        while names := await self._journal.names(after, self._clock.wall().timestamp()):
            waiting = set(self._playable) if self._dependencies.not_ready() is not None else set()
            for name in names:
                if name not in waiting:
                    await self._replay_one(name)
                    await asyncio.sleep(0)
            seen.update(names)
            after = names[-1]
            if len(names) < MOST_AT_ONCE:
                break
        self._playable &= seen
        self._failing = {name: failure for name, failure in self._failing.items() if name in seen}

    async def _replay_one(self, name: str) -> None:
        path = self._journal.path(name)
        request = self.recorded(path)
        if request is None:
            return
        if self._dependencies.not_ready() is not None:
            if len(self._playable) < MOST_AT_ONCE:
                self._playable.add(name)
            return
        async with self._locked(lock_name(request)):
            if not os.path.lexists(path):
                return  # an ADD of the same container has carried it out first
            try:
                await self._verbs.carry_out(request)
            except CniError as error:
                self._failed(path, error.message)
                log.warning("cni.replay_failed", file=name, why=error.message)
            except Exception as error:
                log.exception("cni.replay_failed", file=name)
                why = f"{type(error).__name__}: {error}"
                if self._failed(path, why) >= ATTEMPTS:
                    self._set_aside(path, f"carrying it out failed {ATTEMPTS} times: {why}")
            else:
                self._take_off(path, request)

    def _take_off(self, path: Path, request: Request) -> None:
        try:
            self._journal.done(path)
        except OSError as error:
            why = f"it is carried out again and again, for it cannot be taken off: {error.strerror}"
            self._failed(path, why)
        else:
            self._failing.pop(path.name, None)
            log.info("cni.release_replayed", container=request.container_id)

    def recorded(self, path: Path) -> Request | None:
        """What a file asks for; None when it is gone, unreadable now, or no DEL: then it is set aside."""
        try:
            release = self._journal.read(path)
            request = spec.parse(release.environment, release.config.encode(errors="replace"))
            if request.verb is not Verb.DEL:
                raise Unplayable(f"a {request.verb.value}, not a DEL")
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed(path, str(error))
            return None
        except CniError as error:
            self._set_aside(path, error.message)
            return None
        except Exception as error:
            why = str(error) if isinstance(error, Unplayable) else f"{type(error).__name__}: {error}"
            self._set_aside(path, why)
            return None
        return request

    def _failed(self, path: Path, why: str) -> int:
        """Count a failure; how many there were."""
        count = self._failing.get(path.name, (0, ""))[0] + 1
        if path.name in self._failing or len(self._failing) < MOST_REMEMBERED:
            self._failing[path.name] = (count, why)
        return count

    def _set_aside(self, path: Path, why: str) -> None:
        try:
            self._journal.set_aside(path, why)
        except OSError as error:
            self._failed(path, f"{why}; and it cannot be put aside: {error.strerror}")
        else:
            self._failing.pop(path.name, None)
            log.error("cni.release_refused", file=str(path), why=why)

    # -- troubles -----------------------------------------------------------------------------------------------------

    def troubles(self) -> Iterator[Trouble]:
        """What is wrong in the journal, by the last look."""
        directory = str(self._journal.directory)
        lost = "a DEL that the datastore does not take at once is refused"
        if self._broken is not None:
            yield Trouble(TroubleKind.JOURNAL, directory, self._broken, "no release in it is carried out")
        if self._journal.is_full:
            yield Trouble(TroubleKind.JOURNAL, directory, "full", lost, "is the datastore away for good?")
        elif self._unwritable is not None:
            yield Trouble(TroubleKind.JOURNAL, directory, self._unwritable, lost, "free some space in it")
        often = [(name, why) for name, (count, why) in self._failing.items() if count >= ATTEMPTS]
        for name, why in often[:MOST_REFUSED_NAMED]:
            file = str(self._journal.path(name))
            yield Trouble(TroubleKind.JOURNAL, file, why, "what it releases is kept; it is tried again")
        if len(often) > MOST_REFUSED_NAMED:
            evidence = f"{len(often) - MOST_REFUSED_NAMED} more releases fail"
            yield Trouble(TroubleKind.JOURNAL, directory, evidence)
        yield from _set_aside_troubles(directory, self._refused)


def _set_aside_troubles(directory: str, refused: Refused) -> Iterator[Trouble]:
    cure = "see whether its container is gone and what `tortie ipam check` finds, then remove the file"
    for file, reason in refused.named:
        yield Trouble(TroubleKind.JOURNAL, str(file), reason, "it was put aside and releases nothing", cure)
    if refused.count > len(refused.named):
        more = refused.count - len(refused.named)
        least = " at least" if refused.count >= MOST_REFUSED_COUNTED else ""
        evidence = f"{more} more files{least} were put aside"
        yield Trouble(TroubleKind.JOURNAL, directory, evidence, cure="look at them, then remove them")
