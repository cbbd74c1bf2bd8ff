"""Facts to BGP: whom this node peers with, and what it announces.

Promises: pure; a node announces only what it originates: its own blocks and the addresses its pods borrowed from other
nodes' blocks, never an address inside an own block and never what it learned.
Does not know: sessions, the kernel beyond the routes it is told are installed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Network

from agent.dataplane.facts import Facts
from agent.dataplane.objects import RouteKey
from agent.datastore.bgp_resources import DEFAULT_PORT, BGPConfigurationSpec
from agent.datastore.resources import Node
from bgp.config import PeerConfig
from bgp.families import Address
from ipam.model import NodeName


def asn_of(node: Node | None, settings: BGPConfigurationSpec) -> int:
    """A node's AS number: its own, else the cluster's."""
    own = node.spec.bgp.as_number if node is not None and node.spec.bgp is not None else None
    return own if own is not None else settings.as_number


def mesh(
    me: NodeName, nodes: Mapping[NodeName, Node], settings: BGPConfigurationSpec, hold_seconds: int
) -> dict[Address, PeerConfig]:
    """The node-to-node mesh: a peer for every other node with an address.

    Of two nodes the one with the greater address waits to be called, so that the two do not call each other at once.
    """
    own = nodes[me].ipv4 if me in nodes else None
    if own is None or not settings.node_to_node_mesh_enabled:
        return {}
    peers: dict[Address, PeerConfig] = {}
    for name, node in nodes.items():
        address = node.ipv4
        if name == me or address is None or address.ip == own.ip:
            continue
        peers[address.ip] = PeerConfig(
            address=address.ip,
            asn=asn_of(node, settings),
            port=settings.listen_port or DEFAULT_PORT,
            passive=own.ip > address.ip,
            hold_seconds=hold_seconds,
            local_address=own.ip,
            description=name,
        )
    return peers


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
