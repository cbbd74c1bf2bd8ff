"""The profile of a namespace of Kubernetes, as Calico's kube-controllers write it: the copy of the namespace's labels.

A namespace NS has the profile `kns.NS`; its `spec.labelsToApply` has each label behind `pcns.`, and a label with the
namespace's name, which the namespace itself lacks.
Promises: pure. Does not know: who asks for labels.
"""

from __future__ import annotations

from typing import Any

from ipam.etcd.store import Versioned
from ipam.stored_json import read_stored, stored_object

NAMESPACE_PROFILE = "kns."
LABEL_PREFIX = "pcns."
NAME_LABEL = "projectcalico.org/name"


def namespace_labels(stored: Versioned) -> tuple[tuple[str, str], ...]:
    """The labels of the namespace behind a profile. Raises Unreadable."""
    return read_stored(stored, _labels)


def _labels(stored: Versioned) -> tuple[tuple[str, str], ...]:
    spec = _object(stored_object(stored), "spec")
    found = {}
    for label, value in _object(spec, "labelsToApply").items():
        if type(value) is not str:
            raise ValueError(f"spec.labelsToApply.{label}: expected a text, got {value!r}")
        bare = label.removeprefix(LABEL_PREFIX)
        if bare != label and bare != NAME_LABEL:
            found[bare] = value
    return tuple(sorted(found.items()))


def _object(within: dict[str, Any], name: str) -> dict[str, Any]:
    found = within.get(name)
    if found is not None and type(found) is not dict:
        raise ValueError(f"{name}: expected an object, got {found!r}")
    return found or {}
