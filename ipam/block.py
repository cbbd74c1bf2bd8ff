"""Arithmetic on one block: claim, assign, release, cool down. Every change is a new block; nothing is altered in place.

Promises: pure; every result satisfies `broken_invariants(…) == ()` if its argument did. Free ordinals are a FIFO: the
longest idle address goes out first. Rules: Calico's block format.
Does not know: other blocks, pools, the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address

from ipam.model import Address, Attributes, Block, HandleId, NodeName, Prefix

NONE_RESERVED: frozenset[int] = frozenset()


class BlockFull(Exception):
    """No free ordinal is left."""


def new_block(cidr: Prefix, owner: NodeName, claimed_at: str, sequence: int) -> Block:
    """An empty block of `owner`; `sequence` is the time in nanoseconds, so a re-created block never repeats one."""
    size = cidr.num_addresses
    return Block(cidr, owner, (None,) * size, tuple(range(size)), sequence=sequence, claimed_at=claimed_at)


def assign(
    block: Block, count: int, attributes: Attributes, reserved: frozenset[int] = NONE_RESERVED
) -> tuple[Block, tuple[Address, ...]]:
    """Take `count` addresses, never a reserved one. Raises BlockFull, and takes none, when there are fewer."""
    ordinals = [ordinal for ordinal in block.unallocated if ordinal not in reserved][:count]
    if len(ordinals) < count:
        raise BlockFull
    return _take(block, ordinals, attributes), tuple(address_of(block, ordinal) for ordinal in ordinals)


def assign_ordinal(block: Block, ordinal: int, attributes: Attributes) -> Block:
    """Take exactly this address. Raises BlockFull when it is not free."""
    if ordinal not in block.unallocated:
        raise BlockFull
    return _take(block, [ordinal], attributes)


def _take(block: Block, ordinals: list[int], attributes: Attributes) -> Block:
    if attributes in block.attributes:
        index, known = block.attributes.index(attributes), block.attributes
    else:
        index, known = len(block.attributes), (*block.attributes, attributes)
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = index
    taken = frozenset(ordinals)
    sequences = {**dict(block.sequence_of), **dict.fromkeys(ordinals, block.sequence)}
    return replace(
        block,
        allocations=tuple(allocations),
        unallocated=tuple(ordinal for ordinal in block.unallocated if ordinal not in taken),
        attributes=known,
        sequence=block.sequence + 1,
        sequence_of=tuple(sorted(sequences.items())),
    )


def transfer(block: Block, ordinals: Iterable[int], attributes: Attributes) -> Block:
    """Allocate taken addresses anew with these attributes: none of them is free in between."""
    moved = tuple(ordinals)
    sequences = {**dict(block.sequence_of), **dict.fromkeys(moved, block.sequence)}
    marked = replace(_marked(block, moved, attributes), sequence_of=tuple(sorted(sequences.items())))
    return _compacted(marked, (), block.sequence + 1)


def release(block: Block, ordinals: Iterable[int], released_at: str | None = None) -> Block:
    """Give back these ordinals; with `released_at` they cool down first (see `end_cooldown`). Free ones stay free."""
    gone = tuple(ordinal for ordinal in ordinals if holder(block, ordinal) is not None)
    if not gone:
        return block
    if released_at is None:
        return _compacted(block, gone, block.sequence + 1)
    cooling = _marked(block, gone, Attributes(None, released_at=released_at))
    return _compacted(cooling, (), block.sequence + 1)


def _marked(block: Block, ordinals: Iterable[int], attributes: Attributes) -> Block:
    """Taken ordinals with other attributes; what they had may be left behind unused."""
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = len(block.attributes)
    return replace(block, allocations=tuple(allocations), attributes=(*block.attributes, attributes))


def release_handle(
    block: Block, handle: HandleId, released_at: str | None = None
) -> tuple[Block, tuple[Address, ...]]:
    """Give back everything of a handle; the same block if it holds nothing."""
    ordinals = tuple(ordinal for ordinal, _ in allocations_of(block, handle))
    return release(block, ordinals, released_at), tuple(address_of(block, ordinal) for ordinal in ordinals)


def _compacted(block: Block, freed: tuple[int, ...], sequence: int) -> Block:
    """`freed` at the tail of the queue, without their allocations; unused and doubled attributes dropped."""
    gone = frozenset(freed)
    allocations = [None if ordinal in gone else index for ordinal, index in enumerate(block.allocations)]
    used: list[Attributes] = []
    position: dict[Attributes, int] = {}
    for index in sorted({index for index in allocations if index is not None}):
        attributes = block.attributes[index]
        if attributes not in position:
            position[attributes] = len(used)
            used.append(attributes)
    return replace(
        block,
        allocations=tuple(
            None if index is None else position[block.attributes[index]] for index in allocations
        ),
        unallocated=(*block.unallocated, *freed),
        attributes=tuple(used),
        sequence=sequence,
        sequence_of=tuple((ordinal, number) for ordinal, number in block.sequence_of if ordinal not in gone),
    )


def without_stale(block: Block) -> Block:
    """The block without attributes and sequence numbers that no allocation refers to; Calico 3.32 leaves some."""
    kept = tuple(
        (ordinal, number) for ordinal, number in block.sequence_of if block.allocations[ordinal] is not None
    )
    return _compacted(replace(block, sequence_of=kept), (), block.sequence + 1)


def end_cooldown(block: Block, now: datetime, cooldown_seconds: int) -> Block:
    """Addresses released longer ago than the cooldown become free, at the tail of the queue."""
    until = now - timedelta(seconds=cooldown_seconds)
    over = {
        index
        for index, item in enumerate(block.attributes)
        if item.released_at and is_past(item.released_at, until)
    }
    if not over:
        return block
    freed = tuple(ordinal for ordinal, index in enumerate(block.allocations) if index in over)
    return _compacted(block, freed, block.sequence)


def timestamp(moment: datetime) -> str:
    """A moment of UTC as Calico writes it into blocks (RFC 3339, whole seconds)."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def is_past(stamp: str, moment: datetime) -> bool:
    """Whether a stored time is not after `moment`; one that nobody can read is, and holds no address for ever."""
    try:
        return datetime.fromisoformat(stamp) <= moment
    except (ValueError, TypeError):
        return True


