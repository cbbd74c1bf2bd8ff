"""Addresses kept for a named workload after its pod is gone, for a time: the words that say so, and what they mean.

An allocation that is to be kept says for whom and how long (`keepAs`, `keepSeconds`). Its release hands it to the
handle of the name, with the moment until when (`keptUntil`, by the clock of the node that releases), instead of freeing
it; the next allocation for the same name takes it from there. A kept address is nobody's attachment: it counts as used,
GC and CHECK do not see it, and it is freed when its time is over.
Promises: pure; words that cannot be read keep nothing, and a moment that cannot be read is over. Does not know: CNI.
"""

from __future__ import annotations

from collections.abc import Mapping
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
"""What a kept allocation goes on saying; of its container it says nothing."""


@dataclass(frozen=True, slots=True)
class Retention:
    """For whom, and for how long after the release."""

    handle: HandleId
    """The name's own handle."""
    seconds: int

    def words(self) -> tuple[tuple[str, str], ...]:
        """What is recorded with an allocation that is to be kept."""
        return ((KEEP_AS, self.handle), (KEEP_SECONDS, str(self.seconds)))


def retention_of(attributes: Attributes) -> Retention | None:
    """Whether an allocation is to be kept after its release."""
    words = dict(attributes.secondary)
    name, seconds = words.get(KEEP_AS), words.get(KEEP_SECONDS, "")
    if not name or not (seconds.isascii() and seconds.isdigit()):
        return None
    return Retention(HandleId(name), min(int(seconds), LONGEST_RETENTION_SECONDS))


def retained(attributes: Attributes, keep: Retention, now: datetime) -> Attributes:
    """The same allocation in the name's hands."""
    words = {word: value for word, value in attributes.secondary if word in LASTING_WORDS}
    words[KEPT_UNTIL] = (now + timedelta(seconds=keep.seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Attributes(keep.handle, tuple(sorted(words.items())))


def is_retained(attributes: Attributes) -> bool:
    """Whether nobody has it now, and somebody may come back for it."""
    return KEPT_UNTIL in dict(attributes.secondary)


def is_retention_over(attributes: Attributes, now: datetime) -> bool:
    """Whether it was kept long enough."""
    try:
        return datetime.fromisoformat(dict(attributes.secondary)[KEPT_UNTIL]) <= now
    except KeyError:
        return False
    except (ValueError, TypeError):
        return True


def names_of(seen: Mapping[Prefix, Block], handle: HandleId) -> frozenset[HandleId]:
    """The names for which something of a handle is to be kept."""
    found = (
        retention_of(attributes)
        for block in seen.values()
        for _, attributes in blocks.allocations_of(block, handle)
    )
    return frozenset(keep.handle for keep in found if keep is not None)


def draft_retention(
    draft: Transaction,
    block: Block,
    handle: HandleId,
    names: Mapping[HandleId, Versioned | None],
    counts: dict[HandleId, dict[Prefix, int]],
    now: datetime,
) -> Block:
    """The block with what is to be kept of a handle in the names' hands; `counts` is what each name will hold.

    A name that holds something already, for it had two pods at a time, keeps that, and this one is freed.
    """
    for ordinal, attributes in blocks.allocations_of(block, handle):
        keep = retention_of(attributes)
        taken = keep is None or (keep.handle in draft.handles and keep.handle not in counts)
        if keep is None or taken or names.get(keep.handle) is not None:
            continue
        block = blocks.transfer(block, [ordinal], retained(attributes, keep, now))
        mine = counts.setdefault(keep.handle, {})
        mine[block.cidr] = mine.get(block.cidr, 0) + 1
        draft.guard(handle_key(keep.handle), 0)
    return block
