"""Calico's annotations of a pod, where the runtime hands them over with the call.

containerd and CRI-O do, if the network's configuration declares the capability.

Promises: pure; bounded. Only Calico's are read, others are nobody's business here. Does not know: what is done by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CAPABILITY = "io.kubernetes.cri.pod-annotations"
"""The key of `runtimeConfig` (containerd, internal/cri/annotations; CRI-O likewise)."""
PREFIX = "cni.projectcalico.org/"
LISTS = ("ipAddrs", "ipv4pools", "ipv6pools", "ipFamilies", "ipAddrsNoIpam", "floatingIPs")
"""Those whose value is a list of texts, written as JSON."""
REFUSED = ("ipAddrsNoIpam", "floatingIPs")
"""Those that ask for an address that we do not give: Calico refuses them, too, unless feature_control says so."""
LONGEST_VALUE = 4096


def calicos(annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Calico's annotations by their names without its prefix, lists decoded; empty ones are none.

    Raises ValueError with a sentence.
    """
    found: dict[str, Any] = {}
    for name, value in annotations.items():
        if not name.startswith(PREFIX) or value in ("", None):
            continue
        short = name.removeprefix(PREFIX)
        if not isinstance(value, str) or len(value) > LONGEST_VALUE:
            raise ValueError(
                f"annotation {PREFIX}{short[:64]}: must be a text of up to {LONGEST_VALUE} characters"
            )
        found[short] = _list(short, value) if short in LISTS else value
    return {short: value for short, value in found.items() if value != []}


def _list(short: str, text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError(f'annotation {PREFIX}{short}: must be a list of texts in JSON, such as ["a", "b"]')
    return found
