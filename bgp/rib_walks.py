"""Work over many prefixes, cut into slices: nothing keeps the next keepalive waiting for a whole table.

Promises: pure; each turn does about as much as it is given room for, and every chore gets its turn.
A chore looks at how things are when its slice comes, never at how they were when it was begun, so that what happens
between two slices is not undone. Does not know: what the work is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

SLICE_PREFIXES = 8192
"""Of one turn: some ten milliseconds."""
LEAST_PREFIXES = 256
FEW_PEERS = 16
"""With more of them a slice is smaller, as each prefix may concern them all."""

RibWalk = Iterator[int]
"""Each step answers how many prefixes it was."""
_One = TypeVar("_One")


class RibWalks:
    """Those under way."""

    def __init__(self) -> None:
        self._queue: deque[RibWalk] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def add(self, chore: RibWalk) -> None:
        """Do this as well; its first step comes in a later `run`."""
        self._queue.append(chore)

    def run(self, room: int) -> None:
        """Step by step, one chore after the other, until the room is used."""
        while self._queue and room > 0:
            chore = self._queue.popleft()
            done = next(chore, None)
            if done is not None:
                room -= max(1, done)
                self._queue.append(chore)


def slice_size(peers: int) -> int:
    """How many prefixes a turn may handle."""
    return max(LEAST_PREFIXES, SLICE_PREFIXES * FEW_PEERS // max(FEW_PEERS, peers))


def slices(many: Iterable[_One], most: int = LEAST_PREFIXES) -> Iterator[list[_One]]:
    """All of them, some at a time."""
    source = iter(many)
    while some := list(islice(source, most)):
        yield some


def take_first(pending: dict[_One, None], most: int) -> dict[_One, None]:
    """The first of a set that keeps its order, which loses them."""
    if len(pending) <= most:
        some = pending.copy()
        pending.clear()
        return some
    some = dict.fromkeys(islice(pending, most))
    for one in some:
        del pending[one]
    return some
