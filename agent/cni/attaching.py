"""ADD, DEL and CHECK of one attachment, told from the outside that nobody else works on it.

Promises: ADD is all or nothing, and again gives the same; DEL removes the device first and always succeeds: what the
datastore could not take is written down and carried out later, before any ADD of the same container. No route is
programmed here: a fact is added, and the reconciler's work awaited.
Does not know: sockets, netlink, etcd, who the reconciler is.
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
from agent.cni.attachment import (
    HOST_MAC,
    Attachment,
    NoNamespace,
    about,
    endpoint,
    handle,
    host_interface,
    keep,
    mac_of,
    namespace,
    stored_name,
)
from agent.cni.checking import differences
from agent.cni.journal import Journal, JournalFull, Release
from agent.cni.options import CniError, Code
from agent.cni.ports import ServerPorts
from agent.cni.spec import Request, Result
from agent.dataplane.kernel import KernelError
from agent.datastore.resources import PLURALS, WorkloadEndpoint, decode, encode
from ipam.allocator import Companion
from ipam.errors import Conflict, IpamError, Refused, StoreUnavailable
from ipam.keys import IPAM_CONFIG, resource_key
from ipam.model import Address, AddressRequest, Assignment
from ipam.store import Delete, Put, Unchanged

SETTLE_SECONDS = 10.0
"""How long ADD waits for the host's route."""
HEARING_TURNS = 3
"""Of the loop, in which the news of the new device is heard: one pass of the reconciler then does what two would."""
CHECK_SECONDS = 3.0
"""How long CHECK waits for it: the reconciler may be repairing it."""
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
Companions = Callable[[tuple[Assignment, ...]], Companion]

log = structlog.get_logger()


