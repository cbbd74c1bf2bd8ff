"""A key that every assignment of one node compares: rewritten, it ends those that may still be under way.

Why: a transaction without an answer (the process was killed, etcd stood still) may be carried out later, behind a
release that found nothing to release; its endpoint would stay for ever. Behind a rewriting of the fence the datastore
either has carried it out already, and then it is seen, or never will.
Promises: the fence is rewritten once before a process's first assignment or release, and once more after each
transaction that had no answer, never else. Does not know: what is assigned.
"""

from __future__ import annotations

import asyncio

from ipam.allocation.transaction import Transaction
from ipam.etcd.store import CommitOutcome, Committed, GuardFailed, Put, Store, revision_of
from ipam.failures import Conflict
from ipam.keys import fence_key
from ipam.model import NodeName


class Fence:
    """The fence of the node whose assignments this process alone makes."""

    def __init__(self, store: Store, node: NodeName | None) -> None:
        """Without `node` there is none: this process shares the node with others, or only releases."""
        self._store = store
        self._node = node
        self._revision: int | None = None
        """None: an earlier assignment may still be under way."""
        self._setting = asyncio.Lock()

    def doubt(self) -> None:
        """A transaction had no answer, or the datastore is another one."""
        self._revision = None

    def learn(self, outcome: CommitOutcome | None) -> None:
        """Take in what became of a transaction; None: it may have happened or not."""
        if outcome is None:
            self.doubt()
        elif isinstance(outcome, GuardFailed) and self._node is not None:
            key = fence_key(self._node)
            if key in outcome.present and revision_of(outcome.present[key]) != self._revision:
                self.doubt()

    async def set(self) -> None:
        """Have nothing of before under way. Raises StoreError, Conflict."""
        async with self._setting:
            if self._node is None or self._revision is not None:
                return
            outcome = await self._store.commit((), (Put(fence_key(self._node), b"{}"),))
            if not isinstance(outcome, Committed):
                raise Conflict(f"{fence_key(self._node)} could not be written")
            self._revision = outcome.revision

    def guard(self, node: NodeName, transaction: Transaction) -> None:
        """Have an assignment for `node` end with the next rewriting. Raises Conflict."""
        if node == self._node:
            # Doubted since it was set: then the guard fails, and the fence is set anew.
            transaction.guard(fence_key(node), self._revision or 0)
