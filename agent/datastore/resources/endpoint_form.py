"""The form that Calico's tools want of a workload endpoint and of the profile it names.

libcalico updates only what has a uid and a creation time, and Felix drops what comes to an endpoint whose profile is
not there. So both are written as Calico's CNI plugin writes them.
Promises: pure; the same endpoint always gets the same uid, whoever brings it into form. What is there already stays,
but for the two labels that libcalico sets with every write of its own.
Does not know: etcd, when an endpoint is written.
"""

from __future__ import annotations

import hashlib
import json
import uuid

from msgspec.structs import replace

from agent.datastore.resources.resource_types import API_VERSION, WorkloadEndpoint
from ipam.keys import resource_key

NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
NETWORK_ANNOTATION = "projectcalico.org/tortie-network"
"""On an endpoint: the name of the CNI network that it belongs to. Profiles are people's to change."""
DEFAULT_NAMESPACE = "default"
KUBERNETES = "k8s"
"""The orchestrator of a pod of Kubernetes."""


def _uid(*parts: str) -> str:
    digest = hashlib.sha1("\n".join(parts).encode(errors="replace"), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def network_of(endpoint: WorkloadEndpoint) -> str:
    """The CNI network of an endpoint: as it says itself, else (Calico, older agents) its first profile; or empty."""
    said = (endpoint.metadata.annotations or {}).get(NETWORK_ANNOTATION)
    return said if said is not None else (endpoint.spec.profiles or [""])[0]


def is_of_network(endpoint: WorkloadEndpoint, network: str) -> bool:
    """Whether it is this network's and no other's: one that does not say its network has that profile alone."""
    if NETWORK_ANNOTATION in (endpoint.metadata.annotations or {}):
        return network_of(endpoint) == network
    return endpoint.spec.profiles == [network]


def in_form(endpoint: WorkloadEndpoint, network: str, now: str) -> WorkloadEndpoint:
    """The endpoint in Calico's form; the same object if it is. `now` is its creation time if it has none.

    Only one that lacks something says its network from now on, or one whose profiles do not say it any more.
    """
    before = endpoint.metadata
    namespace, created = before.namespace or DEFAULT_NAMESPACE, before.creation_timestamp or now
    made_by = (namespace, before.name, endpoint.spec.container_id or "", created)
    forced = {NAMESPACE_LABEL: namespace, ORCHESTRATOR_LABEL: endpoint.spec.orchestrator}
    after = replace(
        before,
        namespace=namespace,
        uid=before.uid or _uid(*made_by),
        creation_timestamp=created,
        labels={**(before.labels or {}), **forced},
    )
    if after == before and network_of(endpoint) == network:
        return endpoint
    annotations = {**(before.annotations or {}), NETWORK_ANNOTATION: network}
    return replace(endpoint, metadata=replace(after, annotations=annotations))


def on_node(endpoint: WorkloadEndpoint, node: str) -> WorkloadEndpoint:
    """The endpoint as one of a node with this name: its own name begins with the node's, so it has another key."""
    before = f"{endpoint.spec.node.replace('-', '--')}-"
    name = endpoint.metadata.name.removeprefix(before)
    renamed = f"{node.replace('-', '--')}-{name}"
    return replace(
        endpoint,
        metadata=replace(endpoint.metadata, name=renamed, resource_version=None),
        spec=replace(endpoint.spec, node=node),
    )


def profile_of(endpoint: WorkloadEndpoint) -> tuple[str, str] | None:
    """(network, orchestrator) whose profile an endpoint needs; None if its network's is not what it names."""
    network = network_of(endpoint)
    if not network or not is_of_network(endpoint, network) or network not in (endpoint.spec.profiles or ()):
        return None
    return network, endpoint.spec.orchestrator


def profile_key(network: str) -> str:
    """The etcd key of a network's profile."""
    return resource_key("profiles", network)


def profile(network: str, orchestrator: str, now: str) -> bytes:
    """A network's profile, as Calico's plugin makes it when there is none (its ADD, without a `policy` of its own).

    Whoever has it bears a label of the network's name, and may send anything. Pods of Kubernetes take in what comes
    from anywhere, others what comes from the same network.
    """
    source = {} if orchestrator == KUBERNETES else {"selector": f"has({network})"}
    document = {
        "kind": "Profile",
        "apiVersion": API_VERSION,
        "metadata": {"name": network, "uid": _uid(network, now), "creationTimestamp": now},
        "spec": {
            "ingress": [{"action": "Allow", "source": source, "destination": {}}],
            "egress": [{"action": "Allow", "source": {}, "destination": {}}],
            "labelsToApply": {network: ""},
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()