class Attaching:
    """The verbs on one interface of one container."""

    def __init__(self, ports: ServerPorts, journal: Journal, clock: Clock, waits: Waits = USUAL) -> None:
        self._ports = ports
        self._journal = journal
        self._clock = clock
        self._waits = waits
        self._silent = False
        """Whether the last release was not answered in time: the next ones do not wait for it again."""

    def _key(self, request: Request) -> str:
        name = stored_name(request, self._ports.node)
        return resource_key(PLURALS["WorkloadEndpoint"], name, namespace(request))

    # -- ADD ----------------------------------------------------------------------------------------------------------

    async def add(self, request: Request, release: Release) -> Result:
        """Attach; `release` is what undoes it later, should the datastore go away. Raises CniError."""
        await self.settle_releases(request)
        mtu = request.options.mtu or self._ports.mtu()
        known = self._ports.known(self._key(request))
        again = known is not None and known.spec.container_id == request.container_id
        if known is not None and again and await self._lives(known):
            return self._result(request, known, mtu)
        self.must_be_ready()
        if again:
            # Its device is gone: an ADD that died half way, or another boot. What was recorded then is not true now.
            await self.carry_out(request)
        made = await self._allocate(request)
        try:
            await self._ports.pods.attach(self._wish(request, made, mtu))
            for _ in range(HEARING_TURNS):
                await asyncio.sleep(0)
            self._ports.adopt(made)
            await self._ports.settled(made.addresses, SETTLE_SECONDS)
        except BaseException as error:
            await self._undo(request, made, release)
            if isinstance(error, KernelError | TimeoutError):
                code = Code.BAD_NAMESPACE if isinstance(error, NoNamespace) else Code.IO_FAILURE
                raise CniError(code, f"{request.interface} could not be attached: {error}") from error
            raise
        log.info(
            "cni.added",
            pod=request.pod or request.container_id,
            address=made.spec.ip_networks[0],
            device=made.spec.interface_name,
        )
        return self._result(request, made, mtu)

    def must_be_ready(self) -> None:
        """Raises CniError, try again later, unless pods can be attached now."""
        if (why := self._ports.not_ready()) is not None:
            raise CniError(Code.TRY_AGAIN, f"this node cannot attach pods yet: {why}")

    async def settle_releases(self, request: Request) -> None:
        """An earlier DEL of the same container that waits in the journal must not hit what is now made."""
        for path in self._journal.pending_of(request.container_id, request.interface):
            self.must_be_ready()
            await self.carry_out(request)
            self._journal.done(path)

    async def _lives(self, known: WorkloadEndpoint) -> bool:
        try:
            return await self._ports.pods.owner(known.spec.interface_name) in ("", known.spec.container_id)
        except KernelError as error:
            raise CniError(Code.IO_FAILURE, str(error)) from error

    def _wish(self, request: Request, made: WorkloadEndpoint, mtu: int) -> Attachment:
        return Attachment(
            made.spec.interface_name,
            request.interface,
            request.netns,
            made.spec.mac or mac_of(request),
            mtu,
            made.addresses,
            request.container_id,
            request.options.forwarding,
        )

    async def _allocate(self, request: Request) -> WorkloadEndpoint:
        """Addresses and endpoint, in one transaction."""
        created = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        key = self._key(request)

        def written(assignments: tuple[Assignment, ...]) -> WorkloadEndpoint:
            addresses = [item.address for item in assignments]
            return endpoint(request, self._ports.node, mac_of(request), addresses, created)

        def companion(assignments: tuple[Assignment, ...]) -> Companion:
            return Companion((), (Put(key, encode(written(assignments))),), (Delete(key),))

        return written(await self.assign(request, companion))

    async def assign(self, request: Request, companion: Companions | None = None) -> tuple[Assignment, ...]:
        """Addresses for a request. Raises CniError."""
        stamp = self._clock.wall().strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
        wanted = AddressRequest(
            handle=handle(request),
            node=self._ports.node,
            labels=self._ports.labels(),
            pools=request.options.pools,
            ipv4=int(request.options.ipv4),
            ipv6=int(request.options.ipv6),
            exact=request.options.exact,
            secondary=about(request, self._ports.node, stamp, self._ports.boot_id),
            kept_as=wish.handle if (wish := keep(request)) is not None else None,
        )
        assigning = asyncio.ensure_future(self._ports.allocator.assign(wanted, companion))
        try:
            await asyncio.wait({assigning}, timeout=self._waits.doubt)
            if not assigning.done():
                await self.must_answer()  # a long queue is worth its wait, a datastore that is away is not
            return await assigning
        except StoreUnavailable as error:
            raise CniError(Code.TRY_AGAIN, f"the datastore is away: {error}") from error
        except Refused as error:
            raise CniError(Code.REFUSED, str(error)) from error
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        finally:
            if not assigning.done():
                assigning.cancel()
                await asyncio.wait({assigning})

    async def must_answer(self) -> None:
        """Ask the datastore for something small. Raises StoreUnavailable unless it answers soon, IpamError."""
        try:
            async with asyncio.timeout(self._waits.doubt):
                await self._ports.store.get(IPAM_CONFIG)
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._waits.doubt:g} s") from None

    async def _undo(self, request: Request, made: WorkloadEndpoint, release: Release) -> None:
        """Back to before: device, fact, addresses and endpoint, whatever of it there is."""
        with suppress(KernelError):
            await self._ports.pods.detach(made.spec.interface_name)
        self._ports.forget(made)
        try:
            await self.give_back(request, release, lambda: None)
        except CniError as error:
            # The runtime calls DEL after a failed ADD; until then the handle says whose the address is.
            log.warning("cni.undo_incomplete", container=request.container_id, why=error.message)

    def _result(self, request: Request, made: WorkloadEndpoint, mtu: int) -> Result:
        return Result(
            host_interface=made.spec.interface_name,
            host_mac=HOST_MAC,
            interface=request.interface,
            mac=made.spec.mac or "",
            netns=request.netns,
            mtu=mtu,
            addresses=made.addresses,
        )

    # -- DEL ----------------------------------------------------------------------------------------------------------

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

    def _asked(self, request: Request) -> asyncio.Task[Stored] | None:
        """The endpoint is read while the kernel removes the device; not from a datastore that would not answer."""
        if request.addresses_only or self._silent or self._ports.not_ready() is not None:
            return None
        asked = asyncio.create_task(self._stored(request))
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asked

    async def give_back(
        self, request: Request, release: Release, answer: Answer, asked: asyncio.Task[Stored] | None = None
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
        known = self._ports.known(self._key(request))
        ours = known is not None and known.spec.container_id == request.container_id
        device = known.spec.interface_name if known is not None and ours else host_interface(request)
        owner = await self._ports.pods.owner(device)
        if owner == request.container_id or (owner == "" and (ours or known is None)):
            await self._ports.pods.detach(device)
        if known is not None and ours:
            self._ports.forget(known)

    async def _try_release(self, request: Request, asked: asyncio.Task[Stored] | None) -> str | None:
        """None, or why it is not known to be done."""
        if (why := self._ports.not_ready()) is not None:
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

    async def _release(self, request: Request, asked: asyncio.Task[Stored] | None = None) -> None:
        """Addresses and endpoint, in one transaction. Raises IpamError.

        An earlier release of the same may still be under way, its caller gone: then there is nothing left to do.
        """
        for _ in range(MOST_LOOKS - 1):
            with suppress(Conflict):
                await self._release_as_seen(request, asked)
                return
            asked = None
        await self._release_as_seen(request, asked)

    async def _release_as_seen(self, request: Request, asked: asyncio.Task[Stored] | None) -> None:
        if asked is not None:
            stored = await asked
        else:
            stored = None if request.addresses_only else await self._stored(request)
        companion = Companion()
        if stored is not None:
            endpoint, revision = stored
            if endpoint is not None and endpoint.spec.container_id == request.container_id:
                key = self._key(request)
                companion = Companion((Unchanged(key, revision),), (Delete(key),))
        await self._ports.allocator.release_handle(handle(request), companion)

    async def _stored(self, request: Request) -> Stored:
        """The stored endpoint, None in its place when it cannot be read, and its revision. Raises IpamError."""
        value = await self._ports.store.get(self._key(request))
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

    # -- CHECK --------------------------------------------------------------------------------------------------------

    async def check(self, request: Request) -> None:
        """Compare with what ADD made, in the kernel and in the datastore. Raises CniError with every difference."""
        try:
            found = await self._stored(request)
            held = await self.held(request)
            stored = found[0] if found is not None else None
            if stored is not None and stored.spec.container_id != request.container_id:
                stored = None
            state = await self._ports.pods.state(request.netns, request.interface, host_interface(request))
        except NoNamespace as error:
            raise CniError(Code.BAD_NAMESPACE, str(error)) from error
        except KernelError as error:
            raise CniError(Code.IO_FAILURE, str(error)) from error
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        wrong = list(differences(request, stored, held, state))
        if stored is not None:
            try:
                await self._ports.settled(stored.addresses, CHECK_SECONDS)
            except (KernelError, TimeoutError) as error:
                wrong.append(f"the host's route: {error}")
        if wrong:
            raise CniError(Code.DIFFERS, f"{request.interface} is not as it was made: {'; '.join(wrong)}")

    async def held(self, request: Request) -> frozenset[Address]:
        """The addresses that the attachment's handle holds. Raises IpamError."""
        assigned = await self._ports.allocator.assigned(handle(request))
        return frozenset(item.address for item in assigned)
