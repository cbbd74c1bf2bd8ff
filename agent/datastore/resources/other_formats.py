"""Documents that are not written as this program's: of Calico's other APIs, and of kinds that it does not use.

Promises: pure. A document of crd.projectcalico.org/v1, as kubectl prints it, becomes the resource that it means. For
one of Calico 2 (apiVersion v1) there is a sentence that says what it is today, and for every other kind one that names
it, and what to do about it.
Does not know: the fields of a kind, files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from agent.datastore.resources.schema import Document, nearest
from agent.datastore.resources.text_forms import pool_network

V3 = "projectcalico.org/v3"
CRD = "crd.projectcalico.org/v1"
KUBERNETES = "v1"
"""Of kubectl's `List`, of Kubernetes' own kinds, and of Calico 2."""
CRD_METADATA = "projectcalico.org/metadata"
"""The annotation in which Calico keeps labels and annotations of its resources in Kubernetes."""
OF_KUBERNETES = ("uid", "creationTimestamp", "resourceVersion", "managedFields", "generation", "selfLink")
"""Fields of metadata that speak of the object in Kubernetes, not of the one in etcd."""
SKIP_FLAG = "--skip-other-kinds"
LONGEST_KIND = 64

_POLICIES = "policies are not enforced by this program"
_SETTINGS = "this program has settings of its own; see: tortie config reference"
_CALICOS = "only programs of Calico write and read it"
OTHER_KINDS: Mapping[str, str] = {
    "FelixConfiguration": _SETTINGS,
    "KubeControllersConfiguration": _SETTINGS,
    "NetworkPolicy": _POLICIES,
    "GlobalNetworkPolicy": _POLICIES,
    "StagedNetworkPolicy": _POLICIES,
    "StagedGlobalNetworkPolicy": _POLICIES,
    "StagedKubernetesNetworkPolicy": _POLICIES,
    "NetworkSet": _POLICIES,
    "GlobalNetworkSet": _POLICIES,
    "HostEndpoint": _POLICIES,
    "Tier": _POLICIES,
    "Profile": "agents make those that their pods need",
    "ClusterInformation": _CALICOS,
    "CalicoNodeStatus": "for this, see: tortie node status",
    "QoSPolicy": _CALICOS,
    "LiveMigration": _CALICOS,
    "DatastoreMigration": _CALICOS,
    "IPAMBlock": "blocks are made and changed by agents; see: tortie ipam show --show-blocks",
    "IPAMHandle": "handles are made and removed by agents; see: tortie ipam",
}
"""Calico's kinds that are not ours, and what to know of each."""
RENAMED: Mapping[str, str] = {"IPAMConfig": "IPAMConfiguration"}
"""Kinds by their name in Kubernetes."""
OLD_KINDS = frozenset(
    {"ipPool", "bgpPeer", "node", "hostEndpoint", "policy", "profile", "workloadEndpoint", "config"}
)
"""Of Calico 2; Kubernetes has a Node of its own."""
OLD_NAMES = frozenset({"ippool", "bgppeer"})
"""Those in lower case that Kubernetes has not, however they are written."""
_OLD_MODES = {"always": "Always", "cross-subnet": "CrossSubnet", "": "Always"}


def as_v3(raw: Document) -> Document:
    """A document under the name and apiVersion of this program's kinds, if it is of Calico's API in Kubernetes.

    Its labels and annotations are those that Calico keeps in one annotation, and what Kubernetes says of its own object
    goes: revisions there are none of etcd's.
    """
    kind = RENAMED.get(str(raw.get("kind")), raw.get("kind"))
    if raw.get("apiVersion") not in (CRD, V3):
        return raw
    if raw["apiVersion"] == V3:
        return raw if kind == raw.get("kind") else {**raw, "kind": kind}
    found = {**raw, "kind": kind, "apiVersion": V3}
    if isinstance(raw.get("metadata"), dict):
        found["metadata"] = _metadata(raw["metadata"])
    return found


def without_revision(raw: object) -> object:
    """A document out of kubectl's `List`: its revision is Kubernetes', and none of etcd's."""
    if not isinstance(raw, dict) or not isinstance(raw.get("metadata"), dict):
        return raw
    metadata = {name: value for name, value in raw["metadata"].items() if name not in OF_KUBERNETES}
    return {**raw, "metadata": metadata}


