"""Devices, their addresses and route look-ups through pyroute2: calls made once in a while, where its cost is nothing.

Promises: pyroute2's dicts and exceptions stop here; making what is there and removing what is gone are success.
Does not know: which device should exist.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError

from agent.netlink.kernel_errors import KernelError, NoWay, Unsupported
from agent.netlink.netlink_socket import UNSUPPORTED_ERRNOS
from agent.netlink.objects import Address, Tunnel, TunnelKind
from agent.netlink.rtlinks import IFA_F_NODAD

NO_WAY_ERRNOS = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextmanager
def _said(what: str, *tolerated: int) -> Iterator[None]:
    """Turn pyroute2's errors into ours; `tolerated` are the errnos that mean "it is so already"."""
    try:
        yield
    except NetlinkError as error:
        if error.code in tolerated:
            return
        words = f"{what}: {error.args[1] if len(error.args) > 1 else error}"
        if error.code in NO_WAY_ERRNOS:
            raise NoWay(words) from error
        raise (Unsupported if error.code in UNSUPPORTED_ERRNOS else KernelError)(words) from error
    except OSError as error:
        raise KernelError(f"{what}: {error.strerror}") from error


async def create_tunnel(wish: Tunnel, parent: int | None) -> None:
    """Make the device, down and without an address; `parent` is the index of the underlay interface.

    The MAC is given at birth, so that no rule of udev's makes another one. Raises Unsupported, KernelError.
    """
    attributes: dict[str, Any] = {"ifname": wish.name, "kind": wish.kind.value}
    if wish.kind is TunnelKind.VXLAN:
        attributes |= {
            "address": wish.mac,
            "mtu": wish.mtu,
            "vxlan_id": wish.vni,
            "vxlan_port": wish.port,
            "vxlan_link": parent,
            "vxlan_local6" if wish.local is not None and wish.local.version == 6 else "vxlan_local": (
                str(wish.local) if wish.local is not None else None
            ),
            "vxlan_learning": wish.learning,
        }
    given = {name: value for name, value in attributes.items() if value is not None}
    try:
        async with AsyncIPRoute(ext_ack=True) as kernel:
            with _said(f"creating {wish.name}", errno.EEXIST):
                await kernel.link("add", **given)
    except Unsupported as error:
        raise Unsupported(
            f"this kernel has no {wish.kind.value}: {wish.name} cannot be made; load the module {wish.kind.value}, "
            f"or use pools of another encapsulation ({error})"
        ) from error


async def adjust_tunnel(index: int, wish: Tunnel, actual: Tunnel) -> None:
    """Bring what may be changed in place to what is wished: MTU, MAC, learning, addresses, up. Raises KernelError."""
    changes: dict[str, Any] = {}
    if wish.mtu != actual.mtu:
        changes["mtu"] = wish.mtu
    if wish.mac is not None and wish.mac != actual.mac:
        changes["address"] = wish.mac
    async with AsyncIPRoute(ext_ack=True) as kernel:
        if changes:
            with _said(f"setting {', '.join(sorted(changes))} of {wish.name}"):
                await kernel.link("set", index=index, **changes)
        if wish.learning != actual.learning:
            with _said(f"setting learning of {wish.name}"):
                await kernel.link("set", index=index, kind=wish.kind.value, vxlan_learning=wish.learning)
        if wish.address is not None and wish.address != actual.address:
            with _said(f"adding {wish.address} to {wish.name}", errno.EEXIST):
                await kernel.addr("add", index=index, **_host(wish.address))
        if not actual.up:
            with _said(f"setting {wish.name} up"):
                await kernel.link("set", index=index, state="up")


def _host(address: Address) -> dict[str, Any]:
    """The one address of a tunnel: nobody else can have it, so IPv6 need not look for a duplicate for a second."""
    words: dict[str, Any] = {"address": str(address), "prefixlen": address.max_prefixlen}
    return words if address.version == 4 else {**words, "flags": IFA_F_NODAD}


async def remove_address(index: int, name: str, address: Address, length: int) -> None:
    """Take an address from a device. Raises KernelError."""
    async with AsyncIPRoute(ext_ack=True) as kernel:
        with _said(f"removing {address}/{length} from {name}", errno.EADDRNOTAVAIL, errno.ENODEV):
            await kernel.addr("delete", index=index, address=str(address), prefixlen=length)


async def delete_device(index: int, name: str) -> None:
    """Delete a device. Raises KernelError."""
    async with AsyncIPRoute(ext_ack=True) as kernel:
        with _said(f"deleting {name}", errno.ENODEV):
            await kernel.link("del", index=index)


async def set_down(index: int, name: str) -> None:
    """Set a device down. Raises KernelError."""
    async with AsyncIPRoute(ext_ack=True) as kernel:
        with _said(f"setting {name} down", errno.ENODEV):
            await kernel.link("set", index=index, state="down")


async def received(index: int, name: str) -> int:
    """Packets that a device has handed up since it was made; 0 for one that has gone. Raises KernelError."""
    async with AsyncIPRoute(ext_ack=True) as kernel:
        with _said(f"reading the counters of {name}", errno.ENODEV):
            for found in await kernel.link("get", index=index):
                counters = found.get_attr("IFLA_STATS64")
                return int(counters["rx_packets"]) if counters is not None else 0
    return 0


async def look_up(host: Address) -> tuple[int, Address, Address | None]:
    """RTM_GETROUTE: (interface index, source, gateway). Raises KernelError when there is no way."""
    async with AsyncIPRoute(ext_ack=True) as kernel:
        with _said(f"looking up the route to {host}"):
            for found in await kernel.route("get", dst=str(host), family=_FAMILIES[host.version]):
                index, source, gateway = (
                    found.get_attr(name) for name in ("RTA_OIF", "RTA_PREFSRC", "RTA_GATEWAY")
                )
                if index is not None and source is not None:
                    return index, ip_address(source), ip_address(gateway) if gateway is not None else None
    raise KernelError(f"looking up the route to {host}: the kernel gave no interface and source")


def device_index(name: str) -> int | None:
    """The interface's present index; None when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def device_name(index: int) -> str:
    """The interface's present name; `#7` when it has gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"#{index}"
