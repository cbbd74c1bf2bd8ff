"""Facts to originations: what this node has to tell of its own.

Promises: pure; a node originates its own blocks once their blackhole is in the kernel, the addresses its pods borrowed
from other nodes' blocks, and the local prefixes that its settings name while they are here; never an address inside an
own block, and never what it learned. Which peer is told which of them is decided by `agent.peering.peer_policies`.
Does not know: sessions, the kernel beyond the routes it is told are installed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_network

from agent.dataplane.inputs.facts import Facts
from agent.datastore.state_cache import own_blocks
from agent.memo import Memo
from agent.netlink.objects import Link, RouteKey
from agent.peering.peer_policies import Interface
from bgp.policy.origination import PLAIN, Origination
from bgp.wire.families import Prefix

BLOCK = Origination(is_block=True)


def borne(prefixes: Iterable[Prefix], links: Mapping[str, Link]) -> tuple[Prefix, ...]:
    """The local prefixes that an interface bears an address of: packets to the others would find nobody here."""
    addresses = [address for link in links.values() if link.up for address, _ in link.addresses]
    return tuple(prefix for prefix in prefixes if any(address in prefix for address in addresses))


class BorrowedAddresses:
    """Remembers the pods' addresses in none of the node's blocks; they are looked for when a pod or a claim changes."""

    def __init__(self) -> None:
        self._found = Memo[frozenset[Prefix]](by_identity=True)

    def of(self, facts: Facts) -> frozenset[Prefix]:
        """Those of these facts."""
        inputs = facts.endpoints, facts.block_owners, facts.node
        return self._found.get(lambda: frozenset(_outside(facts)), *inputs)


def _outside(facts: Facts) -> Iterator[Prefix]:
    own = own_blocks(facts.block_owners, facts.node)
    for endpoint in facts.endpoints:
        for address in endpoint.addresses:
            if not any(address in block for block in own):
                yield ip_network(address)


def announcements(
    facts: Facts,
    installed: Collection[RouteKey],
    local_prefixes: Iterable[Prefix] = (),
    outsiders: BorrowedAddresses | None = None,
) -> dict[Prefix, Origination]:
    """All of it; `outsiders` remembers from call to call."""
    own = own_blocks(facts.block_owners, facts.node)
    blocks = {
        block for block in own if block.prefixlen == block.max_prefixlen or RouteKey(block) in installed
    }
    borrowed = (outsiders or BorrowedAddresses()).of(facts)
    return {**dict.fromkeys((*local_prefixes, *borrowed), PLAIN), **dict.fromkeys(blocks, BLOCK)}


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
