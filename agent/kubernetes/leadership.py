"""One of all agents: who has the key of the leader, by a lease of etcd.

Promises: at most one agent's writes carry a guard that holds; who has lost the lease, or was cut off for its time,
writes nothing any more, whatever it believes, for its guard fails. Nobody takes the key from a living leader.
Does not know: what a leader does.
"""

from __future__ import annotations

import structlog

from ipam.etcd.store import Committed, Put, Store, Unchanged
from ipam.keys import LEADER
from ipam.model import NodeName

LEASE_SECONDS = 90
"""Three rounds of a leader."""

log = structlog.get_logger()


class Leadership:
    """This agent's part of it."""

    def __init__(self, store: Store, node: NodeName) -> None:
        self._store = store
        self._node = node
        self._lease = 0
        self._guard: Unchanged | None = None

    @property
    def is_leader(self) -> bool:
        """Whether it was at the last step."""
        return self._guard is not None

    async def step(self) -> Unchanged | None:
        """Stay or become the leader; the guard of a leader's writes, None of who is none. Raises StoreError."""
        if self._guard is not None and await self._store.keep_alive(self._lease):
            stored = await self._store.get(LEADER)
            if stored is not None and stored.revision == self._guard.revision:
                return self._guard
        if self._guard is not None:
            log.warning("leader.lost", node=self._node)
            self._guard = None
        if await self._store.get(LEADER) is not None:
            return None
        lease = await self._store.grant_lease(LEASE_SECONDS)
        put = Put(LEADER, self._node.encode(), lease)
        outcome = await self._store.commit((Unchanged(LEADER, 0),), (put,))
        if not isinstance(outcome, Committed):
            await self._store.revoke_lease(lease)
            return None
        self._lease, self._guard = lease, Unchanged(LEADER, outcome.revision)
        log.info("leader.is", node=self._node)
        return self._guard

    async def resign(self) -> None:
        """Give the key up, so that the next agent need not wait for the lease's end. Raises StoreError."""
        if self._guard is not None:
            self._guard = None
            await self._store.revoke_lease(self._lease)
