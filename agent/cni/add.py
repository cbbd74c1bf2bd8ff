"""ADD and CHECK of one attachment, told from the outside that nobody else works on it.

Promises: ADD is all or nothing, and again gives the same. Addresses and the pair of devices are made side by side, for
neither needs the other. No route is programmed here: a fact is added, and the reconciler's work awaited.
Does not know: sockets, netlink, etcd, who the reconciler is, how a release is kept for later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

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
)
from agent.cni.check import differences
from agent.cni.delete import USUAL, DeleteVerb, Waits
from agent.cni.dependencies import Dependencies
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.spec import Request, Result
from agent.cni.release_journal import Release
from agent.datastore.resources.resource_types import WorkloadEndpoint, encode
from agent.netlink.kernel_errors import KernelError
from ipam.allocation.allocator import Companion
from ipam.etcd.store import Delete, Put
from ipam.failures import IpamError, Refused, StoreUnavailable
from ipam.keys import IPAM_CONFIG
from ipam.model import Address, AddressRequest, Assignment

SETTLE_SECONDS = 10.0
"""How long ADD waits for the host's route."""
CHECK_SECONDS = 3.0
"""How long CHECK waits for it: the reconciler may be repairing it."""
SENDING_TURNS = 4
"""Of the loop, in which the transaction gets on its way: the kernel then makes the pair while etcd writes."""

Companions = Callable[[tuple[Assignment, ...]], Companion]

log = structlog.get_logger()


