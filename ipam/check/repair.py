"""Turns findings into guarded transactions, and remembers what was there before.

Promises: pure; a repair changes nothing if anything it relies on has changed since the snapshot, so running
agents do not have to stop; the undo record holds every key as it was. Does not know: the store, files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ipam.allocation.transaction import Transaction
from ipam.check.audit import AuditFinding, IpamSnapshot, real_counts
from ipam.keys import affinity_of_key, block_key, block_of_key, handle_key
from ipam.model import HandleId


@dataclass(frozen=True, slots=True)
class Repair:
    """The transaction that repairs one finding, and what it replaces."""

    finding: AuditFinding
    transaction: Transaction
    before: tuple[tuple[str, str | None], ...]
    """(key, value or None when it did not exist)."""

    def as_json(self) -> dict[str, Any]:
        """The entry of the undo file."""
        return {"finding": self.finding.as_json(), "before": dict(self.before)}


def repairs(snapshot: IpamSnapshot, findings: Iterable[AuditFinding]) -> Iterator[Repair]:
    """The transactions that repair what the snapshot itself proves, one for each finding."""
    for finding in findings:
        if not finding.repairable:
            continue
        transaction = Transaction()
        if finding.handle is not None:
            _repair_handle(snapshot, finding.handle, transaction)
        else:
            _repair_claim(snapshot, finding, transaction)
        if transaction.writes and transaction.fits:
            before = []
            for key in transaction.writes:
                stored = snapshot.stored.get(key)
                before.append((key, stored.value.decode(errors="replace") if stored is not None else None))
            yield Repair(finding, transaction, tuple(before))


def _repair_handle(snapshot: IpamSnapshot, handle: HandleId, transaction: Transaction) -> None:
    """Let a handle's record say what the handle holds."""
    held = real_counts(snapshot).get(handle, {})
    stored = snapshot.handles.get(handle)
    counted = {cidr for cidr, _ in stored.count_by_block} if stored is not None else set()
    for cidr in {*held, *counted}:
        transaction.guard(block_key(cidr), snapshot.revision(block_key(cidr)))
    transaction.write_handle(handle, snapshot.revision(handle_key(handle)), held)


def _repair_claim(snapshot: IpamSnapshot, finding: AuditFinding, transaction: Transaction) -> None:
    """Delete a claim that is wrong, or write the one that a block's owner lacks."""
    found = affinity_of_key(finding.key)
    if found is not None:
        node, cidr = found
        transaction.guard(finding.key, snapshot.revision(finding.key))
        transaction.guard(block_key(cidr), snapshot.revision(block_key(cidr)))
        transaction.delete_affinity(node, cidr)
        return
    owned = block_of_key(finding.key)
    block = snapshot.blocks.get(owned) if owned is not None else None
    if block is not None and block.owner is not None:
        transaction.guard(finding.key, snapshot.revision(finding.key))
        transaction.write_affinity(block.owner, block.cidr)
