"""What this node holds of attachments that are to go, each as a DEL in the words of the ADD that made it.

GC asks for those of a network that no runtime knows any more, DEL and ADD for all that one interface of a container
has. Promises: pure; only this node's. GC gets only its network's, and only what says so itself: an endpoint by its
network, an allocation by the words that ADD recorded with it. Does not know: how a thing is freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agent.cni.attachment import attachment_of
from agent.cni.plugin.spec import NO_OPTIONS, Request, Verb
from agent.datastore.resources.endpoint_form import KUBERNETES, NETWORK_ANNOTATION, is_of_network
from agent.datastore.resources.resource_types import WorkloadEndpoint
from agent.memo import Each
from ipam.model import Attributes, Block, HandleId, NodeName


def garbage(
    request: Request, node: NodeName, endpoints: Iterable[WorkloadEndpoint], blocks: Iterable[Block]
) -> tuple[Request, ...]:
    """A DEL for each attachment that is not in `request.valid`; one each, however many traces it left."""
    found = [_of_network(request, endpoint) for endpoint in endpoints]
    found += [
        _of_allocation(request, node, allocation) for block in blocks for allocation in block.attributes
    ]
    releases: dict[tuple[str, str], Request] = {}
    for release in found:
        if release is not None and (release.container_id, release.interface) not in request.valid:
            releases.setdefault((release.container_id, release.interface), release)
    return tuple(releases.values())


class Attachments:
    """The endpoints of each interface of a container: one that comes or goes among hundreds costs itself alone."""

    def __init__(self) -> None:
        self._each = Each[WorkloadEndpoint, WorkloadEndpoint]()
        self._endpoints: Iterable[WorkloadEndpoint] = ()
        self._found: dict[tuple[str, str], list[WorkloadEndpoint]] = {}

    def of(self, request: Request, endpoints: Iterable[WorkloadEndpoint]) -> Sequence[WorkloadEndpoint]:
        """Of these endpoints those of the request's interface."""
        if endpoints is not self._endpoints:
            self._endpoints = endpoints
            come, gone = self._each.update(endpoints, lambda one: one)
            for one in gone:
                left = [other for other in self._found.pop(_attachment(one)) if other is not one]
                if left:
                    self._found[_attachment(one)] = left
            for one in come:
                self._found.setdefault(_attachment(one), []).append(one)
        return self._found.get((request.container_id, request.interface), ())


def left_by(request: Request, endpoints: Iterable[WorkloadEndpoint]) -> tuple[Request, ...]:
    """A DEL for each endpoint of the request's interface, whatever pod and network the request names."""
    attachment = (request.container_id, request.interface)
    found = (endpoint for endpoint in endpoints if _attachment(endpoint) == attachment)
    return _distinct(_of_endpoint(request, endpoint) for endpoint in found)


def addresses_left_by(
    request: Request, allocations: Iterable[tuple[HandleId, Mapping[str, str]]]
) -> tuple[Request, ...]:
    """The same of addresses alone: for each handle, by the words that ADD recorded."""
    attachment = (request.container_id, request.interface)
    found = (
        _release(
            replace(request, network=words["network"]), attachment, words.get("namespace"), words.get("pod")
        )
        for handle, words in allocations
        if attachment_of(words, handle) == attachment
    )
    return _distinct(found)


def _distinct(found: Iterable[Request]) -> tuple[Request, ...]:
    return tuple({(one.network, one.namespace, one.pod): one for one in found}.values())


def says_other_network(endpoint: WorkloadEndpoint, network: str) -> bool:
    """Whether an endpoint says itself that it is another network's; Calico's and older agents' do not say."""
    said = (endpoint.metadata.annotations or {}).get(NETWORK_ANNOTATION)
    return said is not None and said != network


def _attachment(endpoint: WorkloadEndpoint) -> tuple[str, str]:
    return endpoint.spec.container_id or "", endpoint.spec.endpoint


def _of_endpoint(request: Request, endpoint: WorkloadEndpoint) -> Request:
    spec, said = endpoint.spec, (endpoint.metadata.annotations or {}).get(NETWORK_ANNOTATION)
    named = (endpoint.metadata.namespace, spec.pod or spec.workload)
    pod = named if spec.orchestrator == KUBERNETES else (None, None)
    return _release(replace(request, network=said or request.network), _attachment(endpoint), *pod)


def _of_network(request: Request, endpoint: WorkloadEndpoint) -> Request | None:
    if request.addresses_only or not is_of_network(endpoint, request.network):
        return None
    return _of_endpoint(request, endpoint)


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
    """The request made a DEL of one (container id, interface)."""
    container, interface = attachment
    return replace(
        request,
        verb=Verb.DEL,
        container_id=container,
        interface=interface,
        namespace=namespace,
        pod=pod,
        options=NO_OPTIONS,
        previous=None,
        valid=frozenset(),
    )