def without_owner(block: Block) -> Block:
    """The block with no owner: what is allocated stays, and nobody assigns from it but by borrowing."""
    return replace(block, owner=None, owner_kind="host", claimed_at=None, sequence=block.sequence + 1)


def with_node(block: Block, old: NodeName, new: NodeName, handles: Mapping[HandleId, HandleId]) -> Block:
    """The block with another name for a node, as its owner and in what its allocations say of their users.

    `handles` are those that bear the node's name, with what they are called from now on. The same block if it does not
    know the node.
    """

    def renamed(item: Attributes) -> Attributes:
        words = tuple(
            (word, new if (word, value) == ("node", old) else value) for word, value in item.secondary
        )
        handle = handles.get(bare_handle(item.handle) or HandleId(""), item.handle)
        return replace(item, handle=handle, secondary=words)

    attributes = tuple(map(renamed, block.attributes))
    is_owner = block.owner_kind == "host" and block.owner == old
    if attributes == block.attributes and not is_owner:
        return block
    owner = new if is_owner else block.owner
    return replace(block, attributes=attributes, owner=owner, sequence=block.sequence + 1)


def allocations_of(block: Block, handle: HandleId) -> tuple[tuple[int, Attributes], ...]:
    """(ordinal, attributes) of everything a handle holds; Calico cuts handles at a carriage return."""
    found = []
    for ordinal, index in enumerate(block.allocations):
        if index is not None and bare_handle(block.attributes[index].handle) == handle:
            found.append((ordinal, block.attributes[index]))
    return tuple(found)


def bare_handle(handle: HandleId | None) -> HandleId | None:
    """A handle without what Calico appends behind a carriage return."""
    return HandleId(handle.partition("\r")[0]) if handle is not None else None


def holder(block: Block, ordinal: int) -> Attributes | None:
    """The attributes of the allocation at an ordinal; None if it is free or cooling down."""
    index = block.allocations[ordinal]
    if index is None or block.attributes[index].released_at is not None:
        return None
    return block.attributes[index]


def allocated(block: Block) -> Iterator[tuple[int, Attributes]]:
    """(ordinal, attributes) of every allocation; what cools down is none."""
    for ordinal in range(len(block.allocations)):
        attributes = holder(block, ordinal)
        if attributes is not None:
            yield ordinal, attributes


def address_of(block: Block, ordinal: int) -> Address:
    """The address of an ordinal."""
    return ip_address(int(block.cidr.network_address) + ordinal)


def ordinal_of(block: Block, address: Address) -> int:
    """The ordinal of an address that lies in the block."""
    return int(address) - int(block.cidr.network_address)


def reserved_in(cidr: Prefix, reservations: Iterable[Prefix]) -> frozenset[int]:
    """The ordinals of a block that reservations cover."""
    found: set[int] = set()
    base, last = int(cidr.network_address), int(cidr.broadcast_address)
    for reservation in reservations:
        if reservation.version == cidr.version:
            low, high = int(reservation.network_address), int(reservation.broadcast_address)
            found.update(range(max(low, base) - base, min(high, last) - base + 1))
    return frozenset(found)


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
        (
            all(0 <= index < len(block.attributes) for index in indices),
            "an allocation refers to no attributes",
        ),
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


HARMLESS = frozenset(
    {"attributes that no allocation refers to", "a sequence number of an ordinal that is not allocated"}
)
"""Broken invariants that no address depends on: such a block is used all the same."""
