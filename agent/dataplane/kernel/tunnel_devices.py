"""Reads links, and brings a tunnel device to what is desired, in as few changes as it takes.

Strategy. Read, compare attribute by attribute, delete only for an immutable difference, create when missing, adjust the
rest in place, read again: a kernel that took something else is an error now and not a write in every pass.
Promises: tunl0 is adopted as the module made it and never deleted; who has our VNI or port is named.
Does not know: why a device is desired.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from agent.dataplane.kernel.calico_names import TUNL0, VXLAN_DEVICES, version_of
from agent.dataplane.kernel.port_holders import holder_of
from agent.netlink import devices, ethtool, rtlinks, rtnetlink
from agent.netlink.devices import device_index
from agent.netlink.kernel_errors import KernelError, Unsupported
from agent.netlink.netlink_socket import dump
from agent.netlink.objects import Address, Link, Tunnel, TunnelKind
from agent.netlink.rtlinks import AddressRow, LinkRow
from agent.netlink.rtnetlink import address, attributes, number

HOLDER_SECONDS = 5.0
KIND_BY_NAME = {TUNL0: TunnelKind.IPIP, **dict.fromkeys(VXLAN_DEVICES, TunnelKind.VXLAN)}

Addresses = tuple[tuple[Address, int], ...]


class Found(NamedTuple):
    """A device of ours as it is."""

    row: LinkRow
    tunnel: Tunnel
    addresses: Addresses


async def _all_links() -> list[tuple[LinkRow, list[AddressRow]]]:
    """Every interface with its addresses. Raises KernelError."""
    rows = await dump(rtlinks.link_dump_request(), rtnetlink.RTM_NEWLINK, rtlinks.decode_link)
    found = await dump(rtlinks.address_dump_request(), rtnetlink.RTM_NEWADDR, rtlinks.decode_address)
    addresses: dict[int, list[AddressRow]] = {}
    for row in found:
        addresses.setdefault(row.index, []).append(row)
    return [(row, addresses.get(row.index, [])) for row in rows]


def _pairs(rows: Iterable[AddressRow]) -> Addresses:
    return tuple((row.address, row.length) for row in rows)


class Devices:
    """The part of a kernel that is its links, and those of them that are our tunnel devices."""

    _offload: bool
    """Tunnels are read with their checksum offload; otherwise that is nobody's business."""
    _holders: dict[str, tuple[str, float, str]]
    """Tunnel that could not be made -> the kernel's reason, until when it is believed who is in its way, and who is."""

    async def links(self) -> Mapping[str, Link]:
        """All interfaces by name, with their addresses. Raises KernelError."""
        return {row.name: row.link(addresses) for row, addresses in await _all_links()}

    async def link(self, name: str) -> Link | None:
        """The interface that bears this name, with its addresses. Raises KernelError."""
        request, gone = rtlinks.link_request(name), {errno.ENODEV}
        rows = await dump(request, rtnetlink.RTM_NEWLINK, rtlinks.decode_link, absent=gone)
        if not rows:
            return None
        request = rtlinks.address_dump_request(rows[0].index)
        found = await dump(request, rtnetlink.RTM_NEWADDR, rtlinks.decode_address, absent=gone)
        return rows[0].link(row for row in found if row.index == rows[0].index)

    async def tunnels(self) -> Mapping[str, Tunnel]:
        """The tunnel devices with our names, whatever their attributes. Raises KernelError."""
        return {name: found.tunnel for name, found in (await _ours(offload=self._offload)).items()}

    async def put_tunnel(self, tunnel: Tunnel) -> None:
        """Make the device exist, be up and look exactly so. Raises Unsupported, KernelError."""
        try:
            await _put(tunnel)
        except Unsupported:
            raise
        except KernelError as error:
            if found := await self._holder(tunnel, str(error)):
                raise KernelError(f"{error}; {found}") from error
            raise

    async def _holder(self, tunnel: Tunnel, why: str) -> str:
        """Who is in the way of a device; looked for again only when that is an old answer: it is tried often."""
        now = asyncio.get_running_loop().time()
        known = self._holders.get(tunnel.name)
        if known is None or known[0] != why or now >= known[1]:
            self._holders[tunnel.name] = known = why, now + HOLDER_SECONDS, await holder_of(tunnel)
        return known[2]

    async def remove_tunnel(self, name: str) -> None:
        """Delete a VXLAN device; strip and down tunl0, which belongs to the module. Raises KernelError."""
        found = (await _ours(offload=False)).get(name)
        if found is None:
            return
        if found.tunnel.kind is TunnelKind.VXLAN:
            await devices.delete_device(found.row.index, name)
            return
        await _strip(found, None)
        if found.row.up:
            await devices.set_down(found.row.index, name)


