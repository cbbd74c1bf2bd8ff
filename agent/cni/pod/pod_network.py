"""The kernel side of an attachment: a veth pair whose far end is born inside the pod, and all that is in there.

Promises: the pod's namespace is worked on through a socket opened there, so nothing waits while inside; what fails
leaves nothing behind; `detach` succeeds when there is nothing. Rules: Calico's C.6, with a permanent neighbour
for the gateway besides proxy ARP, because proxy ARP answers only on a host that has a route to 169.254.1.1, and the
pod known to the host beforehand.
Does not know: addresses' origin, the host's routes and sysctls (the reconciler's).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_network

from agent.cni.attachment import GATEWAY, GATEWAY_6, HOST_MAC, Attachment, NoNamespace
from agent.cni.differences import PodState
from agent.cni.pod.pod_removal import RTM_SETLINK, LinkRemover, by_name, exists
from agent.cni.pod.pod_state import IFLA_IFALIAS, link_alias, open_reading, read_state
from agent.dataplane.desired.desired_sysctls import PER_INTERFACE, PER_INTERFACE_6
from agent.netlink import sysctl
from agent.netlink.kernel_errors import KernelError
from agent.netlink.namespaces import HOME, entered
from agent.netlink.netlink_socket import RequestSocket, reason
from agent.netlink.objects import RTPROT_BOOT, Address, Neighbour, Route, RouteKey, Scope, Sysctl
from agent.netlink.rtlinks import (
    IFA_ADDRESS,
    IFA_LOCAL,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    known_neighbour_request,
    mac_bytes,
    neighbour_request,
)
from agent.netlink.rtnetlink import (
    AF_INET,
    AF_INET6,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RTM_NEWADDR,
    attribute,
    message,
    route_request,
)

RTM_NEWLINK = 16
IFLA_NET_NS_FD = 28
VETH_INFO_PEER = 1
"""linux/veth.h: the peer, as a link message inside the link message."""
LONGEST_ALIAS = 255
"""IFALIASZ of linux/if.h, less the closing zero."""
HOST_SYSCTLS_6 = ("disable_ipv6", "0"), ("addr_gen_mode", "0"), ("accept_dad", "0")
"""Of the host's side while it is down: its link-local address is then the gateway's, and there at once."""
IFA_F_NODAD = 0x02
"""Nobody else can have the address: a pod does not wait a second to find that out (RFC 4862)."""
IFF_UP = 1
LOOPBACK_INDEX = 1
"""The kernel gives lo the first index of every namespace."""
RT_SCOPE_UNIVERSE = 0

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")


class NetlinkPodNetwork:
    """Attaches pods to the namespace that this process lives in."""

    def __init__(self) -> None:
        self._requests = RequestSocket()
        self._removal = LinkRemover()

    def close(self) -> None:
        """Close the socket."""
        self._requests.close()

    async def make_pair(self, attachment: Attachment) -> None:
        """Make the pair, in place of one of the same name. Raises NoNamespace, KernelError, with nothing left."""
        pod = _opened(attachment.netns)
        try:
            await self.detach(attachment.host_interface)
            pair = [_pair(attachment, pod), _marked(attachment.host_interface, attachment.container_id)]
            what = [
                f"a veth pair for {attachment.interface} in {attachment.netns}",
                f"writing the container's id on {attachment.host_interface}",
            ]
            await _carried_out(self._requests, pair, what)
            if attachment.has_ipv6:
                _set_sysctls(
                    (f"net/ipv6/conf/{attachment.host_interface}/{name}", to) for name, to in HOST_SYSCTLS_6
                )
                up = by_name(RTM_SETLINK, attachment.host_interface, flags=IFF_UP)
                await _carried_out(self._requests, [up], [f"{attachment.host_interface} up"])
        except BaseException:
            await self.detach(attachment.host_interface)
            raise
        finally:
            os.close(pod)

    async def configure_pod(self, attachment: Attachment) -> None:
        """Give the pod's end its addresses and its ways. Raises NoNamespace, KernelError, with nothing left."""
        try:
            await self._configure(attachment)
        except BaseException as error:
            await self.detach(attachment.host_interface)
            if isinstance(error, OSError):
                raise KernelError(f"the pod's namespace {attachment.netns}: {error}") from error
            raise

    async def _configure(self, attachment: Attachment) -> None:
        pod = _opened(attachment.netns)
        try:
            with entered(f"/proc/self/fd/{pod}"):
                inside = RequestSocket()
                index = _index_of(attachment.interface)
                _set_sysctls(_sysctls_inside(attachment))
        finally:
            os.close(pod)
        try:
            await _configure(inside, attachment, index)
        finally:
            inside.close()
        await self._make_known(attachment)

    async def _make_known(self, attachment: Attachment) -> None:
        """The host need not ask for the pod, and its answer takes no place in a table that all namespaces share."""
        index = _index_of(attachment.host_interface)
        requests = [
            known_neighbour_request(address, attachment.mac, index) for address in attachment.addresses
        ]
        await _carried_out(
            self._requests, requests, [f"neighbour {address}" for address in attachment.addresses]
        )

    async def detach(self, host_interface: str) -> None:
        """Remove the pair by its host side; the pod's side goes with it. Raises KernelError."""
        await self._removal.remove(host_interface)

    def exists(self, host_interface: str) -> bool:
        """Whether the host side is there; with it goes the pod's."""
        return exists(host_interface)

    async def owner(self, host_interface: str) -> str | None:
        """The container id written on the host side; empty when nothing is, None when there is no such device."""
        with open_reading() as opened:
            return link_alias(opened, host_interface)

    async def state(self, netns: str, interface: str, host_interface: str) -> PodState:
        """Both ends as they are. Raises NoNamespace, KernelError."""
        pod = _opened(netns)
        try:
            with open_reading() as home:
                try:
                    with entered(f"/proc/self/fd/{pod}"):
                        inside = open_reading()
                        index = _index_of(interface, missing=0)
                except OSError as error:
                    raise KernelError(f"the pod's namespace {netns}: {error}") from error
                with inside:
                    found = read_state(home, host_interface, inside, interface, index)
                    return replace(found, sysctls=_host_sysctls(host_interface))
        finally:
            os.close(pod)