def _metadata(raw: Document) -> Document:
    found = {name: value for name, value in raw.items() if name not in OF_KUBERNETES}
    annotations = found.get("annotations")
    if not isinstance(annotations, dict) or CRD_METADATA not in annotations:
        return found
    kept: Any = {}
    with suppress(ValueError, RecursionError):
        kept = json.loads(str(annotations[CRD_METADATA]))
    for field in ("labels", "annotations"):
        own = {name: value for name, value in (found.pop(field, None) or {}).items() if name != CRD_METADATA}
        calicos = kept.get(field) if isinstance(kept, dict) else None
        if merged := own | (calicos if isinstance(calicos, dict) else {}):
            found[field] = merged
    return found


def is_old(raw: Document) -> bool:
    """Whether a document is of Calico 2."""
    kind = str(raw.get("kind"))
    return raw.get("apiVersion") == KUBERNETES and (kind in OLD_KINDS or kind.lower() in OLD_NAMES)


def old_error(raw: Document) -> str:
    """What a document of Calico 2 is today, as far as this program has such a kind."""
    start = f"apiVersion: expected {V3}, got {KUBERNETES!r}"
    today = _today(raw)
    if today is None:
        return f"{start}: a resource of Calico 2, which this program does not use; see: calicoctl convert"
    text = json.dumps(today, ensure_ascii=False)
    return f"{start}: a resource of Calico 2 (see also: calicoctl convert); write it as {text}"


def _today(raw: Document) -> Document | None:
    metadata, spec = _object(raw, "metadata"), _object(raw, "spec")
    match str(raw.get("kind")).lower():
        case "ippool":
            cidr, ipip = str(metadata.get("cidr", "")), _object(spec, "ipip")
            mode = _OLD_MODES.get(str(ipip.get("mode", "")), "Always") if ipip.get("enabled") else "Never"
            wanted: Document = {"cidr": pool_network(cidr), "ipipMode": mode}
            wanted |= {"natOutgoing": True} if spec.get("nat-outgoing") else {}
            wanted |= {"disabled": True} if spec.get("disabled") else {}
            return _resource("IPPool", _name(metadata.get("name") or cidr), wanted)
        case "bgppeer":
            node, address = metadata.get("node"), str(metadata.get("peerIP", ""))
            wanted = {"peerIP": address, "asNumber": spec.get("asNumber")} | ({"node": node} if node else {})
            return _resource("BGPPeer", _name(f"{node or 'peer'}-{address}"), wanted)
        case "node":
            bgp = spec.get("bgp")
            return _resource("Node", str(metadata.get("name", "")), {"bgp": bgp} if bgp else {})
        case _:
            return None


def _object(raw: Document, name: str) -> Document:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _resource(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": V3, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _name(text: object) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")


def is_other(raw: Document, kinds: Iterable[str]) -> bool:
    """Whether a document is surely none that was meant for this program: of a known kind of others, or another API.

    What may be one of our `kinds` misspelt, or under a wrong apiVersion, is none of them.
    """
    kind, version = raw.get("kind"), raw.get("apiVersion")
    if not isinstance(kind, str):
        return False
    if kind.removesuffix("List") in OTHER_KINDS:
        return version in (None, V3, CRD)
    is_ours = kind in kinds and (kind, version) != ("Node", KUBERNETES)
    if is_ours or is_old(raw) or not isinstance(version, str):
        return False
    return not version.partition("/")[0].endswith("projectcalico.org")


def kind_error(raw: Document, kinds: Iterable[str]) -> str:
    """The sentence about a kind that this program does not have."""
    kind, known = raw.get("kind"), tuple(kinds)
    if isinstance(kind, str) and (why := OTHER_KINDS.get(kind.removesuffix("List"))) is not None:
        rest = f"leave it out, or pass over it with {SKIP_FLAG}"
        return f"kind: {kind} is Calico's, and not used by this program: {why}; {rest}"
    shown = repr(kind if not isinstance(kind, str) else kind[:LONGEST_KIND])
    hint = f"; pass over it with {SKIP_FLAG}" if is_other(raw, known) else nearest(kind, known)
    return f"kind: {shown} is not a kind this program knows ({', '.join(known)}){hint}"
