"""The labels of Kubernetes' namespaces, as Calico's kube-controllers copy them into profiles: for namespaceSelector.

Promises: nothing is read unless a pool selects by them, and then at each call, so that a change counts at once. Labels
that cannot be had are unknown with a reason, and a trouble until they are known: no pool is taken on a guess.
Does not know: which pool is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import structlog

from agent.datastore.resources.endpoint_form import profile_key
from agent.datastore.resources.namespace_profile import NAMESPACE_PROFILE, namespace_labels
from agent.trouble import Trouble, TroubleKind
from ipam.allocation.pool_selection import selects_every_namespace
from ipam.etcd.store import Store
from ipam.failures import StoreError, StoreRefused, Unreadable
from ipam.model import Namespace, PoolRecord

AGAIN_SECONDS = 0.5
"""Labels that are known again are told as known within a second."""
MOST_NAMESPACES = 128
"""Whose labels were not known and that are told; more are not remembered."""

log = structlog.get_logger()


class NamespaceLabels:
    """Reads them; owns which were not known; a shell."""

    def __init__(self, store: Store, pools: Callable[[], Sequence[PoolRecord]]) -> None:
        self._store = store
        self._pools = pools
        self._unknown: dict[str, str] = {}

    def _selecting(self) -> list[PoolRecord]:
        """The pools that select by namespace."""
        return [record for record in self._pools() if not selects_every_namespace(record.pool)]

    async def of(self, name: str) -> Namespace:
        """A namespace with its labels, if a pool asks for them. Raises StoreUnavailable."""
        if not self._selecting():
            return Namespace(name)
        key = profile_key(f"{NAMESPACE_PROFILE}{name}")
        try:
            stored = await self._store.get(key)
            found = Namespace(name, namespace_labels(stored)) if stored is not None else None
            why = f"there is no profile {NAMESPACE_PROFILE}{name}, which kube-controllers write"
        except (Unreadable, StoreRefused) as error:
            found, why = None, str(error)
        if found is not None:
            if self._unknown.pop(name, None) is not None:
                log.info("cni.namespace_known", namespace=name)
            return found
        if name not in self._unknown:
            log.warning("cni.namespace_unknown", namespace=name, why=why)
        if name in self._unknown or len(self._unknown) < MOST_NAMESPACES:
            self._unknown[name] = why
        return Namespace(name, unknown=why)

    async def run(self) -> None:
        """Look again until cancelled."""
        while True:
            with suppress(StoreError):  # the datastore's own trouble is told elsewhere
                await self.look_again()
            await asyncio.sleep(AGAIN_SECONDS)

    async def look_again(self) -> None:
        """Look whether the labels that were not known are there now. Raises StoreUnavailable."""
        if not self._selecting():
            self._unknown.clear()
        for name in tuple(self._unknown):
            await self.of(name)

    def troubles(self) -> Iterator[Trouble]:
        """The namespaces whose pods get no address of pools that select by namespace."""
        pools = ", ".join(record.pool.name for record in self._selecting())
        for name, why in sorted(self._unknown.items()) if pools else ():
            yield Trouble(
                TroubleKind.NAMESPACE,
                f"namespace {name}",
                f"its labels are not known: {why}",
                f"its pods get no address of pools with a namespaceSelector: {pools}",
                "run kube-controllers on this datastore, or name the pool in the network's ipv4_pools",
            )
