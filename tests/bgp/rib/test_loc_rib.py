"""What the Loc-RIB answers to who resolves next hops."""

from __future__ import annotations

from ipaddress import IPv4Address

from bgp.path import Path, Source
from bgp.rib.loc_rib import LocRib
from bgp.rib.multipath import NextHopSet
from bgp.wire.attributes import PathAttributes

PREFIX, ANOTHER = b"\x08\x0a", b"\x08\x0b"
ONE, TWO, THREE = (IPv4Address(f"10.0.0.{last}") for last in (1, 2, 3))


def path(key: int, hop: IPv4Address | None, *asns: int) -> Path:
    """A path of the peer `key`; 0: our own."""
    source = Source(key, IPv4Address(key), IPv4Address(key), internal=True)
    return Path(PathAttributes(next_hop=hop, as_path=((2, asns),) if asns else ()), source)


def test_next_hops_are_asked_for_as_if_there_were_only_the_paths_that_pass() -> None:
    """What is best beside them, or not eligible now, does not count: so the answer does not hang on itself."""
    rib = LocRib()
    for one in (path(1, ONE, 7), path(2, TWO, 7), path(3, THREE)):
        rib.put([PREFIX], one)
    assert rib.hops(PREFIX) == THREE
    both = NextHopSet.of({ONE: 1, TWO: 1})
    assert rib.hops_among(PREFIX, lambda hop: hop != THREE) == both
    rib.unreachable = frozenset({ONE})
    assert rib.hops_among(PREFIX, lambda hop: hop != THREE) == both
    assert rib.hops_among(PREFIX, lambda hop: hop == TWO) == TWO
    assert rib.hops_among(PREFIX, lambda _: False) is None
    assert rib.hops_among(ANOTHER, lambda _: True) is None
    rib.put([PREFIX], path(0, None))
    assert rib.hops_among(PREFIX, lambda _: True) is None
