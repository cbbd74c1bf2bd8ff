"""Long computations that can be done piece by piece: a core yields after each, and whoever drives it lets others run.

Promises: pure; the result is that of the computation done in one go, as long as nobody else has what it works on.
Does not know: what is computed. It needs no asyncio: to a task, a bare yield means "others first".
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from types import coroutine
from typing import TypeVar

T = TypeVar("T")

Work = Generator[None, None, T]
"""Yields when others may run; its return value is the result."""
PIECE = 2000
"""Routes in one piece: some 10 ms."""


def slices(many: Iterable[T], most: int) -> Iterator[list[T]]:
    """All of `many`, at most `most` at a time."""
    rest = iter(many)
    while some := list(islice(rest, most)):
        yield some


async def run_cooperatively(work: Work[T]) -> T:
    """The result, computed piece by piece; the first piece is done before anybody else runs."""
    return await _pieces(work)


@coroutine
def _pieces(work: Work[T]) -> Work[T]:
    """What yields to the loop as it is; no task by itself, for from Python 3.12 on a task takes no generator."""
    return (yield from work)


def run_now(work: Work[T]) -> T:
    """The result, without letting others run."""
    while True:
        try:
            next(work)
        except StopIteration as ended:
            result: T = ended.value
            return result
