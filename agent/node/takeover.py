"""Gives a node's record to another machine, by a person's word alone.

Promises: one guarded write of the annotations that name a machine; every other field stays.
Does not know: whether the other machine lives.
"""

from __future__ import annotations

import json
from typing import Any

from agent.datastore.resources.resource_types import PLURALS
from agent.node.machine import ANNOTATION, LIFE_ANNOTATION
from ipam.etcd.store import Committed, Put, Store, Unchanged, optimistic
from ipam.failures import Malformed, Refused
from ipam.keys import resource_key
from ipam.model import NodeName

MOST_WRITES = 5


async def take_over(store: Store, node: NodeName, machine: str, life: str = "") -> str:
    """Have the record name this machine and its life; the id that it bore, empty if none.

    Raises Refused when there is no record, Malformed when it cannot be read, Conflict, StoreError.
    """
    key = resource_key(PLURALS["Node"], node)

    async def attempt() -> str | None:
        current = await store.get(key)
        if current is None:
            raise Refused(f"there is no node {node}: whichever machine registers first is it")
        raw = record_of(current.key, current.value)
        annotations = raw["metadata"].get("annotations") or {}
        before = str(annotations.get(ANNOTATION, ""))
        wanted = {ANNOTATION: machine, **({LIFE_ANNOTATION: life} if life else {})}
        if all(annotations.get(name) == value for name, value in wanted.items()):
            return before
        raw["metadata"]["annotations"] = {**annotations, **wanted}
        guard, put = Unchanged(key, current.revision), Put(key, json.dumps(raw).encode())
        return before if isinstance(await store.commit((guard,), (put,)), Committed) else None

    return await optimistic(attempt, MOST_WRITES, f"node {node}: somebody else keeps writing {key}")


def record_of(key: str, value: bytes) -> dict[str, Any]:
    """A node's record as a document that has metadata. Raises Malformed."""
    try:
        raw = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{key}: {error}") from error
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("annotations") or {}, dict):
        raise Malformed(f"{key}: it has no metadata that can be read")
    found: dict[str, Any] = raw
    return found
