"""The facts of a lab's underlay, from the file that virtual machines are made by as well (`vagrant/`).

Promises: the file is checked once, when this module is imported; it is part of the package.
Does not know: namespaces, virtual machines.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import msgspec

FILE = Path(__file__).parent / "topology.json"


class UnderlaySegment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer 2 network of the underlay."""

    ipv4: str
    ipv6: str


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's own form. An address of a segment is its first one plus an offset."""

    segments: list[UnderlaySegment]
    first_node_offset: int
    router_offset: int
    etcd_port: int
    virtual_machines: int
    router_as: int


TOPOLOGY = msgspec.json.decode(FILE.read_bytes(), type=Topology)
SEGMENTS = tuple(IPv4Network(segment.ipv4) for segment in TOPOLOGY.segments)
SEGMENTS6 = tuple(IPv6Network(segment.ipv6) for segment in TOPOLOGY.segments)
