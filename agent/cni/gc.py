"""GC: what this node still holds for attachments of a network that no runtime knows any more.

Promises: pure; only this node's, only this network's, and only what says so itself: an endpoint by its profile, an
allocation by the words that ADD recorded with it. Does not know: how a thing is freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.cni.attachment import traced
from agent.cni.plugin.spec import Request, Verb
from agent.datastore.resources.resource_types import WorkloadEndpoint
from ipam.model import Attributes, Block, NodeName


def garbage(
    request: Request, node: NodeName, endpoints: Iterable[WorkloadEndpoint], blocks: Iterable[Block]
) -> tuple[Request, ...]:
    """A DEL for each attachment that is not in `request.valid`; one each, however many traces it left."""
    found: dict[tuple[str, str], Request] = {}
    for endpoint in endpoints:
        if not request.addresses_only and endpoint.spec.profiles == [request.network]:
            _note(found, request, _of_endpoint(request, endpoint))
    for block in blocks:
        for attributes in block.attributes:
            for release in _of_allocation(request, node, attributes):
                _note(found, request, release)
    return tuple(found.values())


def _note(found: dict[tuple[str, str], Request], request: Request, release: Request) -> None:
    pair = (release.container_id, release.interface)
    if pair not in request.valid:
        found.setdefault(pair, release)


def _of_endpoint(request: Request, endpoint: WorkloadEndpoint) -> Request:
    in_kubernetes = endpoint.spec.orchestrator == "k8s"
    return Request(
        Verb.DEL,
        request.version,
        network=request.network,
        container_id=endpoint.spec.container_id or "",
        interface=endpoint.spec.endpoint,
        pod=endpoint.spec.pod if in_kubernetes else None,
        namespace=endpoint.metadata.namespace if in_kubernetes else None,
    )


def _of_allocation(request: Request, node: NodeName, attributes: Attributes) -> Iterator[Request]:
    words = dict(attributes.secondary)
    if attributes.handle is None or words.get("node") != node or words.get("network") != request.network:
        return
    found = traced(words, attributes.handle)
    if found is None:
        return
    container, interface = found
    yield Request(
        Verb.DEL,
        request.version,
        network=request.network,
        container_id=container,
        interface=interface,
        pod=words.get("pod"),
        namespace=words.get("namespace"),
        addresses_only=request.addresses_only,
    )
