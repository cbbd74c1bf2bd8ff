"""What one attachment is: its names, its handle, its endpoint. Calico's rules (C.3, C.5), so its tools recognise ours.

Promises: pure; the same request always gives the same names. Does not know: kernel, datastore, sockets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.cni.spec import Request
from agent.dataplane.objects import WORKLOAD_PREFIX
from agent.datastore.resources import Metadata, WorkloadEndpoint, WorkloadEndpointSpec, endpoint_name
from ipam.model import HandleId

HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""The host side of every pod: pods know no other neighbour, so it need not differ."""
GATEWAY = IPv4Address("169.254.1.1")
"""Every pod's gateway; no interface bears it."""
HASH_LENGTH = 11
"""`cali` and eleven characters make the fifteen that a name may have."""
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container, before and after it exists."""

    host_interface: str
    interface: str
    netns: str
    mac: str
    mtu: int
    addresses: tuple[IPv4Address, ...]


def host_interface(request: Request) -> str:
    """`cali…`: from the pod's name in Kubernetes, else from the container id."""
    return host_interface_of(request.namespace, request.pod, request.container_id)


def host_interface_of(namespace: str | None, pod: str | None, container_id: str) -> str:
    """The same from its parts, as an allocation keeps them."""
    if pod is not None and namespace is not None:
        digest = hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()
        return WORKLOAD_PREFIX + digest[:HASH_LENGTH]
    return WORKLOAD_PREFIX + container_id[:HASH_LENGTH]


def handle(request: Request) -> HandleId:
    """The handle of the attachment's addresses."""
    return HandleId(f"{request.network}.{request.container_id}")


def namespace(request: Request) -> str:
    """The namespace its endpoint is stored in."""
    return (
        request.namespace if request.namespace is not None and request.pod is not None else DEFAULT_NAMESPACE
    )


def workload(request: Request) -> tuple[str, str]:
    """(orchestrator, workload) of its endpoint."""
    if request.pod is not None and request.namespace is not None:
        return "k8s", request.pod
    return "cni", request.container_id


def stored_name(request: Request, node: str) -> str:
    """The name its endpoint is stored under."""
    orchestrator, name = workload(request)
    return endpoint_name(node, orchestrator, name, request.interface)


def endpoint(
    request: Request, node: str, mac: str, addresses: Iterable[IPv4Address], created: str
) -> WorkloadEndpoint:
    """The endpoint as it is stored."""
    orchestrator, name = workload(request)
    return WorkloadEndpoint(
        metadata=Metadata(
            name=stored_name(request, node), namespace=namespace(request), creation_timestamp=created
        ),
        spec=WorkloadEndpointSpec(
            node=node,
            orchestrator=orchestrator,
            workload=name,
            pod=request.pod,
            container_id=request.container_id,
            endpoint=request.interface,
            interface_name=host_interface(request),
            ip_networks=[f"{address}/32" for address in addresses],
            mac=mac,
            profiles=[request.network],
        ),
    )


def chosen_mac(octets: bytes) -> str:
    """A unicast, locally administered address from six random octets."""
    first = octets[0] & 0xFE | 0x02
    return ":".join(f"{octet:02x}" for octet in (first, *octets[1:6]))
