"""When a node's things may be given back because Kubernetes has no such Node any more: only with proof.

Proof is two looks, as far apart as the grace period, between which Kubernetes never had the Node and nobody wrote the
node's record. A record that does not say which Node of Kubernetes it is (`orchRefs`) is never looked at: the node may
be none of Kubernetes. A list without the looker's own Node is of another cluster, and proves nothing.
Promises: pure; a node that is there again, or wrote its record, starts anew.
Does not know: how one looks, signs of life.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from agent.datastore.resources.endpoint_form import KUBERNETES
from agent.datastore.resources.schema import value_at
from ipam.model import NodeName

MOST_REFERENCES = 16
"""Of one record."""


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node's record, as far as it matters here."""

    kubernetes_name: str
    revision: int
    """Of its last write."""


@dataclass(frozen=True, slots=True)
class Absence:
    """Since when Kubernetes has no Node for a record."""

    node: RegisteredNode
    since: float
    """Seconds on a monotonic clock."""


Absences = Mapping[NodeName, Absence]


def kubernetes_name(document: Mapping[str, Any]) -> str | None:
    """The Node of Kubernetes that a record says it is; None if it says none, or several."""
    references = value_at(document, ("spec", "orchRefs"))
    if not isinstance(references, list) or len(references) > MOST_REFERENCES:
        return None
    names = {
        one.get("nodeName")
        for one in references
        if isinstance(one, dict) and one.get("orchestrator") == KUBERNETES
    }
    found = names.pop() if len(names) == 1 else None
    return found if isinstance(found, str) and found else None


def absences(
    earlier: Absences, nodes: Mapping[NodeName, RegisteredNode], present: Collection[str], now: float
) -> Absences:
    """Whose Node is not there at this look; each since the first look of those in a row that say so."""
    return {
        name: before
        if (before := earlier.get(name)) is not None and before.node == node
        else Absence(node, now)
        for name, node in nodes.items()
        if node.kubernetes_name not in present
    }


def proved(found: Absences, now: float, grace_seconds: float) -> Mapping[NodeName, str]:
    """Those that may be given back -> the proof, for the log."""
    return {
        name: f"Kubernetes has no Node {one.node.kubernetes_name}: seen twice, {now - one.since:.0f} s apart; "
        f"nobody wrote the record of {name} meanwhile (revision {one.node.revision})"
        for name, one in found.items()
        if now - one.since >= max(grace_seconds, LEAST_GRACE_SECONDS)
    }


LEAST_GRACE_SECONDS = 1.0
"""Two looks at one moment are one look."""
