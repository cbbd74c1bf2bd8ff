"""DEL of one attachment, and every release that comes later: device first, then addresses and endpoint.

Promises: DEL removes the device first and always succeeds; what the datastore could not take is written down and
carried out later. A device or an endpoint that a later container of the same pod has is left alone.
Does not know: sockets, netlink, etcd, how an attachment is made, who keeps others from the same interface meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from agent.cni.attachment import host_interface
from agent.cni.dependencies import Dependencies, translated_errors
from agent.cni.endpoint_store import EndpointStore
from agent.cni.plugin.spec import Request
from agent.cni.release_journal import Release

log = structlog.get_logger()


class DeleteVerb:
    """Undoes what ADD made of one interface of one container."""

    def __init__(self, dependencies: Dependencies, store: EndpointStore) -> None:
        self._dependencies = dependencies
        self._store = store

    async def delete(self, request: Request, release: Release, answer: Callable[[], None]) -> None:
        """Detach; `answer` is called as soon as the release is done or durable, which may be before the end.

        Raises CniError when the device stays, or the release can be neither done nor written down.
        """
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
            if not release.addresses_only:
                await self._detach(release)
            await self._store.release(release)

    async def _detach(self, request: Request) -> None:
        """Remove the device unless a later container of the same pod has it, and the fact unless it is that one's."""
        pods, cached = self._dependencies.pods, self._store.cached(request)
        ours = cached is not None and cached.spec.container_id == request.container_id
        device = cached.spec.interface_name if cached is not None and ours else host_interface(request)
        owner = await pods.owner(device)
        if owner == request.container_id or (owner == "" and (ours or cached is None)):
            await pods.detach(device)
        if cached is not None and ours:
            self._dependencies.remove_endpoint(cached)
