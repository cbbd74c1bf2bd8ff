"""ADD, DEL and CHECK of one attachment, while nobody else works on it; of a pod, or of addresses alone (`tortie-ipam`).

Promises: ADD is all or nothing, and again gives the same. Addresses and the pair of devices are made side by side, for
neither needs the other. No route is programmed here: a fact is added, and the reconciler's work awaited.
DEL removes the device first, then addresses and endpoint, and always succeeds; what the datastore could not take is
written down and carried out later. A device or an endpoint that a later container of the same pod has is left alone.
CHECK changes nothing; every difference is named at once, and the host's routes have time to be repaired.
As the IPAM of another plugin (bridge, ptp, macvlan …) all three know addresses only: nothing is written but these and
their handle, whose words let GC find them.
Does not know: sockets, netlink, etcd, who the reconciler is, how a release is kept for later, what another plugin does
with addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from agent.clock import Clock
from agent.cni.attachment import Attachment, endpoint, host_interface, mac_of
from agent.cni.dependencies import Dependencies, translated_errors
from agent.cni.differences import differences, result_addresses
from agent.cni.endpoint_store import Assigning, EndpointStore
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.spec import Request
from agent.cni.release_journal import Release
from agent.cni.results import render, render_addresses
from agent.datastore.network_profiles import RFC_3339
from agent.datastore.resources.resource_types import WorkloadEndpoint, encode
from agent.netlink.kernel_errors import KernelError
from ipam.address_text import text_of
from ipam.allocation.transaction import Piggyback, PiggybackedWrites
from ipam.etcd.store import Delete, Put
from ipam.model import Assignment

ADD_ROUTE_SECONDS = 10.0
"""How long ADD waits for the host's routes."""
CHECK_ROUTE_SECONDS = 3.0
"""How long CHECK waits for the host's routes: the reconciler may be repairing them."""
PASSES_UNTIL_SENT = 4
"""Of the event loop, until the transaction's request has left for etcd.

Making the pair holds the loop for a millisecond, in which nothing is sent. So the task of the allocator, its worker and
gRPC go first; then etcd writes while the kernel makes the pair. Measured with etcd on the same machine: 4.8 ms for an
ADD with less than three passes, 4.0 ms with three or more. With too few an ADD is slower, never wrong.
"""

Endpoints = dict[tuple[Assignment, ...], WorkloadEndpoint]

log = structlog.get_logger()


