"""DEL of one attachment, and every other release: device first, then addresses and endpoint.

Promises: DEL removes the device first and always succeeds: what the datastore could not take is written down and
carried out later, before any ADD of the same container. A release that the datastore heard of twice is done once.
Does not know: sockets, netlink, etcd, how an attachment is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from agent.clock import Clock
from agent.cni.attachment import handle, host_interface, namespace, stored_name
from agent.cni.dependencies import Dependencies
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.spec import Request
from agent.cni.release_journal import JournalFull, Release, ReleaseJournal
from agent.datastore.resources.resource_types import PLURALS, WorkloadEndpoint, decode
from agent.netlink.kernel_errors import KernelError
from ipam.allocation.allocator import Companion
from ipam.etcd.store import Delete, Unchanged
from ipam.failures import Conflict, IpamError
from ipam.keys import resource_key

MOST_LOOKS = 3
"""At an endpoint that changes while it is released."""
RELEASE_SECONDS = 3.0
"""How long the release is tried in all; afterwards it is the journal's."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the datastore is waited for, in seconds."""

    patience: float = 0.03
    """A DEL's: then it writes the release down and answers."""
    doubt: float = 1.0
    """An ADD's: then the datastore is asked whether it is there; it may take as long again."""


USUAL = Waits()

Answer = Callable[[], None]
Stored = tuple[WorkloadEndpoint | None, int] | None

log = structlog.get_logger()


