"""Answers the shims: one connection, one call. The shell around the verbs.

Promises: a call is bounded in size and time; calls for one interface of a container wait for each other, whatever else
they name, and so do those for one host interface; all others run side by side;
whatever goes wrong is answered in the specification's form, what nobody foresaw with code 999, and ends no other call.
Does not know: what a verb does, how a release that was written down is carried out.

A call: `NAME=value` of each variable, each ended by a zero, one more zero, then standard input to the end. The answer:
the plugin's exit status as one digit, then its standard output.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.cni.attachment import lock_name
from agent.cni.dependencies import Dependencies, translated_errors
from agent.cni.endpoint_store import USUAL_WAITS, EndpointStore, Waits
from agent.cni.gc import garbage
from agent.cni.plugin import spec
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.spec import MOST_STDIN_BYTES, Request, Verb
from agent.cni.release_journal import ReleaseJournal
from agent.cni.release_replay import ReleaseReplay
from agent.cni.results import render_error, render_versions
from agent.cni.verbs import Verbs
from agent.datastore.network_profiles import NetworkProfiles
from agent.unix_server import Bounds, UnixServer
from ipam.codec import decode_block
from ipam.failures import IpamError, Unreadable
from ipam.keys import block_prefix
from ipam.model import Block

MOST_ENVIRONMENT_BYTES = 64 << 10
MOST_CALL_BYTES = MOST_ENVIRONMENT_BYTES + MOST_STDIN_BYTES + 1
MOST_CALLS = 512
"""Calls under way at once; more are refused, to be tried again."""
BOUNDS = Bounds(question_bytes=MOST_CALL_BYTES, questions_bytes=64 << 20, connections=MOST_CALLS)
FREED_AT_ONCE = 16
"""Attachments that GC frees side by side."""
MOST_FAILURES_NAMED = 10
MOST_LOGGED = 1000
"""Keys of networks' configurations."""

log = structlog.get_logger()


