"""The nodes of which BGP says nothing here: Calico's with VXLAN and no BIRD, or all of them without a mesh.

In VXLAN mode a borrowed address is known by BGP (decision 4). Of a node without BGP it is taken from the contents of
the blocks instead, which are watched only once there is such a node (decision 42).
Promises: a node with a session, and one whose block is learned with it as next hop, speaks BGP, whoever reflects it.
Where this node has peers the others are waited for, SILENT_SECONDS, and those of our own for ever: they come back.
Does not know: routes, watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import structlog

from agent.clock import Clock
from agent.datastore.resources.resource_types import Node
from agent.datastore.state_cache import StateCache
from agent.netlink.objects import Address, RouteKey
from bgp.rib.multipath import NextHops, single_hops
from ipam.model import EncapsulationMode, NodeName, Prefix

LOOK_SECONDS = 1.0
SILENT_SECONDS = 15.0
"""A speaker that comes up is there by then: three times Calico's connect retry."""
MOST_BLOCKS_ASKED = 64
"""Blocks of one node that are looked for among what was learned."""
MOST_NAMED = 10
OURS = "projectcalico.org/tortie-"
"""How the annotations begin that an agent of this program writes into its Node resource."""

log = structlog.get_logger()


class Bgp(Protocol):
    """What is asked of BGP."""

    @property
    def peers(self) -> Collection[Address]:
        """Whom this node should have as peers."""
        ...

    @property
    def established(self) -> frozenset[Address]:
        """The peers whose session is up."""
        ...

    @property
    def learned(self) -> Mapping[RouteKey, NextHops]:
        """The next hop, or several, of what was learned, as it is now."""
        ...

    @property
    def has_left(self) -> bool:
        """Whether this node is drained, and says nothing itself."""
        ...


def is_ours(node: Node) -> bool:
    """Whether an agent of this program keeps the node."""
    return any(key.startswith(OURS) for key in node.metadata.annotations or {})


def silent_nodes(state: StateCache, bgp: Bgp) -> frozenset[NodeName]:
    """The nodes with a VTEP of which BGP says nothing now and that are none of ours that should be a peer."""
    if all(record.pool.vxlan is EncapsulationMode.NEVER for record in state.pools):
        return frozenset()
    wanted = frozenset(bgp.peers)
    doubted = {
        name: own
        for name, node in state.nodes.items()
        if name != state.node
        and (node.vxlan_address is not None or node.vxlan6_address is not None)
        and not (is_ours(node) and wanted)
        and (own := {one.ip for one in (node.ipv4, node.ipv6) if one is not None})
    }
    if not doubted:
        return frozenset()
    up, learned = bgp.established, bgp.learned
    blocks: dict[NodeName, list[Prefix]] = {}
    for block, owner in state.block_owners.items():
        if owner in doubted:
            blocks.setdefault(owner, []).append(block)
    return frozenset(
        name
        for name, own in doubted.items()
        if not own & up
        and own.isdisjoint(
            hop
            for one in blocks.get(name, [])[:MOST_BLOCKS_ASKED]
            for hop in single_hops(learned.get(RouteKey(one)))
        )
    )


class SilentNodes:
    """Looks for them, again and again; a shell."""

    def __init__(self, state: StateCache, bgp: Bgp, clock: Clock, found: Callable[[], None]) -> None:
        """`found` is called when they are others than before."""
        self._state = state
        self._bgp = bgp
        self._clock = clock
        self._found = found
        self._since: dict[NodeName, float] = {}
        self.names: frozenset[NodeName] = frozenset()
        """The nodes whose borrowed addresses follow from the datastore; the same object while it is the same set."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """One look; a drained node, which hears nobody, keeps what it knew."""
        if self._bgp.has_left:
            return
        now = self._clock.now()
        silent = silent_nodes(self._state, self._bgp)
        self._since = {name: self._since.get(name, now) for name in silent}
        waits = SILENT_SECONDS if self._bgp.peers else 0.0  # without any peer nobody is waited for
        names = frozenset(name for name, since in self._since.items() if now - since >= waits)
        if names != self.names:
            log.info("bgp.nodes_without_bgp", nodes=sorted(names)[:MOST_NAMED], count=len(names))
            self.names = names
            self._found()
