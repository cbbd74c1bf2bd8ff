"""One transaction in the making: what it guards, what it writes, and how the blocks will look after it.

Promises: pure; several allocations share a draft, and one that fails leaves it as it was (work on a `fork`). A key is
guarded with one revision and written once. Does not know: why, the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ipam import block as blocks
from ipam.codec import decode_block, encode_affinity, encode_block, encode_handle
from ipam.etcd.store import MOST_OPERATIONS, Delete, GuardFailed, Operation, Put, Unchanged, Versioned
from ipam.failures import Conflict, Malformed
from ipam.keys import affinity_key, block_key, handle_key
from ipam.model import AffinityState, Block, Handle, HandleId, NodeName, Prefix


@dataclass(frozen=True, slots=True)
class PiggybackedWrites:
    """What rides along in the same transaction, such as the workload endpoint."""

    guards: tuple[Unchanged, ...] = ()
    operations: tuple[Operation, ...] = ()
    revert: tuple[Operation, ...] = ()
    """What takes the operations back, if the caller was cancelled while they were under way."""


NO_WRITES = PiggybackedWrites()


@dataclass(frozen=True, slots=True)
class VersionedBlock:
    """A block as last seen, with its revision; 0: it does not exist yet."""

    block: Block
    revision: int


def serious_faults(block: Block) -> tuple[str, ...]:
    """Broken invariants that addresses depend on."""
    return tuple(text for text in blocks.broken_invariants(block) if text not in blocks.HARMLESS)


def read_block(stored: Versioned) -> VersionedBlock:
    """A stored block that can be worked with. Raises Malformed."""
    block = decode_block(stored.key, stored.value)
    serious = serious_faults(block)
    if serious:
        raise Malformed(f"{stored.key}: damaged: {'; '.join(serious)}")
    return VersionedBlock(block, stored.revision)


@dataclass(slots=True)
class Transaction:
    """Collects guards and writes; `blocks` holds every block as this draft will leave it."""

    guards: dict[str, int] = field(default_factory=dict)
    writes: dict[str, Operation] = field(default_factory=dict)
    blocks: dict[Prefix, VersionedBlock] = field(default_factory=dict)
    handles: set[HandleId] = field(default_factory=set)

    def copy(self) -> Transaction:
        """A copy to try something on."""
        return Transaction(dict(self.guards), dict(self.writes), dict(self.blocks), set(self.handles))

    @property
    def fits(self) -> bool:
        """Whether one transaction takes it."""
        return len(self.guards) <= MOST_OPERATIONS and len(self.writes) <= MOST_OPERATIONS

    def guard(self, key: str, revision: int) -> None:
        """The key must be as it was. Raises Conflict when the draft already relies on another revision."""
        if self.guards.setdefault(key, revision) != revision:
            raise Conflict(f"{key} was changed meanwhile; look again")

    def write_block(self, kept: VersionedBlock, changed: Block) -> None:
        """Write a block that was read as `kept`; one that nobody owns vanishes with its last address.

        Raises Malformed rather than write an unsound block.
        """
        serious = serious_faults(changed)
        if serious:
            raise Malformed(f"block {changed.cidr}: refusing to write it: {'; '.join(serious)}")
        key = block_key(changed.cidr)
        self.guard(key, kept.revision)
        self.blocks[changed.cidr] = VersionedBlock(changed, kept.revision)
        if changed.owner is None and blocks.is_empty(changed):
            self.writes[key] = Delete(key)
        else:
            self.writes[key] = Put(key, encode_block(changed))

    def write_affinity(self, node: NodeName, cidr: Prefix) -> None:
        """Write a confirmed claim."""
        key = affinity_key(node, cidr)
        self.writes[key] = Put(key, encode_affinity(AffinityState.CONFIRMED))

    def delete_affinity(self, node: NodeName, cidr: Prefix) -> None:
        """Delete a claim."""
        key = affinity_key(node, cidr)
        self.writes[key] = Delete(key)

    def write_handle(self, handle: HandleId, revision: int, counts: Mapping[Prefix, int]) -> None:
        """Write what a handle holds; one that holds nothing is deleted."""
        key = handle_key(handle)
        self.guard(key, revision)
        self.handles.add(handle)
        held = tuple((cidr, count) for cidr, count in counts.items() if count > 0)
        self.writes[key] = Put(key, encode_handle(Handle(handle, held))) if held else Delete(key)

    def attach(self, piggyback: PiggybackedWrites) -> None:
        """Take a piggyback along. Raises Conflict when it contradicts what is drafted already."""
        for guard in piggyback.guards:
            self.guard(guard.key, guard.revision)
        for operation in piggyback.operations:
            if self.writes.setdefault(operation.key, operation) != operation:
                raise Conflict(f"{operation.key} is written by another request of the same moment")

    @property
    def guards_and_operations(self) -> tuple[tuple[Unchanged, ...], tuple[Operation, ...]]:
        """What the store is asked to do."""
        return tuple(Unchanged(key, revision) for key, revision in self.guards.items()), tuple(
            self.writes.values()
        )


def broken_guards(guards: Iterable[Unchanged], lost: GuardFailed) -> tuple[str, ...]:
    """The keys whose guards made a transaction lose."""
    found = []
    for guard in guards:
        present = lost.present.get(guard.key)
        if (present.revision if present is not None else 0) != guard.revision:
            found.append(guard.key)
    return tuple(found)
