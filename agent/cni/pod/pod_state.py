"""Reads both ends of an attachment over netlink sockets that were opened where they belong.

Promises: nothing here waits or changes anything: the kernel carries a request out inside send(), and a pod's tables
are small. Does not know: what should be there.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from agent.cni.attachment import GATEWAY, GATEWAY_6
from agent.cni.differences import Device, PodState
from agent.netlink.kernel_errors import KernelError
from agent.netlink.netlink_socket import DATAGRAM_BYTES, NETLINK_ROUTE, Refused, open_socket
from agent.netlink.objects import Address, Route
from agent.netlink.rtlinks import (
    IFLA_IFNAME,
    NDA_DST,
    NDA_LLADDR,
    NUD_PERMANENT,
    LinkRow,
    address_dump_request,
    decode_address,
    decode_link,
    mac_text,
)
from agent.netlink.rtnetlink import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    attribute,
    attributes,
    decode_route,
    error_of,
    message,
    messages,
    route_dump_request,
)

T = TypeVar("T")

IFLA_IFALIAS = 20
READ_BUFFER_BYTES = 1 << 20
MOST_DATAGRAMS = 256
"""Of one answer; a pod's tables need one or two."""
_LINK = struct.Struct("=BxHiII")
_NEIGH = struct.Struct("=BxxxiHBB")


def open_reading() -> socket.socket:
    """A socket of the namespace that the thread is in. Raises KernelError."""
    return open_socket(NETLINK_ROUTE, READ_BUFFER_BYTES)


def link_alias(opened: socket.socket, name: str) -> str | None:
    """What is written on a link; empty when nothing is, None when there is no such link. Raises KernelError."""

    def alias(data: bytes, start: int, end: int) -> str:
        words = attributes(data, start + _LINK.size, end)
        return words.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")

    found = _link(opened, name, alias)
    return found[0] if found else None


def read_state(
    home: socket.socket, host_interface: str, inside: socket.socket, interface: str, index: int
) -> PodState:
    """What is there; `index` is that of the pod's interface, 0 when it is not there. Raises KernelError."""
    host, pod = _link(home, host_interface, decode_link), _link(inside, interface, decode_link)
    addresses = frozenset(
        row.address
        for row in _ask(inside, address_dump_request(), RTM_NEWADDR, decode_address)
        if row.index == index
    )

    def name_of(found: int) -> str:
        return interface if found == index else f"interface {found}"

    def route(data: bytes, start: int, end: int) -> Route | None:
        return decode_route(data, start, end, name_of)

    return PodState(
        inside=_device(pod),
        host=_device(host),
        addresses=addresses,
        routes=tuple(
            found
            for family in (AF_INET, AF_INET6)
            for found in _ask(inside, route_dump_request(family=family), RTM_NEWROUTE, route)
        ),
        gateway_macs=dict(_gateway_macs(inside, index)),
    )


def _device(rows: list[LinkRow]) -> Device | None:
    return Device(rows[0].mac or "", rows[0].mtu, rows[0].up) if rows else None


def _link(opened: socket.socket, name: str, decode: Callable[[bytes, int, int], T | None]) -> list[T]:
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0")
    try:
        return _ask(opened, message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, body), RTM_NEWLINK, decode)
    except Refused as error:
        if error.code == errno.ENODEV:
            return []
        raise


def _gateway_macs(inside: socket.socket, index: int) -> list[tuple[Address, str]]:
    gateways: dict[bytes, Address] = {found.packed: found for found in (GATEWAY, GATEWAY_6)}

    def gateway(data: bytes, start: int, end: int) -> tuple[Address, str] | None:
        _, found, state, _, _ = _NEIGH.unpack_from(data, start)
        words = attributes(data, start + _NEIGH.size, end)
        known = gateways.get(words.get(NDA_DST, b""))
        ours = found == index and state & NUD_PERMANENT and known is not None
        return (known, mac_text(words[NDA_LLADDR])) if ours and known is not None else None

    request = message(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, _NEIGH.pack(AF_UNSPEC, 0, 0, 0, 0))
    return _ask(inside, request, RTM_NEWNEIGH, gateway)


def _ask(
    opened: socket.socket, request: bytes, kind: int, decode: Callable[[bytes, int, int], T | None]
) -> list[T]:
    """The whole answer to one request. Raises Refused, KernelError."""
    rows: list[T] = []
    try:
        opened.send(request)
        for _ in range(MOST_DATAGRAMS):
            data = opened.recv(DATAGRAM_BYTES)
            for found in messages(data):
                if found.type == kind and (row := decode(data, found.start, found.end)) is not None:
                    rows.append(row)
                elif found.type in (NLMSG_DONE, NLMSG_ERROR):
                    code, words = error_of(data, found)
                    if code:
                        raise Refused(code, words, f"reading links, addresses or routes (type {kind})")
                    return rows
    except OSError as error:
        raise KernelError(f"reading over netlink (type {kind}): {error.strerror}") from error
    raise KernelError(f"an answer of type {kind} did not end within {MOST_DATAGRAMS} datagrams")
