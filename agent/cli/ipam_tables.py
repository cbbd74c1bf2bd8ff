"""What `tortie ipam show` shows, as values for programs and as calicoctl's tables for people.

Promises: pure; both forms of a view say the same. Does not know: the store, command lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from agent.datastore.writing.inventory import Inventory
from agent.tables import ruled
from ipam import block as arithmetic
from ipam.allocation.pool_selection import selects_every_namespace
from ipam.check.audit import IpamSnapshot
from ipam.check.utilization import Utilization, block_utilization, borrowed_addresses, pool_utilization
from ipam.model import Address, IpamConfig
from ipam.selector import parse

MOST_NAMED = 10
"""Namespaces in one sentence."""


class IpamView(NamedTuple):
    """One answer of `tortie ipam show`."""

    rows: Any
    """Values that JSON knows."""
    text: str
    """A table, or sentences."""


def pools_view(seen: IpamSnapshot, facts: Inventory, *, blocks: bool) -> IpamView:
    """How full the pools are, and with `blocks` the blocks of each; as calicoctl counts, what cools down is in use."""
    found = []
    for pool in sorted(
        (record.pool for record in facts.pools), key=lambda pool: (pool.cidr.version, pool.cidr)
    ):
        found.append(("IP Pool", pool_utilization(pool, seen.blocks.values(), facts.reserved)))
        inside = [block for cidr, block in seen.blocks.items() if blocks and cidr.network_address in pool]
        for block in sorted(inside, key=lambda block: int(block.cidr.network_address)):
            found.append(("Block", block_utilization(block, facts.reserved)))
    rows = [
        {
            "grouping": name,
            "cidr": str(one.cidr),
            "total": one.capacity,
            "inUse": one.used,
            "cooling": one.cooling,
            "reserved": one.reserved,
            "free": one.free,
        }
        for name, one in found
    ]
    heads = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE")
    return IpamView(rows, ruled(heads, [_cells(name, one) for name, one in found]))


def pool_notes(facts: Inventory) -> Iterator[str]:
    """A sentence for each pool that gives addresses to nobody, or to the pods of some namespaces alone."""
    for record in sorted(facts.pools, key=lambda record: record.pool.name):
        pool, known = record.pool, len(facts.namespaces)
        if record.withdrawn:
            yield f"pool {pool.name} {record.withdrawn}: no new address is taken from it"
        if selects_every_namespace(pool):
            continue
        selector = f"pool {pool.name}: namespaceSelector {pool.namespace_selector}"
        if not known:
            yield f"{selector}: no namespace's labels are known (no profile kns.*), so pods get nothing from it unasked"
            continue
        match = parse(pool.namespace_selector)
        chosen = sorted(name for name, labels in facts.namespaces.items() if match.matches(dict(labels)))
        named = (
            f": {', '.join(chosen[:MOST_NAMED])}{' …' if len(chosen) > MOST_NAMED else ''}" if chosen else ""
        )
        yield f"{selector}: pods of {len(chosen)} of {known} namespaces{named}"


def _cells(name: str, one: Utilization) -> tuple[object, ...]:
    numbers = (one.used + one.cooling, one.reserved, one.free)
    shares = (f"{n:.5g} ({100 * n / one.capacity:.0f}%)" for n in numbers)
    return (name, one.cidr, f"{one.capacity:.5g}", *shares)


def borrowed_view(seen: IpamSnapshot) -> IpamView:
    """Addresses that are used outside their block's node, in their own order."""
    rows = []
    for loan in sorted(
        borrowed_addresses(seen.blocks.values()), key=lambda loan: (loan.address.version, int(loan.address))
    ):
        words = dict(loan.attributes.secondary)
        pod = "/".join(filter(None, (words.get("namespace"), words.get("pod"))))
        rows.append(
            {
                "ip": str(loan.address),
                "borrowingNode": loan.borrower,
                "block": str(loan.block),
                "blockOwner": loan.owner or "",
                "type": "tunnel" if "type" in words else "pod",
                "allocatedTo": pod or words.get("type", ""),
            }
        )
    heads = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")
    return IpamView(rows, ruled(heads, [tuple(row.values()) for row in rows]))


def address_view(seen: IpamSnapshot, facts: Inventory, address: Address) -> IpamView:
    """What one address is allocated to; without `handle` where it is not."""
    for cidr, block in seen.blocks.items():
        if address not in cidr:
            continue
        holder = arithmetic.holder(block, arithmetic.ordinal_of(block, address))
        if holder is None:
            continue
        attributes, user = dict(holder.secondary), facts.in_use.get(address)
        row = {
            "ip": str(address),
            "handle": holder.handle,
            "usedBy": user,
            "block": str(cidr),
            "blockOwner": block.owner,
            "attributes": attributes,
        }
        lines = [
            f"IP {address} is in use",
            f"Handle: {holder.handle or 'none'}",
            f"Used by: {user or 'nobody known'}",
            f"Block: {cidr} of {block.owner or 'nobody'}",
            "Attributes:",
            *(f"  {name}: {value}" for name, value in attributes.items()),
        ]
        return IpamView(row, "\n".join(lines))
    return IpamView({"ip": str(address)}, f"{address} is not assigned")


def configuration_view(config: IpamConfig) -> IpamView:
    """The rules of allocation under calicoctl's names."""
    rows = {
        "StrictAffinity": config.strict_affinity,
        "AutoAllocateBlocks": config.auto_allocate_blocks,
        "MaxBlocksPerHost": config.blocks_per_node,
        "IPCooldownSeconds": config.cooldown_seconds,
    }
    cells = [(name, str(value).lower() if isinstance(value, bool) else value) for name, value in rows.items()]
    return IpamView(rows, ruled(("PROPERTY", "VALUE"), cells))
