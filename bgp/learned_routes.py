"""The routes that peers taught us, as a mapping: a view of the Loc-RIBs, never a copy.

Promises: what is ours, or has no next hop that can be reached, is not in it. Does not know: time, sockets, the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from bgp.instance import Instance
from bgp.rib.multipath import NextHopSet
from bgp.wire import nlri
from bgp.wire.families import Address, Prefix, family_of


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """What a best path that a peer announced says to the dataplane."""

    next_hop: Address
    peer: Address
    stale: bool
    """Retained through the peer's restart."""
    link_local: IPv6Address | None = None
    """The next hop on the peer's link, when it came beside a global one."""
    several: NextHopSet | None = None
    """The next hops of all paths that are used side by side; None: of the best one alone."""


class Learned(Mapping[Prefix, LearnedRoute]):
    """The best path to every prefix that peers announced, as it is when asked: a view of the Loc-RIBs."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def __getitem__(self, prefix: Prefix) -> LearnedRoute:
        family, packed = family_of(prefix), nlri.pack(prefix)
        best = self._instance.ribs[family].best(packed)
        if best is None or best.source.is_own or best.attributes.next_hop is None:
            raise KeyError(prefix)
        attributes, source = best.attributes, best.source.address
        stale = self._instance.is_stale(family, packed, best)
        hops = self._instance.ribs[family].hops(packed)
        several = hops if isinstance(hops, NextHopSet) else None
        return LearnedRoute(best.attributes.next_hop, source, stale, attributes.link_local, several)

    def __iter__(self) -> Iterator[Prefix]:
        for family, rib in self._instance.ribs.items():
            for packed in list(rib.prefixes):
                if rib.hops(packed) is not None:
                    yield nlri.unpack(packed, family)

    def __len__(self) -> int:
        ribs = self._instance.ribs.values()
        return sum(1 for rib in ribs for packed in rib.prefixes if rib.hops(packed) is not None)

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None