def _host_sysctls(host_interface: str) -> dict[str, str]:
    """What the reconciler sets for a pod, as it stands; a kernel without IPv6 lacks some."""
    names = [pattern.format(host_interface) for pattern, _ in (*PER_INTERFACE, *PER_INTERFACE_6)]
    return {name: value for name in names if (value := sysctl.read(name)) is not None}


def _opened(netns: str) -> int:
    """The pod's namespace, held open so that its path need not be looked up twice. Raises NoNamespace."""
    try:
        pod = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NoNamespace(f"the pod's namespace {netns}: {error.strerror}") from error
    found, home = os.fstat(pod), os.stat(HOME)
    if found.st_dev != home.st_dev or found.st_ino == home.st_ino:
        os.close(pod)
        own = found.st_dev == home.st_dev
        raise NoNamespace(f"{netns} is {'the host itself' if own else 'no network namespace'}")
    return pod


def _index_of(name: str, missing: int | None = None) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        if missing is None:
            raise
        return missing


def _marked(host_interface: str, container_id: str) -> bytes:
    """Writes the alias; the kernel takes none when it makes a link, so it is the next message of the same batch."""
    return by_name(
        RTM_NEWLINK, host_interface, attribute(IFLA_IFALIAS, container_id.encode()[:LONGEST_ALIAS])
    )


