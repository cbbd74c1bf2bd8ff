"""Who has the VNI or the UDP port that a VXLAN device of ours needs: a device here, one that was moved away, a program.

The kernel says "File exists" or "Address already in use" and no name. A VXLAN device belongs to the namespace in which
it was made, wherever it was moved since (drivers/net/vxlan: vxlan_dev_configure, vxlan_get_link_net), so it is in the
way here and cannot be seen from here.
Promises: reads only; looks into a bounded number of namespaces and processes; what may not be looked at is left out,
and then the answer says how to find it. Does not know: which device should exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from agent.dataplane.kernel.calico_names import OUR_TUNNELS
from agent.foreign_files import read_file
from agent.netlink import rtlinks, rtnetlink
from agent.netlink.kernel_errors import KernelError
from agent.netlink.namespaces import entered, open_namespace
from agent.netlink.netlink_socket import NETLINK_ROUTE, dump, open_socket
from agent.netlink.objects import Tunnel, TunnelKind
from agent.netlink.rtnetlink import BadMessage, attributes, number

NAMED_NAMESPACES, PROC = Path("/run/netns"), Path("/proc")
MOST_NAMESPACES = 256
MOST_PROCESSES = 20_000
MOST_FILE_BYTES = 16 << 20
"""/proc/net/udp has some 130 bytes for each socket."""
BUFFER_BYTES = 1 << 20
SOCKET = re.compile(r"socket:\[(\d+)\]")


class VxlanDevice(NamedTuple):
    """A VXLAN device of somebody's."""

    name: str
    vni: int | None
    port: int | None
    is_moved: bool
    """It was made in another namespace than the one it is in."""

    def is_in_the_way(self, wanted: Tunnel) -> bool:
        """Whether the kernel refuses both: one VNI at a port, however else they differ."""
        return (self.vni, self.port) == (wanted.vni, wanted.port)


async def holder_of(wanted: Tunnel) -> str:
    """Who is in the way of a VXLAN device, as far as that can be found, in words that end a sentence."""
    if wanted.kind is not TunnelKind.VXLAN or wanted.port is None:
        return ""
    here = [one for one in await _vxlan_devices() if one.name not in OUR_TUNNELS]
    for is_same in (True, False):
        for one in here:
            if one.port == wanted.port and (one.is_in_the_way(wanted) or not is_same):
                return f"the device {one.name} has UDP port {one.port} (VNI {one.vni}): delete it, or move it"
    if (program := _program_at(wanted.port)) is not None:
        return f"UDP port {wanted.port} is taken by {program}: end it, or have it use another port"
    if (found := await _moved_away(wanted)) is not None:
        name, where = found
        return (
            f"VNI {wanted.vni} at UDP port {wanted.port} is taken by the device {name}, which was moved to the network "
            f"namespace {where}: delete it there"
        )
    return (
        f"see who has UDP port {wanted.port} or VNI {wanted.vni}: `ss -ulnp 'sport = :{wanted.port}'`, "
        "`ip -all netns exec ip -details link show type vxlan`"
    )


def _decode(data: bytes, start: int, end: int) -> VxlanDevice | None:
    """Raises BadMessage."""
    row = rtlinks.decode_link(data, start, end)
    if row is None or row.kind != TunnelKind.VXLAN.value:
        return None
    words = attributes(row.data, 0, len(row.data))
    port = words.get(rtlinks.IFLA_VXLAN_PORT)
    return VxlanDevice(
        row.name,
        number(words[rtlinks.IFLA_VXLAN_ID]) if rtlinks.IFLA_VXLAN_ID in words else None,
        int.from_bytes(port, "big") if port else None,
        rtlinks.IFLA_LINK_NETNSID in attributes(data, start + rtlinks.IFINFOMSG.size, end),
    )


async def _vxlan_devices(namespace: int | None = None) -> list[VxlanDevice]:
    """Those of this namespace, or of an opened one. Raises KernelError, OSError."""
    if namespace is None:
        return await dump(rtlinks.link_dump_request(), rtnetlink.RTM_NEWLINK, _decode)
    with entered(namespace):
        opened = open_socket(NETLINK_ROUTE, BUFFER_BYTES)
    with opened:
        return await dump(rtlinks.link_dump_request(), rtnetlink.RTM_NEWLINK, _decode, opened=opened)


async def _moved_away(wanted: Tunnel) -> tuple[str, str] | None:
    """A device with our VNI and port that lives in another namespace than it was made in: its name, and where."""
    for namespace, where in islice(_other_namespaces(), MOST_NAMESPACES):
        try:
            with suppress(KernelError, BadMessage, OSError):
                for one in await _vxlan_devices(namespace):
                    if one.is_moved and one.is_in_the_way(wanted):
                        return one.name, where
        finally:
            os.close(namespace)
    return None


def _other_namespaces() -> Iterator[tuple[int, str]]:
    """Opened, and how people find each: its name, or a process in it."""
    seen = {_inode(PROC / "thread-self/ns/net")}
    with suppress(OSError):
        for path in sorted(NAMED_NAMESPACES.iterdir()):
            yield from _opened(path, path.name, seen)
    with suppress(OSError):
        for directory in islice(PROC.glob("[0-9]*"), MOST_PROCESSES):
            yield from _opened(
                directory / "ns/net", f"of process {directory.name} ({_comm(directory)})", seen
            )


def _opened(path: Path, where: str, seen: set[int | None]) -> Iterator[tuple[int, str]]:
    inode = _inode(path)
    if inode is None or inode in seen:
        return
    seen.add(inode)
    with suppress(OSError):
        yield open_namespace(path), where


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _comm(directory: Path) -> str:
    try:
        return read_file(directory / "comm", MOST_FILE_BYTES).decode(errors="replace").strip()
    except OSError:
        return "?"


def _program_at(port: int) -> str | None:
    """The program of this namespace that has a UDP port; a port of the kernel's own sockets has no program."""
    inodes = {inode for name in ("udp", "udp6") for inode in _inodes(PROC / "thread-self/net" / name, port)}
    if not inodes:
        return None
    for directory in islice(PROC.glob("[0-9]*"), MOST_PROCESSES):
        with suppress(OSError):
            for path in (directory / "fd").iterdir():
                found = SOCKET.fullmatch(os.readlink(path))
                if found and found[1] in inodes:
                    return f"{_comm(directory)} (pid {directory.name})"
    return f"a program: `ss -ulnp 'sport = :{port}'` names it"


def _inodes(table: Path, port: int) -> Iterator[str]:
    try:
        text = read_file(table, MOST_FILE_BYTES).decode(errors="replace")
    except OSError:
        return
    for line in text.splitlines()[1:]:
        words = line.split()
        # A socket of the kernel's, as VXLAN's own, has no inode.
        if len(words) > 9 and words[1].rpartition(":")[2] == f"{port:04X}" and words[9] != "0":
            yield words[9]
