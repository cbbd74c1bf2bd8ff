"""Leaves this machine's node to a calico-node: what only Tortie knows goes, what pods and Calico need stays.

Pods, their routes, tunnels, endpoints and addresses are in Calico's own form and with its marks, so calico-node adopts
them. Two things would hurt it: our nftables tables, whose workload filter drops what comes from a pod that it was not
told of, and the marks on the Node resource, by which the other nodes demand TTL 255 of its BGP packets (RFC 5082).
Promises: nothing goes while the agent runs; one guarded write of the record, which keeps every other field; done
again it does nothing. Does not know: who shows it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.configuration.config import Config
from agent.dataplane.kernel.dataplane_objects import Masquerade
from agent.dataplane.kernel.protocol import Kernel
from agent.datastore.resources.resource_types import LARGEST_TTL_ANNOTATION, PLURALS
from agent.netlink.kernel_errors import Unsupported
from agent.node.machine import ANNOTATION, CLAIM_ANNOTATION, LIFE_ANNOTATION
from agent.node.takeover import MOST_WRITES, record_of
from agent.service.start import take_agent_lock
from ipam.etcd.store import Committed, Put, Store, Unchanged, optimistic
from ipam.keys import resource_key
from ipam.model import NodeName

MARKS: Mapping[str, str] = {
    LARGEST_TTL_ANNOTATION: "the other nodes demand TTL 255 of its BGP packets, which BIRD sends with less",
    ANNOTATION: "which machine the node is",
    LIFE_ANNOTATION: "which of several machines with one id the node is",
    CLAIM_ANNOTATION: "that a machine has asked whether another one with its id lives",
}
"""Our annotations on a Node resource -> what they mean."""


async def what_would_go(kernel: Kernel, store: Store, node: NodeName) -> AsyncIterator[str]:
    """A sentence for each thing that `return_to_calico` would take away. Raises KernelError, IpamError."""
    with suppress(Unsupported):
        if await kernel.workload_filter() is not None:
            yield "nftables: the workload filter, which drops what pods send that Tortie does not know"
        if await kernel.masquerade() is not None:
            yield "nftables: masquerading for pools with natOutgoing, until Felix does it"
    stored = await store.get(resource_key(PLURALS["Node"], node))
    if stored is not None:
        for mark in _marks(record_of(stored.key, stored.value)):
            yield f"node {node}: annotation {mark}: {MARKS[mark]}"


async def return_to_calico(kernel: Kernel, store: Store, config: Config) -> AsyncIterator[str]:
    """Take it away; yields what was done. Raises ConfigError while the agent runs, KernelError, IpamError."""
    run = Path(config.paths.run)
    lock = take_agent_lock(run) if run.is_dir() else None
    try:
        node = NodeName(config.node_name)
        if gone := await _unmark(store, node):
            yield f"node {node}: without {', '.join(gone)}"
        with suppress(Unsupported):
            if await kernel.workload_filter() is not None:
                await kernel.put_workload_filter(None, None)
                yield "nftables: workload filter removed"
            if await kernel.masquerade() is not None:
                await kernel.put_masquerade(Masquerade())
                yield "nftables: masquerading removed"
    finally:
        if lock is not None:
            os.close(lock)


async def _unmark(store: Store, node: NodeName) -> tuple[str, ...]:
    """The record without our marks; those that it bore."""
    key = resource_key(PLURALS["Node"], node)

    async def attempt() -> tuple[str, ...] | None:
        current = await store.get(key)
        if current is None:
            return ()
        raw = record_of(current.key, current.value)
        marks = _marks(raw)
        if not marks:
            return ()
        annotations = {
            name: value for name, value in raw["metadata"]["annotations"].items() if name not in marks
        }
        raw["metadata"]["annotations"] = annotations
        if not annotations:
            del raw["metadata"]["annotations"]
        put = Put(key, json.dumps(raw).encode())
        return (
            marks
            if isinstance(await store.commit((Unchanged(key, current.revision),), (put,)), Committed)
            else None
        )

    return await optimistic(attempt, MOST_WRITES, f"node {node}: somebody else keeps writing {key}")


def _marks(raw: Mapping[str, Any]) -> tuple[str, ...]:
    annotations = raw["metadata"].get("annotations") or {}
    return tuple(mark for mark in MARKS if mark in annotations)