async def _ours(*, offload: bool) -> dict[str, Found]:
    links = await _all_links()
    names = {row.index: row.name for row, _ in links}
    ours: dict[str, Found] = {}
    for row, found in links:
        if row.name in KIND_BY_NAME:
            addresses = _pairs(found)
            tunnel = _tunnel_of(row, addresses, names, KIND_BY_NAME[row.name])
            seen = replace(tunnel, offload=ethtool.read(row.name)) if offload else tunnel
            ours[row.name] = Found(row, seen, addresses)
    return ours


async def _put(wanted: Tunnel) -> None:
    offload = wanted.offload is not None
    found = (await _ours(offload=offload)).get(wanted.name)
    if found is not None and wanted.kind is TunnelKind.IPIP and found.row.kind != wanted.kind.value:
        kind = found.row.kind or "unknown"
        raise KernelError(f"{wanted.name} is a device of kind {kind}, not ipip; rename or delete it")
    if found is not None and wanted.immutable_differences(found.tunnel):
        await devices.delete_device(found.row.index, wanted.name)
        found = None
    if found is None:
        await devices.create_tunnel(wanted, _parent(wanted))
        found = (await _ours(offload=offload)).get(wanted.name)
        if found is None:
            raise KernelError(f"{wanted.name} was not made")
    if found.tunnel != wanted:
        await devices.adjust_tunnel(found.row.index, wanted, found.tunnel)
        await _strip(found, wanted.address)
        if wanted.offload is not None and wanted.offload != found.tunnel.offload:
            ethtool.write(wanted.name, wanted=wanted.offload)
        taken = (await _ours(offload=offload)).get(wanted.name)
        if taken is None or taken.tunnel != wanted:
            raise KernelError(f"the kernel took {taken.tunnel if taken else 'nothing'} instead of {wanted}")


def _parent(wanted: Tunnel) -> int | None:
    if wanted.parent is None:
        return None
    parent = device_index(wanted.parent)
    if parent is None:
        raise KernelError(f"creating {wanted.name}: its parent {wanted.parent} does not exist")
    return parent


async def _strip(found: Found, spared: Address | None) -> None:
    """Take every address of the device's own version off but one, and link-local ones."""
    version = version_of(found.tunnel.name)
    for ip, length in found.addresses:
        if ip.version != version or ip.is_link_local:
            continue
        if ip != spared or length != ip.max_prefixlen:
            await devices.remove_address(found.row.index, found.tunnel.name, ip, length)


def _tunnel_of(row: LinkRow, addresses: Addresses, names: dict[int, str], kind: TunnelKind) -> Tunnel:
    """A device with one of our names as a tunnel of the kind that bears the name.

    A device of another kind comes out without the attributes of this kind, so it never equals a desired one.
    Raises BadMessage.
    """
    version = version_of(row.name)
    own_kind = [(ip, length) for ip, length in addresses if ip.version == version and not ip.is_link_local]
    hosts = [ip for ip, length in own_kind if length == ip.max_prefixlen]
    bare = tuple(ip for ip, length in own_kind if length != ip.max_prefixlen)
    own, strays = (hosts[0], (*hosts[1:], *bare)) if hosts else (None, bare)
    if kind is TunnelKind.IPIP:
        mtu = row.mtu if row.kind == kind.value else 0
        return Tunnel(row.name, kind, mtu, own, up=row.up, strays=strays)
    words = attributes(row.data, 0, len(row.data)) if row.kind == kind.value else {}
    local = words.get(rtlinks.IFLA_VXLAN_LOCAL) or words.get(rtlinks.IFLA_VXLAN_LOCAL6)
    return Tunnel(
        row.name,
        kind,
        row.mtu,
        own,
        vni=number(words[rtlinks.IFLA_VXLAN_ID]) if rtlinks.IFLA_VXLAN_ID in words else None,
        port=int.from_bytes(words[rtlinks.IFLA_VXLAN_PORT], "big")
        if rtlinks.IFLA_VXLAN_PORT in words
        else None,
        parent=_parent_of(row, words, names),
        local=address(local) if local else None,
        mac=row.mac,
        up=row.up,
        learning=words.get(rtlinks.IFLA_VXLAN_LEARNING, b"\0") != b"\0",
        strays=strays,
    )


def _parent_of(row: LinkRow, words: dict[int, bytes], names: dict[int, str]) -> str | None:
    index = number(words[rtlinks.IFLA_VXLAN_LINK]) if rtlinks.IFLA_VXLAN_LINK in words else row.lower
    return names.get(index, f"#{index}") if index else None
