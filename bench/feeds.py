"""The three feeds as octets of UPDATE messages, and their withdrawals (RFC 4271 section 4.3).

Promises: pure; one feed is always the same octets; prefixes do not overlap; every next hop is inside NEXT_HOPS.
Does not know: which process sends them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

MARKER = b"\xff" * 16
LARGEST = 4096
UPDATE = 2
NEXT_HOPS = 0x0A000000
"""10.0.0.0/12: the subnet of the cable between feeder and speaker."""
FEEDER = NEXT_HOPS + 2
FIRST_OTHER = NEXT_HOPS + 0x10000


@dataclass(frozen=True, slots=True)
class Feed:
    """Some prefixes in a row, the attribute sets dealt out to them in runs."""

    name: str
    title: str
    first: int
    length: int
    count: int
    sets: int
    many_next_hops: bool
    """Each attribute set has a next hop of its own, as the nodes of a cluster have; else one next hop for all."""

    def prefix(self, number: int) -> int:
        """The address of a prefix."""
        return self.first + (number << (32 - self.length))

    def next_hop(self, number: int, moved: int = 0) -> int:
        """The next hop of an attribute set, as a number; `moved` further on."""
        return FIRST_OTHER + number + moved if self.many_next_hops else FEEDER

    def runs(self) -> Iterator[tuple[int, range]]:
        """Each attribute set and the prefixes that have it, by their numbers: all sets have as many, or one more."""
        length, rest = divmod(self.count, self.sets)
        start = 0
        for number in range(self.sets):
            stop = start + length + (number < rest)
            yield number, range(start, stop)
            start = stop


FEEDS = {
    "host": Feed("host", "100k /32, one attribute set", 0x20000000, 32, 100_000, 1, many_next_hops=False),
    "table": Feed(
        "table", "500k /24, 50k attribute sets", 0x30000000, 24, 500_000, 50_000, many_next_hops=False
    ),
    "cluster": Feed("cluster", "20k /26 of 5k nodes", 0x21000000, 26, 20_000, 5_000, many_next_hops=True),
}


def small(feed: Feed, share: int) -> Feed:
    """A feed with prefixes and attribute sets of the same kind, `share` times fewer."""
    return Feed(
        feed.name,
        f"{feed.title}, 1/{share}",
        feed.first,
        feed.length,
        feed.count // share,
        max(1, feed.sets // share),
        feed.many_next_hops,
    )


def message(kind: int, body: bytes) -> bytes:
    """A BGP message."""
    return MARKER + struct.pack(">HB", 19 + len(body), kind) + body


def attributes(next_hop: int, med: int) -> bytes:
    """ORIGIN IGP, empty AS_PATH (we are in the same AS), NEXT_HOP, MED, LOCAL_PREF 100."""
    return (
        b"\x40\x01\x01\x00\x40\x02\x00\x40\x03\x04"
        + struct.pack(">I", next_hop)
        + b"\x80\x04\x04"
        + struct.pack(">I", med)
        + b"\x40\x05\x04\x00\x00\x00\x64"
    )


def _nlri(feed: Feed, numbers: Iterable[int]) -> bytes:
    octets = (feed.length + 7) // 8
    head = bytes([feed.length])
    return b"".join(head + feed.prefix(number).to_bytes(4, "big")[:octets] for number in numbers)


def _packed(feed: Feed, numbers: range, before: bytes, behind: bytes) -> Iterator[bytes]:
    """UPDATEs as full as they may be: `before` the prefixes, and their count of octets where it belongs."""
    per_message = (LARGEST - 23 - len(behind)) // (1 + (feed.length + 7) // 8)
    for start in range(numbers.start, numbers.stop, per_message):
        part = _nlri(feed, range(start, min(start + per_message, numbers.stop)))
        if before:
            yield message(UPDATE, b"\0\0" + before + part)
        else:
            yield message(UPDATE, struct.pack(">H", len(part)) + part + b"\0\0")


@cache
def announcement(feed: Feed, moved: int = 0) -> bytes:
    """UPDATEs that announce every prefix of the feed; with `moved` every next hop is that much further on."""
    out: list[bytes] = []
    for number, prefixes in feed.runs():
        octets = attributes(feed.next_hop(number, moved), number)
        out.extend(_packed(feed, prefixes, struct.pack(">H", len(octets)) + octets, octets))
    return b"".join(out)


@cache
def withdrawal(feed: Feed) -> bytes:
    """UPDATEs that withdraw every prefix of the feed."""
    return b"".join(_packed(feed, range(feed.count), b"", b""))


END_OF_RIB = message(UPDATE, b"\0\0\0\0")
