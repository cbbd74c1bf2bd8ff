"""Gives back all that a node had, with its record: as `delete node`, noted so that it can be undone.

Promises: an undo file is on the disk before the first key goes, and has the last state after the last one, however the
removal ends; every transaction is guarded by what the caller names, and by the node's record as it was when the proof
was made. Interrupted, it is found again: the record goes last. Does not know: who says that the node is gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.clock import Clock
from agent.datastore.resources.resource_types import PLURALS
from agent.datastore.writing.node_removal import NodeRemoval, remove_what_is_of
from agent.datastore.writing.undo_journal import NotingStore, written
from agent.durable_files import put_file
from ipam.etcd.dry_run_store import DryRunStore
from ipam.etcd.store import Committed, Delete, Store, Unchanged
from ipam.failures import Conflict, Malformed
from ipam.keys import resource_key
from ipam.model import NodeName

UNDO_DIRECTORY = "reclaimed"
"""Below the state directory."""
MOST_UNDO_FILES = 200
"""Of one machine; the oldest go."""
FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What went, and where it is noted."""

    removal: NodeRemoval
    has_record: bool
    """Whether there was a record."""
    undo_file: Path | None


async def preview(store: Store, node: NodeName, clock: Clock) -> Reclaimed:
    """What would go; nothing is written. Raises Conflict, StoreError."""
    return await _remove(NotingStore(DryRunStore(store)), node, clock, None)


async def reclaim(
    store: Store, node: NodeName, clock: Clock, undo_file: Path, guards: Sequence[Unchanged] = ()
) -> Reclaimed:
    """Remove it all. Raises Conflict, StoreError, Malformed when the undo file cannot be written: then nothing went."""
    record_key = resource_key(PLURALS["Node"], node)
    record = await store.get(record_key)
    own = (*guards, *((Unchanged(record_key, record.revision),) if record is not None else ()))
    dry = NotingStore(DryRunStore(store))
    await _remove(dry, node, clock, None)
    _write(undo_file, dry, node)
    noting = NotingStore(store, own)
    try:
        return await _remove(noting, node, clock, undo_file)
    finally:
        with suppress(Malformed):  # what was written before the first key went says nearly the same
            if noting.noted:
                _write(undo_file, noting, node)


async def _remove(noting: NotingStore, node: NodeName, clock: Clock, undo_file: Path | None) -> Reclaimed:
    removal = await remove_what_is_of(noting, node, clock)
    key = resource_key(PLURALS["Node"], node)
    stored = await noting.get(key)
    if stored is not None:
        outcome = await noting.commit((Unchanged(key, stored.revision),), (Delete(key),))
        if not isinstance(outcome, Committed):
            raise Conflict(f"node {node}: its record was written meanwhile")
    return Reclaimed(removal, stored is not None, undo_file)


def _write(path: Path, noting: NotingStore, node: NodeName) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        put_file(path, written(noting.noted, f"node {node}"), FILE_MODE)
    except OSError as error:
        raise Malformed(f"the undo file cannot be written: {error}") from error


def undo_path(state: Path, node: NodeName, clock: Clock) -> Path:
    """Where the agent notes a removal of this moment; the oldest files make room."""
    directory = state / UNDO_DIRECTORY
    with suppress(OSError):
        files = sorted(directory.glob("*.json"), key=lambda file: file.name.rpartition("_")[2])
        for file in files[: max(0, len(files) - MOST_UNDO_FILES + 1)]:
            file.unlink(missing_ok=True)
    name = re.sub(r"[^A-Za-z0-9.-]", "-", node)
    return directory / f"{name}_{clock.wall():%Y%m%dT%H%M%S}.json"
