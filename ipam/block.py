"""Arithmetic on one block: claim, assign, release. Nothing is changed in place; every change is a new block.

Promises: pure; every result satisfies `broken_invariants(…) == ()` if its argument did. Free ordinals are a FIFO: the
longest idle address goes out first. Rules: Calico's block format.
Does not know: other blocks, pools, the store.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from ipam.model import Address, Attributes, Block, HandleId, NodeName, Prefix


class BlockFull(Exception):
    """No free ordinal is left."""


def new_block(cidr: Prefix, owner: NodeName, claimed_at: str, sequence: int) -> Block:
    """An empty block of `owner`; `sequence` is the time in nanoseconds, so a re-created block never repeats one."""
    size = cidr.num_addresses
    return Block(cidr, owner, (None,) * size, tuple(range(size)), sequence=sequence, claimed_at=claimed_at)


def assign(block: Block, count: int, attributes: Attributes) -> tuple[Block, tuple[Address, ...]]:
    """Take `count` addresses. Raises BlockFull, and takes none, when there are fewer."""
    if len(block.unallocated) < count:
        raise BlockFull
    ordinals = block.unallocated[:count]
    if attributes in block.attributes:
        index, known = block.attributes.index(attributes), block.attributes
    else:
        index, known = len(block.attributes), (*block.attributes, attributes)
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = index
    sequences = {**dict(block.sequence_of), **dict.fromkeys(ordinals, block.sequence)}
    changed = replace(
        block,
        allocations=tuple(allocations),
        unallocated=block.unallocated[count:],
        attributes=known,
        sequence=block.sequence + 1,
        sequence_of=tuple(sorted(sequences.items())),
    )
    return changed, tuple(address_of(block, ordinal) for ordinal in ordinals)


def release_handle(block: Block, handle: HandleId) -> tuple[Block, tuple[Address, ...]]:
    """Give back everything of a handle; the same block if it holds nothing."""
    ordinals = tuple(ordinal for ordinal, _ in held(block, handle))
    if not ordinals:
        return block, ()
    gone = frozenset(ordinals)
    allocations = [None if ordinal in gone else index for ordinal, index in enumerate(block.allocations)]
    used = sorted({index for index in allocations if index is not None})
    moved = {index: position for position, index in enumerate(used)}
    changed = replace(
        block,
        allocations=tuple(None if index is None else moved[index] for index in allocations),
        unallocated=(*block.unallocated, *ordinals),
        attributes=tuple(block.attributes[index] for index in used),
        sequence=block.sequence + 1,
        sequence_of=tuple((ordinal, sequence) for ordinal, sequence in block.sequence_of if ordinal not in gone),
    )
    return changed, tuple(address_of(block, ordinal) for ordinal in ordinals)


def held(block: Block, handle: HandleId) -> tuple[tuple[int, Attributes], ...]:
    """(ordinal, attributes) of everything a handle holds; Calico cuts handles at a carriage return."""
    found = []
    for ordinal, index in enumerate(block.allocations):
        if index is not None and _bare(block.attributes[index].handle) == handle:
            found.append((ordinal, block.attributes[index]))
    return tuple(found)


def _bare(handle: HandleId | None) -> str | None:
    return handle.partition("\r")[0] if handle is not None else None


def address_of(block: Block, ordinal: int) -> Address:
    """The address at an ordinal."""
    return ip_address(int(block.cidr.network_address) + ordinal)


def is_empty(block: Block) -> bool:
    """Whether no address is allocated or cooling down."""
    return all(index is None for index in block.allocations)


def broken_invariants(block: Block) -> tuple[str, ...]:
    """What is structurally wrong with a block, a sentence each; an empty answer means it is sound."""
    size = block.cidr.num_addresses
    taken = {ordinal for ordinal, index in enumerate(block.allocations) if index is not None}
    indices = {index for index in block.allocations if index is not None}
    free = list(block.unallocated)
    rules = (
        (len(block.allocations) == size, f"{len(block.allocations)} allocations in a block of {size}"),
        (all(0 <= index < len(block.attributes) for index in indices), "an allocation refers to no attributes"),
        (indices >= set(range(len(block.attributes))), "attributes that no allocation refers to"),
        (len(set(free)) == len(free), "an ordinal is free twice"),
        (all(0 <= ordinal < size for ordinal in free), "a free ordinal lies outside the block"),
        (not taken & set(free), "an ordinal is both free and allocated"),
        (len(taken) + len(set(free)) == size, "an ordinal is neither free nor allocated"),
        (
            {ordinal for ordinal, _ in block.sequence_of} <= taken,
            "a sequence number of an ordinal that is not allocated",
        ),
    )
    return tuple(sentence for holds, sentence in rules if not holds)