class Verbs:
    """Makes, removes and verifies one interface of one container."""

    def __init__(self, dependencies: Dependencies, store: EndpointStore, clock: Clock) -> None:
        self._dependencies = dependencies
        self._pods = dependencies.pods
        self._store = store
        self._clock = clock

    # -- ADD ----------------------------------------------------------------------------------------------------------

    async def add(self, request: Request, release: Release) -> bytes:
        """The result of an ADD; `release` is what undoes it later, should the datastore go away. Raises CniError."""
        if request.addresses_only:
            return await self._add_addresses(request, release)
        return render(await self._add(request, release), request.version, request.previous)

    async def _add_addresses(self, request: Request, release: Release) -> bytes:
        """Assign addresses; the abbreviated result, which has no interfaces."""
        self._dependencies.require_ready()
        try:
            assigned = await self._store.assigned(self._store.begin_assignment(request))
        except asyncio.CancelledError:
            await self._store.release_or_record(request, release, lambda: None)
            raise
        self._store.remember(request, [item.address for item in assigned], None)
        return render_addresses([item.address for item in assigned], request.options, request.version)

    async def _add(self, request: Request, release: Release) -> Attachment:
        mtu = request.options.mtu or self._dependencies.mtu()
        cached = self._store.cached(request)
        if cached is not None and cached.spec.container_id != request.container_id:
            cached = None  # an older container's of the same pod
        if cached is not None:
            with translated_errors():
                owner = await self._pods.owner(cached.spec.interface_name)
            if owner in ("", request.container_id):
                return _made(request, mtu, cached)
        self._dependencies.require_ready()
        self._dependencies.require_not_dropped()
        if cached is not None:
            # Its device is gone: an ADD that died unfinished, or another boot. What was recorded then is not true now.
            self._dependencies.remove_endpoint(cached)
            with translated_errors():
                await self._store.release(request)
        await self._require_own_device(request)
        with (
            translated_errors(f"{request.interface} could not be attached: "),
            self._dependencies.ignore_watch(self._store.key(request)),
        ):
            made = await self._attach(request, mtu, release)
        log.info(
            "cni.added",
            pod=request.pod or request.container_id,
            address=made.spec.ip_networks[0],
            device=made.spec.interface_name,
        )
        return _made(request, mtu, made)

    async def _require_own_device(self, request: Request) -> None:
        """That no other container has the device of this name: ids of one beginning have one. Raises CniError."""
        device = host_interface(request)
        if request.kubernetes_pod is not None or not self._pods.exists(device):
            return  # a pod's older container is replaced
        with translated_errors():
            owner = await self._pods.owner(device)
        if owner and owner != request.container_id:
            raise CniError(
                Code.REFUSED, f"{device} is the device of container {owner}, whose id begins like this one's"
            )

    async def _attach(self, request: Request, mtu: int, release: Release) -> WorkloadEndpoint:
        """Addresses, endpoint, devices and the host's routes: all or nothing.

        The endpoint is made inside the transaction, once for each set of addresses that is tried. Raises CniError,
        KernelError, TimeoutError.
        """
        desired = _without_addresses(request, mtu)
        replaces = self._pods.exists(desired.host_interface)
        endpoints: Endpoints = {}
        assigning = self._store.begin_assignment(request, self._endpoint_writer(request, endpoints))
        try:
            await self._make_pair(desired, assigning, replaces=replaces)
            made = endpoints[await self._store.assigned(assigning)]
            await self._pods.configure_pod(replace(desired, addresses=made.addresses))
            self._dependencies.add_endpoint(made)
            self._store.remember(request, made.addresses, made)
            await self._store.ensure_profile(request)
            await self._dependencies.wait_for_routes(made.addresses, ADD_ROUTE_SECONDS)
            self._dependencies.require_not_dropped()
        except BaseException:
            assigning.cancel()
            await asyncio.wait({assigning})
            if not assigning.cancelled() and assigning.exception() is None:
                await self._undo(request, release, endpoints[assigning.result()])
            elif not replaces:
                await self._remove_device(desired.host_interface)
            raise
        return made

    def _endpoint_writer(self, request: Request, endpoints: Endpoints) -> Piggyback:
        """What writes the endpoint with its addresses; it is noted in `endpoints`."""
        key, mac = self._store.key(request), mac_of(request)
        created = self._clock.wall().strftime(RFC_3339)

        def writes(assignments: tuple[Assignment, ...]) -> PiggybackedWrites:
            addresses = [item.address for item in assignments]
            made = endpoint(request, self._dependencies.node, mac, addresses, created)
            endpoints[assignments] = made
            return PiggybackedWrites((), (Put(key, encode(made)),), (Delete(key),))

        return writes

    async def _make_pair(self, desired: Attachment, assigning: Assigning, *, replaces: bool) -> None:
        """The pair of devices, while the datastore assigns. Raises KernelError, CniError without addresses."""
        if replaces:
            # An older container of the same pod keeps its network until it is sure that this one gets an address.
            await self._store.assigned(assigning)
        else:
            for _ in range(PASSES_UNTIL_SENT):
                await asyncio.sleep(0)
        try:
            await self._pods.make_pair(desired)
        except KernelError:
            await self._store.assigned(assigning)  # if they were refused as well, that is what is answered
            raise

    async def _undo(self, request: Request, release: Release, made: WorkloadEndpoint) -> None:
        """Back to before: device, fact, addresses and endpoint, whatever of it there is."""
        await self._remove_device(made.spec.interface_name)
        self._store.forget(request)
        self._dependencies.remove_endpoint(made)
        try:
            await self._store.release_or_record(request, release, lambda: None)
        except CniError as error:
            # The runtime calls DEL after a failed ADD; until then the handle says whose the address is.
            log.warning("cni.undo_incomplete", container=request.container_id, why=error.message)

    async def _remove_device(self, device: str) -> None:
        with suppress(KernelError):
            await self._pods.detach(device)

    # -- DEL ----------------------------------------------------------------------------------------------------------

    async def delete(self, request: Request, release: Release, answer: Callable[[], None]) -> None:
        """Detach; `answer` is called as soon as the release is done or durable, which may be before the end.

        Raises CniError when the device stays, or the release can be neither done nor written down.
        """
        if request.addresses_only:
            self._store.forget(request)
            await self._store.release_or_record(request, release, answer)
            return
        reading = self._store.begin_reading(request)  # while the kernel removes the device
        try:
            with translated_errors(f"{host_interface(request)} could not be removed: "):
                await self._detach(request)
            await self._store.release_or_record(request, release, answer, reading)
        finally:
            if reading is not None:
                reading.cancel()
        log.info("cni.deleted", pod=request.pod or request.container_id)

    async def carry_out(self, release: Request) -> None:
        """A release that was written down, or that GC found. Raises CniError."""
        with translated_errors():
            if release.addresses_only:
                self._store.forget(release)
            else:
                await self._detach(release)
            await self._store.release(release)

    async def _detach(self, request: Request) -> None:
        """Remove the device unless a later container of the same pod has it, and the fact unless it is that one's."""
        cached = self._store.cached(request)
        ours = cached is not None and cached.spec.container_id == request.container_id
        device = cached.spec.interface_name if cached is not None and ours else host_interface(request)
        owner = await self._pods.owner(device)
        if owner == request.container_id or (owner == "" and (ours or cached is None)):
            await self._pods.detach(device)
        self._store.forget(request)
        if cached is not None and ours:
            self._dependencies.remove_endpoint(cached)

    # -- CHECK --------------------------------------------------------------------------------------------------------

    async def check(self, request: Request) -> None:
        """Compare with what ADD made. Raises CniError with every difference."""
        if request.addresses_only:
            await self._check_addresses(request)
            return
        with translated_errors():
            stored, held = await self._store.stored(request), await self._store.held(request)
            state = await self._pods.state(request.netns, request.interface, host_interface(request))
        if stored is not None and stored.spec.container_id != request.container_id:
            stored = None
        wrong = list(differences(request, stored, held, state))
        if stored is not None:
            try:
                await self._dependencies.wait_for_routes(stored.addresses, CHECK_ROUTE_SECONDS)
            except (KernelError, TimeoutError) as error:
                wrong.append(f"the host's route: {error}")
        if wrong:
            raise CniError(Code.DIFFERS, f"{request.interface} is not as it was made: {'; '.join(wrong)}")

    async def _check_addresses(self, request: Request) -> None:
        """Compare the addresses that the result names with those the handle holds."""
        with translated_errors():
            held = {text_of(address) for address in await self._store.held(request)}
        result = result_addresses(request.previous or {}, request.interface)
        if not held or not held.issuperset(result):
            raise CniError(
                Code.DIFFERS,
                f"prevResult has {', '.join(result) or 'no address'}, "
                f"the handle holds {', '.join(sorted(held)) or 'nothing'}",
            )


def _without_addresses(request: Request, mtu: int) -> Attachment:
    """All that is known of an attachment before it has addresses."""
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


def _made(request: Request, mtu: int, stored: WorkloadEndpoint) -> Attachment:
    """The attachment whose endpoint is stored."""
    return replace(
        _without_addresses(request, mtu),
        host_interface=stored.spec.interface_name,
        mac=stored.spec.mac or "",
        addresses=stored.addresses,
    )
