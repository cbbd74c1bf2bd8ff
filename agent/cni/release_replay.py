"""Carries out the releases that were written down: by this agent, by an earlier one, or by a shim that found none.

Promises: as soon as the datastore answers, oldest first; one that fails does not hold up the others, and one that can
never be carried out is set aside.
Does not know: what a release does, how it is written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.cni.attachment import host_interface
from agent.cni.dependencies import Dependencies
from agent.cni.plugin import spec
from agent.cni.plugin.options import CniError
from agent.cni.release_journal import ReleaseJournal
from agent.cni.verbs import Verbs

REPLAY_SECONDS = 2.0
"""How often the journal is looked at: a shim may have written while no agent was there."""

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
        """`locked` keeps the calls for one host interface from each other."""
        self._dependencies = dependencies
        self._journal = journal
        self._verbs = verbs
        self._clock = clock
        self._locked = locked

    async def run(self) -> None:
        """Replay until cancelled."""
        while True:
            try:
                self._journal.sweep(self._clock.wall().timestamp())
                await self.replay()
            except OSError as error:
                log.error("cni.journal_broken", why=str(error))
            await asyncio.sleep(REPLAY_SECONDS)

    async def replay(self) -> None:
        """One look at the journal; stops when the datastore goes away, passes over what fails for another reason."""
        for path, release in self._journal.pending(_unreadable):
            if self._dependencies.not_ready() is not None:
                return
            try:
                request = spec.parse(release.environment, release.config.encode())
            except CniError as error:
                log.error("cni.release_refused", file=str(path), why=error.message)
                self._journal.set_aside(path)
                continue
            async with self._locked(host_interface(request)):
                if not path.exists():
                    continue  # an ADD of the same container has carried it out first
                try:
                    await self._verbs.carry_out(request)
                except CniError as error:
                    log.warning("cni.replay_failed", file=path.name, why=error.message)
                    continue
                self._journal.done(path)
                log.info("cni.release_replayed", container=request.container_id)


def _unreadable(path: Path, why: str) -> None:
    log.error(
        "cni.release_unreadable", file=str(path), why=why, hint="see what it releases, then remove it by hand"
    )
