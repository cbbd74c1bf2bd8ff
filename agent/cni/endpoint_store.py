"""What the datastore holds of an attachment, in one transaction: addresses under its handle, and its endpoint.

Promises: a release that the datastore does not take soon is written down in the journal before it is answered for, in
the words of the ADD that made it; one that the datastore gets twice is done once. An ADD does not wait for a datastore
that does not even answer a small question, but does wait for one that is only slow.
Does not know: devices, namespaces, which verb asks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.cni.attachment import handle, namespace, retention, secondary_attributes, stored_name, workload
from agent.cni.dependencies import Dependencies, translated_errors
from agent.cni.gc import says_other_network
from agent.cni.living_pods import Record
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.spec import IPAM_TYPE, PLUGIN_TYPE, Request, Verb
from agent.cni.release_journal import JournalFull, Release, ReleaseJournal
from agent.datastore.network_profiles import NetworkProfiles
from agent.datastore.resources.resource_types import PLURALS, WorkloadEndpoint, with_revision
from agent.datastore.storage_layout import read_valid
from ipam.address_text import text_of
from ipam.allocation.transaction import NO_WRITES, Piggyback, PiggybackedWrites
from ipam.etcd.store import Delete, Unchanged
from ipam.failures import Conflict, IpamError, StoreUnavailable, Unreadable
from ipam.keys import IPAM_CONFIG, resource_key
from ipam.model import Address, AddressRequest, Assignment

RELEASE_ATTEMPTS = 3
"""Of a release whose endpoint changes meanwhile: each guards the revision that it has read."""
RELEASE_SECONDS = 3.0
"""How long the release is tried in all; afterwards it is the journal's."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the datastore is waited for, in seconds."""

    release: float = 0.03
    """By a DEL: then it writes the release down and answers."""
    assignment: float = 1.0
    """By an ADD: then the datastore is asked whether it is there; it may take as long again."""


USUAL_WAITS = Waits()

Assigning = asyncio.Task[tuple[Assignment, ...]]


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """What stands under an endpoint's key."""

    endpoint: WorkloadEndpoint | None
    """None: there is none, or it cannot be read."""
    revision: int | None
    """0: there is none; None: it cannot be read, and nothing is made of it."""


Reading = asyncio.Future[StoredEndpoint]

log = structlog.get_logger()


