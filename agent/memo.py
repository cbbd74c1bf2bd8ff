"""Remembers what followed from some inputs, as long as they stay the same.

Promises: pure but for this memory; as many results as there are memos. Does not know: what is computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
