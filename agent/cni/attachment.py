"""What one attachment is: its names, its handle, its endpoint. Calico's rules (C.3, C.5), so its tools recognise ours.

Promises: pure; the same request always gives the same names and the same MAC, so ADD can be repeated at any point.
Does not know: kernel, datastore, sockets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.cni.plugin.spec import Request
from agent.dataplane.kernel.calico_names import WORKLOAD_PREFIX
from agent.datastore.resources.endpoint_form import (
    DEFAULT_NAMESPACE,
    KUBERNETES,
    NETWORK_ANNOTATION,
    in_form,
    network_of,
)
from agent.datastore.resources.resource_types import (
    Metadata,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
    endpoint_name,
)
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address
from ipam.address_text import text_of
from ipam.allocation.sticky import Retention
from ipam.model import HandleId

HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""The MAC of every host side: a pod's only neighbour, so it need not differ."""
GATEWAY = IPv4Address("169.254.1.1")
"""Every pod's gateway; no interface has it."""
GATEWAY_6 = IPv6Address("fe80::ecee:eeff:feee:eeee")
"""Every pod's IPv6 gateway: what the kernel makes of HOST_MAC for each host side (RFC 4291, appendix A)."""
HASH_LENGTH = 11
"""`cali` and eleven characters make the fifteen that a name may have."""
USUAL_INTERFACE = "eth0"
"""Names are Calico's for this one; a second interface of a container has its own name and its own handle."""
RANDOM_ID = re.compile(r"[0-9a-f]{11,}")
"""An id whose first characters distinguish it from all others."""


class NoNamespace(KernelError):
    """The path given for the pod's network namespace is none, or is the host's own."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container, before and after it exists."""

    host_interface: str
    interface: str
    netns: str
    mac: str
    mtu: int
    addresses: tuple[Address, ...]
    container_id: str = ""
    """Written on the host's side (`alias_of`), by which a late DEL of an older container is known from this one's."""
    forwarding: bool | None = None
    """Whether the pod forwards packets; None leaves the kernel's default."""

    wants_ipv6: bool = False
    """Whether there is to be an IPv6 address, before there are addresses."""

    @property
    def has_ipv6(self) -> bool:
        """Whether it has an IPv6 address, or is to have one: then only is anything of IPv6 touched."""
        return self.wants_ipv6 or any(address.version == 6 for address in self.addresses)


