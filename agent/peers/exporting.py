"""Facts to originations: what this node has to tell of its own.

Promises: pure; a node originates its own blocks once their blackhole is in the kernel, the addresses its pods borrowed
from other nodes' blocks, and the local prefixes that its settings name while they are here; never an address inside an
own block, and never what it learned. Which peer is told which of them is decided by `agent.peers.policies`.
Does not know: sessions, the kernel beyond the routes it is told are installed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_network

from agent.dataplane.facts import Facts
from agent.dataplane.objects import Address, Link, RouteKey
from agent.peers.policies import Interface
from bgp.families import Prefix
from bgp.origination import PLAIN, Origination

BLOCK = Origination(is_block=True)
PODS_REMEMBERED = 4096


def borne(prefixes: Iterable[Prefix], links: Mapping[str, Link]) -> tuple[Prefix, ...]:
    """The local prefixes that an interface bears an address of: packets to the others would find nobody here."""
    addresses = [address for link in links.values() if link.up for address, _ in link.addresses]
    return tuple(prefix for prefix in prefixes if any(address in prefix for address in addresses))


def announcements(
    facts: Facts, installed: Collection[RouteKey], local_prefixes: Iterable[Prefix] = ()
) -> dict[Prefix, Origination]:
    """All of it."""
    own = [block for block, owner in facts.block_owners.items() if owner == facts.node]
    blocks = {
        block for block in own if block.prefixlen == block.max_prefixlen or RouteKey(block) in installed
    }
    borrowed = (prefix for one in facts.endpoints for prefix in _outside(one.addresses, tuple(own)))
    return {**dict.fromkeys((*local_prefixes, *borrowed), PLAIN), **dict.fromkeys(blocks, BLOCK)}


@lru_cache(maxsize=PODS_REMEMBERED)
def _outside(addresses: tuple[Address, ...], own: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    """A pod's addresses in none of the node's blocks; each pass asks it of all pods."""
    return tuple(ip_network(one) for one in addresses if not any(one in block for block in own))


def interfaces(facts: Facts, local_prefixes: Iterable[Prefix]) -> tuple[Interface, ...]:
    """The node's interfaces as rules that name one see them."""
    local, parent = tuple(local_prefixes), facts.parent
    return tuple(
        Interface(
            name=link.name,
            subnets=tuple(
                ip_network(f"{address}/{length}", strict=False)
                for address, length in link.addresses
                if length < address.max_prefixlen
            ),
            own=frozenset(
                {
                    *(
                        ip_network(address)
                        for endpoint in facts.endpoints
                        if endpoint.interface == link.name
                        for address in endpoint.addresses
                    ),
                    *borne(local, {link.name: link}),
                }
            ),
            is_parent=parent is not None and link.name == parent.name,
        )
        for link in sorted(facts.links.values(), key=lambda link: link.name)
    )
