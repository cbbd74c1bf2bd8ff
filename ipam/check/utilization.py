"""How full pools and blocks are: the numbers for `ipam show` and for gauges.

Promises: pure; every address of a pool is counted once, as used, cooling, reserved or free. Does not know: the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import collapse_addresses
from typing import Any

from ipam import block as blocks
from ipam.model import Address, Attributes, Block, NodeName, Pool, Prefix


@dataclass(frozen=True, slots=True)
class Utilization:
    """How many addresses of a pool or a block are used, cooling, reserved and free."""

    cidr: Prefix
    capacity: int
    used: int
    borrowed: int
    """Used by another node than the block's owner; counted in `used` too."""
    cooling: int
    reserved: int
    """Excluded from automatic assignment and not in use."""

    @property
    def free(self) -> int:
        """What may still be given out, whether a block exists for it or not."""
        return self.capacity - self.used - self.cooling - self.reserved


@dataclass(frozen=True, slots=True)
class BorrowedAddress:
    """An address that is used by another node than the owner of its block."""

    address: Address
    borrower: NodeName
    block: Prefix
    owner: NodeName | None
    attributes: Attributes


def block_utilization(block: Block, reserved: Iterable[Prefix] = ()) -> Utilization:
    """The utilization of one block."""
    taken = {ordinal for ordinal, index in enumerate(block.allocations) if index is not None}
    excluded = blocks.reserved_in(block.cidr, reserved) - taken
    used = sum(1 for _ in blocks.allocated(block))
    borrowed = sum(1 for _ in borrowed_addresses([block]))
    return Utilization(block.cidr, block.cidr.num_addresses, used, borrowed, len(taken) - used, len(excluded))


def pool_utilization(pool: Pool, known: Iterable[Block], reserved: Sequence[Prefix] = ()) -> Utilization:
    """The utilization of one pool; `known` may hold the blocks of other pools too."""
    inside = [block_utilization(block, reserved) for block in known if block.cidr.network_address in pool]
    # Each block knows which of these are in use.
    in_blocks = sum(len(blocks.reserved_in(one.cidr, reserved)) for one in inside)
    return Utilization(
        pool.cidr,
        pool.cidr.num_addresses,
        sum(one.used for one in inside),
        sum(one.borrowed for one in inside),
        sum(one.cooling for one in inside),
        _covered(pool.cidr, reserved) - in_blocks + sum(one.reserved for one in inside),
    )


def _covered(cidr: Prefix, reserved: Iterable[Prefix]) -> int:
    """How many addresses of a prefix reservations cover, however they overlap."""
    over: list[Any] = [one for one in reserved if one.version == cidr.version and one.overlaps(cidr)]
    return sum(min(one.num_addresses, cidr.num_addresses) for one in collapse_addresses(over))


def borrowed_addresses(known: Iterable[Block]) -> Iterable[BorrowedAddress]:
    """Every borrowed address of these blocks; who uses it is the node that its attributes name."""
    for block in known:
        for ordinal, attributes in blocks.allocated(block):
            node = dict(attributes.secondary).get("node")
            if node is not None and node != block.owner:
                yield BorrowedAddress(
                    blocks.address_of(block, ordinal), NodeName(node), block.cidr, block.owner, attributes
                )
