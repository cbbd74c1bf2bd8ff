"""One transaction in the making: what it guards, what it writes, and how the blocks will be after it.

Promises: pure; several jobs share a transaction, and one that fails leaves it as it was (work on a `copy`). A key is
guarded with one revision and written once. Does not know: why, the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from ipam import block as blocks
from ipam.codec import decode_block, encode_affinity, encode_block, encode_handle
from ipam.etcd.store import (
    MOST_OPERATIONS,
    MOST_WRITTEN_BYTES,
    Delete,
    Guard,
    GuardFailed,
    NoneNewer,
    Operation,
    Put,
    Unchanged,
    Versioned,
    revision_of,
)
from ipam.failures import Conflict, Malformed
from ipam.keys import affinity_key, block_key, block_of_key, handle_key
from ipam.model import AffinityState, Assignment, Block, Handle, HandleId, NodeName, Prefix
from ipam.stored_json import unreadable

MOST_BLOCK_BYTES = MOST_WRITTEN_BYTES - (64 << 10)
"""Of a block that addresses are taken from: endpoints and handles go with it. 2,048 addresses take some 800,000."""
LARGE_BLOCK = 2048
"""Addresses of a block that may be too large."""


@dataclass(frozen=True, slots=True)
class PiggybackedWrites:
    """Guards and writes of a caller that go in the same transaction, such as those of the workload endpoint."""

    guards: tuple[Unchanged, ...] = ()
    operations: tuple[Operation, ...] = ()
    revert: tuple[Operation, ...] = ()
    """What takes the operations back, if the caller was cancelled while they were under way."""


NO_WRITES = PiggybackedWrites()
Piggyback = Callable[[tuple[Assignment, ...]], PiggybackedWrites]
"""Makes the writes that go with an assignment out of the addresses."""


@dataclass(frozen=True, slots=True)
class VersionedBlock:
    """A block as last seen, with its revision; 0: it does not exist yet."""

    block: Block
    revision: int


def serious_faults(block: Block) -> tuple[str, ...]:
    """Broken invariants that addresses depend on."""
    return tuple(text for text in blocks.broken_invariants(block) if text not in blocks.HARMLESS)


def is_too_large(block: Block) -> bool:
    """Whether etcd might not take a block as one value."""
    return block.cidr.num_addresses >= LARGE_BLOCK and len(encode_block(block)) > MOST_BLOCK_BYTES


def read_block(stored: Versioned) -> VersionedBlock:
    """A stored block that can be worked with. Raises Unreadable."""
    block = decode_block(stored)
    serious = serious_faults(block)
    if serious:
        raise unreadable(stored, f"damaged: {'; '.join(serious)}")
    return VersionedBlock(block, stored.revision)


def readable_blocks(read: Mapping[str, Versioned]) -> dict[Prefix, VersionedBlock]:
    """The blocks in a read; a damaged one is left out and must not hinder the others: `tortie ipam check` names it."""
    found = {}
    for key, stored in read.items():
        if (cidr := block_of_key(key)) is not None:
            with suppress(Malformed):
                found[cidr] = read_block(stored)
    return found


@dataclass(slots=True)
class Transaction:
    """Guards and writes, collected; `blocks` holds every written block as the transaction will leave it."""

    guards: dict[str, int] = field(default_factory=dict)
    none_newer: dict[str, int] = field(default_factory=dict)
    """Prefix -> the revision after which nothing below it may have been written."""
    writes: dict[str, Operation] = field(default_factory=dict)
    blocks: dict[Prefix, VersionedBlock] = field(default_factory=dict)
    handles: set[HandleId] = field(default_factory=set)
    """The handles that it writes or guards: each may be in it once."""

    def copy(self) -> Transaction:
        """A copy to try something on."""
        return Transaction(
            dict(self.guards),
            dict(self.none_newer),
            dict(self.writes),
            dict(self.blocks),
            set(self.handles),
        )

    @property
    def fits(self) -> bool:
        """Whether one transaction of the store takes it, with the guard that a datastore's lock adds."""
        guards = len(self.guards) + len(self.none_newer)
        if guards >= MOST_OPERATIONS or len(self.writes) > MOST_OPERATIONS:
            return False
        octets = sum(len(write.value) for write in self.writes.values() if isinstance(write, Put))
        return (
            octets <= MOST_WRITTEN_BYTES or len(self.blocks) < 2
        )  # what others made so large can be released

    @property
    def guards_and_operations(self) -> tuple[tuple[Guard, ...], tuple[Operation, ...]]:
        """The arguments of `Store.commit`."""
        guards = (Unchanged(*guard) for guard in self.guards.items())
        ranges = (NoneNewer(*guard) for guard in self.none_newer.items())
        return (*guards, *ranges), tuple(self.writes.values())

    def guard(self, key: str, revision: int) -> None:
        """The key must be as it was. Raises Conflict when the transaction relies on another revision already."""
        if self.guards.setdefault(key, revision) != revision:
            raise Conflict(f"{key} was changed meanwhile; look again")

    def guard_prefix(self, prefix: str, revision: int) -> None:
        """Nothing below the prefix may have been written after `revision`."""
        self.none_newer[prefix] = min(revision, self.none_newer.get(prefix, revision))

    def write_block(self, before: VersionedBlock, after: Block) -> None:
        """Write a block that was read as `before`; one that nobody owns vanishes with its last address.

        Raises Malformed rather than write an unsound block.
        """
        serious = serious_faults(after)
        if serious:
            raise Malformed(f"block {after.cidr}: refusing to write it: {'; '.join(serious)}")
        key = block_key(after.cidr)
        self.guard(key, before.revision)
        self.blocks[after.cidr] = VersionedBlock(after, before.revision)
        gone = after.owner is None and blocks.is_empty(after)
        self.writes[key] = Delete(key) if gone else Put(key, encode_block(after))

    def write_affinity(self, node: NodeName, cidr: Prefix) -> None:
        """Write a confirmed claim."""
        key = affinity_key(node, cidr)
        self.writes[key] = Put(key, encode_affinity(AffinityState.CONFIRMED))

    def delete_affinity(self, node: NodeName, cidr: Prefix) -> None:
        """Delete a claim."""
        key = affinity_key(node, cidr)
        self.writes[key] = Delete(key)

    def guard_handle(self, handle: HandleId, revision: int) -> None:
        """The handle's record must be as it was; nobody else in this transaction may have the handle."""
        self.guard(handle_key(handle), revision)
        self.handles.add(handle)

    def write_handle(self, handle: HandleId, revision: int, counts: Mapping[Prefix, int]) -> None:
        """Write how many addresses a handle holds in each block; one that holds nothing is deleted."""
        self.guard_handle(handle, revision)
        key = handle_key(handle)
        held = tuple((cidr, count) for cidr, count in counts.items() if count > 0)
        self.writes[key] = Put(key, encode_handle(Handle(handle, held))) if held else Delete(key)

    def attach(self, attached: PiggybackedWrites) -> None:
        """Add a caller's own writes. Raises Conflict when they contradict what is in the transaction already."""
        for guard in attached.guards:
            self.guard(guard.key, guard.revision)
        for operation in attached.operations:
            if self.writes.setdefault(operation.key, operation) != operation:
                raise Conflict(f"{operation.key} is written by another request of the same moment")


def broken_guards(guards: Iterable[Guard], failed: GuardFailed) -> tuple[str, ...]:
    """The keys whose guards made a transaction lose; the prefixes, where no key did."""
    found = tuple(
        guard.key
        for guard in guards
        if isinstance(guard, Unchanged) and revision_of(failed.present.get(guard.key)) != guard.revision
    )
    return found or tuple(guard.prefix for guard in guards if isinstance(guard, NoneNewer))
