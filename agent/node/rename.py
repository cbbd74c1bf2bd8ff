"""Makes the older record of this very machine, with all that names it, that of its present name.

A machine was renamed, or its host name has become a domain name with a reboot: its record, blocks, endpoints and
settings bear the old name, and its address is that record's.
Promises: each step is a guarded transaction, and at every moment each block has an owner with this machine's address,
so no node loses a route: the new record comes first, the old one goes last. What is done is passed over, so an attempt
that was cut short is finished by another. Another machine's record is not touched unless that is forced.
Does not know: whether an agent runs here; it sees the new record like any other change.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agent.datastore.resources.endpoint_form import on_node
from agent.datastore.resources.resource_types import PLURALS, WorkloadEndpoint, encode
from agent.datastore.resources.validation import NODE_PREFIX
from agent.datastore.storage_layout import KIND_PREFIXES, key_of, read_valid
from agent.node import machine
from agent.node.node_resource import TUNNEL_USES
from agent.node.takeover import MOST_WRITES
from ipam.allocation.node_transfer import transfer_node
from ipam.etcd.store import (
    Committed,
    Delete,
    Operation,
    Put,
    Store,
    Unchanged,
    Versioned,
    optimistic,
    revision_of,
)
from ipam.failures import Malformed, Refused, Unreadable
from ipam.keys import resource_key
from ipam.model import HandleId, NodeName
from ipam.stored_json import read_stored, stored_object

SETTINGS = ("bgpconfigurations", "felixconfigurations")
"""Kinds of which an object named `node.NAME` is one node's own."""

Change = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Renamed:
    """What bears the new name from now on."""

    blocks: int
    endpoints: int
    settings: tuple[str, ...]
    """Keys of settings that named the node."""


async def rename_node(
    store: Store, old: NodeName, new: NodeName, own: str, life: str = "", *, force: bool = False
) -> Renamed:
    """Give all that node `old` has to node `new`, which is this machine; `own` is its id, `life` that of this boot.

    Raises Refused when there is no such record or another machine has one of the names; Conflict, Malformed,
    StoreError.
    """
    old_key, new_key = (resource_key(PLURALS["Node"], name) for name in (old, new))
    if old == new:
        raise Refused(f"node {new} is this machine's name already")
    read = await store.get_many((old_key, new_key))
    if old_key not in read:
        raise Refused(f"there is no node {old}")
    _check(read[old_key], old, own, force=force)
    if new_key in read:
        _check(read[new_key], new, own, force=force)

    def name_it(raw: dict[str, Any]) -> None:
        raw["metadata"]["name"] = new
        signed = {machine.ANNOTATION: own, **({machine.LIFE_ANNOTATION: life} if life else {})}
        raw["metadata"]["annotations"] = {**(raw["metadata"].get("annotations") or {}), **signed}

    await _move(store, old_key, new_key, name_it, keep=True)
    settings = [key async for key in _renamed_settings(store, old, new)]
    handles = {HandleId(f"{use.handle}{old}"): HandleId(f"{use.handle}{new}") for use in TUNNEL_USES}
    blocks = await transfer_node(store, old, new, handles)
    endpoints = 0
    for value in (await store.list(KIND_PREFIXES["WorkloadEndpoint"])).values.values():
        if _node_of(value) == old:
            endpoints += await _move_endpoint(store, value.key, new)
    await _move(store, old_key, new_key, name_it)
    return Renamed(blocks, endpoints, tuple(settings))


def _check(stored: Versioned, name: NodeName, own: str, *, force: bool) -> None:
    """Raises Refused when the record is another machine's, or nobody knows whose."""
    metadata = read_stored(stored, stored_object).get("metadata")
    if not isinstance(metadata, dict):
        raise Malformed(f"{stored.key}: it has no metadata that can be read")
    annotations = metadata.get("annotations")
    if force or machine.is_same(annotations, own):
        return
    other = machine.other_machine(annotations, own)
    whose = f"is another machine's ({other})" if other is not None else "names no machine"
    raise Refused(f"the record of node {name} {whose}; if it is this machine's all the same: --force")


async def _move(store: Store, source: str, target: str, change: Change, *, keep: bool = False) -> bool:
    """Write a document, changed, under another key, unless one is there; whether there was one. `keep`: both stay."""

    async def attempt() -> bool | None:
        read = await store.get_many((source, target))
        if source not in read:
            return False
        operations: list[Operation] = []
        if source == target or target not in read:
            raw = read_stored(read[source], stored_object)
            change(raw)
            operations.append(Put(target, json.dumps(raw).encode()))
        if not keep and source != target:
            operations.append(Delete(source))
        guards = [Unchanged(key, revision_of(read.get(key))) for key in dict.fromkeys((source, target))]
        if operations and not isinstance(await store.commit(guards, operations), Committed):
            return None
        return True

    return await optimistic(attempt, MOST_WRITES, f"{source}: somebody else keeps writing it")


async def _renamed_settings(store: Store, old: NodeName, new: NodeName) -> AsyncIterator[str]:
    """Have settings that name the node name it anew; their keys."""

    def name_it(raw: dict[str, Any]) -> None:
        raw["metadata"]["name"] = f"{NODE_PREFIX}{new}"

    for plural in SETTINGS:
        source, target = (resource_key(plural, f"{NODE_PREFIX}{name}") for name in (old, new))
        if await _move(store, source, target, name_it):
            yield target

    def peer_with_it(raw: dict[str, Any]) -> None:
        raw["spec"]["node"] = new

    for value in (await store.list(KIND_PREFIXES["BGPPeer"])).values.values():
        if _node_of(value) == old and await _move(store, value.key, value.key, peer_with_it):
            yield value.key


def _node_of(value: Versioned) -> str | None:
    """The node that a resource says it is of; None too when it cannot be read."""
    with suppress(Unreadable):
        spec = read_stored(value, stored_object).get("spec")
        found = spec.get("node") if isinstance(spec, dict) else None
        return found if isinstance(found, str) else None
    return None


async def _move_endpoint(store: Store, key: str, new: NodeName) -> bool:
    async def attempt() -> bool | None:
        stored = await store.get(key)
        if stored is None:
            return False
        endpoint = read_stored(stored, lambda value: read_valid(WorkloadEndpoint, value))
        renamed = on_node(endpoint, new)
        target = key_of(renamed)
        there = await store.get(target)
        put = () if there is not None else (Put(target, encode(renamed)),)
        guards = (Unchanged(key, stored.revision), Unchanged(target, revision_of(there)))
        return True if isinstance(await store.commit(guards, (*put, Delete(key))), Committed) else None

    return await optimistic(attempt, MOST_WRITES, f"{key}: somebody else keeps writing it")
