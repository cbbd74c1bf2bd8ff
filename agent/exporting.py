"""Facts to announcements: what this node tells its peers of its own.

Promises: pure; a node announces only what it originates: its own blocks and the addresses its pods borrowed from other
nodes' blocks, never an address inside an own block and never what it learned.
Does not know: sessions, the kernel beyond the routes it is told are installed.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network

from agent.dataplane.facts import Facts
from agent.dataplane.objects import RouteKey


def announcements(facts: Facts, installed: Collection[RouteKey]) -> frozenset[IPv4Network]:
    """What this node tells its peers: own blocks whose blackhole is in the kernel, and borrowed addresses."""
    own = [block for block, owner in facts.block_owners.items() if owner == facts.node]
    blocks = {
        block
        for block in own
        if _exported(facts, block) and (block.prefixlen == 32 or RouteKey(block) in installed)
    }
    borrowed = {
        IPv4Network(address)
        for endpoint in facts.endpoints
        for address in endpoint.addresses
        if not any(address in block for block in own) and _exported(facts, IPv4Network(address))
    }
    return frozenset(blocks | borrowed)


def _exported(facts: Facts, prefix: IPv4Network) -> bool:
    pool = facts.pool_of(prefix)
    return pool is not None and not pool.disable_bgp_export
