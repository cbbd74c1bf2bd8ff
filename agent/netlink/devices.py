"""Makes, changes and deletes devices and their addresses through pyroute2: calls made once in a while.

Promises: pyroute2's dicts and exceptions stop here; making what is there and removing what is gone are success. What is
asked often (links, routes, neighbours, look-ups) goes through rtlinks and rtroutes, which cost a fiftieth of it.
Does not know: which device should exist.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError

from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.netlink_socket import UNSUPPORTED_ERRNOS
from agent.netlink.objects import Address, Tunnel, TunnelKind
from agent.netlink.rtlinks import IFA_F_NODAD


async def _change(what: str, table: str, verb: str, *tolerated: int, **words: Any) -> None:
    """One request of pyroute2's; `tolerated` are the errnos that mean "it is so already".

    Raises Unsupported, KernelError.
    """
    try:
        async with AsyncIPRoute(ext_ack=True) as kernel:
            await getattr(kernel, table)(verb, **words)
    except NetlinkError as error:
        if error.code not in tolerated:
            why = f"{what}: {error.args[1] if len(error.args) > 1 else error}"
            raise (Unsupported if error.code in UNSUPPORTED_ERRNOS else KernelError)(why) from error
    except OSError as error:
        raise KernelError(f"{what}: {error.strerror}") from error


async def create_tunnel(wanted: Tunnel, parent: int | None) -> None:
    """Make the device, down and without an address; `parent` is the index of the underlay interface.

    The MAC is given at birth, so that no rule of udev's makes another one. Raises Unsupported, KernelError.
    """
    name, kind = wanted.name, wanted.kind.value
    words: dict[str, Any] = {"ifname": name, "kind": kind}
    if wanted.kind is TunnelKind.VXLAN:
        words |= {"address": wanted.mac, "mtu": wanted.mtu, "vxlan_id": wanted.vni, "vxlan_port": wanted.port}
        words |= {"vxlan_link": parent, "vxlan_learning": wanted.learning}
        if wanted.local is not None:
            words["vxlan_local6" if wanted.local.version == 6 else "vxlan_local"] = str(wanted.local)
    given = {word: value for word, value in words.items() if value is not None}
    try:
        await _change(f"creating {name}", "link", "add", errno.EEXIST, **given)
    except Unsupported as error:
        raise Unsupported(
            f"this kernel has no {kind}: {name} cannot be made; load the module {kind}, "
            f"or use pools of another encapsulation ({error})"
        ) from error


async def adjust_tunnel(index: int, wanted: Tunnel, actual: Tunnel) -> None:
    """Change what can be changed in place: MTU, MAC, learning, addresses, up. Raises KernelError."""
    name, words = wanted.name, dict[str, Any]()
    if wanted.mtu != actual.mtu:
        words["mtu"] = wanted.mtu
    if wanted.mac is not None and wanted.mac != actual.mac:
        words["address"] = wanted.mac
    if words:
        await _change(f"setting {', '.join(sorted(words))} of {name}", "link", "set", index=index, **words)
    if wanted.learning != actual.learning:
        learning = {"kind": wanted.kind.value, "vxlan_learning": wanted.learning}
        await _change(f"setting learning of {name}", "link", "set", index=index, **learning)
    if wanted.address is not None and wanted.address != actual.address:
        what, words = f"adding {wanted.address} to {name}", _host(wanted.address)
        await _change(what, "addr", "add", errno.EEXIST, index=index, **words)
    if not actual.up:
        await _change(f"setting {name} up", "link", "set", index=index, state="up")


def _host(address: Address) -> dict[str, Any]:
    """The one address of a tunnel, which nobody else can have."""
    words: dict[str, Any] = {"address": str(address), "prefixlen": address.max_prefixlen}
    return words if address.version == 4 else {**words, "flags": IFA_F_NODAD}


async def remove_address(index: int, name: str, address: Address, length: int) -> None:
    """Take an address from a device. Raises KernelError."""
    what, gone = f"removing {address}/{length} from {name}", (errno.EADDRNOTAVAIL, errno.ENODEV)
    await _change(what, "addr", "delete", *gone, index=index, address=str(address), prefixlen=length)


async def delete_device(index: int, name: str) -> None:
    """Delete a device. Raises KernelError."""
    await _change(f"deleting {name}", "link", "del", errno.ENODEV, index=index)


async def set_down(index: int, name: str) -> None:
    """Set a device down. Raises KernelError."""
    await _change(f"setting {name} down", "link", "set", errno.ENODEV, index=index, state="down")


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


def is_gone(name: str) -> bool:
    """Whether `device_name` found no device any more."""
    return name.startswith("#") and name[1:].isdecimal()
