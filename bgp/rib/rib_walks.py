"""Walks over a whole table, cut into slices: no keepalive waits for a million prefixes.

Promises: pure; each run does about as much as it is given room for, and the walks rotate.
A walk looks at how things are when its slice comes, never at how they were when it was begun, so that what happens
between two slices is not undone. Does not know: what the walks do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

SLICE_PREFIXES = 8192
"""Prefixes of one step: some ten milliseconds."""
LEAST_PREFIXES = 256
FEW_PEERS = 16
"""With more peers a slice is smaller, as each prefix may concern them all."""

RibWalk = Iterator[int]
"""Yields after each slice how many prefixes that was."""
_One = TypeVar("_One")


def run_walks(walks: deque[RibWalk], room: int) -> None:
    """Take the walks under way, slice by slice, one after the other, until `room` prefixes are done."""
    while walks and room > 0:
        walk = walks.popleft()
        done = next(walk, None)
        if done is not None:
            room -= max(1, done)
            walks.append(walk)


def slice_size(peers: int) -> int:
    """How many prefixes one step may handle."""
    return max(LEAST_PREFIXES, SLICE_PREFIXES * FEW_PEERS // max(FEW_PEERS, peers))


def slices(many: Iterable[_One], most: int = LEAST_PREFIXES) -> Iterator[list[_One]]:
    """All of `many`, at most `most` at a time."""
    source = iter(many)
    while some := list(islice(source, most)):
        yield some


def take_first(pending: dict[_One, None], most: int) -> dict[_One, None]:
    """Remove the first `most` of a set that keeps its order, and answer them."""
    if len(pending) <= most:
        some = pending.copy()
        pending.clear()
        return some
    some = dict.fromkeys(islice(pending, most))
    for one in some:
        del pending[one]
    return some
