"""Turns findings into guarded transactions, and remembers what was there before.

Promises: pure; a repair changes nothing if anything it relies on has changed since the picture was taken, so running
agents do not have to stop; the undo record holds every key as it was. Does not know: the store, files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ipam.allocation.transaction import Transaction
from ipam.check.audit import AuditFinding, IpamSnapshot, real_counts
from ipam.keys import affinity_of_key, block_key, block_of_key, handle_key


@dataclass(frozen=True, slots=True)
class Repair:
    """One finding's transaction, and what stood there."""

    finding: AuditFinding
    transaction: Transaction
    before: tuple[tuple[str, str | None], ...]
    """(key, value or None when it did not exist)."""

    def as_json(self) -> dict[str, Any]:
        """For the undo file."""
        return {"finding": self.finding.as_json(), "before": dict(self.before)}


def repairs(seen: IpamSnapshot, findings: Iterable[AuditFinding]) -> Iterator[Repair]:
    """The transactions that mend what can be mended."""
    for finding in findings:
        if not finding.repairable:
            continue
        transaction = Transaction()
        if finding.handle is not None:
            _mend_handle(seen, finding, transaction)
        else:
            _mend_claim(seen, finding, transaction)
        if transaction.writes and transaction.fits:
            before = []
            for key in transaction.writes:
                stored = seen.stored.get(key)
                before.append((key, stored.value.decode(errors="replace") if stored is not None else None))
            yield Repair(finding, transaction, tuple(before))


def _mend_handle(seen: IpamSnapshot, finding: AuditFinding, transaction: Transaction) -> None:
    if finding.handle is None:
        return
    mine = real_counts(seen).get(finding.handle, {})
    stored = seen.handles.get(finding.handle)
    counted = {cidr for cidr, _ in stored.count_by_block} if stored is not None else set()
    for cidr in {*mine, *counted}:
        transaction.guard(block_key(cidr), seen.revision(block_key(cidr)))
    transaction.write_handle(finding.handle, seen.revision(handle_key(finding.handle)), mine)


def _mend_claim(seen: IpamSnapshot, finding: AuditFinding, transaction: Transaction) -> None:
    found = affinity_of_key(finding.key)
    if found is not None:
        node, cidr = found
        transaction.guard(finding.key, seen.revision(finding.key))
        transaction.guard(block_key(cidr), seen.revision(block_key(cidr)))
        transaction.delete_affinity(node, cidr)
        return
    owned = block_of_key(finding.key)
    block = seen.blocks.get(owned) if owned is not None else None
    if block is not None and block.owner is not None:
        transaction.guard(finding.key, seen.revision(finding.key))
        transaction.write_affinity(block.owner, block.cidr)
