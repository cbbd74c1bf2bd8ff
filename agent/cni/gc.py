"""GC: what this node still holds for attachments of a network that no runtime knows any more.

Promises: pure; only this node's, only this network's, and only what says so itself: an endpoint by its network, an
allocation by the words that ADD recorded with it. Does not know: how a thing is freed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agent.cni.attachment import attachment_of
from agent.cni.plugin.spec import Request, Verb
from agent.datastore.resources.endpoint_form import is_of_network
from agent.datastore.resources.resource_types import WorkloadEndpoint
from ipam.model import Attributes, Block, NodeName


def garbage(
    request: Request, node: NodeName, endpoints: Iterable[WorkloadEndpoint], blocks: Iterable[Block]
) -> tuple[Request, ...]:
    """A DEL for each attachment that is not in `request.valid`; one each, however many traces it left."""
    found = [_of_endpoint(request, endpoint) for endpoint in endpoints]
    found += [
        _of_allocation(request, node, allocation) for block in blocks for allocation in block.attributes
    ]
    releases: dict[tuple[str, str], Request] = {}
    for release in found:
        if release is not None and (release.container_id, release.interface) not in request.valid:
            releases.setdefault((release.container_id, release.interface), release)
    return tuple(releases.values())


def _of_endpoint(request: Request, endpoint: WorkloadEndpoint) -> Request | None:
    spec = endpoint.spec
    if request.addresses_only or not is_of_network(endpoint, request.network):
        return None
    pod = (endpoint.metadata.namespace, spec.pod) if spec.orchestrator == "k8s" else (None, None)
    return _release(request, (spec.container_id or "", spec.endpoint), *pod)


def _of_allocation(request: Request, node: NodeName, attributes: Attributes) -> Request | None:
    words = dict(attributes.secondary)
    if attributes.handle is None or words.get("node") != node or words.get("network") != request.network:
        return None
    attachment = attachment_of(words, attributes.handle)
    if attachment is None:
        return None
    return _release(request, attachment, words.get("namespace"), words.get("pod"))


def _release(
    request: Request, attachment: tuple[str, str], namespace: str | None, pod: str | None
) -> Request:
    """GC's own request, made a DEL of one (container id, interface)."""
    container, interface = attachment
    return replace(
        request,
        verb=Verb.DEL,
        container_id=container,
        interface=interface,
        namespace=namespace,
        pod=pod,
        valid=frozenset(),
    )
