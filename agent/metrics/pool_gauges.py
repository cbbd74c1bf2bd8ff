"""How full each pool is, as far as one node knows it without asking: pools, claims, its own pods and tunnels.

Promises: pure but for its cache: as long as the facts are the same nothing is counted again, so a scrape costs
nothing. Does not know: the contents of other nodes' blocks; each node exposes its own addresses, and their sum is the
cluster's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.memo import Memo
from ipam.model import Address, NodeName, Pool, Prefix

_Network = tuple[int, bytes, bytes, str]
"""Version, first and last address, pool."""


@dataclass(frozen=True, slots=True)
class PoolReadings:
    """How full one pool is, as far as this node knows."""

    name: str
    size: int
    """Addresses."""
    most_blocks: int
    """Blocks that it can be cut into."""
    blocks: int
    """Blocks that nodes have claimed."""
    own_blocks: int
    in_use: int
    """This node's addresses: its pods' and its tunnels'."""

    @property
    def own_addresses(self) -> int:
        """Addresses of this node's blocks."""
        return self.own_blocks * (self.size // self.most_blocks)


class PoolGauges:
    """The readings of all pools, counted again when something changed."""

    def __init__(self, node: NodeName) -> None:
        self._node = node
        self._readings = Memo[tuple[PoolReadings, ...]](by_identity=False)

    def readings(
        self, pools: tuple[Pool, ...], owners: Mapping[Prefix, NodeName], addresses: tuple[Address, ...]
    ) -> tuple[PoolReadings, ...]:
        """A row per pool; `addresses` are this node's own."""
        return self._readings.get(lambda: self._counted(pools, owners, addresses), pools, owners, addresses)

    def _counted(
        self, pools: Iterable[Pool], owners: Mapping[Prefix, NodeName], addresses: Iterable[Address]
    ) -> tuple[PoolReadings, ...]:
        table = [
            (one.cidr.version, one.cidr.network_address.packed, one.cidr.broadcast_address.packed, one.name)
            for one in pools
        ]
        blocks, own = Counter[str](), Counter[str]()
        for block, owner in owners.items():
            name = _pool_of(table, block.network_address)
            blocks[name] += 1
            own[name] += owner == self._node
        used = Counter(_pool_of(table, address) for address in addresses)
        return tuple(
            PoolReadings(
                name=one.name,
                size=one.cidr.num_addresses,
                most_blocks=1 << (one.block_length - one.cidr.prefixlen),
                blocks=blocks[one.name],
                own_blocks=own[one.name],
                in_use=used[one.name],
            )
            for one in pools
        )


def _pool_of(table: Sequence[_Network], address: Address) -> str:
    packed, of_version = address.packed, address.version
    for version, first, last, name in table:
        if version == of_version and first <= packed <= last:
            return name
    return ""
