"""What `tortie ipam show` shows, as values for programs and as calicoctl's tables for people.

Promises: pure; both forms of a view say the same. Does not know: the store, command lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from agent.datastore.inventory import Inventory
from agent.tables import ruled
from ipam import block as arithmetic
from ipam.check.audit import Picture
from ipam.check.utilization import Filling, filling, loans, pool_filling
from ipam.model import Address as IPAddress
from ipam.model import IpamConfig


class IpamView(Protocol):
    """One of them."""

    def rows(self) -> Any:
        """Values that JSON knows."""
        ...

    def text(self) -> str:
        """A table, or sentences."""
        ...


@dataclass(frozen=True, slots=True)
class PoolsView:
    """How full pools are, and if wanted their blocks."""

    seen: Picture
    facts: Inventory
    blocks: bool

    def _found(self) -> list[tuple[str, Filling]]:
        found = []
        for record in sorted(
            self.facts.pools, key=lambda record: (record.pool.cidr.version, record.pool.cidr)
        ):
            found.append(
                ("IP Pool", pool_filling(record.pool, self.seen.blocks.values(), self.facts.reserved))
            )
            if self.blocks:
                inside = [
                    block for cidr, block in self.seen.blocks.items() if cidr.network_address in record.pool
                ]
                for block in sorted(inside, key=lambda block: int(block.cidr.network_address)):
                    found.append(("Block", filling(block, self.facts.reserved)))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Counts of addresses."""
        return [
            {
                "grouping": name,
                "cidr": str(one.cidr),
                "total": one.capacity,
                "inUse": one.used,
                "cooling": one.cooling,
                "reserved": one.reserved,
                "free": one.free,
            }
            for name, one in self._found()
        ]

    def text(self) -> str:
        """As calicoctl counts: what cools is in use."""
        heads = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")
        return ruled(heads, [_cells(name, one) for name, one in self._found()])


def _cells(name: str, one: Filling) -> tuple[object, ...]:
    numbers = (one.used + one.cooling, one.reserved, one.free)
    shares = (f"{n:.5g} ({100 * n / one.capacity:.0f}%)" for n in numbers)
    return (name, one.cidr, f"{one.capacity:.5g}", *shares)


@dataclass(frozen=True, slots=True)
class BorrowedView:
    """Addresses that are used outside their block's node."""

    seen: Picture

    def rows(self) -> list[dict[str, Any]]:
        """By address."""
        found = []
        for loan in sorted(
            loans(self.seen.blocks.values()), key=lambda loan: (loan.address.version, int(loan.address))
        ):
            words = dict(loan.attributes.secondary)
            pod = "/".join(filter(None, (words.get("namespace"), words.get("pod"))))
            found.append(
                {
                    "ip": str(loan.address),
                    "borrowingNode": loan.borrower,
                    "block": str(loan.block),
                    "blockOwner": loan.owner or "",
                    "type": "tunnel" if "type" in words else "pod",
                    "allocatedTo": pod or words.get("type", ""),
                }
            )
        return found

    def text(self) -> str:
        """As a table."""
        heads = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")
        return ruled(heads, [tuple(row.values()) for row in self.rows()])


@dataclass(frozen=True, slots=True)
class AddressView:
    """Who has one address."""

    seen: Picture
    facts: Inventory
    address: IPAddress

    def rows(self) -> dict[str, Any]:
        """`handle` is missing when nobody has it."""
        for cidr, block in self.seen.blocks.items():
            if self.address not in cidr:
                continue
            holder = arithmetic.holder(block, arithmetic.ordinal_of(block, self.address))
            if holder is not None:
                return {
                    "ip": str(self.address),
                    "handle": holder.handle,
                    "usedBy": self.facts.in_use.get(self.address),
                    "block": str(cidr),
                    "blockOwner": block.owner,
                    "attributes": dict(holder.secondary),
                }
        return {"ip": str(self.address)}

    def text(self) -> str:
        """As calicoctl says it."""
        row = self.rows()
        if "handle" not in row:
            return f"{self.address} is not assigned"
        lines = [
            f"IP {self.address} is in use",
            f"Handle: {row['handle'] or 'none'}",
            f"Used by: {row['usedBy'] or 'nobody known'}",
            f"Block: {row['block']} of {row['blockOwner'] or 'nobody'}",
            "Attributes:",
        ]
        return "\n".join([*lines, *(f"  {name}: {value}" for name, value in row["attributes"].items())])


@dataclass(frozen=True, slots=True)
class IpamConfigView:
    """The rules of allocation."""

    config: IpamConfig

    def rows(self) -> dict[str, Any]:
        """Under calicoctl's names."""
        return {
            "StrictAffinity": self.config.strict_affinity,
            "AutoAllocateBlocks": self.config.auto_allocate_blocks,
            "MaxBlocksPerHost": self.config.blocks_per_node,
            "IPCooldownSeconds": self.config.cooldown_seconds,
        }

    def text(self) -> str:
        """As a table."""
        cells = [
            (name, str(value).lower() if isinstance(value, bool) else value)
            for name, value in self.rows().items()
        ]
        return ruled(("PROPERTY", "VALUE"), cells)
