"""One caller's request or release on its way through the allocator, and how patient both are.

Promises: an answer is given once. Does not know: the store, other requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ipam.allocation.release import GuardedAddress, guarded_addresses
from ipam.allocation.transaction import NO_WRITES, PiggybackedWrites, Transaction
from ipam.etcd.store import Versioned
from ipam.model import Address, AddressRequest, Assignment, HandleId

MOST_ATTEMPTS = 100
"""Lost races before Conflict; Calico's number."""
FIRST_WAIT_SECONDS = 0.002
LONGEST_WAIT_SECONDS = 0.2
GROUP_MOST = 32
"""Requests or releases in one transaction."""
MOST_WAITING = 10_000
"""Requests of one node, or releases, that wait; more are refused at once."""


def shortened(wait_seconds: float, random: Callable[[], float]) -> float:
    """A wait shortened at random by up to half: who lost a race together must not meet again."""
    return wait_seconds * (0.5 + 0.5 * random())


@dataclass(slots=True)
class AssignJob:
    """One caller's request and how far it got."""

    request: AddressRequest
    piggyback: Callable[[tuple[Assignment, ...]], PiggybackedWrites] | None
    answer: asyncio.Future[tuple[Assignment, ...]]
    stored: Versioned | None = None
    """The handle, if it turned out to exist."""
    ready: tuple[Assignment, ...] = ()
    fresh: tuple[Assignment, ...] = ()
    """What of it the transaction under way gives."""
    attached: PiggybackedWrites = NO_WRITES
    transaction: Transaction | None = None
    """The transaction that may have been written."""
    attempts: int = 0
    verified: bool = False
    """Whether a refusal would rest on what was read for this job."""

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def written(self, draft: Transaction) -> frozenset[GuardedAddress]:
        """What a transaction gave to this request, told apart from every other allocation of the same address."""
        fresh = {item.address for item in self.fresh}
        return frozenset(
            item
            for kept in draft.blocks.values()
            for item in guarded_addresses(kept.block, self.request.handle)
            if item.address in fresh
        )


@dataclass(slots=True)
class ReleaseJob:
    """One caller's release of all that a handle holds."""

    handle: HandleId
    attached: PiggybackedWrites
    answer: asyncio.Future[tuple[Address, ...]]
    freed: tuple[Address, ...] = ()
    """What the transaction under way gives back."""
    attempts: int = 0

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
