"""When an allocation may be freed though nobody asked: only with proof, and the proof is a sentence for the log.

Proof is two looks with a pause between them, at the same allocation (same handle, same sequence), on the node that
made it. Both must show that its user is gone: either network namespace and veth are gone, or the machine has booted
since. What another node's endpoint uses is never freed, nor what an endpoint still names.
Promises: pure; no look, no proof. Does not know: how one looks, time beyond what is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipam.model import Address, HandleId, NodeName

PAUSE_SECONDS = 60.0
"""Between the two looks: longer than an attachment takes from its allocation to its veth."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at an allocation and at this machine, and what it showed."""

    address: Address
    handle: HandleId | None
    sequence: int | None
    """The block's sequence when it was assigned: tells this allocation from a later one of the same address."""
    made_by: NodeName | None
    """The node that the allocation names."""
    boot_of_allocation: str | None
    """The machine's boot id when it was assigned; None if it was not recorded."""
    seen_on: NodeName
    boot_now: str
    namespace_exists: bool
    veth_exists: bool
    used_by: str | None
    """Who names the address in an endpoint or a node, if anybody does."""
    at: float
    """Seconds on a monotonic clock."""

    @property
    def allocation(self) -> tuple[Address, HandleId | None, int | None]:
        """What is looked at; a later allocation of the same address differs."""
        return self.address, self.handle, self.sequence


def _gone(look: Observation) -> str | None:
    """Why the user of an allocation is gone, or None when it may be there."""
    if look.made_by != look.seen_on or look.used_by is not None:
        return None
    if look.handle is None or look.sequence is None:
        return None  # without both, a release could hit a later allocation
    if look.boot_of_allocation is not None and look.boot_of_allocation != look.boot_now:
        return f"assigned in boot {look.boot_of_allocation}, now is boot {look.boot_now}"
    if look.namespace_exists or look.veth_exists:
        return None
    return "its network namespace and its veth are gone"


def prove_leak(first: Observation, second: Observation) -> str | None:
    """The evidence that an allocation's user is gone, out of two looks; None when they prove nothing."""
    if first.allocation != second.allocation or second.at - first.at < PAUSE_SECONDS:
        return None
    if (first.seen_on, first.boot_now) != (second.seen_on, second.boot_now):
        return None
    before, after = _gone(first), _gone(second)
    if before is None or after is None:
        return None
    return (
        f"address {second.address} of {second.handle}: {after}; no endpoint names it; "
        f"seen twice, {second.at - first.at:.0f} s apart"
    )