def _hashed(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def host_interface(request: Request) -> str:
    """The name of the attachment's device on the host."""
    return host_interface_of(request.namespace, request.pod, request.container_id, request.interface)


def host_interface_of(
    namespace: str | None, pod: str | None, container_id: str, interface: str = USUAL_INTERFACE
) -> str:
    """`cali…`: from the pod's name in Kubernetes, else from the container id.

    An id that begins like others (`default-web`, `cnitool-77…`) is hashed: eleven characters would not distinguish it.
    """
    usual = interface == USUAL_INTERFACE
    if pod is not None and namespace is not None:
        name = f"{namespace}.{pod}"
    elif usual and (RANDOM_ID.match(container_id) or len(container_id) <= HASH_LENGTH):
        return WORKLOAD_PREFIX + container_id[:HASH_LENGTH]
    else:
        name = container_id
    return WORKLOAD_PREFIX + _hashed(name if usual else f"{name}.{interface}")[:HASH_LENGTH]


def alias_of(container_id: str, interface: str) -> str:
    """What is written on the host's side: whose it is, whatever its name and whatever later calls say."""
    return container_id if interface == USUAL_INTERFACE else f"{container_id} {interface}"


def lock_name(request: Request) -> str:
    """What calls for one interface of a container wait for, whatever their other arguments; no device's name."""
    return f"{request.container_id}/{request.interface}"


def handle(request: Request) -> HandleId:
    """The handle of the attachment's addresses."""
    return handle_of(request.network, request.container_id, request.interface)


def handle_of(network: str, container_id: str, interface: str) -> HandleId:
    """The handle of one interface of a container: what is released together."""
    suffix = "" if interface == USUAL_INTERFACE else f".{interface}"
    return HandleId(f"{network}.{container_id}{suffix}")


def handle_of_endpoint(endpoint: WorkloadEndpoint) -> HandleId:
    """The handle of an endpoint's addresses."""
    return handle_of(network_of(endpoint), endpoint.spec.container_id or "", endpoint.spec.endpoint)


def retention(request: Request) -> Retention | None:
    """For which name, and how long, the addresses outlive the attachment; None for a workload without a name."""
    seconds = request.options.keep_seconds
    if seconds is None:
        return None
    if request.kubernetes_pod is not None:
        name = "@".join(request.kubernetes_pod)
    elif request.options.workload is not None:
        name = request.options.workload
    else:
        return None
    suffix = "" if request.interface == USUAL_INTERFACE else f"@{request.interface}"
    # No container id has an '@', so no attachment's handle is a name's.
    return Retention(HandleId(f"{request.network}.@{name}{suffix}"), seconds)


def attachment_of(words: Mapping[str, str], handle: HandleId) -> tuple[str, str] | None:
    """(container id, interface) that an allocation was made for, by its attributes; None when they do not say."""
    network, interface = words.get("network"), words.get("interface", USUAL_INTERFACE)
    if network is None:
        return None
    container = handle.removeprefix(f"{network}.")
    if interface != USUAL_INTERFACE:
        container = container.removesuffix(f".{interface}")
    return (container, interface) if handle == handle_of(network, container, interface) else None


def namespace(request: Request) -> str:
    """The namespace that the attachment's endpoint is stored in."""
    return request.kubernetes_pod[0] if request.kubernetes_pod is not None else DEFAULT_NAMESPACE


def workload(request: Request) -> tuple[str, str]:
    """(orchestrator, workload) of the attachment's endpoint."""
    if request.kubernetes_pod is not None:
        return KUBERNETES, request.kubernetes_pod[1]
    return "cni", request.container_id


def stored_name(request: Request, node: str) -> str:
    """The name that the attachment's endpoint is stored under."""
    orchestrator, name = workload(request)
    return endpoint_name(node, orchestrator, name, request.interface)


def endpoint(
    request: Request, node: str, mac: str, addresses: Iterable[Address], created: str
) -> WorkloadEndpoint:
    """The attachment's endpoint as it is stored; `created` is a time as Kubernetes writes it."""
    orchestrator, name = workload(request)
    made = WorkloadEndpoint(
        metadata=Metadata(
            name=stored_name(request, node),
            namespace=namespace(request),
            creation_timestamp=created,
            annotations={NETWORK_ANNOTATION: request.network},
        ),
        spec=WorkloadEndpointSpec(
            node=node,
            orchestrator=orchestrator,
            workload=name,
            pod=request.pod,
            container_id=request.container_id,
            endpoint=request.interface,
            interface_name=host_interface(request),
            ip_networks=[f"{text_of(address)}/{address.max_prefixlen}" for address in addresses],
            mac=mac,
            profiles=[request.network],
        ),
    )
    return in_form(made, request.network, created)


def secondary_attributes(
    request: Request, node: str, stamp: str, boot_id: str
) -> tuple[tuple[str, str], ...]:
    """What is recorded with the addresses: Calico's attributes, and what shows later whether they are still in use."""
    found = {
        "node": node,
        "timestamp": stamp,
        "network": request.network,
        "netns": request.netns,
        "boot": boot_id,
    }
    if request.kubernetes_pod is not None:
        found["namespace"], found["pod"] = request.kubernetes_pod
    if request.interface != USUAL_INTERFACE:
        found["interface"] = request.interface
    if (kept := retention(request)) is not None:
        found |= dict(kept.words())
    return tuple(sorted(found.items()))


def mac_of(request: Request) -> str:
    """The MAC that was asked for, else one that only this attachment has: unicast, locally administered."""
    if request.options.mac is not None:
        return request.options.mac
    octets = bytes.fromhex(_hashed(f"{handle(request)} {request.interface}")[:12])
    return ":".join(f"{octet:02x}" for octet in (octets[0] & 0xFE | 0x02, *octets[1:]))