class EndpointStore:
    """Addresses and endpoints of this node's attachments."""

    def __init__(
        self,
        dependencies: Dependencies,
        journal: ReleaseJournal,
        profiles: NetworkProfiles,
        clock: Clock,
        waits: Waits = USUAL_WAITS,
    ) -> None:
        self._dependencies = dependencies
        self._profiles = profiles
        self._journal = journal
        self._clock = clock
        self._waits = waits
        self._unresponsive = False
        """Whether the last release was not answered in time: the next ones do not wait for it again."""

    # -- what is there ------------------------------------------------------------------------------------------------

    def key(self, request: Request) -> str:
        """The etcd key of the attachment's endpoint; one for all containers of a pod of Kubernetes."""
        name = stored_name(request, self._dependencies.node)
        return resource_key(PLURALS["WorkloadEndpoint"], name, namespace(request))

    def cached(self, request: Request) -> WorkloadEndpoint | None:
        """The endpoint as the watch has reported it; an older container of the same pod may have written it."""
        return self._dependencies.cached_endpoint(self.key(request))

    async def stored(self, request: Request) -> WorkloadEndpoint | None:
        """The endpoint as etcd has it, with its revision. Raises IpamError.

        One that cannot be read is as it was last readable, at the revision that it has now; None: it never was.
        """
        return (await self._read(request)).endpoint

    async def _read(self, request: Request) -> StoredEndpoint:
        value = await self._dependencies.store.get(self.key(request))
        if value is None:
            return StoredEndpoint(None, 0)
        try:
            return StoredEndpoint(read_valid(WorkloadEndpoint, value), value.revision)
        except Unreadable as error:
            log.error("cni.endpoint_unreadable", key=error.key, revision=error.revision, why=error.why)
            cached = self.cached(request)
            if cached is None:
                return StoredEndpoint(None, None)
            return StoredEndpoint(with_revision(cached, value.revision), value.revision)

    async def held(self, request: Request) -> frozenset[Address]:
        """The addresses that the attachment's handle holds. Raises IpamError."""
        assigned = await self._dependencies.allocator.assigned(handle(request))
        return frozenset(item.address for item in assigned)

    async def require_answer(self) -> None:
        """Ask the datastore for something small. Raises StoreUnavailable unless it answers soon, IpamError."""
        try:
            async with asyncio.timeout(self._waits.assignment):
                await self._dependencies.store.get(IPAM_CONFIG)
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._waits.assignment:g} s") from None

    # -- assignment ---------------------------------------------------------------------------------------------------

    def begin_assignment(self, request: Request, piggyback: Piggyback | None = None) -> Assigning:
        """Start the transaction that gives the attachment its addresses; `assigned` waits for it.

        `piggyback` makes the writes that belong to it; it is called once for each time that the transaction is tried.
        Cancelled, the task leaves nothing behind.
        """
        kept = retention(request)
        wanted = AddressRequest(
            handle=handle(request),
            node=self._dependencies.node,
            labels=self._dependencies.labels(),
            ipv4_pools=request.options.ipv4_pools,
            ipv6_pools=request.options.ipv6_pools,
            ipv4=int(request.options.ipv4),
            ipv6=int(request.options.ipv6),
            exact=request.options.exact,
            secondary=self._attributes(request),
            retained_for=kept.handle if kept is not None else None,
        )
        return asyncio.ensure_future(self._assign(request, wanted, piggyback))

    async def _assign(
        self, request: Request, wanted: AddressRequest, piggyback: Piggyback | None
    ) -> tuple[Assignment, ...]:
        pod = request.kubernetes_pod
        if pod is not None:  # another's labels are none, as in Calico
            wanted = replace(wanted, namespace=await self._dependencies.namespaces.of(pod[0]))
        return await self._dependencies.allocator.assign(wanted, piggyback)

    async def ensure_profile(self, request: Request) -> None:
        """Have the profile that the endpoint names be there. Known to be, it costs nothing; a failure is a trouble."""
        await self._profiles.ensure(request.network, workload(request)[0], self._waits.assignment)

    async def assigned(self, assigning: Assigning) -> tuple[Assignment, ...]:
        """The addresses; asked again, the same. No transaction is under way when it raises CniError."""
        try:
            with translated_errors():
                await asyncio.wait({assigning}, timeout=self._waits.assignment)
                if not assigning.done():
                    # A long queue is worth its wait, a datastore that is away is not.
                    await self.require_answer()
                return await assigning
        finally:
            if not assigning.done():
                assigning.cancel()
                await asyncio.wait({assigning})

    # -- release ------------------------------------------------------------------------------------------------------

    def begin_reading(self, request: Request) -> Reading | None:
        """The endpoint whose revision a release is to guard, read from now on unless the watch has reported it.

        None when the datastore would not answer.
        """
        if self._unresponsive or self._dependencies.not_ready() is not None:
            return None
        cached = self.cached(request)
        if cached is not None and cached.metadata.resource_version is not None:
            known: Reading = asyncio.get_running_loop().create_future()
            known.set_result(StoredEndpoint(cached, int(cached.metadata.resource_version)))
            return known  # should it have changed since, the release is refused, and reads for itself
        reading = asyncio.create_task(self._read(request))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return reading

    async def release(self, request: Request, reading: Reading | None = None) -> None:
        """Give addresses and endpoint back, in one transaction; `reading` is of `begin_reading`. Raises IpamError.

        An endpoint of another container stays. An earlier release of the same attachment may still be under way, its
        caller gone: then there is nothing left to do.
        """
        for attempt in range(1, RELEASE_ATTEMPTS + 1):
            if reading is not None:
                found = await reading
            elif request.addresses_only:
                found = StoredEndpoint(None, None)
            else:
                found = await self._read(request)
            writes = self._writes_of_release(request, found)
            try:
                await self._dependencies.allocator.release_handle(handle(request), writes)
            except Conflict:
                if attempt == RELEASE_ATTEMPTS:
                    raise
                reading = None
            else:
                return

    def _writes_of_release(self, request: Request, found: StoredEndpoint) -> PiggybackedWrites:
        """The endpoint goes with its addresses; one that is not there, or another's, must still be so.

        Else an ADD that was under way while the endpoint was read would lose its addresses and leave its endpoint.
        """
        if found.revision is None:
            return NO_WRITES
        key = self.key(request)
        guard = Unchanged(key, found.revision)
        ours = found.endpoint is not None and is_ours(found.endpoint, request)
        return PiggybackedWrites((guard,), (Delete(key),) if ours else ())

    # -- what this machine knows without the datastore ---------------------------------------------------------------

    def remember(self, request: Request, addresses: Iterable[Address], made: WorkloadEndpoint | None) -> None:
        """An attachment was made: from now on its pod lives, whatever the datastore says."""
        kept = retention(request)
        self._dependencies.living.add(
            Record(
                handle=handle(request),
                ips=tuple(map(text_of, addresses)),
                attributes=self._attributes(request),
                retained_for=kept.handle if kept is not None else None,
                endpoint=made,
            )
        )

    def forget(self, request: Request) -> None:
        """An attachment is gone."""
        living = self._dependencies.living
        living.remove(handle(request))
        for record in living.of_attachment(request.container_id, request.interface):
            if (
                record.endpoint is not None
                and not request.addresses_only
                and is_ours(record.endpoint, request)
            ):
                living.remove(record.handle)  # Calico's, whose network is not known by its profiles

    def _attributes(self, request: Request) -> tuple[tuple[str, str], ...]:
        stamp = self._clock.wall().strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
        return secondary_attributes(request, self._dependencies.node, stamp, self._dependencies.boot_id)

    async def release_or_record(
        self, request: Request, answer: Callable[[], None], reading: Reading | None = None
    ) -> None:
        """Release; when that takes longer than a runtime should wait, write it down first.

        `answer` is called as soon as it is done or durable. Raises CniError when it can be neither.
        """
        releasing = asyncio.create_task(self._try_release(request, reading))
        recorded: Path | None = None
        try:
            await asyncio.wait({releasing}, timeout=0 if self._unresponsive else self._waits.release)
            if not releasing.done():
                self._unresponsive = True
                with suppress(CniError):  # a full disk: then the answer waits for the datastore
                    recorded = self._record(request)
                    answer()
            why = await releasing
        except asyncio.CancelledError:
            releasing.cancel()
            if recorded is None:
                with suppress(CniError):
                    self._record(request)
            _log_recorded(request, "interrupted")
            raise
        if why is None:
            self._unresponsive = False
            if recorded is not None:
                self._take_off(recorded)
        else:
            if recorded is None:
                self._record(request)
            _log_recorded(request, why)  # not before: most that are late are done a moment later
        answer()

    def record(self, request: Request) -> None:
        """Write a release down that had no answer: whatever comes next for the attachment carries it out first."""
        try:
            self._record(request)
        except CniError as error:
            log.warning("cni.release_unrecorded", container=request.container_id, why=error.message)

    async def _try_release(self, request: Request, reading: Reading | None) -> str | None:
        """None when the datastore has taken the release, else why that is not known."""
        if (why := self._dependencies.not_ready()) is not None:
            return why
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self.release(request, reading)
        except (IpamError, TimeoutError) as error:
            return str(error) or f"no answer within {RELEASE_SECONDS:g} s"
        return None

    def _take_off(self, recorded: Path) -> None:
        try:
            self._journal.done(recorded)
        except OSError as error:  # carried out again it finds nothing to release
            log.warning("cni.release_stays", file=str(recorded), why=str(error))

    def _record(self, request: Request) -> Path:
        try:
            return self._journal.record(as_release(request), int(self._clock.wall().timestamp() * 1e9))
        except (JournalFull, OSError) as error:
            raise CniError(Code.TRY_AGAIN, f"the release cannot be written down: {error}") from error


def is_ours(endpoint: WorkloadEndpoint, request: Request) -> bool:
    """Whether an endpoint is of the request's container, and of no other network by its own word."""
    same = endpoint.spec.container_id == request.container_id
    return same and not says_other_network(endpoint, request.network)


def as_release(request: Request) -> Release:
    """A DEL as a runtime would send it: no more of the configuration than it takes, for that may hold secrets."""
    words = {"K8S_POD_NAMESPACE": request.namespace, "K8S_POD_NAME": request.pod}
    environment = {
        "CNI_COMMAND": Verb.DEL.value,
        "CNI_CONTAINERID": request.container_id,
        "CNI_IFNAME": request.interface,
        "CNI_NETNS": request.netns,
        "CNI_ARGS": ";".join(f"{name}={value}" for name, value in words.items() if value is not None),
    }
    kind = {"type": "", "ipam": {"type": IPAM_TYPE}} if request.addresses_only else {"type": PLUGIN_TYPE}
    return Release(environment, json.dumps({"cniVersion": request.version, "name": request.network, **kind}))


def _log_recorded(request: Request, why: str) -> None:
    log.warning("cni.release_recorded", container=request.container_id, why=why)
