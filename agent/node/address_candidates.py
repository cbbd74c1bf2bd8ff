"""Which of this machine's addresses may be the node's, by Calico's IP_AUTODETECTION_METHOD, with reasons.

Promises: pure; every address of every interface is a candidate, and one that may not be the node's says why.
Between equals the lowest interface index goes first, as Calico's first-found, and on one interface what has a subnet.
An address that the node has already needs less: that an interface bears it, and that the method's words let it.
Does not know: how links and routes are read, which node else has an address.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network

from agent.configuration.autodetection_method import AutodetectionMethod, MethodKind
from agent.dataplane.kernel.calico_names import OUR_TUNNELS, WORKLOAD_PREFIX
from agent.netlink.objects import AddressFlag, Link
from ipam.model import Address, Pool

InterfaceAddress = IPv4Interface | IPv6Interface
OTHERS = re.compile(
    r"docker.*|cbr.*|dummy.*|podman.*|virbr.*|lxcbr.*|veth.*|lo|br-.*|flannel.*|kube-ipvs.*|cni.*|nerdctl.*|wireguard.*"
)
"""Names of the interfaces that Calico's first-found passes over."""
UNRELIABLE = {
    AddressFlag.DUPLICATE: "is another machine's, too (duplicate address detection)",
    AddressFlag.TEMPORARY: "is temporary (RFC 8981)",
    AddressFlag.DEPRECATED: "is deprecated: its preferred lifetime is over",
}
"""What the kernel says of an address -> why it does not become the node's."""


@dataclass(frozen=True, slots=True)
class AddressCandidate:
    """One address of this machine, and why it is not the node's; None: it may be."""

    interface: str
    address: InterfaceAddress
    reject_reason: str | None

    @property
    def has_subnet(self) -> bool:
        """Whether other machines may be on its subnet: its length is not the full one."""
        return _has_subnet(self.address)


def evaluate(
    links: Mapping[str, Link], version: int, chosen: AutodetectionMethod, pools: Iterable[Pool] = ()
) -> tuple[AddressCandidate, ...]:
    """Every address of a version of IP, by all rules but those of routes (`restrict`)."""
    known = tuple(pools)
    return tuple(
        AddressCandidate(link.name, address, _unfit(link, address, known) or _unwanted(link, address, chosen))
        for link, address in _addresses(links, version)
    )


def recorded_candidate(
    links: Mapping[str, Link], recorded: InterfaceAddress, chosen: AutodetectionMethod
) -> AddressCandidate | None:
    """The node's recorded address as an interface bears it now; None: none does, or the method's words exclude it.

    A VIP beside it, its lifetime, a pool around it or a link that is down do not displace it.
    """
    found = [
        AddressCandidate(link.name, address, None)
        for link, address in _addresses(links, recorded.version)
        if address.ip == recorded.ip
        and _alien(link, address) is None
        and _unwanted(link, address, chosen) is None
    ]
    return next((one for one in found if one.address == recorded), found[0] if found else None)


def of_source(candidates: Iterable[AddressCandidate], source: Address) -> list[AddressCandidate]:
    """The candidates that the source of a route stands for: itself, or what is to be relied on beside it.

    Of IPv6 the kernel's source may be temporary, or of full length: a VIP, which moves, where the interface has an
    address with a subnet as well.
    """
    known = list(candidates)
    own = [one for one in known if one.address.ip == source]
    if all(one.reject_reason not in UNRELIABLE.values() and one.has_subnet for one in own):
        return own
    bearers = {one.interface for one in own}
    others = [
        one for one in known if one.interface in bearers and one.has_subnet and one.reject_reason is None
    ]
    return others if source.version == 6 and others else own


def _addresses(links: Mapping[str, Link], version: int) -> Iterator[tuple[Link, InterfaceAddress]]:
    """All addresses in the order in which they are tried."""
    for link in sorted(links.values(), key=lambda one: one.index):
        own = [ip_interface((ip, length)) for ip, length in link.addresses if ip.version == version]
        yield from ((link, one) for one in sorted(own, key=lambda one: not _has_subnet(one)))


def _has_subnet(address: InterfaceAddress) -> bool:
    return address.network.prefixlen < address.max_prefixlen


def restrict(
    candidates: Iterable[AddressCandidate], kept: Collection[AddressCandidate], reason: str
) -> tuple[AddressCandidate, ...]:
    """Candidates of which only the `kept` ones may still be the node's; `reason` says why the others may not."""
    return tuple(
        one if one in kept or one.reject_reason is not None else replace(one, reject_reason=reason)
        for one in candidates
    )


def _alien(link: Link, address: InterfaceAddress) -> str | None:
    """Why an address can be no node's at all."""
    if address.ip.is_loopback:
        return "is a loopback address"
    if address.ip.is_link_local:
        return "is a link-local address"
    if link.name in OUR_TUNNELS or link.name.startswith(WORKLOAD_PREFIX):
        return "belongs to the pod network"
    return None


def _unfit(link: Link, address: InterfaceAddress, pools: tuple[Pool, ...]) -> str | None:
    """Why an address does not become the node's, whatever the method."""
    if (why := _alien(link, address)) is not None:
        return why
    if not link.up:
        return f"{link.name} is down"
    flags = link.flags(address.ip)
    if (why := next((words for flag, words in UNRELIABLE.items() if flag & flags), None)) is not None:
        return why
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
    """Anywhere in the name, as Go's MatchString finds it: `ens*` is what has `en` in it."""
    return any(re.search(pattern, link.name) for pattern in chosen.arguments)