def _sysctls_inside(attachment: Attachment) -> Iterator[tuple[str, str]]:
    """The pod's own sysctls, set before its interface is up."""
    if attachment.has_ipv6:
        for name in ("all", "default", "lo", attachment.interface):
            yield f"net/ipv6/conf/{name}/disable_ipv6", "0"
        yield f"net/ipv6/conf/{attachment.interface}/accept_dad", "0"
    if attachment.forwarding is not None:
        yield "net/ipv4/ip_forward", str(int(attachment.forwarding))
        if attachment.has_ipv6:
            yield "net/ipv6/conf/all/forwarding", str(int(attachment.forwarding))


def _set_sysctls(settings: Iterable[tuple[str, str]]) -> None:
    """Set sysctls of the namespace that the thread is in. Raises KernelError."""
    for name, value in settings:
        if (why := sysctl.write(Sysctl(name, value))) is not None:
            raise KernelError(why)


def _name(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _pair(attachment: Attachment, pod: int) -> bytes:
    """RTM_NEWLINK for both ends: the host's here, the pod's there, with its final name, MAC and MTU.

    The host's is up at once, unless IPv6 has to be prepared first.
    """
    flags = 0 if attachment.has_ipv6 else IFF_UP
    mtu = attribute(IFLA_MTU, struct.pack("=I", attachment.mtu))
    peer = _LINK.pack(0, 0, 0, 0, 0) + _name(IFLA_IFNAME, attachment.interface) + mtu
    peer += attribute(IFLA_ADDRESS, mac_bytes(attachment.mac)) + attribute(
        IFLA_NET_NS_FD, struct.pack("=i", pod)
    )
    kind = _name(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    host = _LINK.pack(0, 0, 0, flags, flags) + _name(IFLA_IFNAME, attachment.host_interface) + mtu
    host += attribute(IFLA_ADDRESS, mac_bytes(HOST_MAC)) + attribute(IFLA_LINKINFO, kind)
    return message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, host)


async def _configure(inside: RequestSocket, attachment: Attachment, index: int) -> None:
    """lo and the interface up, the way to the gateways and their neighbour entries, addresses: one batch."""
    requests = [_up(LOOPBACK_INDEX), _up(index)]
    what = ["lo up", f"{attachment.interface} up"]
    for route in _routes(attachment):
        requests.append(route_request(route, index))
        what.append(f"route {route}")
    for gateway in (GATEWAY, GATEWAY_6) if attachment.has_ipv6 else (GATEWAY,):
        requests.append(neighbour_request(Neighbour(attachment.interface, gateway, HOST_MAC), index))
        what.append(f"neighbour {gateway}")
    for address in attachment.addresses:
        requests.append(_address(address, index))
        what.append(f"address {address}/{address.max_prefixlen}")
    await _carried_out(inside, requests, what)


def _routes(attachment: Attachment) -> Iterator[Route]:
    """The pod's; a link-local gateway needs no route of its own."""
    device = attachment.interface
    yield Route(RouteKey(ip_network(GATEWAY)), device=device, protocol=RTPROT_BOOT, scope=Scope.LINK)
    yield Route(RouteKey(IPv4Network("0.0.0.0/0")), gateway=GATEWAY, device=device, protocol=RTPROT_BOOT)
    if attachment.has_ipv6:
        yield Route(RouteKey(IPv6Network("::/0")), gateway=GATEWAY_6, device=device, protocol=RTPROT_BOOT)


async def _carried_out(opened: RequestSocket, requests: list[bytes], what: list[str]) -> None:
    refused = await opened.execute(requests)
    if refused:
        raise KernelError(
            "; ".join(f"{what[position]}: {reason(*outcome)}" for position, outcome in refused.items())
        )


def _up(index: int) -> bytes:
    return message(RTM_SETLINK, NLM_F_REQUEST, _LINK.pack(0, 0, index, IFF_UP, IFF_UP))


def _address(address: Address, index: int) -> bytes:
    family, flags = (AF_INET, 0) if address.version == 4 else (AF_INET6, IFA_F_NODAD)
    body = _ADDRESS.pack(family, address.max_prefixlen, flags, RT_SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    return message(RTM_NEWADDR, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, body)
