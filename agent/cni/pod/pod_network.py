"""The kernel side of an attachment: a veth pair whose far end is made inside the pod, and all that is in there.

Promises: the pod's namespace is worked on through a socket opened there, so nothing waits while inside; what fails
leaves nothing behind; `detach` succeeds when there is nothing. Rules: Calico's C.6, with a permanent neighbour
for the gateway besides proxy ARP, because proxy ARP answers only on a host that has a route to 169.254.1.1, and the
pod known to the host beforehand.
Does not know: addresses' origin, the host's routes and sysctls (the reconciler's), what should be there.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import socket
from typing import TypeVar

from agent.cni.attachment import GATEWAY, GATEWAY_6, HOST_MAC, Attachment, NoNamespace, alias_of
from agent.cni.differences import Device, PodState
from agent.cni.pod.pod_removal import LinkRemover, index_of
from agent.dataplane.desired.desired_sysctls import PER_INTERFACE, PER_INTERFACE_6
from agent.dataplane.kernel.calico_names import WORKLOAD_PREFIX
from agent.foreign_files import Unfit
from agent.netlink import sysctl
from agent.netlink.kernel_errors import KernelError
from agent.netlink.namespaces import entered, is_hosts, open_namespace
from agent.netlink.netlink_socket import (
    NETLINK_ROUTE,
    REQUEST_BUFFER_BYTES,
    RequestSocket,
    dump,
    open_socket,
    reason,
)
from agent.netlink.objects import RTPROT_BOOT, Neighbour, Route, RouteKey, Scope, Sysctl
from agent.netlink.rtlinks import (
    IFLA_ADDRESS,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    NUD_PERMANENT,
    LinkRow,
    address_dump_request,
    decode_address,
    decode_link,
    decode_neighbour,
    entry_request,
    host_address_request,
    known_neighbour_request,
    link_body,
    link_change,
    link_dump_request,
    link_request,
    mac_bytes,
    neighbour_dump_request,
    text_attribute,
)
from agent.netlink.rtnetlink import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_SETLINK,
    attribute,
    attributes,
    request,
)
from agent.netlink.rtroutes import decode_route, route_dump_request, route_request

T = TypeVar("T")

VETH_INFO_PEER = 1
"""linux/veth.h: the peer, as a link message inside the link message."""
LONGEST_ALIAS = 255
"""IFALIASZ of linux/if.h, less the closing zero."""
HOST_SYSCTLS_6 = ("disable_ipv6", "0"), ("addr_gen_mode", "0"), ("accept_dad", "0")
"""Of the host's side while it is down: its link-local address is then the gateway's, and there at once."""
LOOPBACK_INDEX = 1
"""The kernel gives lo the first index of every namespace."""


class NetlinkPodNetwork:
    """Attaches pods to the namespace that this process lives in."""

    def __init__(self) -> None:
        self._requests = RequestSocket()
        self._remover = LinkRemover()

    def close(self) -> None:
        """Close the socket for requests."""
        self._requests.close()

    async def make_pair(self, attachment: Attachment) -> None:
        """Make the pair, in place of one of the same name. Raises NoNamespace, KernelError, with nothing left."""
        host = attachment.host_interface
        named = text_attribute(IFLA_IFNAME, host)
        pod = _opened(attachment.netns)
        try:
            await self.detach(host)
            # The kernel takes no alias when it makes a link, so it is the next message of the same batch.
            alias = attribute(IFLA_IFALIAS, _alias(attachment.container_id, attachment.interface))
            pair = {
                f"a veth pair for {attachment.interface} in {attachment.netns}": _pair(attachment, pod),
                f"writing the container's id on {host}": link_change(RTM_NEWLINK, named + alias),
            }
            await _execute(self._requests, pair)
            if attachment.has_ipv6:
                _set_sysctls((f"net/ipv6/conf/{host}/{name}", value) for name, value in HOST_SYSCTLS_6)
                await _execute(self._requests, {f"{host} up": link_change(RTM_SETLINK, named, up=True)})
        except BaseException:
            await self.detach(host)
            raise
        finally:
            os.close(pod)

    async def configure_pod(self, attachment: Attachment) -> None:
        """Give the pod's end its addresses, routes and neighbour entries, and the host an entry for the pod.

        Raises NoNamespace, KernelError, with nothing left of the pair.
        """
        try:
            with _inside(attachment.netns):
                _set_sysctls(_pod_sysctls(attachment))
                index, inside = index_of(attachment.interface), RequestSocket()
            with closing(inside):
                await _configure(inside, attachment, index)
            # The host need not ask for the pod, and its answer takes no entry of a table that all namespaces share.
            index = index_of(attachment.host_interface)
            entries = {
                f"neighbour {address}": known_neighbour_request(address, attachment.mac, index)
                for address in attachment.addresses
            }
            await _execute(self._requests, entries)
        except BaseException:
            await self.detach(attachment.host_interface)
            raise

    async def detach(self, host_interface: str) -> None:
        """Remove the pair by its host side; the pod's side goes with it. Raises KernelError."""
        await self._remover.remove(host_interface)

    def exists(self, host_interface: str) -> bool:
        """Whether the host side is there; with it goes the pod's."""
        return index_of(host_interface) != 0

    async def owner(self, host_interface: str) -> str | None:
        """The container id written on the host side; empty when nothing is, None when there is no such device."""
        alias = await _link(host_interface, _decode_alias)
        return None if alias is None else alias.partition(" ")[0]

    async def devices_of(self, container_id: str, interface: str) -> tuple[str, ...]:
        """The host sides on which this attachment is written. Raises KernelError."""
        written = _alias(container_id, interface)

        def name(data: bytes, start: int, end: int) -> str | None:
            words = attributes(data, start + len(link_body()), end)
            if words.get(IFLA_IFALIAS, b"").rstrip(b"\0") != written:
                return None
            return words[IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")

        found = await dump(link_dump_request(), RTM_NEWLINK, name)
        return tuple(device for device in found if device.startswith(WORKLOAD_PREFIX))

    async def state(self, netns: str, interface: str, host_interface: str) -> PodState:
        """Both ends as they are. Raises NoNamespace, KernelError."""
        with _inside(netns):
            index, inside = index_of(interface), open_socket(NETLINK_ROUTE, REQUEST_BUFFER_BYTES)

        def route(data: bytes, start: int, end: int) -> Route | None:
            name_of = {index: interface}.get
            return decode_route(data, start, end, lambda found: name_of(found, f"interface {found}"))

        with inside:
            addresses = await dump(address_dump_request(), RTM_NEWADDR, decode_address, opened=inside)
            none = {errno.ENOENT}  # the main table is made with its first route
            routes = [
                found
                for family in (AF_INET, AF_INET6)
                for found in await dump(
                    route_dump_request(family=family), RTM_NEWROUTE, route, opened=inside, absent=none
                )
            ]
            request = neighbour_dump_request(AF_UNSPEC, index)
            neighbours = await dump(request, RTM_NEWNEIGH, decode_neighbour, opened=inside)
            pod = await _link(interface, decode_link, inside)
        names = [pattern.format(host_interface) for pattern, _ in (*PER_INTERFACE, *PER_INTERFACE_6)]
        host = await _link(host_interface, decode_link)
        return PodState(
            inside=_device(pod),
            host=_device(host),
            # Each end of a pair names the other's index (IFLA_LINK, veth_get_iflink of drivers/net/veth.c).
            paired=bool(pod and host and _peer(pod) == host.index and _peer(host) == pod.index),
            addresses=frozenset(row.address for row in addresses if row.index == index),
            routes=tuple(routes),
            gateway_macs={
                row.destination: row.mac
                for row in neighbours
                if row.destination in (GATEWAY, GATEWAY_6) and row.mac is not None
                if row.index == index and row.state & NUD_PERMANENT
            },
            # A kernel without IPv6 lacks some.
            sysctls={name: value for name in names if (value := sysctl.read(name)) is not None},
        )


# -- the pod's namespace ----------------------------------------------------------------------------------------------


@contextmanager
def _inside(netns: str) -> Iterator[None]:
    """Be in the pod's namespace for a `with` block that must not await. Raises NoNamespace, KernelError."""
    pod = _opened(netns)
    try:
        with entered(pod):
            yield
    except OSError as error:
        raise KernelError(f"the pod's namespace {netns}: {error}") from error
    finally:
        os.close(pod)


def _opened(netns: str) -> int:
    """The pod's namespace, held open so that its path need not be looked up twice. Raises NoNamespace."""
    try:
        pod = open_namespace(netns)
    except Unfit as error:
        raise NoNamespace(f"{netns} is {error.strerror}") from error
    except OSError as error:
        raise NoNamespace(f"the pod's namespace {netns}: {error.strerror}") from error
    if is_hosts(pod):
        os.close(pod)
        raise NoNamespace(f"{netns} is the host itself; a pod needs a namespace of its own")
    return pod


def _pod_sysctls(attachment: Attachment) -> Iterator[tuple[str, str]]:
    """The pod's own, set before its interface is up."""
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


# -- requests ---------------------------------------------------------------------------------------------------------


async def _execute(opened: RequestSocket, requests: Mapping[str, bytes]) -> None:
    """Carry out requests, each under what it does. Raises KernelError that names those the kernel refused."""
    refused = await opened.execute(tuple(requests.values()))
    if refused:
        what = tuple(requests)
        raise KernelError("; ".join(f"{what[at]}: {reason(*outcome)}" for at, outcome in refused.items()))


def _pair(attachment: Attachment, pod: int) -> bytes:
    """RTM_NEWLINK for both ends: the host's here, the pod's there, with its final name, MAC and MTU.

    The host's is up at once, unless IPv6 has to be prepared first.
    """

    def end(name: str, mac: str) -> bytes:
        mtu = attribute(IFLA_MTU, struct.pack("=I", attachment.mtu))
        return text_attribute(IFLA_IFNAME, name) + mtu + attribute(IFLA_ADDRESS, mac_bytes(mac))

    namespace = attribute(IFLA_NET_NS_FD, struct.pack("=i", pod))
    peer = attribute(VETH_INFO_PEER, link_body(end(attachment.interface, attachment.mac) + namespace))
    kind = text_attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, peer)
    host = end(attachment.host_interface, HOST_MAC) + attribute(IFLA_LINKINFO, kind)
    return request(RTM_NEWLINK, link_body(host, up=not attachment.has_ipv6), NLM_F_CREATE | NLM_F_EXCL)


