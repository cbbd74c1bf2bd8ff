"""Nodes whose tunnels carry nothing from here, because no route of this host leads to their address on the underlay.

The routes into a tunnel are all there then, and nothing else would say it. Without encapsulation such a node is a BGP
next hop, of which the routes say it (`route_troubles`).
Promises: pure; bounded, and nodes with one reason are one trouble. Does not know: what lies between this node and them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.dataplane.inputs.facts import Facts
from agent.netlink.objects import Address, Prefix
from agent.trouble import Trouble, TroubleKind
from ipam.model import EncapsulationMode, NodeName, Pool

MOST_NAMED = 10
"""Reasons; the rest is counted."""


def unreached_nodes(facts: Facts, unreached: Mapping[Address, str]) -> Iterator[Trouble]:
    """A trouble for each reason why nodes with blocks behind a tunnel are not reached; `unreached` has all of them."""
    if not unreached:
        return
    blocks: dict[tuple[Address, NodeName], int] = {}
    for block, owner in facts.block_owners.items():
        node = facts.nodes.get(owner)
        underlay = node.on(block.version) if node is not None and owner != facts.node else None
        if underlay is not None and underlay.ip in unreached and _is_encapsulated(facts.pools, block):
            blocks[underlay.ip, owner] = blocks.get((underlay.ip, owner), 0) + 1
    found: dict[str, list[tuple[Address, NodeName]]] = {}
    for address, owner in blocks:
        found.setdefault(unreached[address], []).append((address, owner))
    for why, ends in list(found.items())[:MOST_NAMED]:
        address, owner = ends[0]
        more = f" and those of {len(ends) - 1} more nodes" if len(ends) > 1 else ""
        many = sum(blocks[end] for end in ends)
        yield Trouble(
            TroubleKind.UNDERLAY,
            f"the address {address} of {owner}{more}",
            why,
            f"what the tunnels send to {'its block' if many == 1 else f'{many} blocks there'} is lost",
            f"see: ip route get {address}",
        )
    if len(found) > MOST_NAMED:
        yield Trouble(
            TroubleKind.UNDERLAY, "", f"{len(found) - MOST_NAMED} more reasons why nodes are not reached"
        )


def _is_encapsulated(pools: tuple[Pool, ...], block: Prefix) -> bool:
    for pool in pools:
        if pool.cidr.version == block.version and pool.cidr.supernet_of(block):  # type: ignore[arg-type]
            return (pool.vxlan, pool.ipip) != (EncapsulationMode.NEVER, EncapsulationMode.NEVER)
    return False