class AddVerb:
    """The verbs on one interface of one container."""

    def __init__(
        self, dependencies: Dependencies, detaching: DeleteVerb, clock: Clock, waits: Waits = USUAL
    ) -> None:
        self._dependencies = dependencies
        self._detaching = detaching
        self._clock = clock
        self._waits = waits

    # -- ADD ----------------------------------------------------------------------------------------------------------

    async def add(self, request: Request, release: Release) -> Result:
        """Attach; `release` is what undoes it later, should the datastore go away. Raises CniError."""
        await self._detaching.settle_releases(request)
        mtu = request.options.mtu or self._dependencies.mtu()
        key = self._detaching.key(request)
        known = self._dependencies.cached_endpoint(key)
        again = known is not None and known.spec.container_id == request.container_id
        if known is not None and again and await self._lives(known):
            return self._result(request, known, mtu)
        self._detaching.must_be_ready()
        if again:
            # Its device is gone: an ADD that died half way, or another boot. What was recorded then is not true now.
            await self._detaching.carry_out(request)
        try:
            with self._dependencies.ignore_watch(key):
                made = await self._made(request, mtu, release)
        except (KernelError, TimeoutError) as error:
            code = Code.BAD_NAMESPACE if isinstance(error, NoNamespace) else Code.IO_FAILURE
            raise CniError(code, f"{request.interface} could not be attached: {error}") from error
        log.info(
            "cni.added",
            pod=request.pod or request.container_id,
            address=made.spec.ip_networks[0],
            device=made.spec.interface_name,
        )
        return self._result(request, made, mtu)

    async def _made(self, request: Request, mtu: int, release: Release) -> WorkloadEndpoint:
        """All of it or nothing. Raises CniError, KernelError, TimeoutError."""
        bare = self._bare(request, mtu)
        made = await self._begun(request, bare, release)
        try:
            await self._dependencies.pods.configure_pod(replace(bare, addresses=made.addresses))
            self._dependencies.add_endpoint(made)
            await self._dependencies.wait_for_routes(made.addresses, SETTLE_SECONDS)
        except BaseException:
            await self._undo(request, made, release)
            raise
        return made

    async def _begun(self, request: Request, bare: Attachment, release: Release) -> WorkloadEndpoint:
        """Addresses, endpoint and the pair of devices: all of them or nothing. Raises CniError, KernelError."""
        allocating = asyncio.create_task(self._allocate(request))
        making = asyncio.create_task(self._pair(bare, allocating))
        try:
            await asyncio.wait({allocating, making})
            made = allocating.result()
            making.result()
        except BaseException:
            for task in (allocating, making):
                task.cancel()
            await asyncio.wait({allocating, making})
            if not allocating.cancelled() and allocating.exception() is None:
                await self._undo(request, allocating.result(), release)
            elif not making.cancelled() and making.exception() is None:
                await self._remove(bare.host_interface)
            raise
        return made

    async def _pair(self, bare: Attachment, allocating: asyncio.Task[WorkloadEndpoint]) -> None:
        """The pair of devices, while the addresses are on their way. Raises KernelError."""
        if self._dependencies.pods.exists(bare.host_interface):
            # An older container of the same pod keeps its network until it is sure that this one gets an address.
            await asyncio.wait({allocating})
            if allocating.cancelled() or allocating.exception() is not None:
                raise KernelError(f"{bare.host_interface} is left as it is")
        else:
            for _ in range(SENDING_TURNS):
                await asyncio.sleep(0)
        await self._dependencies.pods.make_pair(bare)

    async def _lives(self, known: WorkloadEndpoint) -> bool:
        try:
            return await self._dependencies.pods.owner(known.spec.interface_name) in (
                "",
                known.spec.container_id,
            )
        except KernelError as error:
            raise CniError(Code.IO_FAILURE, str(error)) from error

    def _bare(self, request: Request, mtu: int) -> Attachment:
        """All that is known before there are addresses."""
        options = request.options
        return Attachment(
            host_interface(request),
            request.interface,
            request.netns,
            mac_of(request),
            mtu,
            (),
            request.container_id,
            options.forwarding,
            wants_ipv6=options.ipv6 or any(address.version == 6 for address in options.exact),
        )

    async def _allocate(self, request: Request) -> WorkloadEndpoint:
        """Addresses and endpoint, in one transaction."""
        created = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        key = self._detaching.key(request)

        def written(assignments: tuple[Assignment, ...]) -> WorkloadEndpoint:
            addresses = [item.address for item in assignments]
            return endpoint(request, self._dependencies.node, mac_of(request), addresses, created)

        def companion(assignments: tuple[Assignment, ...]) -> Companion:
            return Companion((), (Put(key, encode(written(assignments))),), (Delete(key),))

        return written(await self.assign(request, companion))

    async def assign(self, request: Request, companion: Companions | None = None) -> tuple[Assignment, ...]:
        """Addresses for a request. Raises CniError."""
        stamp = self._clock.wall().strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
        wanted = AddressRequest(
            handle=handle(request),
            node=self._dependencies.node,
            labels=self._dependencies.labels(),
            pools=request.options.pools,
            ipv4=int(request.options.ipv4),
            ipv6=int(request.options.ipv6),
            exact=request.options.exact,
            secondary=about(request, self._dependencies.node, stamp, self._dependencies.boot_id),
            kept_as=wish.handle if (wish := keep(request)) is not None else None,
        )
        assigning = asyncio.ensure_future(self._dependencies.allocator.assign(wanted, companion))
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
                await self._dependencies.store.get(IPAM_CONFIG)
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._waits.doubt:g} s") from None

    async def _undo(self, request: Request, made: WorkloadEndpoint, release: Release) -> None:
        """Back to before: device, fact, addresses and endpoint, whatever of it there is."""
        await self._remove(made.spec.interface_name)
        self._dependencies.remove_endpoint(made)
        try:
            await self._detaching.give_back(request, release, lambda: None)
        except CniError as error:
            # The runtime calls DEL after a failed ADD; until then the handle says whose the address is.
            log.warning("cni.undo_incomplete", container=request.container_id, why=error.message)

    async def _remove(self, device: str) -> None:
        with suppress(KernelError):
            await self._dependencies.pods.detach(device)

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

    # -- CHECK --------------------------------------------------------------------------------------------------------

    async def check(self, request: Request) -> None:
        """Compare with what ADD made, in the kernel and in the datastore. Raises CniError with every difference."""
        try:
            found = await self._detaching.stored(request)
            held = await self.held(request)
            stored = found[0] if found is not None else None
            if stored is not None and stored.spec.container_id != request.container_id:
                stored = None
            state = await self._dependencies.pods.state(
                request.netns, request.interface, host_interface(request)
            )
        except NoNamespace as error:
            raise CniError(Code.BAD_NAMESPACE, str(error)) from error
        except KernelError as error:
            raise CniError(Code.IO_FAILURE, str(error)) from error
        except IpamError as error:
            raise CniError(Code.TRY_AGAIN, str(error)) from error
        wrong = list(differences(request, stored, held, state))
        if stored is not None:
            try:
                await self._dependencies.wait_for_routes(stored.addresses, CHECK_SECONDS)
            except (KernelError, TimeoutError) as error:
                wrong.append(f"the host's route: {error}")
        if wrong:
            raise CniError(Code.DIFFERS, f"{request.interface} is not as it was made: {'; '.join(wrong)}")

    async def held(self, request: Request) -> frozenset[Address]:
        """The addresses that the attachment's handle holds. Raises IpamError."""
        assigned = await self._dependencies.allocator.assigned(handle(request))
        return frozenset(item.address for item in assigned)
