"""Addresses retained for a named workload after its pod is gone, for a time: the words that say so in an allocation.

An allocation that is to be retained says for whom and how long (`keepAs`, `keepSeconds`). Its release transfers it to
the handle of the name, with the moment until when (`keptUntil`, by the clock of the node that releases), instead of
freeing it; the next allocation for the same name takes it from there. A retained address is nobody's attachment: it
counts as used, GC and CHECK do not see it, and it is freed when its time is over.
Promises: pure; words that cannot be read retain nothing, and a moment that cannot be read is over.
Does not know: CNI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ipam import block as blocks
from ipam.allocation.transaction import Transaction
from ipam.etcd.store import Versioned
from ipam.keys import handle_key
from ipam.model import Attributes, Block, HandleId, Prefix

KEEP_AS, KEEP_SECONDS, KEPT_UNTIL = "keepAs", "keepSeconds", "keptUntil"
LONGEST_RETENTION_SECONDS = 30 * 86_400
LASTING_WORDS = frozenset({"node", "namespace", "pod", KEEP_AS})
"""What a retained allocation goes on saying; of its container it says nothing."""


@dataclass(frozen=True, slots=True)
class Retention:
    """For whom an address is retained, and how long after its release."""

    handle: HandleId
    """The name's own handle."""
    seconds: int

    def words(self) -> tuple[tuple[str, str], ...]:
        """What is recorded with an allocation that is to be retained."""
        return ((KEEP_AS, self.handle), (KEEP_SECONDS, str(self.seconds)))


def retention_of(attributes: Attributes) -> Retention | None:
    """For whom an allocation is to be retained after its release; None: it is freed."""
    words = dict(attributes.secondary)
    name, seconds = words.get(KEEP_AS), words.get(KEEP_SECONDS, "")
    if not name or not (seconds.isascii() and seconds.isdigit()):
        return None
    return Retention(HandleId(name), min(int(seconds), LONGEST_RETENTION_SECONDS))


def retained(attributes: Attributes, retention: Retention, now: datetime) -> Attributes:
    """The attributes of an allocation that is retained from now on."""
    words = {word: value for word, value in attributes.secondary if word in LASTING_WORDS}
    words[KEPT_UNTIL] = blocks.timestamp(now + timedelta(seconds=retention.seconds))
    return Attributes(retention.handle, tuple(sorted(words.items())))


def is_retained(attributes: Attributes) -> bool:
    """Whether nobody uses an allocation now, and somebody may come back for it."""
    return KEPT_UNTIL in dict(attributes.secondary)


def is_retention_over(attributes: Attributes, now: datetime) -> bool:
    """Whether an allocation was retained long enough."""
    until = dict(attributes.secondary).get(KEPT_UNTIL)
    return until is not None and blocks.is_past(until, now)


def names_of(read: Iterable[Block], handle: HandleId) -> frozenset[HandleId]:
    """The names for which something of a handle is to be retained."""
    found = (
        retention_of(attributes) for block in read for _, attributes in blocks.allocations_of(block, handle)
    )
    return frozenset(retention.handle for retention in found if retention is not None)


def draft_retention(
    transaction: Transaction,
    block: Block,
    handle: HandleId,
    names: Mapping[HandleId, Versioned | None],
    counts: dict[HandleId, dict[Prefix, int]],
    now: datetime,
) -> Block:
    """The block with what is to be retained of a handle transferred to the names; `counts` is what each will hold.

    A name that holds something already, for it had two pods at a time, goes on holding that, and this one is freed.
    """
    for ordinal, attributes in blocks.allocations_of(block, handle):
        retention = retention_of(attributes)
        if retention is None or names.get(retention.handle) is not None:
            continue
        if retention.handle in transaction.handles and retention.handle not in counts:
            continue
        block = blocks.transfer(block, [ordinal], retained(attributes, retention, now))
        of_name = counts.setdefault(retention.handle, {})
        of_name[block.cidr] = of_name.get(block.cidr, 0) + 1
        transaction.guard(handle_key(retention.handle), 0)
    return block
