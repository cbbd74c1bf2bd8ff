"""Remembers what followed from some inputs, as long as they stay the same.

Promises: pure but for this memory; as many results as there are memos, and items. Does not know: what is computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Memo(Generic[T]):
    """One result and its inputs."""

    def __init__(self, *, by_identity: bool) -> None:
        """Inputs are the same when they are the same objects, or, not `by_identity`, when they are equal.

        Equality is for inputs that are made anew with equal contents; comparing large ones costs.
        """
        self._by_identity = by_identity
        self._known: tuple[tuple[object, ...], T] | None = None

    def get(self, make: Callable[[], T], *inputs: object) -> T:
        """What `make` returns for these inputs, which must be all that it depends on; called only when they changed."""
        if self._known is None or not self._same(self._known[0], inputs):
            self._known = inputs, make()
        return self._known[1]

    def _same(self, known: tuple[object, ...], inputs: tuple[object, ...]) -> bool:
        return all(map(operator.is_, known, inputs)) if self._by_identity else known == inputs


class Each(Generic[T, R]):
    """What follows from each of many items alone: made when an item comes, forgotten when it goes.

    Items are the same when they are the same object. Of hundreds of which one comes or goes the others are only walked
    by C, without a call for any of them.
    """

    def __init__(self) -> None:
        self._items: dict[int, T] = {}
        """By identity; they are held, so that nothing else can have theirs."""
        self._made: dict[int, R] = {}

    def update(self, items: Iterable[T], make: Callable[[T], R]) -> tuple[list[R], list[R]]:
        """These are the items now; what followed from those that came, and from those that went."""
        items = tuple(items)
        now = dict(zip(map(id, items), items, strict=True))
        new = now.keys() - self._items.keys()
        come = {key: make(now[key]) for key in (new if len(new) < 2 else [key for key in now if key in new])}
        left = len(self._items) - (len(now) - len(new))
        gone = [self._made.pop(key) for key in self._items.keys() - now.keys()] if left else []
        self._made |= come
        self._items = now
        return list(come.values()), gone

    def __iter__(self) -> Iterator[R]:
        """What follows from the items, in their order."""
        return map(self._made.__getitem__, self._items)
