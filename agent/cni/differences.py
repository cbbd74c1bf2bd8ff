"""The differences that CHECK reports: what an attachment should look like, compared with what is there.

Promises: pure; every difference is one phrase with both sides. Calico's CHECK verifies nothing; this one verifies what
ADD made: both devices, addresses, routes, neighbours, the host side's sysctls, and what the datastore holds.
Does not know: netlink, etcd.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from agent.cni.attachment import GATEWAY, GATEWAY_6, HOST_MAC, host_interface
from agent.cni.plugin.spec import Request
from agent.dataplane.desired.desired_sysctls import PER_INTERFACE, PER_INTERFACE_6
from agent.datastore.resources.resource_types import WorkloadEndpoint
from agent.netlink.objects import Address, Prefix, Route
from ipam.address_text import rewritten, text_of

EVERYWHERE, EVERYWHERE_6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")


@dataclass(frozen=True, slots=True)
class Device:
    """One end of the veth pair."""

    mac: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class PodState:
    """What the kernel has of an attachment; None is a device that is not there."""

    inside: Device | None = None
    host: Device | None = None
    paired: bool = False
    """Whether the two are the ends of one pair."""
    addresses: frozenset[Address] = frozenset()
    routes: tuple[Route, ...] = ()
    """The routes of the pod's main table, both families."""
    gateway_macs: Mapping[Address, str] = field(default_factory=dict)
    """The permanent neighbour entries for the gateways."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Sysctls of the host's side, those that this kernel has."""


def result_addresses(previous: Mapping[str, Any], interface: str) -> tuple[str, ...]:
    """The addresses that a result gives to an interface of the pod, or to none in particular."""
    names = [item.get("name") for item in previous.get("interfaces") or ()]
    found = []
    for ip in previous.get("ips") or ():
        index = ip.get("interface")
        known = isinstance(index, int) and 0 <= index < len(names)
        if not known or names[index] == interface:
            found.append(rewritten(str(ip.get("address", ""))))
    return tuple(found)


def differences(
    request: Request, stored: WorkloadEndpoint | None, held: Iterable[Address], state: PodState
) -> Iterator[str]:
    """Everything that is not as ADD left it; nothing when all is well."""
    if stored is None:
        yield "the datastore has no endpoint for this container"
        return
    yield from _stored(request, stored, frozenset(held))
    yield from _host(request, stored, state)
    yield from _inside(request, stored, state)


def out_of_place(interface: str, stored: WorkloadEndpoint, state: PodState) -> Iterator[str]:
    """What keeps a pod's interface from carrying packets; nothing where a second ADD finds what the first one made.

    Less than CHECK asks: a plugin behind us may have changed MAC and MTU, and Calico's pods have no neighbour entries.
    """
    device = stored.spec.interface_name
    if state.host is None or state.inside is None:
        yield f"{device} is not there" if state.host is None else f"{interface} is not in the pod"
        return
    if not state.paired:
        yield f"{interface} is not the other end of {device}"
    if not (state.host.up and state.inside.up):
        yield f"{device if not state.host.up else interface} is down"
    if missing := frozenset(stored.addresses) - state.addresses:
        yield f"{interface} does not have the address {_listed(missing)}"
    destinations = {route.key.destination for route in state.routes if route.device == interface}
    for address in stored.addresses:
        if (EVERYWHERE if address.version == 4 else EVERYWHERE_6) not in destinations:
            yield f"the pod has no default route of IPv{address.version} on {interface}"


def _stored(request: Request, stored: WorkloadEndpoint, held: frozenset[Address]) -> Iterator[str]:
    addresses = frozenset(stored.addresses)
    if held != addresses:
        yield f"the handle holds {_listed(held)}, the endpoint says {_listed(addresses)}"
    named = result_addresses(request.previous or {}, request.interface)
    missing = [address for address in named if address not in {text_of(found) for found in addresses}]
    if missing:
        yield f"prevResult has {', '.join(missing)}, the endpoint says {_listed(addresses)}"
    if stored.spec.interface_name != host_interface(request):
        yield f"the endpoint names {stored.spec.interface_name}, not {host_interface(request)}"


def _host(request: Request, stored: WorkloadEndpoint, state: PodState) -> Iterator[str]:
    name = stored.spec.interface_name
    if state.host is None:
        yield f"{name} is not there"
        return
    if not state.host.up:
        yield f"{name} is down"
    if state.inside is not None and not state.paired:
        yield f"{request.interface} is not the other end of {name}"
    if state.host.mac != HOST_MAC:
        yield f"{name} has MAC {state.host.mac}, not {HOST_MAC}"
    if state.inside is not None and state.inside.mtu != state.host.mtu:
        yield f"{request.interface} has MTU {state.inside.mtu}, {name} has {state.host.mtu}"
    for pattern, value in (*PER_INTERFACE, *(PER_INTERFACE_6 if _dual(stored) else ())):
        actual = state.sysctls.get(pattern.format(name), value)
        if actual != value:
            yield f"{pattern.format(name)} is {actual}, not {value}"


def _dual(stored: WorkloadEndpoint) -> bool:
    return any(address.version == 6 for address in stored.addresses)


def _inside(request: Request, stored: WorkloadEndpoint, state: PodState) -> Iterator[str]:
    name = request.interface
    if state.inside is None:
        yield f"{name} is not in the pod"
        return
    if not state.inside.up:
        yield f"{name} is down"
    # A plugin behind us may have changed it.
    wanted = next(_result_words(request, "mac"), None) or stored.spec.mac
    if wanted is not None and state.inside.mac != str(wanted).lower():
        yield f"{name} has MAC {state.inside.mac}, not {wanted}"
    for mtu in _result_words(request, "mtu"):
        if state.inside.mtu != mtu:
            yield f"{name} has MTU {state.inside.mtu}, not {mtu}"
    for address in sorted(frozenset(stored.addresses) - state.addresses, key=_order):
        yield f"{name} does not have the address {address}"
    changed = (stored.spec.mac or "").lower() != state.inside.mac
    yield from _routes(name, stored, state, changed=changed)


def _routes(name: str, stored: WorkloadEndpoint, state: PodState, *, changed: bool) -> Iterator[str]:
    """The routes out of the pod, and the neighbour entries of their gateways.

    The kernel drops the entries when an interface gets another MAC (`changed`); the pod then asks, as Calico's do.
    """
    routes = {route.key.destination: route for route in state.routes if route.device == name}
    if ip_network(GATEWAY) not in routes:
        yield f"the pod has no route to {GATEWAY} on {name}"
    defaults: list[tuple[Prefix, Address]] = [(EVERYWHERE, GATEWAY)]
    if _dual(stored):
        defaults.append((EVERYWHERE_6, GATEWAY_6))
    for destination, gateway in defaults:
        if destination not in routes or routes[destination].gateway != gateway:
            yield f"the pod has no default route via {gateway} on {name}"
        mac = state.gateway_macs.get(gateway)
        if mac != HOST_MAC and not (changed and mac is None):
            yield f"the pod has {mac or 'nothing'} as neighbour {gateway}, not {HOST_MAC}"


def _result_words(request: Request, word: str) -> Iterator[Any]:
    """Each value that prevResult has under a key (`mac`, `mtu`) of the pod's interface."""
    for item in (request.previous or {}).get("interfaces") or ():
        if item.get("name") == request.interface and item.get("sandbox") and item.get(word):
            yield item[word]


def _listed(addresses: Iterable[Address]) -> str:
    return ", ".join(map(str, sorted(addresses, key=_order))) or "nothing"


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)
