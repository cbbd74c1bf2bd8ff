"""The difference between what should be and what is, as a value that can be printed, counted and tested.

Promises: pure; applying a delta to `actual` gives `desired`. Does not know: what the objects are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """What must happen so that the actual map equals the desired one."""

    create: Mapping[K, V]
    replace: Mapping[K, V]
    """The values that should be; what stands there now is in the actual map."""
    delete: Mapping[K, V]
    """The values that are there now."""

    @property
    def wanted(self) -> dict[K, V]:
        """What is to be created and then what is to be replaced."""
        return {**self.create, **self.replace}

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.create) + len(self.replace) + len(self.delete)

    def __bool__(self) -> bool:
        return bool(self.create or self.replace or self.delete)


def difference(desired: Mapping[K, V], actual: Mapping[K, V]) -> Delta[K, V]:
    """Compare two maps that have the kernel's own keys."""
    create: dict[K, V] = {}
    replace: dict[K, V] = {}
    for key, value in desired.items():
        if key not in actual:
            create[key] = value
        elif actual[key] != value:
            replace[key] = value
    return Delta(create, replace, {key: value for key, value in actual.items() if key not in desired})
