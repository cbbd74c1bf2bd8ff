"""A Node of Kubernetes in this node's own record: its labels, and which Node it is.

As Calico's node controller has it: labels of Kubernetes go over those of the record; which came from there stands in an
annotation, so that one that Kubernetes has no more goes, and one that a person set stays.
Promises: pure; nothing else of the record changes; too many labels change nothing. Does not know: etcd, HTTP.
Reference: kube-controllers' node controller (`projectcalico.org/kube-labels`); calico-node's `orchRefs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.datastore.resources.endpoint_form import KUBERNETES

SYNCED = "projectcalico.org/kube-labels"
"""The annotation: JSON of the labels that came from Kubernetes."""
MOST_LABELS = 500


def write_node(raw: dict[str, Any], kubernetes_name: str, labels: Mapping[str, str]) -> None:
    """Change a record in place."""
    spec = raw["spec"]
    references = spec.get("orchRefs")
    others = [
        one
        for one in (references if isinstance(references, list) else [])
        if not (isinstance(one, dict) and one.get("orchestrator") == KUBERNETES)
    ]
    spec["orchRefs"] = [*others, {"nodeName": kubernetes_name, "orchestrator": KUBERNETES}]
    if len(labels) > MOST_LABELS:
        return
    metadata = raw["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    earlier = _synced(annotations.get(SYNCED))
    present = metadata.get("labels") or {}
    kept = {
        key: value
        for key, value in present.items()
        if key in labels or key not in earlier or earlier[key] != value
    }
    metadata["labels"] = {**kept, **labels}
    annotations[SYNCED] = json.dumps(dict(sorted(labels.items())), separators=(",", ":"))
    metadata["annotations"] = annotations


def _synced(text: object) -> Mapping[str, str]:
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