class CniServer:
    """Answers the calls that come over the shims' unix socket."""

    def __init__(
        self,
        path: Path,
        dependencies: Dependencies,
        journal: ReleaseJournal,
        clock: Clock,
        waits: Waits = USUAL_WAITS,
    ) -> None:
        self._path = path
        self._dependencies = dependencies
        self._journal = journal
        self._clock = clock
        self.profiles = NetworkProfiles(dependencies.store, clock)
        self._store = EndpointStore(dependencies, journal, self.profiles, clock, waits)
        self._verbs = Verbs(dependencies, self._store, clock, self.locked)
        self.release_replay = ReleaseReplay(dependencies, journal, self._verbs, clock, self.locked)
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        """Host interface, or interface of a container -> its lock and how many hold or await it.

        Whoever takes both takes the container's first.
        """
        self._logged: set[tuple[str, str]] = set()
        """Network and key of its configuration that is not followed, once said."""
        self._calls = 0
        self._deleting: set[asyncio.Task[None]] = set()
        """DELs under way, which may have been answered already."""

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled."""
        server = UnixServer(self._path, BOUNDS, self._answer_octets, _refusal)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.release_replay.run())
            group.create_task(server.run(ready))

    # -- a call -------------------------------------------------------------------------------------------------------

    async def _answer_octets(self, call: bytes) -> bytes:
        head, end, stdin = call.partition(b"\0\0")
        if not end or len(head) > MOST_ENVIRONMENT_BYTES:
            return _refusal("the call was cut short, or has too large an environment", Code.BAD_ENVIRONMENT)
        pairs = (item.decode(errors="replace").partition("=") for item in head.split(b"\0"))
        environment = {name: value for name, equals, value in pairs if equals}
        status, output = await self.call(environment, stdin)
        return str(status).encode() + output

    async def call(self, environment: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        """One invocation of the plugin: exit status and standard output."""
        began, code = self._clock.now(), 0
        try:
            request = spec.parse(environment, stdin)
            self._log_ignored(request)
            if request.verb is Verb.VERSION:
                return 0, render_versions(request.version)
            if self._calls >= MOST_CALLS:
                raise CniError(Code.TRY_AGAIN, f"{MOST_CALLS} calls are under way already; try again")
            self._calls += 1
            try:
                return 0, await self._answer(await self._with_annotations(request, environment, stdin))
            finally:
                self._calls -= 1
        except CniError as error:
            code = error.code.value
            log.warning("cni.refused", verb=_verb_of(environment), code=code, why=error.message)
            return 1, render_error(error, spec.version_of(stdin))
        except Exception as error:
            code = Code.INTERNAL.value
            log.exception("cni.failed", verb=_verb_of(environment))
            return 1, render_error(_unforeseen(error), spec.version_of(stdin))
        finally:
            self._dependencies.count_call(_verb_of(environment), code, self._clock.now() - began)

    async def _with_annotations(
        self, request: Request, environment: Mapping[str, str], stdin: bytes
    ) -> Request:
        """An ADD for a pod of Kubernetes with what its annotations ask for, if Kubernetes is asked. Raises CniError."""
        source, pod = self._dependencies.annotations, request.kubernetes_pod
        if source is None or pod is None or request.verb is not Verb.ADD:
            return request
        annotations = await source.of(*pod, spec.pod_uid(environment))
        return spec.parse(environment, spec.with_annotations(stdin, annotations))

    def _log_ignored(self, request: Request) -> None:
        """Say of each key of a network's configuration that is not followed, once."""
        for ignored in request.ignored:
            if (known := (request.network, ignored.key)) not in self._logged and len(
                self._logged
            ) < MOST_LOGGED:
                self._logged.add(known)
                log.warning("cni.key_ignored", network=request.network, key=ignored.key, why=ignored.why)

    async def _answer(self, request: Request) -> bytes:
        """Carry a call out: what the plugin prints. Raises CniError."""
        if request.verb is Verb.STATUS:
            await self._status()
        elif request.verb is Verb.GC:
            await self._collect(request)
        elif request.verb is Verb.DEL:
            await self._begin_delete(request)
        else:
            async with self.locked(lock_name(request)):
                if request.verb is Verb.ADD:
                    return await self._answer_add(request)
                await self._verbs.check(request)
        return b""

    async def _answer_add(self, request: Request) -> bytes:
        """The result of an ADD, after the releases of the same attachment that were written down. Raises CniError."""
        try:
            for path in await self._journal.pending_of(request.container_id, request.interface):
                # Carried out later, it would hit what is now made.
                self._dependencies.require_ready()
                await self._verbs.carry_out(self.release_replay.recorded(path) or request)
                self._journal.done(path)
        except OSError as error:
            why = f"a release of this container may be written down, and the journal does not work: {error}"
            raise CniError(Code.TRY_AGAIN, why) from error
        return await self._verbs.add(request)

    async def _begin_delete(self, request: Request) -> None:
        """Returns when the runtime may be answered; the interface stays locked until the release has ended."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            if not answered.done():
                answered.set_result(None)

        async def work() -> None:
            async with self.locked(lock_name(request)):
                await self._verbs.delete(request, answer)

        def ended(task: asyncio.Task[None]) -> None:
            self._deleting.discard(task)
            # One that comes after the answer: the release is in the journal.
            if not task.cancelled() and (error := task.exception()) is not None and answered.done():
                log.warning("cni.delete_failed", container=request.container_id, why=str(error))

        task = asyncio.create_task(work())
        self._deleting.add(task)
        task.add_done_callback(ended)
        await asyncio.wait({task, answered}, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            task.result()

    @asynccontextmanager
    async def locked(self, interface: str) -> AsyncIterator[None]:
        """Calls for one interface wait for each other; a lock that nobody holds or awaits is dropped."""
        lock, users = self._locks.get(interface, (asyncio.Lock(), 0))
        self._locks[interface] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(interface)
            if users > 1:
                self._locks[interface] = (lock, users - 1)

    async def _status(self) -> None:
        """Raises CniError 51 when existing pods may be cut off too, 50 when only new ones must wait."""
        if (why := self._dependencies.limited()) is not None:
            raise CniError(Code.LIMITED, f"pods of this node may not reach others: {why}")
        why = self._dependencies.not_ready() or self._dependencies.dropped()
        if why is None:
            try:
                await self._store.require_answer()
            except IpamError as error:
                why = f"the datastore is away: {error}"
        if why is not None:
            raise CniError(Code.UNAVAILABLE, f"this node cannot attach pods now: {why}")

    # -- GC -----------------------------------------------------------------------------------------------------------

    async def _collect(self, request: Request) -> None:
        """Free what is not valid; goes on after a failure and names them at the end. Raises CniError."""
        self._dependencies.require_ready()
        failures: list[str] = []
        with translated_errors():
            listings = [await self._dependencies.store.list(block_prefix(version)) for version in (4, 6)]
        blocks: list[Block] = []
        for stored in (found for listing in listings for found in listing.values.values()):
            try:
                blocks.append(decode_block(stored))
            except Unreadable as error:  # `tortie ipam check` names it; it must not keep the others
                log.warning("cni.block_unreadable", why=str(error))
        free_slots = asyncio.Semaphore(FREED_AT_ONCE)

        async def free(release: Request) -> None:
            try:
                async with free_slots, self.locked(lock_name(release)):
                    await self._verbs.carry_out(release, alone=True)
            except CniError as error:
                failures.append(f"{release.container_id} {release.interface}: {error.message}")
            except Exception as error:
                log.exception("cni.collect_failed", container=release.container_id)
                failures.append(f"{release.container_id} {release.interface}: {_unforeseen(error).message}")

        found = garbage(request, self._dependencies.node, self._dependencies.cached_endpoints(), blocks)
        async with asyncio.TaskGroup() as group:
            for release in found:
                group.create_task(free(release))
        freed = len(found) - len(failures)
        log.info("cni.collected", network=request.network, freed=freed, failed=len(failures))
        if failures:
            named = "; ".join(failures[:MOST_FAILURES_NAMED])
            raise CniError(Code.IO_FAILURE, f"{len(failures)} could not be freed: {named}")


def _verb_of(environment: Mapping[str, str]) -> str:
    named = environment.get("CNI_COMMAND", "")
    return named if named in Verb.__members__ else "unknown"


def _unforeseen(error: Exception) -> CniError:
    return CniError(Code.INTERNAL, f"a fault of tortie's: {type(error).__name__}: {error}")


def _refusal(why: str, code: Code = Code.TRY_AGAIN) -> bytes:
    return b"1" + render_error(CniError(code, why), spec.DEFAULT_VERSION)
