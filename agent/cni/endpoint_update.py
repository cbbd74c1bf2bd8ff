"""Brings this node's endpoints into Calico's form where older agents, or somebody else, left something out.

Promises: in place: addresses, devices and routes stay as they are, and so does every field that this program does not
know. Each write is guarded by the revision that was read; a few at a time, each while no call works on its attachment.
Profiles that endpoints name come back when somebody deletes them.
Does not know: what the form is for, Felix.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

import msgspec
import structlog

from agent.clock import Clock
from agent.cni.dependencies import Dependencies
from agent.datastore.network_profiles import RFC_3339, NetworkProfiles
from agent.datastore.resources.endpoint_form import KUBERNETES, in_form, network_of, profile_of
from agent.datastore.resources.resource_types import WorkloadEndpoint, with_revision
from agent.datastore.state_cache import StateCache
from agent.datastore.storage_layout import key_of, read_valid, stored_bytes
from ipam.etcd.store import Committed, Put, Unchanged
from ipam.failures import IpamError, Unreadable

ROUND_SECONDS = 60.0
"""Between two looks; they cost one read."""
RETRY_SECONDS = 1.0
"""While the datastore was not read yet, or is away."""
AT_ONCE = 16
"""Endpoints written side by side."""
PAUSE_SECONDS = 0.02
"""Between two such groups."""

log = structlog.get_logger()


class EndpointUpdate:
    """Looks at the form of this node's endpoints; a shell."""

    def __init__(
        self,
        dependencies: Dependencies,
        cluster: StateCache,
        profiles: NetworkProfiles,
        may_write: Callable[[], bool],
        clock: Clock,
        locked: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        """`may_write` says whether the datastore was read and is this node's; `locked` keeps CNI calls away."""
        self._dependencies = dependencies
        self._cluster = cluster
        self._profiles = profiles
        self._may_write = may_write
        self._clock = clock
        self._locked = locked

    async def run(self) -> None:
        """Look in rounds, until cancelled."""
        while True:
            wait = RETRY_SECONDS
            if self._may_write():
                with suppress(IpamError):  # the syncer says that it is away
                    await self.one_round()
                    wait = ROUND_SECONDS * random.uniform(0.75, 1.0)
            await asyncio.sleep(wait)

    async def one_round(self) -> None:
        """Look at every endpoint of this node, and at the profiles that they name. Raises StoreError."""
        stored = [one for one in self._cluster.endpoints if self._cluster.is_stored(one)]
        wanted = [one for one in stored if self._formed(one) is not one]
        written = 0
        for start in range(0, len(wanted), AT_ONCE):
            group = wanted[start : start + AT_ONCE]
            written += sum(await asyncio.gather(*map(self._update, group)))
            await asyncio.sleep(PAUSE_SECONDS)
        if written:
            log.info("cni.endpoints_updated", count=written)
        networks: dict[str, str] = {}
        for network, orchestrator in filter(None, map(profile_of, self._cluster.endpoints)):
            if networks.setdefault(network, orchestrator) != KUBERNETES:
                networks[network] = orchestrator
        await self._profiles.keep(networks)

    def _formed(self, endpoint: WorkloadEndpoint) -> WorkloadEndpoint:
        """The endpoint in form; its network is the one that its ADD was told, if that is known here."""
        record = self._dependencies.living.record(key_of(endpoint))
        said = record.words.get("network") if record is not None else None
        return in_form(endpoint, said or network_of(endpoint), self._clock.wall().strftime(RFC_3339))

    async def _update(self, endpoint: WorkloadEndpoint) -> bool:
        """Write one; whether it was. One that cannot be read, or changes meanwhile, is the next round's."""
        key = key_of(endpoint)
        async with self._locked(endpoint.spec.interface_name):
            value = await self._dependencies.store.get(key)
            try:
                found = read_valid(WorkloadEndpoint, value) if value is not None else None
            except Unreadable:  # named by the state cache
                return False
            if value is None or found is None or found.spec.container_id != endpoint.spec.container_id:
                return False
            formed = self._formed(found)
            if formed is found:
                return False
            guard = Unchanged(key, value.revision)
            outcome = await self._dependencies.store.commit(
                (guard,), (Put(key, stored_bytes(formed, value)),)
            )
            if not isinstance(outcome, Committed):
                return False
            # The watch reports it: what is at hand here may already be older than that.
            record = self._dependencies.living.record(key)
            if record is not None:
                self._dependencies.living.add(
                    msgspec.structs.replace(record, endpoint=with_revision(formed, None))
                )
            return True
