"""What allocation needs from outside, in one value: datastore, time, pools, pauses, chance.

Promises: nothing of it changes as long as the allocator lives. Does not know: what is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ipam.etcd.store import Pause, Store
from ipam.model import Address, HandleId, NodeName, PoolRecord, Prefix


def _unknown_labels(node: NodeName) -> Mapping[str, str] | None:
    """Nobody's labels are known."""
    return None


@dataclass(frozen=True, slots=True)
class Environment:
    """The outside of one allocator."""

    store: Store
    now: Callable[[], datetime]
    """The present moment in UTC."""
    pools: Callable[[], Sequence[PoolRecord]]
    """The watched copy; a stale one is noticed by the guard on the pool's revision."""
    pause: Pause
    """Waits between two attempts."""
    random: Callable[[], float]
    """Answers from 0 to 1."""
    in_use: Callable[[], Mapping[Address, HandleId]] = dict
    """The addresses that living pods of this machine have, whatever the datastore says."""
    claims: Callable[[], Collection[Prefix]] = tuple
    """All nodes' blocks, as they are watched."""
    node_labels: Callable[[NodeName], Mapping[str, str] | None] = _unknown_labels
    """The labels of a node whose claims this process may give up; None: not known, or another's."""
