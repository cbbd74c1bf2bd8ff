"""Whether the agent is ready, and its state in the few words that a service manager shows; a core.

Promises: ready means that the kernel was adopted and the datastore read, so the first pod finds us; after
PATIENCE_SECONDS without that it is ready all the same and says why: what starts after us on this node (a runtime, an
etcd in a container) must not wait for a datastore that may need it.
Does not know: how the service manager learns it.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """What decides whether the agent is ready, and what its status line says."""

    not_ready: str | None
    """Why no pod can be served yet."""
    passes: int
    """Passes over the kernel since the start."""
    pods: int = 0
    peers: int = 0
    peers_up: int = 0
    drained: bool = False
    troubles: tuple[str, ...] = ()
    reload_refused: str | None = None
    """Why the last reload was refused."""


def why_not_ready(
    *, in_sync: bool, datastore_trouble: str | None, unregistered: str | None, no_writes: str | None = None
) -> str | None:
    """Why no pod can be attached now, which is what /readyz, CNI's STATUS and the service manager say; None if one can.

    `unregistered` is why this node has no Node resource yet, `no_writes` why the datastore answers and takes no writes.
    """
    if not in_sync:
        return f"the datastore has not been read yet ({datastore_trouble or 'still reading'})"
    if datastore_trouble is not None:
        return f"the datastore is away: {datastore_trouble}"
    if no_writes is not None:
        return no_writes
    return f"the node is not registered: {unregistered}" if unregistered is not None else None


def is_ready(readiness: Readiness, passes_when_in_sync: int | None, age_seconds: float) -> bool:
    """Whether a pass over the kernel has ended since the datastore was read."""
    if age_seconds >= PATIENCE_SECONDS:
        return True
    return passes_when_in_sync is not None and readiness.passes > passes_when_in_sync


def status_text(readiness: Readiness) -> str:
    """One line, the most urgent first."""
    words = []
    if readiness.reload_refused is not None:
        words.append(f"reload refused: {readiness.reload_refused}")
    if readiness.not_ready is not None:
        words.append(f"routes stay as they were: {readiness.not_ready}")
    if readiness.drained:
        words.append("drained")
    words.append(_count(readiness.pods, "pod"))
    words.append(f"{readiness.peers_up} of {_count(readiness.peers, 'peer')} up")
    words += [text for text in readiness.troubles if text != readiness.not_ready]
    return "; ".join(words)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
