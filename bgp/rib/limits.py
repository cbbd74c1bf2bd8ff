"""How much one peer may announce: when that is exceeded, and when it is near.

Promises: pure; every limit is a number of the configuration, and 0 is none. Does not know: sessions, other peers.
RFC 4271 section 6.7, RFC 4486.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from bgp.peer_config import PeerConfig
from bgp.rib.adj_rib_in import AdjRibIn
from bgp.wire.families import UNICAST, Family
from bgp.wire.iana import Cease

NEAR = 0.75
"""Part of a limit behind which it is said that it is near."""
LARGEST_UPPER_BOUND = 0xFFFFFFFF
"""RFC 4486 section 4: what a Cease can say in its four octets."""


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit that a peer exceeded, and the Cease that says so."""

    why: str
    subcode: Cease
    data: bytes = b""


def held_octets(ribs: Mapping[Family, AdjRibIn]) -> int:
    """Memory that the paths of a peer need, by estimate."""
    return sum(rib.held.octets for rib in ribs.values())


def excess(ribs: Mapping[Family, AdjRibIn], config: PeerConfig) -> Excess | None:
    """The limit that a peer exceeds; None: none."""
    most = config.maximum_prefixes
    for family, rib in ribs.items():
        if most and len(rib.pre_policy) > most:
            data = struct.pack("!HBI", family, UNICAST, min(most, LARGEST_UPPER_BOUND))
            return Excess(f"more than {most} prefixes", Cease.MAXIMUM_PREFIXES, data)
    most = config.maximum_octets
    if most and held_octets(ribs) > most:
        return Excess(f"its paths need more than {most >> 20} MiB of memory", Cease.OUT_OF_RESOURCES)
    return None


def near_limit(ribs: Mapping[Family, AdjRibIn], config: PeerConfig) -> str:
    """Which limit a peer is near to, as a sentence; empty: none."""
    most = config.maximum_prefixes
    for family, rib in ribs.items():
        if most and len(rib.pre_policy) > NEAR * most:
            name = family.name.replace("IPV", "IPv")
            return f"announces {len(rib.pre_policy)} {name} prefixes of at most {most}"
    most = config.maximum_octets
    if most and held_octets(ribs) > NEAR * most:
        return f"announces what needs {held_octets(ribs) >> 20} MiB of memory of at most {most >> 20}"
    return ""