async def _configure(inside: RequestSocket, attachment: Attachment, index: int) -> None:
    """lo and the interface up, routes to and by the gateways, their neighbour entries, addresses: one batch."""
    device = attachment.interface
    gateways = (GATEWAY, GATEWAY_6) if attachment.has_ipv6 else (GATEWAY,)
    requests = {
        "lo up": link_change(RTM_SETLINK, index=LOOPBACK_INDEX, up=True),
        f"{device} up": link_change(RTM_SETLINK, index=index, up=True),
    }
    requests |= {f"route {route}": route_request(route, index) for route in _routes(attachment)}
    requests |= {
        f"neighbour {gateway}": entry_request(Neighbour(device, gateway, HOST_MAC), index)
        for gateway in gateways
    }
    requests |= {
        f"address {address}/{address.max_prefixlen}": host_address_request(address, index)
        for address in attachment.addresses
    }
    await _execute(inside, requests)


def _routes(attachment: Attachment) -> Iterator[Route]:
    """The pod's; a link-local gateway needs no route of its own."""
    device = attachment.interface
    yield Route(RouteKey(ip_network(GATEWAY)), device=device, protocol=RTPROT_BOOT, scope=Scope.LINK)
    yield Route(RouteKey(IPv4Network("0.0.0.0/0")), gateway=GATEWAY, device=device, protocol=RTPROT_BOOT)
    if attachment.has_ipv6:
        yield Route(RouteKey(IPv6Network("::/0")), gateway=GATEWAY_6, device=device, protocol=RTPROT_BOOT)


# -- reading ----------------------------------------------------------------------------------------------------------


async def _link(
    name: str, decode: Callable[[bytes, int, int], T | None], opened: socket | None = None
) -> T | None:
    """One link, None when there is none of this name; read here, or where `opened` was. Raises KernelError."""
    gone = {errno.ENODEV}
    rows = await dump(link_request(name), RTM_NEWLINK, decode, opened=opened, absent=gone)
    return rows[0] if rows else None


def _peer(row: LinkRow) -> int:
    """Kernels before 5.1 leave out an index that is the same at both ends."""
    return row.lower or row.index


def _alias(container_id: str, interface: str) -> bytes:
    return alias_of(container_id, interface).encode()[:LONGEST_ALIAS]


def _decode_alias(data: bytes, start: int, end: int) -> str:
    words = attributes(data, start + len(link_body()), end)
    return words.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")


def _device(row: LinkRow | None) -> Device | None:
    return Device(row.mac or "", row.mtu, row.up) if row is not None else None
