"""ADD, DEL and CHECK of one attachment, while nobody else works on it; of a pod, or of addresses alone (`tortie-ipam`).

An attachment is one interface of one container. What it has is found by that alone, in what was left on it (the host
end's alias, our records, endpoints): a runtime may name another pod, network or namespace than it did before.
Promises: ADD is all or nothing, and again gives the same, or moves the attachment to where it is asked for now; another
container's living device is never taken. Addresses and the pair of devices are made side by side, for neither needs the
other. No route is programmed here: a fact is added, and the reconciler's work awaited.
DEL removes the device first, then addresses and endpoint, and always succeeds; what the datastore could not take is
written down and carried out later. A device or an endpoint that a later container of the same pod has is left alone.
CHECK changes nothing; every difference is named at once, and the host's routes have time to be repaired.
As the IPAM of another plugin (bridge, ptp, macvlan …) all three know addresses only: nothing is written but these and
their handle, whose words let GC find them. Where two networks have one name, neither takes the other's addresses.
Does not know: sockets, netlink, etcd, who the reconciler is, how a release is kept for later, what another plugin does
with addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from agent.clock import Clock
from agent.cni.attachment import Attachment, endpoint, handle, host_interface, mac_of
from agent.cni.dependencies import Dependencies, translated_errors
from agent.cni.differences import differences, out_of_place, result_addresses
from agent.cni.endpoint_store import Assigning, EndpointStore, is_ours
from agent.cni.gc import Attachments, addresses_left_by, left_by
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.spec import Request
from agent.cni.results import render, render_addresses
from agent.datastore.network_profiles import RFC_3339
from agent.datastore.resources.resource_types import WorkloadEndpoint, encode
from agent.datastore.storage_layout import key_of
from agent.netlink.kernel_errors import KernelError
from ipam.address_text import text_of
from ipam.allocation.transaction import Piggyback, PiggybackedWrites
from ipam.etcd.store import Delete, Put
from ipam.model import Assignment

ADD_ROUTE_SECONDS = 10.0
"""How long ADD waits for the host's routes."""
CHECK_ROUTE_SECONDS = 3.0
"""How long CHECK waits for the host's routes: the reconciler may be repairing them."""
MOST_STAYING = 1000
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

    def __init__(
        self,
        dependencies: Dependencies,
        store: EndpointStore,
        clock: Clock,
        locked: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        """`locked` keeps the calls for one host interface from each other; callers hold that of the attachment."""
        self._dependencies = dependencies
        self._pods = dependencies.pods
        self._living = dependencies.living
        self._store = store
        self._clock = clock
        self._locked = locked
        self._attachments = Attachments()
        self._staying: set[tuple[str, str]] = set()
        """(container id, interface) whose device the kernel did not let go when an ADD failed."""

    # -- what there is ------------------------------------------------------------------------------------------------

    def _left(self, request: Request) -> tuple[Request, ...]:
        """What the request's interface has here, each as a DEL in the words of the ADD that made it."""
        records = self._living.of_attachment(request.container_id, request.interface)
        if request.addresses_only:
            return addresses_left_by(
                request, ((one.handle, one.words) for one in records if one.endpoint is None)
            )
        recorded = [one.endpoint for one in records if one.endpoint is not None]
        known = self._attachments.of(request, self._dependencies.cached_endpoints())
        return left_by(request, (*recorded, *known))

    def _with_left(self, request: Request) -> tuple[Request, ...]:
        """That and what the request itself names: a handle may hold what nobody else knows of."""
        left = self._left(request)
        return left if handle(request) in map(handle, left) else (*left, request)

    def _is_of_other_kind(self, request: Request) -> bool:
        """Whether the handle's addresses live on an interface of the other kind: another plugin's, or ours."""
        record = self._living.of_handle(handle(request))
        return record is not None and (record.endpoint is None) != request.addresses_only

    def _holder(self, device: str) -> WorkloadEndpoint | None:
        """The endpoint that has a device, as far as is known."""
        record = self._living.of_device(device)
        if record is not None:
            return record.endpoint
        known = self._dependencies.cached_endpoints()
        return next((one for one in known if one.spec.interface_name == device), None)

    # -- ADD ----------------------------------------------------------------------------------------------------------

    async def add(self, request: Request) -> bytes:
        """The result of an ADD. Raises CniError."""
        if self._is_of_other_kind(request):
            raise CniError(
                Code.REFUSED,
                f"{request.interface} of container {request.container_id} has its addresses in network "
                f"{request.network} already, by another configuration of that name; give one of them another name",
            )
        if request.addresses_only:
            return await self._add_addresses(request)
        return render(await self._add(request), request.version, request.previous)

    async def _add_addresses(self, request: Request) -> bytes:
        """Assign addresses; the abbreviated result, which has no interfaces."""
        self._dependencies.require_ready()
        try:
            assigned = await self._store.assigned(self._store.begin_assignment(request))
        except asyncio.CancelledError:
            if handle(request) not in self._living:
                await self._store.release_or_record(request, lambda: None)
            raise
        self._store.remember(request, [item.address for item in assigned], None)
        return render_addresses([item.address for item in assigned], request.options, request.version)

    async def _add(self, request: Request) -> Attachment:
        mtu = request.options.mtu or self._dependencies.mtu()
        stored = self._store.cached(request)
        if stored is not None and is_ours(stored, request) and await self._is_in_place(request, stored):
            with translated_errors(f"{request.interface} is attached, and cannot be reached: "):
                await self._dependencies.wait_for_routes(stored.addresses, ADD_ROUTE_SECONDS)
            return _made(request, mtu, stored)
        self._dependencies.require_ready()
        self._dependencies.require_not_dropped()
        await self._remove_older(request)
        async with self._locked(host_interface(request)):
            await self._require_own_device(request)
            with (
                translated_errors(f"{request.interface} could not be attached: "),
                self._dependencies.ignore_watch(self._store.key(request)),
            ):
                made = await self._attach(request, mtu)
        log.info(
            "cni.added",
            pod=request.pod or request.container_id,
            address=made.spec.ip_networks[0],
            device=made.spec.interface_name,
        )
        return _made(request, mtu, made)

    async def _is_in_place(self, request: Request, stored: WorkloadEndpoint) -> bool:
        """Whether the interface is where it is asked for, as it is asked for, and works. Raises CniError."""
        device, options = stored.spec.interface_name, request.options
        with translated_errors(f"{request.interface} cannot be looked at: "):
            if await self._pods.owner(device) not in ("", request.container_id):
                return False
            state = await self._pods.state(request.netns, request.interface, device)
        given = options.exact or stored.addresses
        as_asked = set(given) <= set(stored.addresses) and options.mac in (None, stored.spec.mac)
        return as_asked and not any(out_of_place(request.interface, stored, state))

    async def _remove_older(self, request: Request) -> None:
        """Take away what the interface has from an older ADD: in another namespace, of another pod, of another boot.

        Raises CniError, with nothing removed where the new one could not be made.
        """
        older = self._left(request)
        for one in older:
            device = host_interface(one)
            if one.network != request.network and self._pods.exists(device):
                raise CniError(
                    Code.REFUSED,
                    f"{request.interface} of container {request.container_id} is {device} "
                    f"of network {one.network}, which needs a DEL first",
                )
        replaced = {*map(host_interface, older), *filter(self._pods.exists, (host_interface(request),))}
        if replaced:
            await self._require_room(request, replaced)
        for one in older:
            try:
                await self._remove(one)
            except CniError:
                self._store.record(
                    one
                )  # what had no answer may be done later: the next ADD has to wait for it
                raise

    async def _require_room(self, request: Request, replaced: Collection[str]) -> None:
        """That the pair can be made in place of these devices: they should not go for nothing. Raises CniError."""
        with translated_errors(f"{request.interface} could not be attached: "):
            states = [await self._pods.state(request.netns, request.interface, device) for device in replaced]
        if states[0].inside is not None and not any(state.paired for state in states):
            why = f"{request.netns} has an interface {request.interface} of others already"
            raise CniError(Code.IO_FAILURE, why)

    async def _require_own_device(self, request: Request) -> None:
        """That nobody else has the device of this name. Raises CniError."""
        device = host_interface(request)
        if not self._pods.exists(device):
            return
        with translated_errors():
            owner = await self._pods.owner(device)
        holder = self._holder(device)
        if holder is not None and key_of(holder) != self._store.key(request):
            whose = holder.spec.container_id or owner
            pod = f" (pod {holder.metadata.namespace}/{holder.spec.pod})" if holder.spec.pod else ""
        elif holder is None and request.kubernetes_pod is None and owner and owner != request.container_id:
            whose, pod = owner, ""
        else:
            return  # its own, or an older container's of the same pod, which is replaced
        alike = "whose id begins like this one's" if not pod else "whose name gives the same device"
        raise CniError(Code.REFUSED, f"{device} is the device of container {whose}{pod}, {alike}")

    async def _attach(self, request: Request, mtu: int) -> WorkloadEndpoint:
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
                await self._undo(request, endpoints[assigning.result()])
            else:
                await self._remove_device(request, desired.host_interface)
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

    async def _undo(self, request: Request, made: WorkloadEndpoint) -> None:
        """Back to before: device, fact, addresses and endpoint, whatever of it there is.

        All of it stays if the device does, for it bears the addresses; the runtime calls DEL after a failed ADD.
        """
        if not await self._remove_device(request, made.spec.interface_name):
            self._store.remember(request, made.addresses, made)
            return
        self._store.forget(request)
        self._dependencies.remove_endpoint(made)
        try:
            await self._store.release_or_record(request, lambda: None)
        except CniError as error:
            # The runtime calls DEL after a failed ADD; until then the handle says whose the address is.
            log.warning("cni.undo_incomplete", container=request.container_id, why=error.message)

    async def _remove_device(self, request: Request, device: str) -> bool:
        """Remove the device if it is this container's: an older one's of the same pod may not be replaced yet.

        False: it stays, with its addresses.
        """
        try:
            if await self._pods.owner(device) == request.container_id:
                await self._pods.detach(device)
        except KernelError as error:
            log.warning("cni.device_stays", container=request.container_id, device=device, why=str(error))
            if len(self._staying) < MOST_STAYING:
                self._staying.add((request.container_id, request.interface))
            return False
        return True

    # -- DEL ----------------------------------------------------------------------------------------------------------

    async def delete(self, request: Request, answer: Callable[[], None]) -> None:
        """Detach; `answer` is called as soon as the release is done or durable, which may be before the end.

        Raises CniError when the device stays, or the release can be neither done nor written down.
        """
        *others, last = self._with_left(request)
        attachment = request.container_id, request.interface
        unknown = not others and last is request and not self._pods.exists(host_interface(request))
        if not request.addresses_only and (unknown or attachment in self._staying):
            await self._remove_strays(request)
            self._staying.discard(attachment)
        for one in others:
            await self._delete_one(one, lambda: None)
        await self._delete_one(last, answer)
        if not request.addresses_only:
            log.info("cni.deleted", pod=last.pod or request.container_id)

    async def _delete_one(self, request: Request, answer: Callable[[], None]) -> None:
        async with self._locked(host_interface(request)):
            if self._is_of_other_kind(request):
                if not request.addresses_only:
                    await self._remove_device(request, host_interface(request))  # of an ADD that died
                answer()
                return
            if request.addresses_only:
                self._store.forget(request)
                await self._store.release_or_record(request, answer)
                return
            reading = self._store.begin_reading(request)  # while the kernel removes the device
            try:
                with translated_errors(f"{host_interface(request)} could not be removed: "):
                    await self._detach(request)
                await self._store.release_or_record(request, answer, reading)
            finally:
                if reading is not None:
                    reading.cancel()

    async def _remove_strays(self, request: Request) -> None:
        """Remove devices of the interface that nothing else leads to: their ADD died, and named another pod."""
        try:
            found = await self._pods.devices_of(request.container_id, request.interface)
        except KernelError as error:  # others change devices all the time; a DEL must not fail by it
            log.warning("cni.devices_unread", container=request.container_id, why=str(error))
            return
        for device in found:
            async with self._locked(device):
                holder = self._holder(device)
                # Of this container, it may be of another interface: earlier agents did not write which.
                if holder is None or holder.spec.container_id != request.container_id:
                    with translated_errors(f"{device} could not be removed: "):
                        await self._pods.detach(device)

    async def carry_out(self, release: Request, *, alone: bool = False) -> None:
        """A release that was written down; or, and that `alone`, one that GC found. Raises CniError."""
        found = (release,) if alone else self._with_left(release)
        unknown = found == (release,) and not self._pods.exists(host_interface(release))
        if unknown and not alone and not release.addresses_only:
            await self._remove_strays(release)
        for one in found:
            await self._remove(one)

    async def _remove(self, release: Request) -> None:
        """Take all of one attachment away, and wait for the datastore. Raises CniError."""
        async with self._locked(host_interface(release)):
            if self._is_of_other_kind(release):
                return
            with translated_errors():
                if release.addresses_only:
                    self._store.forget(release)
                else:
                    await self._detach(release)
                await self._store.release(release)

    async def _detach(self, request: Request) -> None:
        """Remove the device unless a later container of the same pod has it, and the fact unless it is that one's."""
        cached = self._store.cached(request)
        ours = cached is not None and is_ours(cached, request)
        device = cached.spec.interface_name if cached is not None and ours else host_interface(request)
        record = self._living.of_device(device)
        if record is None or record.attachment == (request.container_id, request.interface):
            owner = await self._pods.owner(device)
            unknown = cached is None and self._dependencies.not_ready() is None
            if owner == request.container_id or (owner == "" and (ours or unknown)):
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
        for one in self._left(request):
            if one.network == request.network:
                request = replace(request, namespace=one.namespace, pod=one.pod)
        async with self._locked(host_interface(request)):
            await self._check(request)

    async def _check(self, request: Request) -> None:
        with translated_errors():
            stored, held = await self._store.stored(request), await self._store.held(request)
            state = await self._pods.state(request.netns, request.interface, host_interface(request))
        if stored is not None and not is_ours(stored, request):
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