class DeleteVerb:
    """Undoes what ADD made of one interface of one container."""

    def __init__(
        self, dependencies: Dependencies, journal: ReleaseJournal, clock: Clock, waits: Waits = USUAL
    ) -> None:
        self._dependencies = dependencies
        self._journal = journal
        self._clock = clock
        self._waits = waits
        self._silent = False
        """Whether the last release was not answered in time: the next ones do not wait for it again."""

    def key(self, request: Request) -> str:
        """The etcd key of its endpoint."""
        name = stored_name(request, self._dependencies.node)
        return resource_key(PLURALS["WorkloadEndpoint"], name, namespace(request))

    def must_be_ready(self) -> None:
        """Raises CniError, try again later, unless pods can be attached now."""
        if (why := self._dependencies.not_ready()) is not None:
            raise CniError(Code.TRY_AGAIN, f"this node cannot attach pods yet: {why}")

    async def settle_releases(self, request: Request) -> None:
        """An earlier DEL of the same container that waits in the journal must not hit what is now made."""
        for path in self._journal.pending_of(request.container_id, request.interface):
            self.must_be_ready()
            await self.carry_out(request)
            self._journal.done(path)

    async def delete(self, request: Request, release: Release, answer: Answer) -> None:
        """Detach; `answer` is called as soon as the release is done or durable, which may be before the end.

        Raises CniError when the device stays, or the release can be neither done nor written down.
        """
        asked = self._asked(request)
        try:
            await self._detach(request)
            await self.give_back(request, release, answer, asked)
        except KernelError as error:
            raise CniError(
                Code.IO_FAILURE, f"{host_interface(request)} could not be removed: {error}"
            ) from error
        finally:
            if asked is not None:
                asked.cancel()
        log.info("cni.deleted", pod=request.pod or request.container_id)

    def _asked(self, request: Request) -> asyncio.Future[Stored] | None:
        """The endpoint as stored: as the watch told of it, else it is read while the kernel removes the device.

        A datastore that would not answer is not asked.
        """
        if request.addresses_only or self._silent or self._dependencies.not_ready() is not None:
            return None
        known = self._dependencies.cached_endpoint(self.key(request))
        if known is not None and known.metadata.resource_version is not None:
            told: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
            told.set_result((known, int(known.metadata.resource_version)))
            return told  # should it have changed since, the release is refused, and looks for itself
        asked = asyncio.create_task(self.stored(request))
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asked

    async def give_back(
        self, request: Request, release: Release, answer: Answer, asked: asyncio.Future[Stored] | None = None
    ) -> None:
        """Release; when that takes longer than a runtime should wait, write it down first. Raises CniError.

        `asked` reads the endpoint already.
        """
        releasing = asyncio.create_task(self._try_release(request, asked))
        recorded: Path | None = None
        try:
            await asyncio.wait({releasing}, timeout=0 if self._silent else self._waits.patience)
            if not releasing.done():
                self._silent = True
                recorded = self._record(release, "the datastore has not answered yet")
                answer()
            why = await releasing
        except asyncio.CancelledError:
            releasing.cancel()
            if recorded is None:
                self._record(release, "interrupted")
            raise
        if why is not None and recorded is None:
            self._record(release, why)
        if why is None:
            self._silent = False
            if recorded is not None:
                self._journal.done(recorded)
        answer()

    async def _detach(self, request: Request) -> None:
        """The device, unless a later container of the same pod has it; and the fact, unless it is that one's."""
        known = self._dependencies.cached_endpoint(self.key(request))
        ours = known is not None and known.spec.container_id == request.container_id
        device = known.spec.interface_name if known is not None and ours else host_interface(request)
        owner = await self._dependencies.pods.owner(device)
        if owner == request.container_id or (owner == "" and (ours or known is None)):
            await self._dependencies.pods.detach(device)
        if known is not None and ours:
            self._dependencies.remove_endpoint(known)

    async def _try_release(self, request: Request, asked: asyncio.Future[Stored] | None) -> str | None:
        """None, or why it is not known to be done."""
        if (why := self._dependencies.not_ready()) is not None:
            return why
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._release(request, asked)
        except (IpamError, TimeoutError) as error:
            return str(error) or f"no answer within {RELEASE_SECONDS:g} s"
        return None

    def _record(self, release: Release, why: str) -> Path:
        try:
            path = self._journal.record(release, int(self._clock.wall().timestamp() * 1e9))
        except (JournalFull, OSError) as error:
            raise CniError(Code.TRY_AGAIN, f"the release cannot be written down: {error}") from error
        log.warning("cni.release_recorded", container=release.environment["CNI_CONTAINERID"], why=why)
        return path

    async def _release(self, request: Request, asked: asyncio.Future[Stored] | None = None) -> None:
        """Addresses and endpoint, in one transaction. Raises IpamError.

        An earlier release of the same may still be under way, its caller gone: then there is nothing left to do.
        """
        for _ in range(MOST_LOOKS - 1):
            with suppress(Conflict):
                await self._release_as_seen(request, asked)
                return
            asked = None
        await self._release_as_seen(request, asked)

    async def _release_as_seen(self, request: Request, asked: asyncio.Future[Stored] | None) -> None:
        if asked is not None:
            stored = await asked
        else:
            stored = None if request.addresses_only else await self.stored(request)
        companion = Companion()
        if stored is not None:
            endpoint, revision = stored
            if endpoint is not None and endpoint.spec.container_id == request.container_id:
                key = self.key(request)
                companion = Companion((Unchanged(key, revision),), (Delete(key),))
        await self._dependencies.allocator.release_handle(handle(request), companion)

    async def stored(self, request: Request) -> Stored:
        """The stored endpoint, None in its place when it cannot be read, and its revision. Raises IpamError."""
        value = await self._dependencies.store.get(self.key(request))
        if value is None:
            return None
        try:
            found = decode(WorkloadEndpoint, value.value, value.revision)
        except msgspec.MsgspecError as error:
            log.error("cni.endpoint_unreadable", key=value.key, why=str(error))
            return None, value.revision
        return (found if isinstance(found, WorkloadEndpoint) else None), value.revision

    async def carry_out(self, request: Request) -> None:
        """A release that was written down, or that GC found. Raises CniError."""
        try:
            if not request.addresses_only:
                await self._detach(request)
            await self._release(request)
        except KernelError as error:
            raise CniError(Code.IO_FAILURE, str(error)) from error
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
