"""Which of this machine's addresses may be the node's, by Calico's IP_AUTODETECTION_METHOD, with reasons.

Promises: pure; every address of every interface is a candidate, and one that may not be the node's says why.
Between equals the lowest interface index goes first, as Calico's first-found.
Does not know: how links and routes are read, which node else has an address.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network

from agent.configuration.autodetection_method import AutodetectionMethod, MethodKind
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.netlink.objects import Link
from ipam.model import Pool

InterfaceAddress = IPv4Interface | IPv6Interface
OTHERS = re.compile(
    r"docker.*|cbr.*|dummy.*|podman.*|virbr.*|lxcbr.*|veth.*|lo|br-.*|flannel.*|kube-ipvs.*|cni.*|nerdctl.*|wireguard.*"
)
"""Names of the interfaces that Calico's first-found passes over."""


@dataclass(frozen=True, slots=True)
class AddressCandidate:
    """One address of this machine, and why it is not the node's; None: it may be."""

    interface: str
    address: InterfaceAddress
    reject_reason: str | None


def evaluate(
    links: Mapping[str, Link], version: int, chosen: AutodetectionMethod, pools: Iterable[Pool] = ()
) -> tuple[AddressCandidate, ...]:
    """Every address of a version of IP, by all rules but those of routes (`restrict`)."""
    known = tuple(pools)
    return tuple(
        AddressCandidate(link.name, address, _unfit(link, address, known) or _unwanted(link, address, chosen))
        for link in sorted(links.values(), key=lambda one: one.index)
        for address in (ip_interface(f"{ip}/{length}") for ip, length in link.addresses)
        if address.version == version
    )


def restrict(
    candidates: Iterable[AddressCandidate], kept: Collection[AddressCandidate], reason: str
) -> tuple[AddressCandidate, ...]:
    """Candidates of which only the `kept` ones may still be the node's; `reason` says why the others may not."""
    return tuple(
        one if one in kept or one.reject_reason is not None else replace(one, reject_reason=reason)
        for one in candidates
    )


def _unfit(link: Link, address: InterfaceAddress, pools: tuple[Pool, ...]) -> str | None:
    """Why an address can be no node's, whatever the method."""
    if address.ip.is_loopback:
        return "is a loopback address"
    if address.ip.is_link_local:
        return "is a link-local address"
    if link.name in OUR_TUNNELS or link.name.startswith(WORKLOAD_PREFIX):
        return "belongs to the pod network"
    if not link.up:
        return f"{link.name} is down"
    inside = next((pool for pool in pools if address.ip in pool), None)
    return f"is inside pool {inside.name}" if inside is not None else None


def _unwanted(link: Link, address: InterfaceAddress, chosen: AutodetectionMethod) -> str | None:
    """Why the method passes an address over."""
    match chosen.kind:
        case MethodKind.INTERFACE:
            return None if _matches(link, chosen) else f"{link.name} does not match {chosen}"
        case MethodKind.CIDR:
            networks = [ip_network(one, strict=False) for one in chosen.arguments]
            return None if any(address.ip in one for one in networks) else f"is outside {chosen}"
        case MethodKind.SKIP_INTERFACE if _matches(link, chosen):
            return f"{link.name} matches {chosen}"
        case MethodKind.FIRST_FOUND | MethodKind.SKIP_INTERFACE if OTHERS.fullmatch(link.name):
            return f"{link.name} is of a kind that is passed over"
        case _:
            return None


def _matches(link: Link, chosen: AutodetectionMethod) -> bool:
    return any(re.fullmatch(pattern, link.name) for pattern in chosen.arguments)
