"""Detects the node's addresses on this machine, by the settings and the kernel's own routes.

Promises: an address that was detected says how; one that was not says what was tried and what to do. An address that
the node has already stays while an interface bears it.
IPv6 is looked for only when a pool of it is there, or when it was given. Does not know: the Node resource, other nodes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from urllib.parse import urlsplit

from agent.configuration.autodetection_method import AutodetectionMethod, MethodKind, parse_method
from agent.configuration.config import NodeSettings
from agent.dataplane.kernel.protocol import Kernel
from agent.netlink.kernel_errors import KernelError
from agent.netlink.objects import Address
from agent.node.address_candidates import (
    AddressCandidate,
    InterfaceAddress,
    evaluate,
    of_source,
    recorded_candidate,
    restrict,
)
from ipam.model import Pool

OUTSIDE: dict[int, Address] = {4: IPv4Address("198.51.100.1"), 6: IPv6Address("2001:db8::1")}
"""TEST-NET-2 (RFC 5737), RFC 3849: asking the kernel for a path there sends nothing and finds the default route."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NONE = "none"


class NoAddress(Exception):
    """The node's address cannot be detected; the sentence says what to do."""

    def __init__(self, sentence: str, candidates: tuple[AddressCandidate, ...]) -> None:
        super().__init__(sentence)
        self.candidates = candidates


@dataclass(frozen=True, slots=True)
class DetectedAddress:
    """The node's address of one version of IP."""

    address: InterfaceAddress
    how: str
    """For people."""
    interface: str = ""
    """Empty: nobody looked for one."""
    candidates: tuple[AddressCandidate, ...] = ()
    """All addresses of this machine, this one among them."""


@dataclass(frozen=True, slots=True)
class Autodetection:
    """Asks the kernel and the resolver; owns nothing."""

    kernel: Kernel
    settings: NodeSettings
    endpoints: tuple[str, ...]
    """etcd's URLs: the source address of the route to one of them is the first choice."""
    pools: Callable[[], Iterable[Pool]]

    def is_wanted(self, version: int) -> bool:
        """Whether the node should have an address of this version."""
        given = self.given(version)
        if version == 4 or given:
            return given != NONE
        return self.settings.address == NONE or self.has_pool(6)

    def has_pool(self, version: int) -> bool:
        """Whether pods may have addresses of this version."""
        return any(pool.cidr.version == version for pool in self.pools())

    def given(self, version: int) -> str:
        """What the settings say of this version: an address, `none`, or nothing."""
        return self.settings.address6 if version == 6 else self.settings.address

    async def detect(self, version: int, recorded: InterfaceAddress | None = None) -> DetectedAddress:
        """The node's address with its subnet; `recorded`, if the node may keep that one. Raises NoAddress."""
        chosen = parse_method(self.settings.method6 if version == 6 else self.settings.method)
        if given := self.given(version):
            return DetectedAddress(
                ip_interface(given), "given", candidates=await self._candidates(version, chosen)
            )
        found: DetectedAddress | NoAddress
        try:
            found = await self._detect(version, chosen)
        except NoAddress as error:
            found = error
        kept = (
            recorded_candidate(await self.kernel.links(), recorded, chosen) if recorded is not None else None
        )
        if kept is not None and _may_stay(kept, found, chosen):
            how = f"recorded before, and {kept.interface} bears it"
            if isinstance(found, DetectedAddress) and found.address.ip == kept.address.ip:
                how = found.how
            return DetectedAddress(kept.address, how, kept.interface, found.candidates)
        if isinstance(found, NoAddress):
            raise found
        return found

    async def _detect(self, version: int, chosen: AutodetectionMethod) -> DetectedAddress:
        setting = "node.address6" if version == 6 else "node.address"
        tried: list[str] = []
        candidates: tuple[AddressCandidate, ...] = ()
        for candidates, how in await self._rounds(version, chosen, tried):
            for one in candidates:
                if one.reject_reason is None:
                    return DetectedAddress(
                        one.address, f"{how} by {one.interface}", one.interface, candidates
                    )
            tried += [f"{one.address.ip} {one.reject_reason}" for one in candidates]
        reasons = "; ".join(dict.fromkeys(tried)) or f"no interface has an IPv{version} address"
        raise NoAddress(f"no node address found ({reasons}); give one as {setting}", candidates)

    async def _candidates(self, version: int, chosen: AutodetectionMethod) -> tuple[AddressCandidate, ...]:
        return evaluate(await self.kernel.links(), version, chosen, self.pools())

    async def _rounds(
        self, version: int, chosen: AutodetectionMethod, tried: list[str]
    ) -> list[tuple[tuple[AddressCandidate, ...], str]]:
        """The candidates, evaluated once for each host whose route may decide; reasons for none go to `tried`."""
        candidates = await self._candidates(version, chosen)
        if chosen.kind not in (MethodKind.ROUTE, MethodKind.CAN_REACH):
            return [(candidates, str(chosen))]
        if chosen.kind is MethodKind.CAN_REACH:
            hosts = await resolved(chosen.arguments, version)
        else:
            urls = [urlsplit(one if "//" in one else f"//{one}") for one in self.endpoints]
            hosts = [*await resolved([url.hostname or "" for url in urls], version), OUTSIDE[version]]
        rounds = []
        for host in hosts:
            bearers = {one.interface for one in candidates if one.address.ip == host}
            if bearers and not host.is_loopback:
                # The datastore is on this machine, and this is where the other nodes reach it.
                kept = [one for one in candidates if one.interface in bearers]
                reason = f"is not on the interface of {host}"
                rounds.append((restrict(candidates, kept, reason), f"beside {host}"))
                continue
            try:
                path = await self.kernel.path_to(host)
            except KernelError as error:
                tried.append(f"{host}: {error}")
                continue
            if path.source.is_loopback or path.source == host:
                tried.append(f"{host}: is this machine itself")
                continue
            kept = of_source(candidates, path.source)
            reason = f"is not the source of the route to {host}"
            rounds.append((restrict(candidates, kept, reason), f"route to {host}"))
        if version == 6 and chosen.kind is MethodKind.ROUTE:
            # A network without a default route is usual there.
            first_found = AutodetectionMethod(MethodKind.FIRST_FOUND)
            rounds.append((await self._candidates(6, first_found), "first found"))
        return rounds


def _may_stay(
    kept: AddressCandidate, found: DetectedAddress | NoAddress, chosen: AutodetectionMethod
) -> bool:
    """Whether the recorded address stays: `can-reach` means an interface, by the route to a host that was chosen."""
    if chosen.kind is not MethodKind.CAN_REACH or isinstance(found, NoAddress):
        return True
    return found.interface == kept.interface


async def resolved(names: Iterable[str], version: int) -> list[Address]:
    """The addresses of hosts in a version of IP, one each; a name that cannot be resolved has none."""
    found: list[Address] = []
    for name in names:
        try:
            entries = await asyncio.get_running_loop().getaddrinfo(name, None, family=FAMILIES[version])
        except OSError:
            continue
        found += [ip_address(str(entry[4][0])) for entry in entries[:1]]
    return found
