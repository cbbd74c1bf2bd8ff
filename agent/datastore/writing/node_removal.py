"""Removes all that is a node's own but its Node resource: as `calicoctl delete node` does (libcalico-go's nodes).

Promises: in an order in which every interruption leaves something by which the rest is found: addresses, endpoints,
BGP peers, settings and host endpoints of that node, and the Node resource after all of it, by the caller. So it may be
asked again. Nothing goes that names another node; what cannot be read stays and is told.
Does not know: whether the node lives, how it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from agent.clock import Clock
from agent.datastore.resources.resource_types import PLURALS
from agent.datastore.resources.schema import value_at
from agent.datastore.writing.inventory import TUNNEL_FIELDS
from ipam import block as blocks
from ipam.allocation.allocator import Allocator
from ipam.allocation.release import GuardedAddress, block_of_address, guarded_address
from ipam.allocation.transaction import read_block
from ipam.etcd.store import Committed, Delete, Store, Unchanged, Versioned
from ipam.failures import Unreadable
from ipam.keys import block_key, escaped, resource_key, resource_prefix
from ipam.model import Address, NodeName
from ipam.stored_json import read_stored, stored_object

DELETED_AT_ONCE = 50
"""Resources in one transaction, each with its guard."""
MOST_ROUNDS = 5
"""Looks at one kind, while others write it."""
NODE_FIELD = ("spec", "node")
OWNED = {
    "endpoint": PLURALS["WorkloadEndpoint"],
    "BGP peer": PLURALS["BGPPeer"],
    "host endpoint": "hostendpoints",
}
"""Kinds whose resources say in `spec.node` whose they are."""
SETTINGS = {"Felix configuration": "felixconfigurations", "BGP configuration": PLURALS["BGPConfiguration"]}
"""Kinds with an object of one node's own, `node.NAME`."""


@dataclass(frozen=True, slots=True)
class NodeRemoval:
    """What went, and what stays."""

    counts: dict[str, int]
    """`address` -> how many."""
    stays: tuple[str, ...]
    """What cannot be read, a sentence each."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing went."""
        return not any(self.counts.values())

    @property
    def sentences(self) -> tuple[str, ...]:
        """For people."""
        gone = ", ".join(_counted(count, what) for what, count in self.counts.items() if count)
        left = (f"left as it is: {why}" for why in self.stays)
        return (*((f"released: {gone}",) if gone else ()), *left)


async def remove_what_is_of(store: Store, node: NodeName, clock: Clock) -> NodeRemoval:
    """Remove it. Raises Conflict, StoreError."""
    stays: list[str] = []
    named = [*await _tunnels(store, node, stays)]
    endpoints, _ = await _owned(store, OWNED["endpoint"], node)
    named += [one for _, document in endpoints for one in _addresses(document)]
    allocator = Allocator(store, clock.wall, list)
    done = await allocator.release_node(node)
    more = await _unowned(store, named)
    freed = len(done.addresses) + len((await allocator.release_addresses(more)).released)
    counts = {"address": freed, "block": len(done.blocks), "leftover tunnel handle": done.handles}
    stays += done.unreadable
    for what, plural in OWNED.items():
        counts[what], unreadable = await _delete_owned(store, plural, node)
        stays += unreadable
    for what, plural in SETTINGS.items():
        counts[what] = await _delete_one(store, resource_key(plural, f"node.{node}"))
    return NodeRemoval(counts, tuple(dict.fromkeys(stays)))


def _counted(count: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


async def _tunnels(store: Store, node: NodeName, stays: list[str]) -> Iterator[Address]:
    """The addresses that the node's record names as its tunnels'."""
    stored = await store.get(resource_key(PLURALS["Node"], node))
    try:
        document = read_stored(stored, stored_object) if stored is not None else {}
    except Unreadable as error:
        stays.append(f"what this names, for it cannot be read: {error}")
        document = {}
    return _read_addresses(value_at(document, path) for path in TUNNEL_FIELDS)


def _addresses(endpoint: dict[str, Any]) -> Iterator[Address]:
    texts = value_at(endpoint, ("spec", "ipNetworks"))
    return _read_addresses(texts if isinstance(texts, list) else ())


def _read_addresses(texts: Iterable[object]) -> Iterator[Address]:
    for text in texts:
        try:
            yield ip_address(str(text).partition("/")[0])
        except ValueError:
            continue


async def _unowned(store: Store, named: Sequence[Address]) -> list[GuardedAddress]:
    """Of addresses that the node's things name those that are allocated still, and say no node's name.

    Older tools wrote none. One that names another node is that node's by now, whatever a stale endpoint says.
    """
    found: list[GuardedAddress] = []
    for address in dict.fromkeys(named):
        cidr = await block_of_address(store, address)
        stored = await store.get(block_key(cidr)) if cidr is not None else None
        if stored is None:
            continue
        try:
            block = read_block(stored).block
        except Unreadable:  # told by whoever releases the node's blocks
            continue
        ordinal = blocks.ordinal_of(block, address)
        holder = blocks.holder(block, ordinal)
        if holder is not None and "node" not in dict(holder.secondary):
            found.append(guarded_address(block, ordinal, holder))
    return found


async def _owned(
    store: Store, plural: str, node: NodeName
) -> tuple[list[tuple[Versioned, dict[str, Any]]], list[str]]:
    """The resources of a kind that name this node, and a sentence for each that cannot be read."""
    found, unreadable = [], []
    for _, stored in sorted((await store.list(resource_prefix(plural))).values.items()):
        try:
            document = read_stored(stored, stored_object)
        except Unreadable as error:
            if plural != OWNED["endpoint"] or _is_named_after(stored.key, node):
                unreadable.append(str(error))
            continue
        if value_at(document, NODE_FIELD) == node:
            found.append((stored, document))
    return found, unreadable


def _is_named_after(key: str, node: NodeName) -> bool:
    """Whether an endpoint is the node's by its key: its name begins with the node's."""
    return key.rpartition("/")[2].startswith(escaped(f"{node.replace('-', '--')}-"))


async def _delete_owned(store: Store, plural: str, node: NodeName) -> tuple[int, list[str]]:
    """Delete them, each as it was read; how many. Others may write the kind meanwhile: then it is read again."""
    count = 0
    unreadable: list[str] = []
    for _ in range(MOST_ROUNDS):
        found, unreadable = await _owned(store, plural, node)
        if not found:
            break
        for start in range(0, len(found), DELETED_AT_ONCE):
            some = [stored for stored, _ in found[start : start + DELETED_AT_ONCE]]
            guards = [Unchanged(one.key, one.revision) for one in some]
            if isinstance(await store.commit(guards, [Delete(one.key) for one in some]), Committed):
                count += len(some)
    return count, unreadable


async def _delete_one(store: Store, key: str) -> int:
    if await store.get(key) is None:
        return 0
    await store.commit((), (Delete(key),))
    return 1
