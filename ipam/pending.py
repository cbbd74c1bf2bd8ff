"""One caller's request on its way through the allocator.

Promises: an answer is given once. Does not know: the store, other requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ipam.draft import NOTHING, Companion, Draft
from ipam.model import AddressRequest, Assignment
from ipam.releasing import Guarded, guarded
from ipam.store import Versioned


@dataclass(slots=True)
class Pending:
    """One caller's request and how far it got."""

    request: AddressRequest
    companion: Callable[[tuple[Assignment, ...]], Companion] | None
    answer: asyncio.Future[tuple[Assignment, ...]]
    stored: Versioned | None = None
    """The handle, if it turned out to exist."""
    ready: tuple[Assignment, ...] = ()
    fresh: tuple[Assignment, ...] = ()
    """What of it the transaction under way gives."""
    rider: Companion = NOTHING
    draft: Draft | None = None
    """The transaction that may have been written."""
    attempts: int = 0
    verified: bool = False
    """Whether a refusal would rest on what was read for this job."""

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def written(self, draft: Draft) -> frozenset[Guarded]:
        """What a transaction gave to this request, told apart from every other allocation of the same address."""
        fresh = {item.address for item in self.fresh}
        return frozenset(
            item
            for kept in draft.blocks.values()
            for item in guarded(kept.block, self.request.handle)
            if item.address in fresh
        )
