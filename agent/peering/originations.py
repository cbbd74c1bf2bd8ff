"""Facts to originations: the prefixes that this node originates.

Promises: pure; a node originates its own blocks once their blackhole is in the kernel (of one whose claim cannot be
read, because the blackhole of an earlier life is there), the addresses its pods borrowed from other nodes' blocks, and
the local prefixes that its settings name while they are here; never an address inside an own block, and never what it
learned. Which peer gets which of them is decided by `agent.peering.peer_policies`.
Does not know: sessions, the kernel beyond the keys of installed routes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_network

from agent.dataplane.inputs.facts import Endpoint, Facts
from agent.dataplane.kernel.dataplane_objects import host_links
from agent.datastore.state_cache import own_blocks
from agent.memo import Each, Memo
from agent.netlink.objects import Address, Link, Route, RouteKey, RouteType
from agent.peering.peer_policies import PolicyInterface
from bgp.policy.origination import Origination
from bgp.policy.policy import NORMAL_LOCAL_PREF
from bgp.wire.families import Prefix
from ipam.model import NodeName

BLOCK = Origination(is_block=True, local_pref=NORMAL_LOCAL_PREF)
OTHER = Origination(local_pref=NORMAL_LOCAL_PREF)
"""What is no block. LOCAL_PREF is that of Calico from 3.32 on, so that a policy's `setPriority` compares as there."""


def with_local_address(prefixes: Iterable[Prefix], links: Mapping[str, Link]) -> tuple[Prefix, ...]:
    """The local prefixes in which an interface has an address: packets to the others would find no host here."""
    addresses = [address for link in host_links(links).values() if link.up for address, _ in link.addresses]
    return tuple(prefix for prefix in prefixes if any(address in prefix for address in addresses))


def loopback_addresses(facts: Facts) -> tuple[Prefix, ...]:
    """The node's addresses that are on its loopback: nobody reaches them but by a route to each alone."""
    found = (facts.loopback_address(version) for version in (4, 6))
    return tuple(ip_network(address) for address in found if address is not None)


def borrowed_addresses(facts: Facts) -> frozenset[Prefix]:
    """The pods' addresses that are in none of the node's blocks, each as a prefix."""
    own = own_blocks(facts.block_owners, facts.node)
    addresses = (address for endpoint in facts.endpoints for address in endpoint.addresses)
    return frozenset(_borrowed(addresses, own))


class BorrowedAddresses:
    """`borrowed_addresses` pass after pass: a pod that comes or goes among hundreds costs itself alone."""

    def __init__(self) -> None:
        self._each = Each[Endpoint, frozenset[Prefix]]()
        self._own: Collection[Prefix] = ()
        self._known = Memo[frozenset[Prefix]](by_identity=True)
        self._blocks = Memo[Collection[Prefix]](by_identity=True)

    def of(self, facts: Facts) -> frozenset[Prefix]:
        """Those of these facts."""
        own = self._blocks.get(
            lambda: own_blocks(facts.block_owners, facts.node), facts.block_owners, facts.node
        )
        return self._known.get(lambda: self._find(facts, own), facts.endpoints, own)

    def _find(self, facts: Facts, own: Collection[Prefix]) -> frozenset[Prefix]:
        if own is not self._own:
            self._each, self._own = Each(), own
        self._each.update(facts.endpoints, lambda one: frozenset(_borrowed(one.addresses, own)))
        return frozenset[Prefix]().union(*self._each)


def _borrowed(addresses: Iterable[Address], own: Collection[Prefix]) -> Iterator[Prefix]:
    return (ip_network(address) for address in addresses if not any(address in block for block in own))


def inherited_blocks(
    lost: Mapping[Prefix, NodeName], node: NodeName, installed: Mapping[RouteKey, Route]
) -> frozenset[Prefix]:
    """Own blocks whose claim cannot be read: an earlier life could read it, for their blackhole is in the kernel."""
    found = ((block, installed.get(RouteKey(block))) for block, owner in lost.items() if owner == node)
    return frozenset(
        block for block, route in found if route is not None and route[1].type is RouteType.BLACKHOLE
    )


def originations(
    facts: Facts,
    installed: Collection[RouteKey],
    others: Iterable[Prefix],
    inherited: Collection[Prefix] = (),
) -> dict[Prefix, Origination]:
    """All prefixes to originate; `installed` are the routes in the kernel, `others` the prefixes that are no blocks.

    `inherited` are own blocks that the facts do not have.
    """
    own = own_blocks(facts.block_owners, facts.node)
    blocks = {
        block for block in own if block.prefixlen == block.max_prefixlen or RouteKey(block) in installed
    }
    return {**dict.fromkeys(others, OTHER), **dict.fromkeys((*blocks, *inherited), BLOCK)}


def policy_interfaces(facts: Facts, local_prefixes: Iterable[Prefix]) -> tuple[PolicyInterface, ...]:
    """The node's interfaces as policy rules that name one see them."""
    local, parent = tuple(local_prefixes), facts.parent
    return tuple(
        PolicyInterface(
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
                    *with_local_address(local, {link.name: link}),
                }
            ),
            is_parent=parent is not None and link.name == parent.name,
        )
        for link in sorted(facts.links.values(), key=lambda link: link.name)
    )
